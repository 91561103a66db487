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

    def times(
        self, segment: int, first_times: "array[int]", *, end: int, check: Callable[[], None]
    ) -> "array[int]":
        """The times of a segment's entries below the index `end`; 0 for those that are unreadable.

        `first_times`: those of its first entries, which are known. Cost: 0.1 s for 65,536 others,
        once. Raises: what `check` raises, called for each bundle; what was read until then is kept.
        """
        start = segment * self._segment_entries
        end = min(end, start + self._segment_entries)
        with self._lock:
            known = self._times.get(segment)
            if known is not None and len(known) >= end - start:
                self._times.move_to_end(segment)
                return known
        times = max(known or first_times, first_times, key=len)[: end - start]
        try:
            for first, stop in self._leaf_cache.parts(start + len(times), end):
                check()
                times.fromlist(self._read(first, stop))
        finally:
            self._keep(segment, times)
        return times

    def _read(self, first: int, stop: int) -> list[int]:
        """The times of entries of one bundle."""
        try:
            found = self._leaf_cache.bundles(first, stop)
            return [
                unix_us(_decode_time(leaf).event.time) for _, leaves in found for leaf in leaves
            ]
        except UNREADABLE:
            # Queries that cover damaged entries say that they are not complete; none covers pruned
            # ones.
            return [0] * (stop - first)

    def _keep(self, segment: int, times: "array[int]") -> None:
        with self._lock:
            self._times[segment] = max(times, self._times.get(segment, times), key=len)
            while len(self._times) > SEGMENTS_KEPT:
                self._times.popitem(last=False)


class EventTimes:
    """The event times of the entries of one tree, for one query."""

    def __init__(
        self,
        snapshot: IndexSnapshot | None,
        open_terms: OpenTerms,
        read_times: Callable[[int, "array[int]"], "array[int]"],
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
            slices = self._open_terms.get(segment, ())
            times = _join(slices)
            if not slices or len(times) < slices[-1].end:
                times = self._read_times(segment, times)
            self._joined[segment] = times
        return times


def _join(slices: Sequence[SegmentTerms]) -> "array[int]":
    times = array("q")
    for terms in slices:
        times.extend(terms.event_times)
    return times
