"""Leaves: spliced together, read back strictly."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core.event.canonical import LEAF_BYTES_MAX, decode_event_object, format_leaf, parse_leaf
from ledger_core.event.model import EventError
from ledger_core.event.reader import Reader, is_same_event
from ledger_core.tlog.errors import MalformedError
from tests.event.strategies import events, ids

ID = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
TIME = "2026-11-25T02:03:36.123456Z"
EVENT: dict[str, Any] = {
    "id": ID,
    "time": TIME,
    "action": "a.b",
    "actor": {"id": "u_1"},
    "outcome": "success",
}


def leaf_of(event: dict[str, Any], *, by: str = "billing-api", received_time: str = TIME) -> bytes:
    _, event_json = decode_event_object(event)
    return format_leaf(event_json=event_json, by=by, received_time=received_time)


LEAF = leaf_of(EVENT)


@settings(deadline=None)
@given(events, ids)
def test_a_leaf_is_rfc_8785_and_is_read_back_as_it_was(value: dict[str, Any], by: str) -> None:
    read = Reader(lambda: ID, lambda: 0).read_object(value)
    leaf = format_leaf(event_json=read.event_json, by=by, received_time=TIME)
    assert leaf == rfc8785.dumps(
        {"event": json.loads(read.event_json), "received": {"by": by, "time": TIME}, "v": 1}
    )
    parsed = parse_leaf(leaf)
    assert (parsed.event, parsed.event_json) == (read.event, read.event_json)
    assert (parsed.received.by, parsed.received.time) == (by, TIME)


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"{}",
        LEAF[:-1],
        LEAF + b"\n",
        b" " + LEAF,
        LEAF.replace(b'"v":1', b'"v":2'),
        LEAF.replace(b'"v":1', b'"v":1.0'),
        LEAF.replace(b'"v":1', b'"v": 1'),
        LEAF.replace(b'"v":1', b'"v":1,"w":1'),
        LEAF.replace(b'"v":1', b'"v":1,"v":1'),
        LEAF.replace(b',"v":1', b""),
        LEAF.replace(b'"action":"a.b",', b""),
        LEAF.replace(b'"action":"a.b",', b'"action":"a.b","action":"a.b",'),
        LEAF.replace(b'"a.b"', b'"\\u0061.b"'),
        LEAF.replace(b'"id":"0192f0c1', b'"id":"0192F0C1'),
        LEAF.replace(b'"by":"billing-api"', b'"by":""'),
        LEAF.replace(b'"by":"billing-api",', b""),
        LEAF.replace(b"36.123456Z", b"36Z"),
        LEAF.replace(
            b'"time":"2026-11-25T02:03:36.123456Z"},"v"', b'"time":"2026-11-25T02:03:36Z"},"v"'
        ),
        LEAF.replace(b'"time":"2026-11-25T02:03:36.123456Z"},"v"', b'"time":"never"},"v"'),
        LEAF.replace(b'"event":', b'"\\u0065vent":'),
        b"[" * 100_000,
    ],
)
def test_a_leaf_in_any_other_form_is_malformed(leaf: bytes) -> None:
    assert leaf != LEAF
    with pytest.raises(MalformedError):
        parse_leaf(leaf)


@pytest.mark.parametrize("absent", ["id", "time"])
def test_a_leaf_whose_event_lacks_its_id_or_time_is_malformed(absent: str) -> None:
    leaf = leaf_of({name: value for name, value in EVENT.items() if name != absent})
    with pytest.raises(MalformedError, match="no id, or no time"):
        parse_leaf(leaf)


@settings(deadline=None)
@given(st.integers(0, len(LEAF) * 8 - 1))
def test_a_leaf_with_a_flipped_bit_is_malformed_or_another_leaf(bit: int) -> None:
    flipped = bytearray(LEAF)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        parsed = parse_leaf(bytes(flipped))
    except MalformedError:
        return
    assert parsed != parse_leaf(LEAF)


def test_a_leaf_has_at_most_65535_bytes() -> None:
    room = LEAF_BYTES_MAX - len(leaf_of({**EVENT, "context": {"a": ""}}))
    assert len(leaf_of({**EVENT, "context": {"a": "x" * room}})) == 65_535
    with pytest.raises(EventError) as caught:
        leaf_of({**EVENT, "context": {"a": "x" * (room + 1)}})
    assert (caught.value.rule, caught.value.limit, caught.value.got) == (
        "leaf-too-large",
        65_535,
        65_536,
    )


@settings(deadline=None)
@given(events)
def test_an_event_is_the_same_as_itself_in_any_leaf(value: dict[str, Any]) -> None:
    read = Reader(lambda: ID, lambda: 0).read_object(value)
    leaf = format_leaf(event_json=read.event_json, by="another", received_time=TIME)
    assert is_same_event(leaf, read.event_json, ignore_time=False)
    assert is_same_event(leaf, read.event_json, ignore_time=True)


def test_an_event_of_another_time_is_the_same_only_when_times_are_ignored() -> None:
    _, other = decode_event_object({**EVENT, "time": "2026-11-25T02:03:37Z"})
    assert not is_same_event(LEAF, other, ignore_time=False)
    assert is_same_event(LEAF, other, ignore_time=True)


@pytest.mark.parametrize(
    ("one", "another"), [(1, True), (0, False), (1, "1"), (None, False), ([], {}), ({}, None)]
)
def test_values_that_python_takes_for_equal_make_different_events(
    one: object, another: object
) -> None:
    leaf = leaf_of({**EVENT, "context": {"a": one}})
    _, other = decode_event_object({**EVENT, "context": {"a": another}})
    assert not is_same_event(leaf, other, ignore_time=False)
    assert not is_same_event(leaf, other, ignore_time=True)


def test_one_and_one_point_nought_are_the_same_number() -> None:
    leaf = leaf_of({**EVENT, "context": {"a": 1}})
    _, other = decode_event_object({**EVENT, "context": {"a": 1.0}})
    assert is_same_event(leaf, other, ignore_time=False)
