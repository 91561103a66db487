"""The clock of the log stands still rather than run back, and says so."""

import time
from pathlib import Path

import msgspec
import pytest
import structlog.testing

from ledger.service.clock import LogClock
from ledger.service.settings import Settings
from ledger_core.event.times import format_time, parse_time
from ledger_core.tlog.errors import UnavailableError
from tests.service.serving import QUICK, event, make_ledger, serving

YEARS_NS = 10 * 365 * 86_400 * 10**9
DAY_S = 86_400
LAST = "2026-11-25T00:00:00.000000Z"


def clock_at(seconds: float, last: str | None = LAST) -> LogClock:
    unix_ns = parse_time(LAST) * 1000 + int(seconds * 10**9)
    return LogClock(last=last, read_unix_ns=lambda: unix_ns)


def test_a_start_far_from_the_last_entry_is_refused_by_the_name_of_its_override() -> None:
    settings = Settings()
    for seconds in (-3_600, 0, 90 * DAY_S):
        clock_at(seconds).check_start(settings)
    clock_at(YEARS_NS, last=None).check_start(settings)
    with pytest.raises(UnavailableError, match=r"once with --clock-behind-max-s 3661") as caught:
        clock_at(-3_601).check_start(settings)
    assert LAST in str(caught.value)
    with pytest.raises(UnavailableError, match="--clock-ahead-max-s"):
        clock_at(90 * DAY_S + 1).check_start(settings)
    clock_at(-3_601).check_start(msgspec.structs.replace(settings, clock_behind_max_s=3_661))
    clock_at(91 * DAY_S).check_start(msgspec.structs.replace(settings, clock_ahead_max_s=1 << 40))


def test_a_clock_that_is_behind_is_said_once_and_when_it_has_caught_up() -> None:
    now_s = -50.0
    clock = LogClock(last=LAST, read_unix_ns=lambda: parse_time(LAST) * 1000 + int(now_s * 10**9))
    with structlog.testing.capture_logs() as lines:
        assert [format_time(clock.now()) for _ in range(3)] == [LAST] * 3
        assert clock.behind_s() == 50
        assert clock.wall_us() == parse_time(LAST) - 50_000_000
        now_s = -0.5
        assert format_time(clock.now()) == LAST
        assert clock.behind_s() == 0
        now_s = 1.0
        assert clock.now() == parse_time(LAST) + 1_000_000
    assert [line["event"] for line in lines] == ["clock_behind", "clock_caught_up"]
    assert (lines[0]["seconds"], lines[0]["until"]) == (50, LAST)


def test_after_a_start_with_a_clock_ten_years_ahead_nothing_else_gets_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    real_ns = time.time_ns
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: real_ns() + YEARS_NS)
        with serving(directory, tokens) as ledger:
            ledger.append(event())
    with pytest.raises(UnavailableError, match="before the last entry"), serving(directory, tokens):
        pass
    allowed = msgspec.structs.replace(QUICK, clock_behind_max_s=1 << 40)
    with serving(directory, tokens, allowed) as ledger:
        answers = [ledger.append(event(id=None, time=None)).json() for _ in range(2)]
        results = [answer["results"][0] for answer in answers]
        assert results[0]["received"] == results[1]["received"]
        now_us = real_ns() // 1000
        for result in results:
            assert abs(parse_time(result["time"]) - now_us) < 3600 * 10**6
            assert abs(int(result["id"].replace("-", "")[:12], 16) - now_us // 1000) < 3600 * 1000
            assert parse_time(result["received"]["time"]) > now_us + YEARS_NS // 2000
        behind_s = ledger.ask("/v1/log").json()["clock_behind_s"]
        assert behind_s > 9 * 365 * DAY_S
        (warning,) = ledger.ask("/readyz").json()["warnings"]
        assert "behind the last entry" in warning
        assert "ledger_clock_behind_seconds 3" in ledger.ask("/metrics").text
