"""Messages and the events that they become."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.collect.syslog.events import Peer, map_frame
from ledger_client.collect.syslog.framing import Frame
from ledger_client.collect.syslog.message import Message, parse_message
from ledger_core.event.canonical import LEAF_BYTES_MAX, decode_event_object
from ledger_core.event.times import format_time

VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "messages.json").read_text(encoding="utf-8")
)
PEER = Peer(ip="192.0.2.7", port=40_000)
READ_AT_UNIX_US = 1_790_000_000_000_000


def map_data(data: bytes, *, peer: Peer = PEER, **frame: Any) -> dict[str, Any]:
    event = map_frame(Frame(data, **frame), peer=peer, received_unix_us=READ_AT_UNIX_US)
    decode_event_object(event)
    return event


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["what"]))
def test_a_message_says_what_stands_in_the_vector(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["data_hex"]) if "data_hex" in vector else vector["data"].encode()
    message = parse_message(data)
    said = {name: value for name, value in msgspec.to_builtins(message).items() if value}
    expected = {name: value for name, value in vector["message"].items() if value}
    assert {**said, "notes": list(message.notes)} == {"notes": [], **expected}
    map_data(data)


@given(st.binary(max_size=300))
def test_no_bytes_are_refused_and_each_makes_an_event(data: bytes) -> None:
    assert isinstance(parse_message(data), Message)
    map_data(data)


@given(st.text(max_size=40), st.dictionaries(st.sampled_from("abc"), st.text(max_size=20)))
def test_values_and_text_come_back_as_they_were_sent(text: str, parameters: dict[str, str]) -> None:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")

    element = "".join(f' {name}="{escaped(value)}"' for name, value in parameters.items())
    message = parse_message(f"<13>1 - - - - - [e{element}] {text}".encode())
    assert message.structured_data == {"e": parameters}
    assert message.text == text.removeprefix("\ufeff")
    assert message.notes == ()


def test_an_event_says_who_sent_what_and_from_where() -> None:
    event = map_data(
        b'<38>1 2026-11-25T02:03:36.003Z web-1 sshd 812 ID.47 [auth user="jo"] Failed password',
        peer=Peer(ip="192.0.2.7", port=40_000, fingerprint="ab" * 32),
    )
    assert event == {
        "time": "2026-11-25T02:03:36.003000Z",
        "action": "syslog.auth.ID_47",
        "actor": {
            "type": "host",
            "id": "web-1",
            "session": "812",
            "credential": f"sha256:{'ab' * 32}",
        },
        "source": {"ip": "192.0.2.7", "port": 40_000, "service": "sshd"},
        "outcome": "unknown",
        "reason": "Failed password",
        "context": {
            "facility": "auth",
            "severity": "info",
            "structured_data": {"auth": {"user": "jo"}},
        },
    }


@pytest.mark.parametrize(
    "time", ["-", "2026-11-25T02:03:36", "Nov", "2026-11-25T02:03:61Z", "2026-02-30T00:00:00Z"]
)
def test_a_time_that_is_none_gives_way_to_the_listeners_clock_with_a_note(time: str) -> None:
    event = map_data(f"<13>1 {time} - - - - - x".encode())
    assert event["time"] == format_time(READ_AT_UNIX_US)
    assert "time: the message has none" in event["context"]["import_notes"][0]


def test_who_names_no_host_is_known_by_its_address() -> None:
    assert map_data(b"<13>1 - - - - - - x")["actor"] == {"type": "host", "id": "192.0.2.7"}
    event = map_data(b"<13>1 - - - - - - x", peer=Peer(ip="", port=0))
    assert event["actor"]["id"] == "unknown"
    assert "source" not in event


def test_a_long_text_is_whole_in_the_context_and_cut_in_the_reason() -> None:
    event = map_data(b"<13>1 - - - - - - " + b"x" * 5_000)
    assert len(event["reason"]) == 4_096
    assert event["context"]["message"] == "x" * 5_000
    assert "reason: cut, it has 5000 characters" in event["context"]["import_notes"]


@pytest.mark.parametrize(
    ("start", "filling", "note"),
    [
        ("<13>1 - - - - - - ", b"\x01", "context.message: cut, it has"),
        ("<13>1 - - - - - - ", b"\xff", "context.message: cut, it has"),
        ("<13>1 - - - - - - ", b"a", "context.message: cut, it has"),
        ("\x01", b"\x01", "context.message: cut, it has"),
        ('<13>1 - - - - - [e a="', b"\x01", "structured_data: not well-formed"),
        (
            "<13>1 - - - - - [e" + ' a="\x01\x01\x01\x01"' * 5_000 + "] ",
            b"x",
            "context.structured_data",
        ),
        ("<13>1 - " + "\x01" * 300, b"\x01", "context.message: cut, it has"),
    ],
)
@pytest.mark.parametrize("size", [16 * 1024, 64 * 1024])
def test_a_message_of_any_bytes_has_room_in_a_leaf(
    start: str, filling: bytes, note: str, size: int
) -> None:
    data = start.encode()[:size]
    data += filling * (size - len(data))
    event = map_data(data)
    _, event_json = decode_event_object(event)
    assert len(event_json) < LEAF_BYTES_MAX - 2_048
    if size == 64 * 1024:
        assert any(each.startswith(note) for each in event["context"]["import_notes"])
        assert event["context"]["message"][100:4_000] in data.decode(errors="backslashreplace")


@pytest.mark.parametrize(
    ("frame", "note"),
    [
        ({"bytes_cut": 7}, "message: cut, 7 bytes more were sent"),
        ({"is_broken_off": True}, "message: the connection ended inside it"),
        ({"is_unframed": True}, "message: no count of octets before it"),
    ],
)
def test_what_happened_to_a_message_on_its_way_is_noted(frame: dict[str, Any], note: str) -> None:
    notes = map_data(b"<13>1 2026-11-25T02:03:36Z - - - - - x", **frame)["context"]["import_notes"]
    assert len(notes) == 1
    assert notes[0].startswith(note)


@pytest.mark.parametrize(
    ("time", "read"),
    [
        ("2026-11-25T02:03:36+0000", "2026-11-25T02:03:36.000000Z"),
        ("2026-12-31T23:59:60Z", "2026-12-31T23:59:59.000000Z"),
    ],
)
def test_a_zone_without_a_colon_and_a_leap_second_are_times(time: str, read: str) -> None:
    assert map_data(f"<13>1 {time} h a - - - x".encode())["time"] == read
