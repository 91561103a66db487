"""The reader: what arrives, and what it fills in."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from ledger_core.event.canonical import format_leaf
from ledger_core.event.reader import Reader, is_same_event
from tests.event.strategies import events

ID = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
TIME = "2026-11-25T02:03:36.123456Z"
UNIX_US = 1_795_572_216_123_456
READER = Reader(lambda: ID, lambda: UNIX_US)
LEAST: dict[str, Any] = {"action": "a", "actor": {"id": "u"}, "outcome": "success"}


@pytest.mark.parametrize(
    ("given_members", "filled"),
    [
        ({}, ("id", "time")),
        ({"id": ID}, ("time",)),
        ({"time": TIME}, ("id",)),
        ({"id": ID, "time": TIME}, ()),
    ],
)
def test_a_missing_id_or_time_is_filled_in_and_named(
    given_members: dict[str, str], filled: tuple[str, ...]
) -> None:
    read = READER.read(json.dumps({**LEAST, **given_members}).encode())
    assert read.filled == filled
    assert (read.event.id, read.event.time) == (ID, TIME)
    assert json.loads(read.event_json) == {**LEAST, "id": ID, "time": TIME}


def test_what_was_given_is_kept_and_neither_clock_nor_randomness_is_asked() -> None:
    def refuse() -> Any:
        raise AssertionError("nothing is to be filled in")

    given_members = {"id": "ffffffff-7c1a-7c3a-9d2f-3b1c2d3e4f50", "time": "2020-01-01T00:00:00Z"}
    read = Reader(refuse, refuse).read(json.dumps({**LEAST, **given_members}).encode())
    assert read.event.id == given_members["id"]
    assert read.event.time == "2020-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("change", "same", "same_without_time"),
    [
        ({}, True, True),
        ({"time": "2026-11-25T02:03:37Z"}, False, True),
        ({"action": "b"}, False, False),
        ({"context": {"n": 1}}, False, False),
    ],
)
def test_a_retry_is_the_same_event_and_another_is_not(
    change: dict[str, Any], same: bool, same_without_time: bool
) -> None:
    stored = READER.read_object({**LEAST, "time": TIME})
    leaf = format_leaf(event_json=stored.event_json, by="token", received_time=TIME)
    sent = READER.read_object({**LEAST, "time": TIME, **change}).event_json
    assert is_same_event(leaf, sent, ignore_time=False) is same
    assert is_same_event(leaf, sent, ignore_time=True) is same_without_time


def test_the_id_comes_as_bytes_too() -> None:
    assert READER.read_object(LEAST).id_bytes == bytes.fromhex(ID.replace("-", ""))


@settings(deadline=None)
@given(events)
def test_an_object_is_read_like_its_json(value: dict[str, Any]) -> None:
    assert READER.read_object(value) == READER.read(json.dumps(value).encode())


@settings(deadline=None)
@given(events)
def test_reading_again_what_was_read_changes_nothing(value: dict[str, Any]) -> None:
    once = READER.read_object(value)
    again = READER.read(once.event_json)
    assert (again.event_json, again.id_bytes, again.filled) == (once.event_json, once.id_bytes, ())
