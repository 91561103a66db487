"""The filter of secrets by itself: what it keeps of an event that it masks, and what it reports."""

from typing import Any

import msgspec
import pytest
import structlog

from ledger.service.metrics import Metrics
from ledger.service.private_fields import ChangedEvent
from ledger.service.secret_filter import SecretFilter
from ledger_core.api import Problem, Refused
from ledger_core.event.commitments import (
    Opening,
    PrivateEvent,
    PrivateReader,
    encode_salt,
    format_envelope,
)
from ledger_core.event.reader import ReadEvent
from ledger_core.event.secrets import default_rules
from tests.service.serving import event, new_id

PASSWORD = "zxq-hunter-2-zxq"
UNIX_US = 1_790_000_000_000_000


def make_filter(treatment: str) -> SecretFilter:
    return SecretFilter(default_rules(), treatment, make_reader(), Metrics())


def make_reader() -> PrivateReader:
    return PrivateReader(new_id, lambda: UNIX_US)


def read(**fields: Any) -> ReadEvent:
    return make_reader().read(msgspec.json.encode(event(**fields)))


def read_secret(**fields: Any) -> ReadEvent:
    return read(context={"password": PASSWORD}, **fields)


def read_private(**context: Any) -> PrivateEvent:
    """An event with a private value beside it."""
    opening = Opening("/context/diagnosis", "u_1", encode_salt(bytes(32)), "F41.1")
    sent = event(context={"diagnosis": {"commitment": opening.commitment}, **context})
    result = make_reader().read(format_envelope(msgspec.json.encode(sent), [opening]))
    assert isinstance(result, PrivateEvent)
    return result


@pytest.mark.parametrize("treatment", ["refuse", "mask"])
def test_a_commitment_under_the_key_of_a_secret_stays(treatment: str) -> None:
    opening = Opening("/context/password", "u_1", encode_salt(bytes(32)), PASSWORD)
    sent = event(context={"password": {"commitment": opening.commitment}})
    private = make_reader().read(format_envelope(msgspec.json.encode(sent), [opening]))
    assert make_filter(treatment).check([private]).outcomes == [private]


def test_a_masked_event_keeps_its_private_values() -> None:
    sent = read_private(password=PASSWORD)
    (masked,) = make_filter("mask").check([sent]).outcomes
    assert isinstance(masked, ChangedEvent)
    assert masked.openings == sent.openings != ()
    assert [hit.rule for hit in masked.masked] == ["password"]
    assert PASSWORD.encode() not in masked.event_json
    assert sent.openings[0].commitment.encode() in masked.event_json


def test_a_masked_event_keeps_its_id_its_time_and_what_was_filled_in() -> None:
    sent = read_secret(id=None, time=None)
    assert sent.filled == ("id", "time")
    (masked,) = make_filter("mask").check([sent]).outcomes
    assert isinstance(masked, ChangedEvent)
    assert masked.openings == ()
    assert (masked.id_bytes, masked.filled) == (sent.id_bytes, sent.filled)
    assert (masked.event.id, masked.event.time) == (sent.event.id, sent.event.time)


def test_an_event_without_a_secret_is_passed_on_as_it_is() -> None:
    sent = [read_private(), read()]
    for treatment in ("mask", "refuse", "off"):
        checked = make_filter(treatment).check(sent).outcomes
        assert all(a is b for a, b in zip(checked, sent, strict=True))


@pytest.mark.parametrize("position", [0, 1, 8, 9])
def test_the_one_event_with_a_secret_is_found_wherever_it_stands(position: int) -> None:
    sent: list[ReadEvent | Refused] = [read() for _ in range(10)]
    sent[position] = read_secret()
    checked = make_filter("refuse").check(sent).outcomes
    assert [place for place, each in enumerate(checked) if isinstance(each, Refused)] == [position]
    assert len(checked) == len(sent)
    assert [each for each in checked if isinstance(each, ReadEvent)] == [
        each for place, each in enumerate(sent) if place != position
    ]


def test_an_event_that_was_refused_before_stays_refused_for_its_own_reason() -> None:
    before = Refused(Problem(type="/v1/problems#id", title="t", status=422, detail="d"))
    checked = make_filter("refuse").check([before, read_secret(), before]).outcomes
    assert [checked[0], checked[2]] == [before, before]
    assert isinstance(checked[1], Refused)
    assert checked[1].error.slug == "secret"


@pytest.mark.parametrize("treatment", ["mask", "refuse"])
def test_a_report_counts_events_by_rule_and_nothing_twice(treatment: str) -> None:
    secret_filter = make_filter(treatment)
    with structlog.testing.capture_logs() as lines:
        secret_filter.report()
        twice = {"password": PASSWORD, "old": {"password": f"{PASSWORD}2"}}
        some = [read(context=twice, reason=f"password={PASSWORD}"), read(), read_secret()]
        secret_filter.count(secret_filter.check(some).rules)
        secret_filter.count(secret_filter.check([read_secret()]).rules)
        secret_filter.report()
        secret_filter.report()
        secret_filter.count(secret_filter.check([read_secret()]).rules)
        secret_filter.report()
    assert [line["event"] for line in lines] == ["secrets_found", "secrets_found"]
    assert {line["treatment"] for line in lines} == {treatment}
    assert [line["events"]["password"] for line in lines] == [3, 1]
    assert PASSWORD not in str(lines)


def test_nothing_is_scanned_when_the_setting_is_off() -> None:
    secret_filter = make_filter("off")
    sent = [read_secret()]
    with structlog.testing.capture_logs() as lines:
        assert secret_filter.check(sent).outcomes == sent
        secret_filter.report()
    assert lines == []
