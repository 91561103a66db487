"""The event times of entries by segment: from the index, from memory, or from the entries.

Where a segment is neither sealed nor in memory, as while the index is built anew, its entries are
read once and their times are kept. Without them nothing can be put in the order of time.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from ledger.query.leaf_cache import LeafCache
from ledger.query.open_segments import OpenTerms
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.time_column import BLOCK_ENTRIES
from ledger.store.log import UNREADABLE
from ledger_core.query.analyzer import unix_us
from ledger_core.tlog.errors import UnavailableError

SEGMENTS_KEPT: Final = 64
"""Segments without an index whose times are kept in memory, half a megabyte each."""


class TimesUnknownError(UnavailableError):
    """The time of a query did not suffice to learn when events happened."""


class SegmentTimes(Protocol):
    """The event times of a segment, in blocks of `block_entries`; microseconds since 1970."""

    @property
    def block_entries(self) -> int:
        """The number of entries of a block; the last may have fewer."""

    def bounds(self, place: int) -> tuple[int, int]:
        """The earliest and the latest time of a block."""

    def read(self, place: int) -> Sequence[int]:
        """The times of a block's entries."""


class _Event(msgspec.Struct, gc=False):
    time: str


class _Leaf(msgspec.Struct, gc=False):
    event: _Event


_decode_time = msgspec.json.Decoder(_Leaf).decode


class MemoryTimes:
    """The event times of a segment in memory."""

    def __init__(self, times: "array[int]") -> None:
        self._times = times
        self.block_entries: Final = BLOCK_ENTRIES

    def bounds(self, place: int) -> tuple[int, int]:
        """The earliest and the latest time of a block."""
        times = self.read(place)
        return min(times), max(times)

    def read(self, place: int) -> "array[int]":
        """The times of a block's entries."""
        return self._times[place * BLOCK_ENTRIES : (place + 1) * BLOCK_ENTRIES]


class ReadTimes:
    """The times of segments without an index, read from their entries. Safe from any thread."""

    def __init__(self, leaf_cache: LeafCache, segment_entries: int) -> None:
        self._leaf_cache = leaf_cache
        self._segment_entries = segment_entries
        self._times: OrderedDict[int, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def times(self, segment: int, end: int, check: Callable[[], None]) -> "array[int]":
        """The times of a segment's entries below the index `end`; 0 for those that are unreadable.

        Cost: 0.1 s for 65,536 entries, once. Raises: what `check` raises, called for each bundle.
        """
        start = segment * self._segment_entries
        end = min(end, start + self._segment_entries)
        with self._lock:
            known = self._times.get(segment)
            if known is not None and len(known) >= end - start:
                self._times.move_to_end(segment)
                return known
        times = array("q")
        for first, stop in self._leaf_cache.parts(start, end):
            check()
            try:
                for _, leaves in self._leaf_cache.bundles(first, stop):
                    times.fromlist([unix_us(_decode_time(leaf).event.time) for leaf in leaves])
            except UNREADABLE:
                # Queries that cover damaged entries say that they are not complete; none covers
                # pruned ones.
                times.fromlist([0] * (stop - first))
        with self._lock:
            self._times[segment] = times
            while len(self._times) > SEGMENTS_KEPT:
                self._times.popitem(last=False)
        return times


class EventTimes:
    """The event times of the entries of one tree, for one query."""

    def __init__(
        self,
        snapshot: IndexSnapshot | None,
        open_terms: OpenTerms,
        read_times: Callable[[int], "array[int]"],
    ) -> None:
        self._snapshot = snapshot
        self._open_terms = open_terms
        self._read_times = read_times
        self._joined: dict[int, array[int]] = {}
        self._bounds: dict[int, tuple[int, int]] = {}

    def of(self, segment: int) -> SegmentTimes:
        """The times of a segment's entries. Raises: as `Budget.check`, DamagedSegmentError."""
        if self._snapshot is not None and segment in self._snapshot.records:
            return self._snapshot.times(segment)
        return MemoryTimes(self._in_memory(segment))

    def bounds(self, segment: int) -> tuple[int, int]:
        """The earliest and the latest time in a segment. Raises: as `of`."""
        if self._snapshot is not None and segment in self._snapshot.records:
            record = self._snapshot.records[segment]
            return unix_us(record.earliest), unix_us(record.latest)
        if segment not in self._bounds:
            times = self._in_memory(segment)
            self._bounds[segment] = (min(times), max(times))
        return self._bounds[segment]

    def _in_memory(self, segment: int) -> "array[int]":
        times = self._joined.get(segment)
        if times is None:
            slices = self._open_terms.get(segment)
            times = _join(slices) if slices else self._read_times(segment)
            self._joined[segment] = times
        return times


def _join(slices: Sequence[SegmentTerms]) -> "array[int]":
    times = slices[0].event_times[:]
    for terms in slices[1:]:
        times.extend(terms.event_times)
    return times
