"""Counts the matches of a query by value (facets) and by time (histogram).

The counts come from the index, not from the entries: each posting list of a dimension is
intersected with the matches of its segment. They are exact unless the time runs out; then `exact`
is false and `counted` says how many matches were counted. Values of 120 characters and more, except
actions, names and user agents, are counted by their first 120.

A counter holds so many values at most, `VALUES_MAX` in all. Beyond that it drops the rarest half of
a dimension, and `exact` is false: its counts are lower bounds, and `others` is one too. A segment
alone may have millions of values, so they are counted, and dropped, some blocks at a time.

Calls into C hold the interpreter's lock until they return, and acknowledgements wait for it. So
long ones are made in pieces of `PIECE` items, a fraction of a millisecond each.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from heapq import nlargest
from ipaddress import ip_address
from itertools import accumulate, compress, islice
from typing import Final
from zoneinfo import ZoneInfo

from pyroaring import BitMap

from ledger.query.budget import OverBudgetError
from ledger.query.evaluator import Window
from ledger.query.hashed_terms import all_but
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms, split_leaves
from ledger.store.index import roaring_containers as roaring
from ledger.store.index.cached_parts import ValueColumn
from ledger.store.index.postings import NO_PLACE, Postings
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX, Container, from_little_endian
from ledger_core.query.counting import Unit, bucket_of, fill
from ledger_core.query.fields import COLUMNS, FIELDS
from ledger_core.search_answers import Bucket, Facet, FacetValue, Histogram

UNITS: Final = ("hour", "day")
"""The units of a histogram that the parameters of a URL can ask for; those in UTC, without gaps."""

FACET_VALUES_MAX: Final = 10
VALUES_MAX: Final = 500_000
"""Values of all dimensions that one counter holds, in some 80 MB."""

PIECE: Final = 2048
RUNS_AT_ONCE: Final = 64
"""Blocks of terms that are counted at once, in some ten milliseconds."""
FEW_IN_BLOCK: Final = 3
"""Below so many matches for each block of values, only the blocks of these matches are read."""

_ROWS_AT_ONCE = 256
_SAMPLED = 16
_LONG_BYTES = 200
"""From this mean length on, intersecting bitmaps is faster than testing single offsets."""
_SEARCH_COST = 2
"""Finding the term of one hit costs as much as counting the hits of two terms."""
_DIGIT_VALUES = bytes.maketrans(b"01", b"\0\1")


class FacetCounter:
    """Counts the matches of one query by the values of some dimensions."""

    def __init__(
        self,
        fields: Sequence[str],
        unit: Unit | None,
        *,
        zone: ZoneInfo | None = None,
        is_filled: bool = False,
        leaf_cache: LeafCache,
        is_over: Callable[[], bool],
    ) -> None:
        """`is_filled`: the histogram has its empty buckets.

        Precondition: the fields are `FACETS`.
        """
        self._fields = tuple(dict.fromkeys(fields))
        self._unit = unit
        self._leaf_cache = leaf_cache
        self._is_over = is_over
        self._zone = zone
        self._is_filled = is_filled
        # Whole hours of UTC need no minutes.
        self._times = "hour" if zone is None and unit in UNITS else "minute"
        dimensions = (*self._fields, self._times) if unit else self._fields
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in dimensions}
        self._values_max = VALUES_MAX // max(1, len(dimensions))
        self._trimmed: set[str] = set()
        self._counted: Counter[str] = Counter()
        self._is_partial = False

    def add(self, window: Window, members: BitMap) -> None:
        """Count the matches of a window, one dimension of one segment after another, in time."""
        for segment, offsets in window.by_segment(members) if self._counts else ():
            by_rows = offsets
            if window.is_indexed(segment):
                by_rows = offsets & window.left_out(self._counts, segment)
                if len(by_rows) < len(offsets):
                    self._count_indexed(window, segment, offsets - by_rows)
            self._count_rows(window.start_of(segment), by_rows)

    def _count_indexed(self, window: Window, segment: int, offsets: BitMap) -> None:
        """Count matches of a segment whose terms are in the index, or in memory."""
        matches = None
        if len(offsets) < window.entries_in(segment):
            matches = Matches(offsets)
        for dimension in self._counts:
            if self._is_late():
                return
            try:
                self._count(window, segment, dimension, matches)
            except OverBudgetError:
                self._is_partial = True
                return
            self._counted[dimension] += len(offsets)
            self._trim(dimension, self._counts[dimension])

    def _is_late(self) -> bool:
        self._is_partial = self._is_partial or self._is_over()
        return self._is_partial

    def _count(
        self, window: Window, segment: int, dimension: str, matches: "Matches | None"
    ) -> None:
        """Count a dimension of a segment; without `matches`, every entry matches.

        Raises: OverBudgetError; then nothing of the segment was counted.
        """
        counts = self._counts[dimension]
        if matches is not None and self._count_held(window, segment, dimension, matches):
            return
        count_runs(
            window.postings(dimension, segment),
            counts,
            count=count_all if matches is None else matches.count,
            trim=lambda some: self._trim(dimension, some),
        )

    def _count_held(self, window: Window, segment: int, dimension: str, matches: "Matches") -> bool:
        """Count by the hours or the column of a segment; return whether it has them."""
        counts = self._counts[dimension]
        hours = window.hours(segment) if dimension == "hour" else None
        if hours is not None:
            for hour, found in hours.count(matches.offsets, by_day=self._unit == "day"):
                _add(counts, hour, found)
            return True
        column = window.column(dimension, segment) if dimension in COLUMNS else None
        if column is not None:
            matches.count_column(column, counts)
        return column is not None

    def _count_rows(self, start: int, offsets: BitMap) -> None:
        """Count entries that are not indexed yet, or left out in memory, from their leaves."""
        indices = (start + offset for offset in offsets)
        while (some := list(islice(indices, _ROWS_AT_ONCE))) and not self._is_late():
            leaves = [leaf for leaf in self._leaf_cache.readable(some) if leaf is not None]
            for part in split_leaves(leaves):
                terms = SegmentTerms(left_out=all_but(self._counts))
                terms.add(part)
                for dimension, counts in self._counts.items():
                    for value, container in terms.postings(dimension):
                        _add(counts, value, container.cardinality)
                    self._counted[dimension] += len(part)
                    self._trim(dimension, counts)

    def _trim(self, dimension: str, counts: dict[str, int]) -> None:
        """Drop the rarest half of the values of a dimension when they are too many."""
        if trim(counts, self._values_max):
            self._trimmed.add(dimension)

    @property
    def counts(self) -> Mapping[str, Counter[str]]:
        """The terms of each dimension, with the numbers of matches that were counted."""
        return self._counts

    @property
    def counted(self) -> int:
        """The number of matches of which every dimension was counted."""
        return min((self._counted[name] for name in self._counts), default=0)

    @property
    def is_exact(self) -> bool:
        """Whether all matches that were found were counted, and no value was dropped."""
        return not self._is_partial and not self._trimmed

    def facets(self, *, is_all: bool) -> tuple[Facet, ...]:
        """The facets in the order of the fields; `is_all`: the run found all matches."""
        return tuple(
            Facet(
                field=field,
                values=tuple(
                    FacetValue(_value_of(field, value), count)
                    for value, count in _most_frequent(self._counts[field])
                ),
                others=max(0, len(self._counts[field]) - FACET_VALUES_MAX),
                is_exact=is_all and not self._is_partial and field not in self._trimmed,
                counted=self._counted[field],
            )
            for field in self._fields
        )

    def histogram(self, *, is_all: bool) -> Histogram | None:
        """The histogram, if one was asked for; `is_all` as in `facets`."""
        if self._unit is None:
            return None
        counts: Counter[str] = Counter()
        for time, count in self._counts[self._times].items():
            counts[bucket_of(time, self._unit, self._zone)] += count
        buckets = sorted(counts.items())
        if self._is_filled:
            buckets = fill(counts, self._unit, self._zone)
        return Histogram(
            unit=self._unit,
            buckets=tuple(Bucket(start, count) for start, count in buckets),
            is_exact=is_all and not self._is_partial and self._times not in self._trimmed,
            counted=self._counted[self._times],
            zone="UTC" if self._zone is None else self._zone.key,
        )


def _most_frequent(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The most frequent values; those with equal counts in the order of their text."""
    least = min(nlargest(FACET_VALUES_MAX, counts.values()), default=0)
    frequent = [item for item in counts.items() if item[1] >= least]
    return sorted(frequent, key=lambda item: (-item[1], item[0]))[:FACET_VALUES_MAX]


def trim(counts: dict[str, int], most: int) -> bool:
    """Drop the rarest half of more values than `most`; return whether there were so many."""
    if len(counts) <= most:
        return False
    sample = sorted(islice(counts.values(), 0, None, _SAMPLED))
    limit = sample[len(sample) // 2]
    kept = {value: count for value, count in counts.items() if count > limit}
    rarest = (item for item in counts.items() if item[1] == limit)
    kept.update(islice(rarest, max(0, most // 2 - len(kept))))
    counts.clear()
    counts.update(kept)
    return True


def count_runs(
    runs: Iterable[Postings],
    counts: dict[str, int],
    *,
    count: Callable[[Iterable[Postings], dict[str, int]], None],
    trim: Callable[[dict[str, int]], None],
) -> None:
    """Count the terms of one segment by `count`, all of them or, when `runs` raises, none.

    `trim` is called where they may have become too many. Raises: as `runs`.
    """
    blocks = iter(runs)
    some = list(islice(blocks, RUNS_AT_ONCE))
    found = counts
    if len(some) == RUNS_AT_ONCE:
        found = {}  # What raises later must leave no part of the segment behind.
    while some:
        count(some, found)
        trim(found)
        some = list(islice(blocks, RUNS_AT_ONCE))
    if found is not counts:
        for value, number in found.items():
            counts[value] = counts.get(value, 0) + number
        trim(counts)


def count_all(runs: Iterable[Postings], counts: dict[str, int]) -> None:
    """Add the terms of every entry."""
    for postings in runs:
        for value, count in zip(postings.values, postings.counts, strict=True):
            counts[value] = counts.get(value, 0) + count + 1


class Matches:
    """The matches of one segment, to be intersected with posting lists."""

    def __init__(self, offsets: BitMap) -> None:
        self.offsets = offsets

    def count_column(self, column: ValueColumn, counts: Counter[str]) -> None:
        """Add the values of the matches from the column of a segment."""
        offsets = self.offsets.to_array()
        is_few = len(offsets) < FEW_IN_BLOCK * column.blocks
        values = [] if is_few else column.values()
        for start in range(0, len(offsets), PIECE):
            places = list(map(column.places.__getitem__, offsets[start : start + PIECE]))
            if NO_PLACE in places:
                places = [place for place in places if place != NO_PLACE]
            if is_few:
                counts.update(column.named(sorted(places)))
            else:
                counts.update(map(values.__getitem__, places))

    def count(self, runs: Iterable[Postings], counts: dict[str, int]) -> None:
        """Add how many of the matches each term has.

        Long lists are intersected one by one. Short lists are many, so they are joined, and each of
        their offsets becomes a byte that says whether it matches.
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
        offsets = from_little_endian(b"".join(payloads))
        hits = b"".join(
            bytes(map(self._flags.__getitem__, offsets[start : start + PIECE]))
            for start in range(0, len(offsets), PIECE)
        )
        ends = list(accumulate(lengths))
        if hits.count(1) * _SEARCH_COST < len(ends):
            for place in compress(range(len(hits)), hits):
                _add(counts, values[bisect_right(ends, place)], 1)
            return
        start = 0
        for value, end in zip(values, ends, strict=True):
            _add(counts, value, hits.count(1, start, end))
            start = end

    @cached_property
    def _flags(self) -> bytes:
        """A byte for each offset of a segment: 1 for the matches."""
        return flags_of(self.offsets)

    def _common(self, container: Container) -> int:
        if container.form == 1:  # One run.
            _, first, more = from_little_endian(container.payload)
            return self.offsets.range_cardinality(first, first + more + 1)
        return self.offsets.intersection_cardinality(roaring.assemble([(0, container)]))


def _add(counts: dict[str, int], value: str, found: int) -> None:
    if found:
        counts[value] = counts.get(value, 0) + found


def flags_of(offsets: BitMap) -> bytes:
    """A byte for each offset of a segment: 1 for the members."""
    _, form, payload = roaring.encode_bitmap(offsets)
    if form == roaring.FORM_BITSET:
        # A number in base two; its text has the highest digit first.
        digits = f"{int.from_bytes(payload, 'little'):0{SEGMENT_ENTRIES_MAX}b}"
        return digits[::-1].encode().translate(_DIGIT_VALUES)
    flags = bytearray(SEGMENT_ENTRIES_MAX)
    numbers = from_little_endian(payload)
    if form == roaring.FORM_ARRAY:
        for offset in numbers:
            flags[offset] = 1
    else:
        for first, more in zip(numbers[1::2], numbers[2::2], strict=True):
            flags[first : first + more + 1] = b"\1" * (more + 1)
    return bytes(flags)


def _value_of(field: str, term: str) -> str:
    """The value of a term, which for addresses and ports is written otherwise."""
    kind = FIELDS[field].kind
    if kind == "address":
        return str(ip_address(bytes.fromhex(term[1:])))
    return str(int(term)) if kind == "port" else term
