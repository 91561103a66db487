"""Checks somebody else's copy of a log, as a SIEM exports it, line by line. No I/O.

A line is JSON that has `index`, `leaf_hash` and `origin` somewhere within: sinks send them, and
exports wrap them (`_source`, `result`, a message that is JSON itself). Beside them `event`,
`received` and `v`, or `raw_data` in OCSF, are the content, whose leaf hash is computed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import rfc8785

from ledger_client.runtime.fault_list import FaultList
from ledger_core.event.repeated_names import RepeatedNameError, decode_unrepeated
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import parse_size

DEPTH_MAX: Final = 6
LINE_BYTES_MAX: Final = 1 << 20
FAULTS_MAX: Final = 100
NAMES: Final = ("index", "leaf_hash", "origin")
_CONTENT: Final = ("event", "received", "v")
_OWN: Final = frozenset({*NAMES, *_CONTENT})
_RAW: Final = "raw_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedRecord:
    """One line: what it says of itself. `content_hash`: of what it holds, None for no content."""

    line: int
    index: int
    leaf_hash: bytes
    content_hash: bytes | None
    is_ocsf: bool = False
    has_more: bool = False


@dataclass(slots=True)
class Copy:
    """A copy that was read: its records by index, and what is wrong with it.

    `without_content`: records that say their leaf hash and hold nothing that has it. `ocsf`: those
    whose content is `raw_data`, with attributes beside it that nothing proves. `with_more`: lines
    that have more around an entry, as the wrapping of an export, which nothing proves either.
    """

    records: dict[int, CopiedRecord] = field(default_factory=dict)
    lines: int = 0
    repeated: int = 0
    without_content: int = 0
    ocsf: int = 0
    with_more: int = 0
    faults: FaultList = field(default_factory=partial(FaultList, FAULTS_MAX))


def read_copy(lines: Iterable[bytes], *, origin: str, tree_size: int) -> Copy:
    """Read the lines of a copy. `tree_size`: the entries that the log has.

    Cost: 50 µs a line, and 300 bytes of memory an entry.
    """
    copy = Copy()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        copy.lines += 1
        record = _read_line(number, line, origin, copy.faults.add)
        if record is None:
            continue
        if record.index >= tree_size:
            copy.faults.add(f"line {number}: the log has no entry {record.index}")
            continue
        copy.ocsf += record.is_ocsf
        copy.with_more += record.has_more
        if record.content_hash is None:
            copy.without_content += 1
        elif record.content_hash != record.leaf_hash:
            copy.faults.add(f"line {number}: its content is not that of its leaf hash: altered")
        known = copy.records.setdefault(record.index, record)
        if known is not record:
            copy.repeated += 1
            if known.leaf_hash != record.leaf_hash:
                copy.faults.add(
                    f"line {number}: entry {record.index} has another leaf hash than in line "
                    f"{known.line}"
                )
    return copy


def compare(
    copy: Copy,
    entries: Iterable[tuple[int, bytes]],
    *,
    is_wanted: Callable[[int, bytes], bool] = lambda _index, _leaf: True,
) -> list[int]:
    """Compare a copy with verified entries of the log, index and leaf; the indices that it lacks.

    `is_wanted`: whether the copy should have an entry, where a sink sends some alone.
    """
    lacking = []
    for index, leaf in entries:
        record = copy.records.get(index)
        if record is None:
            if is_wanted(index, leaf):
                lacking.append(index)
        elif record.leaf_hash != leaf_hash(leaf):
            copy.faults.add(
                f"line {record.line}: entry {index} has another leaf hash in the log: altered"
            )
    return lacking


def ranges(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending indices as ranges, first and last: 3, 4, 5, 9 is (3, 5), (9, 9)."""
    first = last = -1
    for index in indices:
        if index != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = index
        last = index
    if first >= 0:
        yield first, last


def _read_line(
    number: int, line: bytes, origin: str, add_fault: Callable[[str], None]
) -> CopiedRecord | None:
    if len(line) > LINE_BYTES_MAX:
        add_fault(f"line {number}: over {LINE_BYTES_MAX} bytes")
        return None
    try:
        whole = decode_unrepeated(line)
        found = _find(whole, DEPTH_MAX)
    except RepeatedNameError as error:
        add_fault(
            f"line {number}: {error} stands twice in an object: readers differ on which counts"
        )
        return None
    except (ValueError, RecursionError):
        add_fault(f"line {number}: not JSON")
        return None
    if found is None:
        add_fault(f"line {number}: no index, leaf_hash and origin")
        return None
    place, names = found
    index, told, of = names
    if of != origin:
        add_fault(f"line {number}: of another log than {origin}")
        return None
    try:
        return CopiedRecord(
            line=number,
            index=parse_size(str(index)),
            leaf_hash=bytes.fromhex(str(told)),
            content_hash=_content_hash(_with_content(place, names)),
            is_ocsf=_RAW in place,
            has_more=place != whole or bool(place.keys() - _OWN and _RAW not in place),
        )
    except (ValueError, MalformedError):
        add_fault(f"line {number}: index or leaf_hash can't be read")
        return None


def _find(value: Any, depth: int) -> tuple[dict[str, Any], tuple[Any, Any, Any]] | None:
    """The object with the content, and the three names, which OCSF has in `unmapped`."""
    if isinstance(value, str) and value[:1] == "{" and depth:
        try:
            return _find(decode_unrepeated(value), depth - 1)
        except RepeatedNameError:
            raise
        except ValueError:
            return None
    if isinstance(value, list) and depth:
        return next((found for each in value if (found := _find(each, depth - 1))), None)
    if not isinstance(value, dict):
        return None
    inner = value.get("unmapped") if _RAW in value else value
    if isinstance(inner, dict) and all(name in inner for name in NAMES):
        return value, (inner["index"], inner["leaf_hash"], inner["origin"])
    if not depth:
        return None
    return next((found for each in value.values() if (found := _find(each, depth - 1))), None)


def _with_content(place: dict[str, Any], names: tuple[Any, Any, Any]) -> dict[str, Any]:
    """The object within that has the content of an entry, where its own has some names alone.

    So is what exports with extracted fields, which keep the whole line in one of them.
    """
    if _RAW in place or "event" in place or "received" in place:
        return place
    for each in place.values():
        found = _find(each, DEPTH_MAX - 1)
        if found is not None and [*map(str, found[1])] == [*map(str, names)]:
            return found[0]
    return place


def _content_hash(place: dict[str, Any]) -> bytes | None:
    """The hash of what an object holds; None for nothing, empty for what no leaf has."""
    if _RAW in place:
        if not isinstance(place[_RAW], str):
            return b""
        of_raw = leaf_hash(place[_RAW].encode("utf-8", "replace"))
        # A record beside its raw data is shown in its place, so it must be the same.
        return of_raw if _hash_of_record(place) in (None, of_raw) else b""
    return _hash_of_record(place)


def _hash_of_record(place: dict[str, Any]) -> bytes | None:
    if "event" not in place and "received" not in place:
        return None
    # A part of a content is no leaf: whoever reads the copy sees an event, and it is not proven.
    content: dict[str, Any] = {name: place[name] for name in _CONTENT if name in place}
    try:
        return leaf_hash(rfc8785.dumps(content))
    except rfc8785.CanonicalizationError:
        return b""  # No leaf has it.
