"""The end of the log, indexed in memory: what no segment of the index holds yet.

It follows the log by reading it. Whatever was acknowledged is durable, and what is durable can be
read, so a query that brings the tail up to the durable size sees all that was acknowledged; the
writer knows nothing of it. After a start the last entries are read again, in the background or by
the first query, whichever comes first.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ledger.query.leaf_cache import RowReader
from ledger.query.segment_terms import SegmentTerms
from ledger.store.log import LogStore

SEGMENTS_MAX: Final = 2
"""Kept in memory, 50 MB each: the open segment, and the one that is being sealed."""


class OpenSegments:
    """The terms of the last segments, for any thread."""

    def __init__(self, log: LogStore, rows: RowReader, *, segment_entries: int) -> None:
        self._log = log
        self._rows = rows
        self._segment_entries = segment_entries
        self._segments: dict[int, SegmentTerms] = {}
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, *, tree_size: int, sealed: int) -> Iterator[Mapping[int, SegmentTerms]]:
        """The terms of the last unsealed segments, up to `tree_size` at least, to read from.

        Cost: 5 µs for each entry that no call has seen before.
        """
        with self._lock:
            self._follow(tree_size, sealed, tree_size)
            end = -(-tree_size // self._segment_entries)
            yield {
                segment: terms
                for segment, terms in self._segments.items()
                if max(sealed, end - SEGMENTS_MAX) <= segment < end
            }

    def advance(self, *, sealed: int, entries: int) -> bool:
        """Take in some of the entries that are durable; tell whether there are more."""
        tree_size = self._log.head().tree_size
        with self._lock:
            return self._follow(tree_size, sealed, entries)

    def _follow(self, tree_size: int, sealed: int, entries: int) -> bool:
        size = self._segment_entries
        end = -(-tree_size // size)
        wanted = range(max(sealed, end - SEGMENTS_MAX), end)
        for segment in self._segments.keys() - set(wanted):
            # One past the end is of a reader with a later head.
            if segment < wanted.start:
                del self._segments[segment]
        for segment in wanted:
            terms = self._segments.setdefault(segment, SegmentTerms())
            start = segment * size + terms.entries
            stop = min((segment + 1) * size, tree_size)
            if start >= stop:
                continue
            if entries <= 0:
                return True
            some = min(stop, start + entries)
            for _, leaves in self._rows.bundles(start, some):
                terms.add(leaves)
            entries -= some - start
            if some < stop:
                return True
        return False
