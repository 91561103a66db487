"""The one form of an event's bytes: RFC 8785, whichever of the two encoders wrote it."""

import json
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core.event.canonical import (
    canonical_ip,
    decode_event,
    decode_event_object,
    encode_event,
)
from ledger_core.event.model import EventError
from ledger_core.event.times import format_time, parse_time
from tests.event.cases import ACCEPTED
from tests.event.strategies import events, values, write_spelled


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: str(vector["what"]))
def test_each_event_has_its_canonical_bytes(vector: dict[str, Any]) -> None:
    event, event_json = decode_event(vector["text"].encode())
    assert event_json.decode() == vector["canonical"]
    assert encode_event(event) == event_json


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: str(vector["what"]))
def test_canonical_bytes_are_read_as_themselves(vector: dict[str, Any]) -> None:
    canonical = vector["canonical"].encode()
    assert decode_event(canonical)[1] == canonical


@settings(deadline=None)
@given(events)
def test_the_bytes_are_those_of_rfc_8785(value: dict[str, Any]) -> None:
    event, event_json = decode_event(json.dumps(value).encode())
    assert event_json == rfc8785.dumps(msgspec.to_builtins(event))
    assert event_json == encode_event(event)


@settings(deadline=None)
@given(values(7))
def test_free_values_come_back_equal_from_pythons_own_json(value: Any) -> None:
    sent = {"action": "a", "actor": {"id": "u"}, "outcome": "unknown", "context": {"a": value}}
    raw = json.dumps(sent, ensure_ascii=False).encode()
    _, event_json = decode_event(raw)
    assert json.loads(event_json) == json.loads(raw)
    assert decode_event(event_json)[1] == event_json


@settings(deadline=None)
@given(events, st.data())
def test_every_spelling_of_an_event_has_the_same_bytes(
    value: dict[str, Any], data: st.DataObject
) -> None:
    raw = write_spelled(value, data.draw, repeating=False).encode()
    assert decode_event(raw) == decode_event_object(value)


@settings(deadline=None)
@given(events, st.data())
def test_a_repeated_key_is_refused_however_it_is_spelled_and_nothing_else_is(
    value: dict[str, Any], data: st.DataObject
) -> None:
    raw = write_spelled(value, data.draw, repeating=True)
    repeats = False

    def note_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeats
        repeats = repeats or len(dict(pairs)) < len(pairs)
        return dict(pairs)

    json.loads(raw, object_pairs_hook=note_repetition)
    if repeats:
        # A member of another type may be refused first, where it repeats a typed field.
        with pytest.raises(EventError):
            decode_event(raw.encode())
    else:
        decode_event(raw.encode())


@settings(deadline=None)
@given(st.integers(0, 253_402_300_799_999_999))
def test_a_time_is_written_and_read_back(unix_us: int) -> None:
    text = format_time(unix_us)
    assert len(text) == len("2026-11-25T02:03:36.123456Z")
    assert parse_time(text) == unix_us


@pytest.mark.parametrize("unix_us", [-1, 253_402_300_800_000_000, 10**30])
def test_a_time_outside_the_years_has_no_text(unix_us: int) -> None:
    with pytest.raises(ValueError, match="1970 to 9999"):
        format_time(unix_us)


@settings(deadline=None)
@given(st.ip_addresses())
def test_an_address_has_one_text_that_is_its_own(address: object) -> None:
    text = canonical_ip(str(address))
    assert canonical_ip(text) == text


@pytest.mark.parametrize("address", ["1.2.3.4:80", "[::1]:80", "[::1]"])
def test_an_address_with_a_port_is_told_where_the_port_goes(address: str) -> None:
    with pytest.raises(EventError, match=r"source\.port"):
        canonical_ip(address)


@pytest.mark.parametrize(
    ("time", "says"),
    [
        ("2026-12-31T23:59:60Z", "leap second"),
        ("2026-11-25T02:03:36", "zone"),
        ("2026-02-30T00:00:00Z", "no such date"),
    ],
)
def test_a_refused_time_is_told_why(time: str, says: str) -> None:
    with pytest.raises(EventError, match=says) as caught:
        parse_time(time, field="received.time")
    assert caught.value.field == "received.time"


@given(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}\n?", fullmatch=True))
def test_the_short_way_for_ipv4_takes_what_ipaddress_takes(text: str) -> None:
    try:
        want: str | None = str(ip_address(text))
    except ValueError:
        want = None
    try:
        got: str | None = canonical_ip(text)
    except EventError:
        got = None
    assert got == want
