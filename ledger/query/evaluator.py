"""A plan, evaluated over some segments at once.

A window is up to 256 consecutive segments, and its entries are the members of one roaring bitmap,
`slot << 16 | offset`: a posting list of the whole window is put together from those of its segments
without touching an offset, and a conjunction is one call into C.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyroaring import BitMap

from ledger.query.plan import (
    Complement,
    Entries,
    Find,
    Intersection,
    Lookup,
    Node,
    Read,
    Span,
    TimeRange,
    Union,
    Unknown,
)
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexSnapshot
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import (
    SEGMENT_ENTRIES_MAX,
    Container,
    assemble,
    unite,
    whole_container,
)

WINDOW_SEGMENTS: Final = 256
_SLOT_BITS = 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """Members for which it is sure, and those for which it may be; `sure` is within `maybe`."""

    sure: BitMap
    maybe: BitMap


class Window:
    """Some consecutive segments, and where their terms are: in the index, in memory, or nowhere."""

    def __init__(
        self,
        segments: range,
        *,
        segment_entries: int,
        snapshot: IndexSnapshot | None,
        tail: Mapping[int, SegmentTerms],
    ) -> None:
        """Precondition: at most `WINDOW_SEGMENTS` segments."""
        self.segments: Final = segments
        self._segment_entries = segment_entries
        self._snapshot = snapshot
        self._records = () if snapshot is None else snapshot.records
        self._tail = tail
        self._whole = whole_container(segment_entries)
        self._is_dense = segment_entries == SEGMENT_ENTRIES_MAX

    def evaluate(self, node: Node) -> Bounds:
        """Where in the window a plan holds."""
        return self._evaluate(node, self.segments)

    @property
    def end(self) -> int:
        """One above the last member."""
        return len(self.segments) << _SLOT_BITS

    def member_of(self, index: int) -> int:
        """The member of an entry; beyond the window, that of its nearest end."""
        segment, offset = divmod(index, self._segment_entries)
        if segment < self.segments.start:
            return 0
        if segment >= self.segments.stop:
            return self.end
        return segment - self.segments.start << _SLOT_BITS | offset

    def index_of(self, member: int) -> int:
        """The index of a member."""
        slot, offset = member >> _SLOT_BITS, member & 0xFFFF
        return (self.segments.start + slot) * self._segment_entries + offset

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
        """Whether the terms of a segment can be read; where not, everything may be."""
        return segment < len(self._records) or segment in self._tail

    def entries_in(self, segment: int) -> int:
        """How many entries of a segment its index knows."""
        terms = self._tail.get(segment)
        return self._segment_entries if terms is None else terms.entries

    def start_of(self, segment: int) -> int:
        """The index of the first entry of a segment."""
        return segment * self._segment_entries

    def by_segment(self, members: BitMap) -> Iterator[tuple[int, BitMap]]:
        """The members of each segment that has any, as offsets."""
        for segment in self._slots_of(members, self.segments):
            start = segment - self.segments.start << _SLOT_BITS
            yield segment, (members & BitMap(range(start, start + (1 << _SLOT_BITS)))).shift(-start)

    def postings(self, dimension: str, segment: int) -> Iterable[Postings]:
        """Every term of a dimension in a segment that has an index."""
        if self._snapshot is not None and segment < len(self._records):
            return self._snapshot.postings(dimension, segment)
        terms = self._tail.get(segment)
        return () if terms is None else (terms.postings(dimension),)

    def column(self, dimension: str, segment: int) -> "tuple[array[int], list[str]] | None":
        """For each entry of a segment the place of its value, and the values; where that is kept.

        NO_PLACE stands for no value.
        """
        if self._snapshot is None or segment >= len(self._records):
            return None
        column = self._snapshot.column(dimension, segment)
        return None if column is None else (column, self._snapshot.values(dimension, segment))

    def _evaluate(self, node: Node, segments: Sequence[int]) -> Bounds:
        """Where in some of the segments a node holds."""
        match node:
            case Lookup():
                return self._lookup(node, segments)
            case TimeRange():
                return self._during(node, segments)
            case Span(start, end):
                span = self.span(start, end)
                return Bounds(span, span)
            case Entries(indices):
                start = self.segments.start * self._segment_entries
                end = self.segments.stop * self._segment_entries
                chosen = BitMap([self.member_of(i) for i in indices if start <= i < end])
                return Bounds(chosen, chosen)
            case Unknown():
                return Bounds(BitMap(), self.universe(segments))
            case Complement(part):
                inner = self._evaluate(part, segments)
                universe = self.universe(segments)
                outside = universe - inner.maybe
                is_decided = inner.maybe is inner.sure
                return Bounds(outside, outside if is_decided else universe - inner.sure)
            case Union(parts):
                return _unite([self._evaluate(part, segments) for part in parts])
            case Intersection(parts):
                return self._all(parts, segments)

    def _all(self, parts: Sequence[Node], segments: Sequence[int]) -> Bounds:
        """The parts in turn, each only where those before it left something."""
        decided = self._evaluate(parts[0], segments)
        for part in parts[1:]:
            segments = self._slots_of(decided.maybe, segments)
            if not segments:
                return decided
            other = self._evaluate(part, segments)
            sure = decided.sure & other.sure
            is_decided = decided.maybe is decided.sure and other.maybe is other.sure
            decided = Bounds(sure, sure if is_decided else decided.maybe & other.maybe)
        return decided

    def _slots_of(self, members: BitMap, segments: Sequence[int]) -> Sequence[int]:
        """Those of the segments that have members."""
        first = self.segments.start
        return [
            segment
            for segment in segments
            if members.range_cardinality(
                segment - first << _SLOT_BITS, segment - first + 1 << _SLOT_BITS
            )
        ]

    def _lookup(self, node: Lookup, segments: Sequence[int]) -> Bounds:
        sure = self._read_any(node.sure, segments)
        hints = self._read_any(node.hints, segments) if node.hints else BitMap()
        unindexed = [segment for segment in segments if not self.is_indexed(segment)]
        if unindexed:
            hints |= self.universe(unindexed)
        return Bounds(sure, sure | hints if hints else sure)

    def _during(self, node: TimeRange, segments: Sequence[int]) -> Bounds:
        inside: list[int] = []
        across: list[int] = []
        for segment in segments:
            times = self._times(segment)
            if times is None or (times[0] < node.end and node.start <= times[1]):
                is_inside = times and node.start <= times[0] and times[1] < node.end
                (inside if is_inside else across).append(segment)
        decided = self._lookup(node.across, across)
        if not inside:
            return decided
        sure = decided.sure | self.universe(inside)
        return Bounds(sure, sure if decided.maybe is decided.sure else decided.maybe | sure)

    def _times(self, segment: int) -> tuple[str, str] | None:
        """The earliest and the latest event time of a segment that has an index."""
        if segment < len(self._records):
            record = self._records[segment]
            return record.earliest, record.latest
        terms = self._tail.get(segment)
        return None if terms is None else terms.times

    def _read_any(self, reads: Sequence[Read], segments: Sequence[int]) -> BitMap:
        bitmaps = [self._read(read, segments) for read in reads]
        if len(bitmaps) == 1:
            return bitmaps[0]
        return BitMap.union(*bitmaps) if bitmaps else BitMap()

    def _read(self, read: Read, segments: Sequence[int]) -> BitMap:
        """The entries that have a term of a read."""
        first = self.segments.start
        sealed = [segment for segment in segments if segment < len(self._records)]
        rest = [
            (segment - first, _read_terms(self._tail[segment], read))
            for segment in segments[len(sealed) :]
            if segment in self._tail
        ]
        if not sealed or self._snapshot is None:
            return unite(rest)
        if isinstance(read, Find):
            one = self._snapshot.find(read.dimension, read.value, sealed)
            found = assemble([(segment - first, container) for segment, container in one])
        else:
            several = self._snapshot.between(read.dimension, read.low, read.high, sealed)
            found = unite((segment - first, containers) for segment, containers in several)
        return found | unite(rest) if rest else found


def _read_terms(terms: SegmentTerms, read: Read) -> list[Container]:
    if isinstance(read, Find):
        return terms.find(read.dimension, read.value)
    return terms.between(read.dimension, read.low, read.high)


def _unite(parts: Sequence[Bounds]) -> Bounds:
    sure = BitMap.union(*[part.sure for part in parts])
    if all(part.maybe is part.sure for part in parts):
        return Bounds(sure, sure)
    return Bounds(sure, BitMap.union(*[part.maybe for part in parts]))
