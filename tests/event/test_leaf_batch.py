"""Many leaves read at once are accepted and refused as each of them by itself."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.event.canonical import LEAF_BYTES_MAX, format_leaf, parse_leaf
from ledger_core.event.leaf_batch import BATCH, parse_leaves
from ledger_core.tlog.errors import MalformedError
from tests.client.hosts import READER, entry, event_id

TIME = "2026-11-25T02:03:36.123456Z"


def leaf(**fields: Any) -> bytes:
    event = {
        "action": "user.changed",
        "actor": {"id": "u_1"},
        "id": event_id(7),
        "outcome": "success",
        "time": TIME,
        **fields,
    }
    read = READER.read_object(event)
    return format_leaf(event_json=read.event_json, by="api", received_time=TIME)


TRUE = leaf(source={"ip": "192.0.2.1"}, context={"bytes": 17, "region": "eu"})

GENUINE = [
    TRUE,
    leaf(source={"service": "api"}),
    leaf(source={"ip": "2001:db8::1"}),
    leaf(context={"a": {"b": [1, 2.5, None, True]}}),
    leaf(context={"\ufb00": 1, "\U0001f600": 2}),
    leaf(context={"n": 1.0, "m": 1e-7}),
    leaf(context={"n": 2**53 - 1}),
    leaf(changes=[{"path": "/a", "before": 1, "after": {"x": 1.5}}]),
    leaf(reason='a "quoted" word\n, and \\u0000'),
    leaf(reason="x" * 4096),
]


def changed(before: bytes, after: bytes) -> bytes:
    assert before in TRUE
    return TRUE.replace(before, after)


FALSE = [
    b"",
    b"{}",
    b"\xff",
    b"[" * 100_000,
    TRUE + b" ",
    TRUE[:-1],
    TRUE + b"\n" + TRUE,
    TRUE.replace(b",", b",\n", 1),
    changed(b'"v":1', b'"v":2'),
    changed(b'"v":1', b'"v":1,"w":1'),
    changed(b'"id":"u_1"', b'"id":"u_1","id":"u_1"'),
    changed(b'"bytes":17,"region":"eu"', b'"region":"eu","bytes":17'),
    changed(b'"bytes":17', b'"bytes":17.0'),
    changed(b'"bytes":17', b'"bytes":9007199254740992'),
    changed(b'"bytes":17', b'"bytes":-9007199254740992'),
    changed(b'"eu"', b'"e\\u0000u"'),
    changed(b'"eu"', b'"\\u0065u"'),
    changed(event_id(7).encode(), event_id(7).upper().encode()),
    changed(event_id(7).encode(), b"x" + event_id(7).encode()[1:]),
    changed(event_id(7).encode(), event_id(7).encode()[:-1] + b"\\n"),
    changed(f'"id":"{event_id(7)}",'.encode(), b""),
    changed(f'"time":"{TIME}"}},"received"'.encode(), b'"time":"2026-11-25T02:03:36Z"},"received"'),
    *(
        TRUE.replace(TIME.encode(), time)
        for time in (
            b"2026-11-25T24:03:36.123456Z",
            b"2026-11-25T02:60:36.123456Z",
            b"2026-11-25T02:03:60.123456Z",
            b"2026-02-29T02:03:36.123456Z",
            b"1969-12-31T02:03:36.123456Z",
            b"2026-11-25t02:03:36.123456z",
            b"2026-11-25T02:03:36.12345\xd9\xa3Z",
        )
    ),
    changed(b"192.0.2.1", b"192.0.2.01"),
    changed(b"192.0.2.1", b"::ffff:192.0.2.1"),
    changed(b"192.0.2.1", b"192.0.2.1\\n192.0.2.2"),
    changed(b"user.changed", b"user..changed"),
    changed(b'"success"', b'"perhaps"'),
    changed(b'"eu"', b'"' + b"x" * LEAF_BYTES_MAX + b'"'),
]


@pytest.mark.parametrize("number", range(len(GENUINE)))
def test_a_genuine_leaf_is_read_among_others(number: int) -> None:
    leaves = [entry(1), GENUINE[number], entry(2)]
    for whole, each in zip(parse_leaves(leaves), leaves, strict=True):
        alone = parse_leaf(each)
        assert (whole.event, whole.received) == (alone.event, alone.received)
        assert msgspec.json.encode(whole.event) == msgspec.json.encode(alone.event)


@pytest.mark.parametrize("number", range(len(FALSE)))
@pytest.mark.parametrize("place", [0, 1, BATCH + 1])
def test_what_is_no_leaf_is_refused_among_others(number: int, place: int) -> None:
    leaves = [entry(n) for n in range(BATCH + 3)]
    leaves[place] = FALSE[number]
    with pytest.raises(MalformedError):
        parse_leaf(FALSE[number])
    read = parse_leaves(leaves)
    for each in leaves[:place]:
        assert next(read).event == parse_leaf(each).event
    with pytest.raises(MalformedError):
        next(read)


def test_two_halves_of_a_line_do_not_make_a_leaf() -> None:
    """Joined by a line end they would be two leaves of JSON, as the list has two."""
    at = TRUE.index(b",") + 1
    spaced = TRUE[:at] + b"\n" + TRUE[at:]
    for leaves in ([TRUE + b"\n" + TRUE, b""], [TRUE[:at], TRUE[at:]], [spaced, TRUE]):
        with pytest.raises(MalformedError):
            list(parse_leaves(leaves))


def test_no_leaves_are_read_as_none() -> None:
    assert list(parse_leaves([])) == []


BYTES = (b"0", b"9", b"f", b"T", b"Z", b"-", b":", b'"', b",", b"\n", b"\\", b" ", b"\xc3\xa9", b"")


def outcome(leaf_: bytes) -> bytes | None:
    try:
        read = parse_leaf(leaf_)
    except MalformedError:
        return None
    return msgspec.json.encode((read.event, read.received))


@given(
    number=st.integers(0, len(GENUINE) - 1),
    where=st.floats(0, 1, exclude_max=True),
    put=st.sampled_from(BYTES),
    length=st.integers(0, 2),
)
def test_any_edit_of_a_leaf_is_judged_among_others_as_alone(
    number: int, where: float, put: bytes, length: int
) -> None:
    at = int(where * len(GENUINE[number]))
    edited = GENUINE[number][:at] + put + GENUINE[number][at + length :]
    leaves = [entry(1), edited, entry(2)]
    try:
        read = [msgspec.json.encode((w.event, w.received)) for w in parse_leaves(leaves)]
    except MalformedError:
        read = []
    want = [outcome(each) for each in leaves]
    assert read == ([] if None in want else want)
