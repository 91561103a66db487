"""Evaluates a plan over some segments at once.

A window is up to 256 consecutive segments. Its entries are the members of one roaring bitmap, `slot
<< 16 | offset`, where the slot counts the segments of the window. The posting list of a term is
assembled from those of its segments without touching an offset, and a conjunction is one call into
C.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Final

from pyroaring import BitMap

from ledger.query import plan_nodes as plan
from ledger.query.open_segments import OpenTerms
from ledger.query.plan_nodes import Node, Read
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.cached_parts import SegmentHours, ValueColumn
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import (
    SEGMENT_ENTRIES_MAX,
    Container,
    assemble,
    union_of,
    unite,
    whole_container,
)
from ledger.store.index.segment import SegmentRecord

WINDOW_SEGMENTS: Final = 256
_SLOT_BITS = 16
_PIECE_TERMS = 8192


@dataclass(frozen=True, slots=True)
class Bounds:
    """The members that must match, and those that may; `must` is within `may`.

    `is_exact`: the two are the same by construction, so no row decides anything.
    """

    must: BitMap
    may: BitMap
    is_exact: bool


class Window:
    """Consecutive segments with their terms from the index or from memory, if they have any."""

    def __init__(
        self,
        segments: range,
        *,
        segment_entries: int,
        snapshot: IndexSnapshot | None,
        open_terms: OpenTerms,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called before each term of each segment is read, and before each block of
        `postings`, and may raise.

        Precondition: at most `WINDOW_SEGMENTS` segments.
        """
        self.segments: Final = segments
        self._segment_entries = segment_entries
        self._snapshot = snapshot
        self._records: Mapping[int, SegmentRecord] = {} if snapshot is None else snapshot.records
        self._open_terms = open_terms
        self._check = check
        self._whole = whole_container(segment_entries)
        self._is_dense = segment_entries == SEGMENT_ENTRIES_MAX

    def evaluate(self, node: Node) -> Bounds:
        """The members of the window that match a plan."""
        return self._evaluate(node, self.segments)

    @property
    def end(self) -> int:
        """One above the last member."""
        return len(self.segments) << _SLOT_BITS

    def member_of(self, index: int) -> int:
        """The member of an entry; for an entry outside the window, the nearest end."""
        segment, offset = divmod(index, self._segment_entries)
        if segment < self.segments.start:
            return 0
        if segment >= self.segments.stop:
            return self.end
        return segment - self.segments.start << _SLOT_BITS | offset

    def index_of(self, member: int) -> int:
        """The index of a member."""
        slot, offset = member >> _SLOT_BITS, member & 0xFFFF
        return self.start_of(self.segments.start + slot) + offset

    def indices_of(self, members: Sequence[int]) -> list[int]:
        """The indices of some members."""
        if self._is_dense:
            first = self.start_of(self.segments.start)
            return [first + member for member in members]
        return list(map(self.index_of, members))

    def is_within(self, start: int, end: int) -> bool:
        """Whether all entries of the window are in `[start, end)`."""
        first, last = map(self.start_of, (self.segments.start, self.segments.stop))
        return start <= first and last <= end

    def span(self, start: int, end: int) -> BitMap:
        """The members of the entries `[start, end)` that lie in the window."""
        first, last = self.member_of(start), self.member_of(end)
        members = BitMap(range(first, max(first, last)))
        return members if self._is_dense else members & self.universe(self.segments)

    def universe(self, segments: Sequence[int]) -> BitMap:
        """All members of some of the segments, which ascend."""
        if self._is_dense and len(segments) == len(self.segments):
            return BitMap(range(self.end))
        return assemble([(segment - self.segments.start, self._whole) for segment in segments])

    def is_indexed(self, segment: int) -> bool:
        """Whether the terms of a segment can be read; otherwise each of its entries may match."""
        return segment in self._records or segment in self._open_terms

    def is_sealed(self, segment: int) -> bool:
        """Whether the terms of a segment are those of the index on disk, which are in order."""
        return segment in self._records

    def entries_in(self, segment: int) -> int:
        """The number of entries of a segment that are indexed."""
        slices = self._open_terms.get(segment)
        return slices[-1].end if slices else self._segment_entries

    def start_of(self, segment: int) -> int:
        """The index of the first entry of a segment."""
        return segment * self._segment_entries

    def by_segment(self, members: BitMap) -> Iterator[tuple[int, BitMap]]:
        """The members of each segment that has any, as offsets."""
        for segment in self._segments_of(members, self.segments):
            start = segment - self.segments.start << _SLOT_BITS
            yield segment, (members & BitMap(range(start, start + (1 << _SLOT_BITS)))).shift(-start)

    def postings(self, dimension: str, segment: int, *, prefix: str = "") -> Iterator[Postings]:
        """Every term of a dimension in a segment that is indexed: of a sealed one by blocks of some
        hundred terms, of an open one by some thousand, but for entries that are `left_out`.

        With a prefix, at least those that begin so. The terms of a slice are in no order. Before
        each of them `check` is called: 32 targets an event are two million terms.
        """
        if self._snapshot is not None and segment in self._records:
            found: Iterable[Postings] = self._snapshot.postings(dimension, segment, prefix=prefix)
        else:
            found = (
                piece
                for terms in self._slices(segment)
                for piece in terms.postings(dimension, in_order=False).pieces(_PIECE_TERMS)
            )
        self._check()
        for postings in found:
            yield postings
            self._check()

    def column(self, dimension: str, segment: int) -> ValueColumn | None:
        """The values of a dimension by the entries of a segment; None where no column is stored."""
        if self._snapshot is None or segment not in self._records:
            return None
        return self._snapshot.column(dimension, segment)

    def hours(self, segment: int) -> SegmentHours | None:
        """The entries of a segment by hour; None for an open segment, or for too many hours."""
        if self._snapshot is None or segment not in self._records:
            return None
        return self._snapshot.hours(segment)

    def _evaluate(self, node: Node, segments: Sequence[int]) -> Bounds:
        match node:
            case plan.Lookup():
                return self._look_up(node, segments)
            case plan.TimeRange():
                return self._time_range(node, segments)
            case plan.Span(start, end):
                return _exactly(self.span(start, end))
            case plan.Entries(indices):
                start, end = map(self.start_of, (self.segments.start, self.segments.stop))
                return _exactly(BitMap([self.member_of(i) for i in indices if start <= i < end]))
            case plan.Unknown():
                return Bounds(BitMap(), self.universe(segments), is_exact=False)
            case plan.Complement(part):
                inner, universe = self._evaluate(part, segments), self.universe(segments)
                outside = universe - inner.may
                if inner.is_exact:
                    return _exactly(outside)
                return Bounds(outside, universe - inner.must, is_exact=False)
            case plan.Union(parts):
                return _unite([self._evaluate(part, segments) for part in parts])
            case plan.Intersection(parts):
                return self._intersect(parts, segments)

    def _intersect(self, parts: Sequence[Node], segments: Sequence[int]) -> Bounds:
        """Evaluate the parts in turn, each only in segments where the parts before left members."""
        bounds = self._evaluate(parts[0], segments)
        for part in parts[1:]:
            segments = self._segments_of(bounds.may, segments)
            if not segments:
                return bounds
            other = self._evaluate(part, segments)
            must = bounds.must & other.must
            if bounds.is_exact and other.is_exact:
                bounds = _exactly(must)
            else:
                bounds = Bounds(must, bounds.may & other.may, is_exact=False)
        return bounds

    def _segments_of(self, members: BitMap, segments: Sequence[int]) -> Sequence[int]:
        first = self.segments.start
        return [
            segment
            for segment in segments
            if members.range_cardinality(
                segment - first << _SLOT_BITS, segment - first + 1 << _SLOT_BITS
            )
        ]

    def _look_up(self, node: plan.Lookup, segments: Sequence[int]) -> Bounds:
        must = self._read_any(node.must, segments)
        hints = self._read_any(node.hints, segments)
        hints |= self._candidates((*node.must, *node.hints), segments)
        unindexed = list(filterfalse(self.is_indexed, segments))
        if unindexed:
            hints |= self.universe(unindexed)
        return Bounds(must, must | hints, is_exact=False) if hints else _exactly(must)

    def _time_range(self, node: plan.TimeRange, segments: Sequence[int]) -> Bounds:
        """Whole segments by their earliest and latest times; terms only for those across an end."""
        inside: list[int] = []
        across: list[int] = []
        for segment in segments:
            times = self._times(segment)
            if times is None or (times[0] < node.end and node.start <= times[1]):
                is_inside = times and node.start <= times[0] and times[1] < node.end
                (inside if is_inside else across).append(segment)
        bounds = self._look_up(node.across, across)
        return _unite([bounds, _exactly(self.universe(inside))]) if inside else bounds

    def _times(self, segment: int) -> tuple[str, str] | None:
        """The earliest and the latest event time of a segment; None if it is not indexed."""
        record = self._records.get(segment)
        if record is not None:
            return record.earliest, record.latest
        times = [terms.times for terms in self._open_terms.get(segment, ())]
        return (min(times)[0], max(last for _, last in times)) if times else None

    def _read_any(self, reads: Sequence[Read], segments: Sequence[int]) -> BitMap:
        return union_of([self._read(read, segments) for read in reads])

    def _candidates(self, reads: Sequence[Read], segments: Sequence[int]) -> BitMap:
        """The members that may have a term of which their slice does not hold the text."""
        found = BitMap()
        for segment in segments if self._open_terms else ():
            start = segment - self.segments.start << _SLOT_BITS
            for terms in self._slices(segment):
                for read in reads:
                    if terms.is_left_out(read.dimension):
                        self._check()
                        found |= terms.candidates(read).shift(start)
        return found

    def _slices(self, segment: int) -> Sequence[SegmentTerms]:
        """The slices of a segment in memory; none of one that is sealed by now."""
        return () if segment in self._records else self._open_terms.get(segment, ())

    def left_out(self, dimensions: Iterable[str], segment: int) -> BitMap:
        """The offsets of a segment for which a dimension of some has no postings: rows decide."""
        names = tuple(dimensions)
        found = BitMap()
        for terms in self._slices(segment):
            if any(map(terms.is_left_out, names)):
                found.add_range(terms.start, terms.end)
        return found

    def _read(self, read: Read, segments: Sequence[int]) -> BitMap:
        first = self.segments.start
        sealed = list(filter(self._records.__contains__, segments))
        unsealed: Sequence[int] = ()
        if len(sealed) < len(segments):
            unsealed = [segment for segment in segments if segment not in self._records]
        rest = [
            (
                segment - first,
                [found for terms in slices for found in self._read_terms(terms, read)],
            )
            for segment in unsealed
            if (slices := self._open_terms.get(segment))
        ]
        if not sealed or self._snapshot is None:
            return unite(rest)
        if isinstance(read, plan.Find):
            some = self._snapshot.segments_with(read.dimension, read.value, sealed)
            one = self._snapshot.find(read.dimension, read.value, self._checked(some))
            found = assemble([(segment - first, container) for segment, container in one])
        elif isinstance(read, plan.RangeSet):
            snapshot, of = self._snapshot, (read.dimension, read.ranges)
            many = ((segment, snapshot.within(*of, segment)) for segment in self._checked(sealed))
            found = unite((segment - first, each) for segment, each in many if each)
        else:
            checked = self._checked(sealed)
            several = self._snapshot.between(read.dimension, read.low, read.high, checked)
            found = unite((segment - first, containers) for segment, containers in several)
        return found | unite(rest) if rest else found

    def _read_terms(self, terms: SegmentTerms, read: Read) -> list[Container]:
        self._check()
        if isinstance(read, plan.Find):
            return terms.find(read.dimension, read.value)
        if isinstance(read, plan.RangeSet):
            return terms.within(read.dimension, read.ranges)
        return terms.between(read.dimension, read.low, read.high)

    def _checked(self, segments: Iterable[int]) -> Iterator[int]:
        for segment in segments:
            self._check()
            yield segment


def _exactly(members: BitMap) -> Bounds:
    return Bounds(members, members, is_exact=True)


def _unite(parts: Sequence[Bounds]) -> Bounds:
    must = BitMap.union(*[part.must for part in parts])
    if all(part.is_exact for part in parts):
        return _exactly(must)
    return Bounds(must, BitMap.union(*[part.may for part in parts]), is_exact=False)
