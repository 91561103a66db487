"""Following a real log over real sockets and a real disk; only the clock and its waits are told."""

import json
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from ledger_client import LedgerClient, RejectedError
from ledger_client.audit import monitor_loop as following
from ledger_client.audit.monitor import Report, StaleError
from ledger_client.audit.monitor_dir import MonitorDir
from ledger_client.audit.monitor_loop import (
    BACKOFF_MAX_S,
    Advance,
    MonitorEnvironment,
    MonitorLoop,
    Notice,
    Settings,
)
from ledger_client.retry import Environment
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import parse_policy
from tests.client.hosts import W1, cosigned
from tests.client.liar import Liar, Message
from tests.client.trees import SmallLog
from tests.served import ServedLedger as Running

NOWHERE = "http://127.0.0.1:1"
EVENT = {"action": "user.changed", "actor": {"id": "u_1"}, "outcome": "success"}
SINCE = 1_764_036_216.0


@dataclass
class Clock:
    """Time that passes in waits alone."""

    now: float = SINCE
    waits: list[float] = field(default_factory=list)
    ahead_s: float = 0.0
    """By how much the time of day is wrong."""

    def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now += wait_s

    @property
    def environment(self) -> MonitorEnvironment:
        clocks = Environment(
            monotonic_s=lambda: self.now, unix_s=lambda: self.now + self.ahead_s, draw=lambda: 0.999
        )
        return MonitorEnvironment(clocks=clocks, sleep=self.sleep)


@dataclass
class Place:
    """The folder, clock and policy of a test's monitor."""

    running: Running
    folder: Path
    clock: Clock = field(default_factory=Clock)
    policy: bytes = b""
    token: str | None = None

    def follow(self, url: str, **settings: Any) -> Generator[Report | Notice | Advance, None, None]:
        """Follow until the test has seen enough."""
        policy = parse_policy(self.policy)
        with (
            MonitorDir(self.folder, policy=policy) as folder,
            closing(
                MonitorLoop(
                    url,
                    self.token,
                    policy=policy,
                    folder=folder,
                    settings=Settings(**settings),
                    environment=self.clock.environment,
                )
            ) as follower,
        ):
            yield from follower.follow()

    def run_round(self, url: str, **settings: Any) -> list[Report | Notice | Advance]:
        return list(self.follow(url, is_once=True, **settings))

    def grow(self) -> None:
        """Append an entry and wait until it is published."""
        with LedgerClient(
            self.running.url, self.running.token, policy=self.running.policy
        ) as ledger:
            ledger.append(EVENT, wait_witnessed=True)

    def evidence(self) -> dict[str, bytes]:
        (folder,) = (self.folder / "evidence").iterdir()
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def grown(running: Running) -> Running:
    """The ledger, with more than a few bundles in it, all published."""
    with LedgerClient(running.url, running.token, policy=running.policy) as ledger:
        ledger.append_many([EVENT] * 1500, wait_witnessed=True)
    return running


@pytest.fixture
def place(grown: Running, tmp_path: Path) -> Place:
    policy = grown.policy.read_bytes()
    return Place(grown, tmp_path / "state", policy=policy, token=grown.token)


@pytest.fixture
def liar(grown: Running) -> Iterator[Liar]:
    with Liar(grown.url) as liar:
        yield liar


def until_stale(
    told: Iterator[Report | Notice | Advance], then: Callable[[], None] = lambda: None
) -> tuple[list[Report | Notice | Advance], StaleError]:
    """All that is told before staleness ends it; `then` is done after each."""
    before = []
    try:
        for one in told:
            before.append(one)
            then()
    except StaleError as error:
        return before, error
    pytest.fail("it ended without being stale")


def bundles(liar: Liar) -> list[str]:
    return [target for target in liar.targets if target.startswith("/tile/entries/")]


def test_a_log_is_read_once_and_then_no_more(place: Place, liar: Liar) -> None:
    (report,) = place.run_round(liar.url)
    assert isinstance(report, Report)
    size = report.head.checkpoint.tree_size
    assert report.entries_checked == size
    assert len(bundles(liar)) == -(-size // 256)
    liar.targets.clear()
    (again,) = place.run_round(liar.url)
    assert again == report
    assert liar.targets == ["/checkpoint"]


def test_the_files_are_for_their_owner_alone(place: Place) -> None:
    place.run_round(place.running.url)
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    files = sorted(path.name for path in place.folder.iterdir())
    assert files == ["head.json", "lock", "progress.json"]
    assert all(stat.S_IMODE((place.folder / name).stat().st_mode) == 0o600 for name in files)


def test_a_log_that_does_not_answer_is_asked_less_and_less_until_it_is_stale(place: Place) -> None:
    told, error = until_stale(place.follow(NOWHERE, interval_s=10, stale_after_s=600))
    assert "no head of size 0 or more was seen" in str(error)
    assert all("Connection refused" in one.text for one in told if isinstance(one, Notice))
    assert place.clock.now - SINCE == pytest.approx(601, abs=10)
    waits = [wait for wait in place.clock.waits if wait > 1]
    assert waits[:4] == pytest.approx([10, 20, 40, BACKOFF_MAX_S], abs=0.1)
    assert max(waits) <= BACKOFF_MAX_S
    assert len(told) > 10


def test_a_clock_that_was_ahead_and_is_set_back_puts_no_alarm_off(place: Place) -> None:
    def set_back() -> None:
        place.clock.ahead_s = 0.0

    place.clock.ahead_s = 366 * 86_400.0
    _, error = until_stale(place.follow(NOWHERE, stale_after_s=600), then=set_back)
    assert "no head of size 0 or more was seen" in str(error)
    assert max(place.clock.waits) <= BACKOFF_MAX_S
    assert place.clock.now - SINCE == pytest.approx(601, abs=BACKOFF_MAX_S)


def test_a_log_whose_heads_are_fresh_and_whose_entries_never_come_is_stale(
    place: Place, liar: Liar
) -> None:
    def keep_entries_back(message: Message) -> None:
        if message.target.startswith("/tile/entries/"):
            message.status, message.body = 503, b""

    liar.lie_to_client = keep_entries_back
    told, error = until_stale(place.follow(liar.url, stale_after_s=100), then=place.grow)
    assert "has left a question unanswered for" in str(error)
    assert "checkpoint.note" in error.evidence
    assert any("/tile/entries/" in said.text for said in told if isinstance(said, Notice))


def test_a_disk_that_is_full_does_not_hide_a_verdict(
    place: Place, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(message: Message) -> None:
        if message.target == "/tile/entries/000":
            message.body = message.body.replace(b'"action"', b'"acti0n"', 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    liar.lie_to_client = alter
    monkeypatch.setattr("ledger_client.state_file.write_atomically", full)
    monkeypatch.setattr("ledger_client.audit.monitor_dir.write_atomically", full)
    said = "not in the tree.*; the evidence could not be saved: No space left on device"
    with pytest.raises(VerificationError, match=said):
        place.run_round(liar.url)


def test_each_failure_is_said_and_the_first_answer_ends_them(place: Place, liar: Liar) -> None:
    def away(message: Message) -> None:
        message.status, message.body = 503, b""

    liar.lie_to_client = away
    following_ = place.follow(liar.url)
    said = list(islice(following_, 3))
    assert all(isinstance(one, Notice) and "status 503" in one.text for one in said)
    liar.lie_to_client = lambda _: None
    report = next(one for one in following_ if not isinstance(one, Notice))
    assert isinstance(report, Report)
    following_.close()


def test_one_look_at_a_log_that_does_not_answer_is_an_error_of_its_own(place: Place) -> None:
    with pytest.raises(UnavailableError, match="Connection refused"):
        place.run_round(NOWHERE)


def test_what_was_verified_before_the_log_went_away_is_not_fetched_again(
    place: Place, liar: Liar
) -> None:
    def withhold_from_the_third(message: Message) -> None:
        if message.target.startswith("/tile/entries/003"):
            message.status, message.body = 503, b""

    liar.lie_to_client = withhold_from_the_third
    with pytest.raises(UnavailableError, match="/tile/entries/003"):
        place.run_round(liar.url)
    liar.lie_to_client = lambda _: None
    liar.targets.clear()
    (report,) = place.run_round(liar.url)
    assert isinstance(report, Report)
    assert report.entries_checked == report.head.checkpoint.tree_size
    assert bundles(liar)[0].startswith("/tile/entries/003")


def test_a_log_that_is_far_ahead_is_read_without_a_pause_and_its_heads_are_looked_at_between(
    place: Place, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BUNDLES_PER_ROUND_MAX", 2)
    reports = []
    for said in place.follow(liar.url, interval_s=77):
        assert isinstance(said, Report)
        reports.append(said.entries_checked)
        if said.entries_checked == said.head.checkpoint.tree_size:
            break
    assert reports[:2] == [512, 1024]
    assert liar.targets.count("/checkpoint") == len(reports)
    assert place.clock.waits[0] == 0
    assert set(place.clock.waits) <= {0, 77}


def test_an_altered_bundle_is_saved_with_the_tiles_and_the_head_that_convict(
    place: Place, liar: Liar
) -> None:
    def alter(message: Message) -> None:
        if message.target == "/tile/entries/002":
            message.body = message.body.replace(b'"action"', b'"acti0n"', 1)

    liar.lie_to_client = alter
    with pytest.raises(VerificationError, match=r"is not in the tree.*; evidence saved in "):
        place.run_round(liar.url)
    evidence = place.evidence()
    assert b'"acti0n"' in evidence["tile-entries-002.bin"]
    assert evidence["checkpoint.note"].startswith(b"example.com/audit\n")
    assert b"as it was served is not in the tree" in evidence["verdict.txt"]
    assert any(name.startswith("tile-1-000") for name in evidence)
    progress = json.loads((place.folder / "progress.json").read_bytes())["progress"]
    assert progress["rebuilt"]["entries_checked"] == 512
    with pytest.raises(VerificationError):
        place.run_round(liar.url)
    assert place.evidence() == evidence


def test_a_checkpoint_that_is_none_is_saved_as_it_came(place: Place, liar: Liar) -> None:
    def say(message: Message) -> None:
        message.body = b"<html>"

    liar.lie_to_client = say
    with pytest.raises(MalformedError, match=r"^the log: .*evidence saved in "):
        place.run_round(liar.url)
    assert place.evidence()["answer.bin"] == b"<html>"


def test_a_refused_token_ends_it(place: Place) -> None:
    place.token = "wl_wrong"
    with pytest.raises(RejectedError):
        list(place.follow(place.running.url))


def test_two_monitors_do_not_share_a_folder(place: Place) -> None:
    first = place.follow(place.running.url)
    next(first)
    with pytest.raises(UnavailableError, match="another monitor is using"):
        place.run_round(place.running.url)
    first.close()
    place.run_round(place.running.url)


def test_the_folder_of_another_log_is_refused(place: Place) -> None:
    place.run_round(place.running.url)
    other = SmallLog([], key="another key")
    place.policy = f"log {other.signer.verifier}\nquorum none\n".encode()
    with pytest.raises(ValueError, match="keeps the head of a log with another key"):
        place.run_round(place.running.url)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "has version 2, want 1"),
        ({"progress": {"published_size": "x"}}, "is not what a monitor wrote"),
        ({"progress": {"rebuilt": {"size": 3, "entries_checked": 3}}}, "is not what a monitor"),
        ({"progress": {"rebuilt": {"size": 256, "entries_checked": 256}}}, "is not what a"),
        ({"more": 1}, "is not what a monitor wrote"),
    ],
)
def test_a_progress_that_no_monitor_wrote_is_refused(
    place: Place, change: dict[str, Any], said: str
) -> None:
    place.run_round(place.running.url)
    file = place.folder / "progress.json"
    file.write_bytes(json.dumps(json.loads(file.read_bytes()) | change).encode())
    with pytest.raises(MalformedError, match=said):
        place.run_round(place.running.url)
    file.write_bytes(b"\xff")
    with pytest.raises(MalformedError, match="is not what a monitor wrote"):
        place.run_round(place.running.url)


def test_progress_without_its_head_is_refused_and_a_head_without_progress_begins_again(
    place: Place,
) -> None:
    place.run_round(place.running.url)
    head = (place.folder / "head.json").read_bytes()
    (place.folder / "head.json").unlink()
    with pytest.raises(MalformedError, match=r"and no head.json beside it"):
        place.run_round(place.running.url)
    (place.folder / "progress.json").unlink()
    (place.folder / "head.json").write_bytes(head)
    (report,) = place.run_round(place.running.url)
    assert isinstance(report, Report)
    assert report.entries_checked == report.head.checkpoint.tree_size


class TestWitnesses:
    """A witness's address in the policy: what is said when it does not answer as it should."""

    @pytest.fixture
    def elsewhere(self, place: Place, liar: Liar) -> Place:
        """The log is asked itself; the liar stands where the witness should be."""
        text = place.policy.decode()
        line = f"witness w1 {W1.verifier} {liar.url}\nquorum none"
        place.policy = text.replace("quorum none", line).encode()
        return place

    def test_a_witness_that_is_away_is_said_to_be_and_to_be_back(
        self, elsewhere: Place, liar: Liar
    ) -> None:
        def away(message: Message) -> None:
            message.status, message.body = 500, b""

        liar.lie_to_client = away
        said = elsewhere.follow(elsewhere.running.url, asks_witnesses=True, stale_after_s=0)
        first = next(said)
        assert isinstance(first, Notice)
        assert first.source == f"the witness at {liar.url}"
        assert "status 500" in first.text
        assert isinstance(next(said), Report)

        # From now on it is one that has cosigned nothing.
        liar.lie_to_client = lambda _: None
        second = next(said)
        assert isinstance(second, Notice)
        assert second.text.startswith("it serves no head of this log here")
        assert elsewhere.clock.waits.count(10) >= 1
        said.close()

    def test_a_witness_may_show_its_heads_at_another_address(
        self, elsewhere: Place, liar: Liar
    ) -> None:
        asked: list[str] = []
        liar.lie_to_client = lambda said: asked.append(said.target)
        other = f"{liar.url}/heads"
        said = elsewhere.follow(
            elsewhere.running.url, asks_witnesses=True, prefixes={"w1": other}, stale_after_s=0
        )
        first = next(said)
        assert isinstance(first, Notice)
        assert first.source == f"the witness at {other}"
        assert "--witness-prefix" in first.text
        said.close()
        assert all(path.startswith("/heads/") for path in asked)
        with pytest.raises(ValueError, match="no witness 'w2'; it has w1"):
            next(elsewhere.follow(other, asks_witnesses=True, prefixes={"w2": other}))

    def test_its_own_lie_ends_the_following(self, elsewhere: Place, liar: Liar) -> None:
        def show_what_it_did_not_cosign(message: Message) -> None:
            with LedgerClient(elsewhere.running.url, policy=elsewhere.running.policy) as ledger:
                message.status, message.body = 200, ledger.checkpoint().note.encode()

        liar.lie_to_client = show_what_it_did_not_cosign
        with pytest.raises(VerificationError, match="0 of 1 needed, missing w1"):
            elsewhere.run_round(elsewhere.running.url, asks_witnesses=True)
        assert "witness.note" in elsewhere.evidence()

    def test_a_log_that_leaves_a_witness_s_head_unproven_is_stale_and_no_fault_of_the_witness(
        self, place: Place, liar: Liar
    ) -> None:
        """A log that forked must not escape by answering 503 to the one question that proves it."""
        with Liar(place.running.url) as witness:
            line = f"witness w1 {W1.verifier} {witness.url}\nquorum none"
            place.policy = place.policy.replace(b"quorum none", line.encode())
            with LedgerClient(place.running.url, place.token, policy=place.policy) as ledger:
                old = cosigned(ledger.checkpoint().note, (W1, int(SINCE)))
            place.grow()

            def show_old(message: Message) -> None:
                message.status, message.body = 200, old.encode()

            def keep_proofs_back(message: Message) -> None:
                if message.target.startswith("/v1/proofs/"):
                    message.status, message.body = 503, b""

            witness.lie_to_client = show_old
            liar.lie_to_client = keep_proofs_back
            told, _ = until_stale(
                place.follow(liar.url, asks_witnesses=True, stale_after_s=100), then=place.grow
            )
            assert {one.source for one in told if isinstance(one, Notice)} == {"the log"}
            liar.lie_to_client = lambda _: None
            (report,) = place.run_round(liar.url, asks_witnesses=True, stale_after_s=0)
            assert isinstance(report, Report)

    def test_an_address_that_is_none_and_none_at_all_are_said_at_once(
        self, elsewhere: Place, liar: Liar
    ) -> None:
        elsewhere.policy = elsewhere.policy.replace(liar.url.encode(), b"ftp://w1.example")
        with pytest.raises(ValueError, match=r"the witness at ftp://w1.example: "):
            elsewhere.run_round(elsewhere.running.url, asks_witnesses=True)
        elsewhere.policy = elsewhere.policy.replace(b" ftp://w1.example", b"")
        with pytest.raises(ValueError, match="no witness with an address"):
            elsewhere.run_round(elsewhere.running.url, asks_witnesses=True)


@pytest.mark.parametrize("settings", [{"interval_s": 0}, {"stale_after_s": -1}])
def test_settings_that_allow_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Settings(**settings)  # type: ignore[arg-type]  # one of them is a bool


def test_a_long_check_says_how_far_it_has_come(place: Place) -> None:
    ticks = count(step=2)
    clocks = Environment(monotonic_s=lambda: next(ticks), unix_s=lambda: SINCE, draw=lambda: 0.5)
    policy = parse_policy(place.policy)
    with MonitorDir(place.folder, policy=policy) as folder:
        loop = MonitorLoop(
            place.running.url,
            place.token,
            policy=policy,
            folder=folder,
            settings=Settings(is_once=True, stale_after_s=0),
            environment=MonitorEnvironment(clocks=clocks, sleep=place.clock.sleep),
        )
        with closing(loop):
            *advances, report = loop.follow()
    assert isinstance(report, Report)
    size = report.head.checkpoint.tree_size
    assert len(advances) >= 2
    for advance in advances:
        assert isinstance(advance, Advance)
        assert (advance.entries_checked % 256, advance.tree_size) == (0, size)
    checked = [one.entries_checked for one in advances if isinstance(one, Advance)]
    assert checked == sorted(set(checked))
    assert checked[-1] < size
