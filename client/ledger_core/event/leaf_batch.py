"""Reads many leaves at once: those of a bundle, or of some rows of an export.

The rules are those of `canonical.parse_leaf`, at half of its cost: one call decodes all leaves and
one encodes them again, and the ids and times of all are compared with their shape as one text.
Leaves of which this can't accept one are read alone, strictly.
"""

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Final

import msgspec
from msgspec import UNSET

from ledger_core.event.canonical import (
    IPV4_PATTERN,
    LEAF_BYTES_MAX,
    NOT_A_LEAF,
    WholeLeaf,
    is_action,
    is_canonical_ip,
    parse_leaf,
)
from ledger_core.event.model import Event
from ledger_core.event.plain import are_plain_objects, holds_nul, is_plain_event
from ledger_core.event.times import is_date

BATCH: Final = 32
"""Leaves that are read at once. Of more the processor's cache holds less."""

_decode: Final = msgspec.json.Decoder(WholeLeaf).decode_lines
_encode: Final = msgspec.json.Encoder(order="sorted").encode_lines

_HEX: Final = bytes.maketrans(b"0123456789abcdefx", b"x" * 16 + b"?")
_DIGITS: Final = bytes.maketrans(b"0123456789", b"0" * 10)
_ID_SHAPE: Final = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx\n"
_TIME_SHAPE: Final = b"0000-00-00T00:00:00.000000Z\n"
_DATE_CHARS: Final = len("2026-11-25")
_HOUR_CHARS: Final = len("2026-11-25T02")
_MINUTE_AT: Final = len("2026-11-25T02:")
_SECOND_AT: Final = len("2026-11-25T02:03:")
_FIVE: Final = ord("5")
_are_ipv4: Final = re.compile(rf"(?:{IPV4_PATTERN}\n)*").fullmatch


def parse_batches(leaves: Sequence[bytes]) -> Iterator[Sequence[WholeLeaf]]:
    """Read leaves, in their order, at most `BATCH` at once. Cost: half of that of `parse_leaf`.

    Raises: MalformedError when the iterator comes to a leaf that is none; all before it were given.
    """
    for start in range(0, len(leaves), BATCH):
        some = leaves[start : start + BATCH]
        wholes = _read_together(some)
        if wholes is None:
            yield from ((_read_alone(leaf),) for leaf in some)
        else:
            yield wholes


def parse_leaves(leaves: Sequence[bytes]) -> Iterator[WholeLeaf]:
    """As `parse_batches`, one by one."""
    return chain.from_iterable(parse_batches(leaves))


def _read_together(leaves: Sequence[bytes]) -> list[WholeLeaf] | None:
    """Read leaves that are all plain; None when one of them may be no leaf."""
    text = b"\n".join([*leaves, b""])
    try:
        wholes = _decode(text)
        # An encoded line has no line end in it: if the text is the same, each leaf is a line.
        is_same = len(wholes) == len(leaves) and _encode(wholes) == text
    except NOT_A_LEAF:
        return None
    is_plain = (
        is_same
        and not holds_nul(text)
        and max(map(len, leaves)) <= LEAF_BYTES_MAX
        and _have_canonical_shapes(wholes)
        and _have_plain_values([whole.event for whole in wholes])
    )
    return wholes if is_plain else None


def _read_alone(leaf: bytes) -> WholeLeaf:
    read = parse_leaf(leaf)
    return WholeLeaf(read.event, read.received, 1)


def _have_canonical_shapes(wholes: Sequence[WholeLeaf]) -> bool:
    """Whether all ids and times are canonical."""
    ids = "\n".join([whole.event.id or "" for whole in wholes])
    times = [whole.event.time or "" for whole in wholes]
    times += [whole.received.time for whole in wholes]
    rows = "\n".join(times).encode()
    return (
        ids.encode().translate(_HEX) + b"\n" == _ID_SHAPE * len(wholes)
        and rows.translate(_DIGITS) + b"\n" == _TIME_SHAPE * len(times)
        # The tens of all minutes and seconds.
        and max(rows[_MINUTE_AT :: len(_TIME_SHAPE)]) <= _FIVE
        and max(rows[_SECOND_AT :: len(_TIME_SHAPE)]) <= _FIVE
        and _are_hours(times)
    )


def _are_hours(times: Sequence[str]) -> bool:
    """Whether dates and hours exist. Precondition: all are digits at the same places."""
    first, last = min(times), max(times)
    # Between two times of one date lie times of that date, and the last has the highest hour.
    some = {first, last} if first[:_DATE_CHARS] == last[:_DATE_CHARS] else set(times)
    return all(
        time[_DATE_CHARS:_HOUR_CHARS] <= "T23" and is_date(time[:_DATE_CHARS]) for time in some
    )


def _have_plain_values(events: Sequence[Event]) -> bool:
    """As `has_plain_values` of each."""
    contexts = [event.context for event in events if event.context is not UNSET]
    sources = [event.source for event in events if event.source]
    return (
        all(map(is_action, {event.action for event in events}))
        and _are_canonical_ips({source.ip for source in sources if source.ip})
        and are_plain_objects(contexts)
        and all(map(is_plain_event, [event for event in events if event.changes is not UNSET]))
    )


def _are_canonical_ips(addresses: AbstractSet[str]) -> bool:
    return _are_all_ipv4(addresses) or all(map(is_canonical_ip, addresses))


def _are_all_ipv4(addresses: AbstractSet[str]) -> bool:
    rows = "\n".join([*addresses, ""])
    return rows.count("\n") == len(addresses) and bool(_are_ipv4(rows))
