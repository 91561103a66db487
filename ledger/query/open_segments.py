"""The end of the log, indexed in memory: the segments that the index on disk does not hold yet.

Open segments follow the log by reading it; the writer does not know of them. An acknowledged entry
is durable, and a durable entry can be read, so a query that indexes up to the durable size first
sees all that was acknowledged. After a start the last entries are read again, by the index follower
or by the first query.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms
from ledger.store.log import LogStore

SEGMENTS_MAX: Final = 2
"""Kept in memory, 50 MB each: the segment that grows, and the one that is being sealed."""


class OpenSegments:
    """The terms of the last segments. Safe from any thread."""

    def __init__(self, log: LogStore, leaf_cache: LeafCache, *, segment_entries: int) -> None:
        self._log = log
        self._leaf_cache = leaf_cache
        self._segment_entries = segment_entries
        self._segments: dict[int, SegmentTerms] = {}
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, *, tree_size: int, sealed: int) -> Iterator[Mapping[int, SegmentTerms]]:
        """The terms of the last unsealed segments, up to `tree_size` at least, under the lock.

        Cost: 5 µs for each entry that is not indexed yet.
        """
        with self._lock:
            self._index_new(tree_size, sealed, tree_size)
            wanted = self._wanted(tree_size, sealed)
            yield {number: self._segments[number] for number in wanted}

    def advance(self, *, sealed: int, entries_max: int) -> bool:
        """Index up to `entries_max` durable entries; return whether there are more."""
        tree_size = self._log.head().tree_size
        with self._lock:
            return self._index_new(tree_size, sealed, entries_max)

    def _wanted(self, tree_size: int, sealed: int) -> range:
        end = -(-tree_size // self._segment_entries)
        return range(max(sealed, end - SEGMENTS_MAX), end)

    def _index_new(self, tree_size: int, sealed: int, entries_max: int) -> bool:
        size = self._segment_entries
        wanted = self._wanted(tree_size, sealed)
        # A segment past the end stays: a reader with a later head made it.
        for segment in [number for number in self._segments if number < wanted.start]:
            del self._segments[segment]
        for segment in wanted:
            terms = self._segments.setdefault(segment, SegmentTerms())
            start = segment * size + terms.entries
            end = min((segment + 1) * size, tree_size)
            stop = min(end, start + entries_max)
            for _, leaves in self._leaf_cache.bundles(start, stop):
                terms.add(leaves)
            entries_max -= max(stop - start, 0)
            if stop < end:
                return True
        return False
