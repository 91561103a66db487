"""Counts by value and by time, of the entries that a query matched.

They are read out of the index, term by term, and not out of the entries: how many of the matches in
a segment are in the posting list of a term. All of it is exact, unless the time for it runs out;
then what was counted so far is given, and said to be a part.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import accumulate
from operator import sub
from typing import Final, Literal, TypeAlias, get_args

from pyroaring import BitMap

from ledger.query.rows import RowReader
from ledger.query.terms import SegmentTerms
from ledger.query.window import Window
from ledger.store.containers import (
    FORM_ARRAY,
    FORM_BITSET,
    SEGMENT_ENTRIES_MAX,
    Container,
    assemble,
    encode_bitmap,
    from_little_endian,
)
from ledger.store.postings import Postings

FacetField: TypeAlias = Literal[
    "action",
    "actor",
    "actor.on_behalf_of",
    "actor.type",
    "credential",
    "outcome",
    "service",
    "session",
    "source",
    "target",
    "target.type",
    "tenant",
]
FACET_FIELDS: Final[tuple[FacetField, ...]] = get_args(FacetField)
Unit: TypeAlias = Literal["hour", "day"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
FACET_VALUES_MAX: Final = 10
_DIGIT_VALUES = bytes.maketrans(b"01", b"\0\1")


@dataclass(frozen=True, slots=True)
class Facet:
    """The most frequent values of a field among the matches, most first.

    `others` is how many further values there are. Where not `exact`, `counted` of the matches were
    counted and the rest was not. Values of 120 characters and more are counted by their first 120.
    """

    field: FacetField
    counts: tuple[tuple[str, int], ...]
    others: int
    exact: bool
    counted: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """The matches by the hour or day, in UTC, of their event time: those with any, in order.

    `exact` and `counted` as in a facet.
    """

    unit: Unit
    buckets: tuple[tuple[str, int], ...]
    exact: bool
    counted: int


class Counting:
    """Counts the matches of one query by the values of some dimensions."""

    def __init__(
        self,
        fields: Sequence[FacetField],
        unit: Unit | None,
        *,
        rows: RowReader,
        is_over: Callable[[], bool],
    ) -> None:
        self._fields = tuple(dict.fromkeys(fields))
        self._unit = unit
        self._rows = rows
        self._is_over = is_over
        dimensions = (*self._fields, "hour") if unit else self._fields
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in dimensions}
        self._counted = 0
        self._is_cut = False

    @property
    def is_asked(self) -> bool:
        """Whether there is anything to count."""
        return bool(self._counts)

    def add(self, window: Window, segment: int, offsets: BitMap) -> None:
        """Count the matches of a segment of a window, as long as there is time."""
        if self._is_over():
            self._is_cut = True
            return
        if window.is_indexed(segment):
            flags = _flags(offsets)
            for dimension, counts in self._counts.items():
                _count(window.postings(dimension, segment), offsets, flags, counts)
        else:
            start = window.start_of(segment)
            self._count_rows([start + offset for offset in offsets])
        self._counted += len(offsets)

    def _count_rows(self, indices: Sequence[int]) -> None:
        """Count entries that no index knows yet by their leaves."""
        terms = SegmentTerms()
        terms.add(self._rows.leaves(indices))
        for dimension, counts in self._counts.items():
            for value, container in terms.seal(dimension):
                counts[value] += container.cardinality

    def facets(self, *, is_all: bool) -> tuple[Facet, ...]:
        """The facets, in the order in which they were asked for; `is_all`: of all matches."""
        return tuple(
            Facet(
                field,
                tuple(
                    (_address_of(value) if field == "source" else value, count)
                    for value, count in _most(self._counts[field])
                ),
                others=max(0, len(self._counts[field]) - FACET_VALUES_MAX),
                exact=is_all and not self._is_cut,
                counted=self._counted,
            )
            for field in self._fields
        )

    def histogram(self, *, is_all: bool) -> Histogram | None:
        """The histogram, if one was asked for; `is_all`: of all matches."""
        if self._unit is None:
            return None
        buckets: Counter[str] = Counter()
        for hour, count in self._counts["hour"].items():
            start = hour if self._unit == "hour" else f"{hour[: len('2026-11-25')]}T00"
            buckets[f"{start}:00:00Z"] += count
        return Histogram(
            self._unit,
            tuple(sorted(buckets.items())),
            exact=is_all and not self._is_cut,
            counted=self._counted,
        )


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent values; equal ones in the order of their text, the same every time."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FACET_VALUES_MAX]


def _count(runs: Iterable[Postings], offsets: BitMap, flags: bytes, counts: Counter[str]) -> None:
    """Add how many of the offsets each term has."""
    for postings in runs:
        if any(postings.forms):
            for value, container in postings:
                found = _common(container, offsets, flags)
                if found:
                    counts[value] += found
            continue
        hits = list(map(flags.__getitem__, from_little_endian(postings.payload)))
        if not any(hits):
            continue
        # How many hits there are up to the end of each list, and so in each list.
        before = list(accumulate(hits, initial=0))
        ends = accumulate([count + 1 for count in postings.counts])
        up_to = [before[end] for end in ends]
        for value, found in zip(postings.values, map(sub, up_to, [0, *up_to]), strict=True):
            if found:
                counts[value] += found


def _common(container: Container, offsets: BitMap, flags: bytes) -> int:
    if container.form == FORM_ARRAY:
        return sum(map(flags.__getitem__, from_little_endian(container.payload)))
    if container.form == 1:
        _, first, more = from_little_endian(container.payload)
        return offsets.range_cardinality(first, first + more + 1)
    return offsets.intersection_cardinality(assemble([(0, container)]))


def _flags(offsets: BitMap) -> bytes:
    """A byte for each offset of a segment: 1 for those in the bitmap."""
    _, form, payload = encode_bitmap(offsets)
    if form == FORM_BITSET:
        # As a number in base two, written with the highest digit first.
        digits = f"{int.from_bytes(payload, 'little'):0{SEGMENT_ENTRIES_MAX}b}"
        return digits[::-1].encode().translate(_DIGIT_VALUES)
    flags = bytearray(SEGMENT_ENTRIES_MAX)
    numbers = from_little_endian(payload)
    if form == FORM_ARRAY:
        for offset in numbers:
            flags[offset] = 1
    else:
        for first, more in zip(numbers[1::2], numbers[2::2], strict=True):
            flags[first : first + more + 1] = b"\1" * (more + 1)
    return bytes(flags)


def _address_of(term: str) -> str:
    return str(ip_address(bytes.fromhex(term[1:])))
