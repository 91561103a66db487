"""Counts by value and by time, of the entries that a query matched.

They are read out of the index, term by term, and not out of the entries: how many of the matches in
a segment are in the posting list of a term. All of it is exact, unless the time for it runs out;
then what was counted so far is given, and said to be a part.
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from ipaddress import ip_address
from itertools import accumulate, compress
from typing import Final, Literal, TypeAlias, get_args

from pyroaring import BitMap

from ledger.query.evaluator import Window
from ledger.query.leaf_cache import RowReader
from ledger.query.segment_terms import COLUMN_DIMENSIONS, SegmentTerms
from ledger.store.index.postings import NO_PLACE, Postings
from ledger.store.index.roaring_containers import (
    FORM_ARRAY,
    FORM_BITSET,
    SEGMENT_ENTRIES_MAX,
    Container,
    assemble,
    encode_bitmap,
    from_little_endian,
)

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
_LONG_BYTES = 200
"""From lists of so many bytes on, intersecting two bitmaps takes less than looking at offsets."""
_SEARCH_COST = 2
_DIGIT_VALUES = bytes.maketrans(b"01", b"\0\1")


@dataclass(frozen=True, slots=True)
class Facet:
    """The most frequent values of a field among the matches, most first.

    `others` is how many further values there are. Where not `exact`, `counted` of the matches were
    counted and the rest was not. Values of 120 characters and more, but no action, are
    counted by their first 120.
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


class FacetCounter:
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
        if not window.is_indexed(segment):
            start = window.start_of(segment)
            self._count_rows([start + offset for offset in offsets])
        elif len(offsets) == window.entries_in(segment):
            for dimension, counts in self._counts.items():
                _count_all(window.postings(dimension, segment), counts)
        else:
            matches = _Matches(offsets)
            for dimension, counts in self._counts.items():
                column = (
                    window.column(dimension, segment) if dimension in COLUMN_DIMENSIONS else None
                )
                if column is None:
                    matches.count(window.postings(dimension, segment), counts)
                else:
                    _count_column(offsets, *column, counts)
        self._counted += len(offsets)

    def _count_rows(self, indices: Sequence[int]) -> None:
        """Count entries that no index knows yet by their leaves."""
        terms = SegmentTerms()
        terms.add(self._rows.leaves(indices))
        for dimension, counts in self._counts.items():
            for value, container in terms.postings(dimension):
                _add(counts, value, container.cardinality)

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


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The most frequent values; equal ones in the order of their text, the same every time."""
    least = min(nlargest(FACET_VALUES_MAX, counts.values()), default=0)
    frequent = [item for item in counts.items() if item[1] >= least]
    return sorted(frequent, key=lambda item: (-item[1], item[0]))[:FACET_VALUES_MAX]


def _count_all(runs: Iterable[Postings], counts: dict[str, int]) -> None:
    """Add up terms of a segment all of whose entries match."""
    known = counts.get
    for postings in runs:
        for value, count in zip(postings.values, postings.counts, strict=True):
            counts[value] = known(value, 0) + count + 1


def _count_column(
    offsets: BitMap, places: "array[int]", values: list[str], counts: Counter[str]
) -> None:
    """Add up the values of the matches of a segment."""
    found = list(map(places.__getitem__, offsets.to_array()))
    if NO_PLACE in found:
        found = [place for place in found if place != NO_PLACE]
    counts.update(map(values.__getitem__, found))


class _Matches:
    """The matches of one segment, held against posting lists."""

    def __init__(self, offsets: BitMap) -> None:
        self._offsets = offsets
        self._flags = b""

    def count(self, runs: Iterable[Postings], counts: dict[str, int]) -> None:
        """Add how many of the matches each term has.

        Long lists are intersected, one by one. Short ones are many, and are taken together: end to
        end, a byte for each offset that says whether it matches.
        """
        values: list[str] = []
        lengths: list[int] = []
        payloads: list[bytes] = []
        for postings in runs:
            if any(postings.forms) or len(postings.payload) > _LONG_BYTES * len(postings.values):
                for value, container in postings:
                    _add(counts, value, self._common(container))
            else:
                values += postings.values
                lengths += [count + 1 for count in postings.counts]
                payloads.append(postings.payload)
        if not values:
            return
        hits = bytes(map(self.flags.__getitem__, from_little_endian(b"".join(payloads))))
        ends = list(accumulate(lengths))
        if hits.count(1) * _SEARCH_COST < len(ends):
            for place in compress(range(len(hits)), hits):
                _add(counts, values[bisect_right(ends, place)], 1)
            return
        start = 0
        for value, end in zip(values, ends, strict=True):
            _add(counts, value, hits.count(1, start, end))
            start = end

    @property
    def flags(self) -> bytes:
        """A byte for each offset of a segment: 1 for the matches."""
        if not self._flags:
            self._flags = _flags(self._offsets)
        return self._flags

    def _common(self, container: Container) -> int:
        if container.form == 1:
            _, first, more = from_little_endian(container.payload)
            return self._offsets.range_cardinality(first, first + more + 1)
        return self._offsets.intersection_cardinality(assemble([(0, container)]))


def _add(counts: dict[str, int], value: str, found: int) -> None:
    if found:
        counts[value] = counts.get(value, 0) + found


def _flags(offsets: BitMap) -> bytes:
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
