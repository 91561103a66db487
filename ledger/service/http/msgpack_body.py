"""Bodies in MessagePack: the events of a batch are found, and none is decoded before it is read."""

from collections.abc import Sequence
from typing import Any, Final

import msgpack

from ledger.service.http.problems import ProblemError, too_many_events
from ledger_core.event.model import LIMITS, EventError

KEY_SHOWN_CHARS_MAX: Final = 64

TOKENS_MAX: Final = 1 << 17
"""Tokens or values looked at one by one in an event that a decoder can't skip in one step.

A few hundredths of a second; a batch that has more is refused as a whole.
"""

_INPUT_BYTES_MAX: Final = LIMITS["input"].most
EVENTS_KEY: Final = "events"
_KEY_BYTES_MAX: Final = 16
_MAP_HEADS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_ARRAY_HEADS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_DEEP_VALUES_MAX: Final = 16


def split_msgpack(body: bytes, events_max: int) -> tuple[Sequence[bytes], bool]:
    """The bytes of each event of a body, and whether it is a batch.

    Raises: ProblemError when it is not one value, or has too many events.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
    unpacker.feed(body)
    try:
        is_batch = unpacker.read_map_header() == 1 and _is_events_key(unpacker, body)
    except (ValueError, msgpack.UnpackException) as error:
        raise _not_msgpack() from error
    if not is_batch:
        return (body,), False
    try:
        count = unpacker.read_array_header()
        if count > events_max:
            raise too_many_events(events_max, count)
        raws, offset = _split_values(body, unpacker.tell(), count)
    except (ValueError, msgpack.UnpackException) as error:
        raise _not_msgpack() from error
    if offset != len(body):
        raise _not_msgpack()
    return raws, True


def _split_values(body: bytes, offset: int, count: int) -> tuple[list[bytes], int]:
    """The bytes of so many MessagePack values from an offset on, and the offset behind them."""
    raws: list[bytes] = []
    for _ in range(_DEEP_VALUES_MAX):
        unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
        unpacker.feed(memoryview(body)[offset:])
        base = offset
        try:
            while len(raws) < count:
                unpacker.skip()
                raws.append(body[offset : base + unpacker.tell()])
                offset = base + unpacker.tell()
        except msgpack.StackError:
            # The unpacker has lost its place; the next one begins behind this value.
            end = _end_of_deep_value(body, offset)
            raws.append(body[offset:end])
            offset = end
        else:
            return raws, offset
    raise _not_msgpack()  # Each of them costs a copy of what is left of the body.


def _end_of_deep_value(body: bytes, offset: int) -> int:
    """The offset behind a value that is nested too deep to be skipped in one step."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
    unpacker.feed(memoryview(body)[offset:])
    waiting = 1
    for _ in range(TOKENS_MAX):
        start = offset + unpacker.tell()
        waiting -= 1
        if _MAP_HEADS.issuperset(body[start : start + 1]):
            waiting += 2 * unpacker.read_map_header()
        elif _ARRAY_HEADS.issuperset(body[start : start + 1]):
            waiting += unpacker.read_array_header()
        else:
            unpacker.skip()
        if not waiting:
            return offset + int(unpacker.tell())
    raise _not_msgpack()


def _is_events_key(unpacker: msgpack.Unpacker, body: bytes) -> bool:
    key = _skip(unpacker, body)
    return len(key) <= _KEY_BYTES_MAX and msgpack.unpackb(key) == EVENTS_KEY


def _skip(unpacker: msgpack.Unpacker, body: bytes) -> bytes:
    """The bytes of the next value, of which nothing is decoded."""
    start = unpacker.tell()
    unpacker.skip()
    return body[start : unpacker.tell()]


def decode_msgpack(raw: bytes) -> Any:
    """The value of some bytes. Raises: EventError, ProblemError."""
    if len(raw) > _INPUT_BYTES_MAX:
        raise EventError(
            f"the event has {len(raw)} bytes, at most {_INPUT_BYTES_MAX} are read",
            rule="leaf-too-large",
            limit=_INPUT_BYTES_MAX,
            got=len(raw),
        )
    try:
        return msgpack.unpackb(raw, object_pairs_hook=_make_object)
    except EventError:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        raise _not_msgpack() from error


def _make_object(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[Any] = set()
        for key, _ in pairs:
            if key in seen:
                raise EventError(
                    "stands twice in one object",
                    rule="repeated-key",
                    field=ascii(key)[1:-1][:KEY_SHOWN_CHARS_MAX],
                )
            seen.add(key)
    return made


def _not_msgpack() -> ProblemError:
    return ProblemError("not-msgpack", "not one MessagePack map with strings as keys")
