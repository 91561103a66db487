"""Seals full segments of the log: encodes them and stores them in the index.

The builder reads the log as any reader does, and nothing waits for it: neither the writer, nor a
query, which indexes unsealed segments in memory. It may be killed at any time: a segment is stored
as a whole or not at all, and the number of stored segments is the next one to seal.
"""

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final

from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexStore, IndexWriter, check_segment, create_index
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SealedSegment, SegmentFacts
from ledger.store.log import LogStore
from ledger_core.query.analyzer import ANALYSIS, decode_view
from ledger_core.tlog.errors import VerificationError

Progress = Callable[[int, int], None]
"""A callback for the number of finished segments and of all."""

_AHEAD: Final = 2
"""Segments, 4 MB each, by which a process may be ahead of the writer."""


class SegmentBuilder:
    """Seals full segments one by one, on the thread that calls it."""

    def __init__(self, log: LogStore, writer: IndexWriter) -> None:
        self._log = log
        self._writer = writer
        self._leaf_cache = LeafCache(log, bytes_max=0)

    def prepare(self) -> bool:
        """Clear the index if other rules of analysis made it; return whether they did."""
        analysis, segment_entries = self._writer.made_by()
        if analysis == ANALYSIS:
            return False
        self._writer.clear(analysis=ANALYSIS, segment_entries=segment_entries)
        return True

    def seal_next(self) -> bool:
        """Seal the next segment if it is full; return whether it was.

        Cost: 15 µs an entry, and one sync.
        """
        segment = self._writer.sealed()
        _, segment_entries = self._writer.made_by()
        if self._log.head().tree_size < (segment + 1) * segment_entries:
            return False
        self._writer.put(segment, build_segment(self._leaf_cache, segment, segment_entries))
        return True


def build_segment(leaf_cache: LeafCache, segment: int, segment_entries: int) -> SealedSegment:
    """A full segment of the log as the index stores it."""
    start = segment * segment_entries
    terms = SegmentTerms()
    first = last = b""
    for _, leaves in leaf_cache.bundles(start, start + segment_entries):
        terms.add(leaves)
        first = first or leaves[0]
        last = leaves[-1]
    earliest, latest = terms.times
    return terms.seal(
        SegmentFacts(
            earliest=earliest,
            latest=latest,
            first_received=decode_view(first).received.time,
            last_received=decode_view(last).received.time,
        )
    )


def open_index_writer(path: Path, *, segment_entries: int = SEGMENT_ENTRIES_MAX) -> IndexWriter:
    """Open the index at `path` for writing; create it if there is none."""
    if not (path / "data.mdb").exists():
        create_index(path, analysis=ANALYSIS, segment_entries=segment_entries)
    return IndexWriter.open(path)


def reindex(
    log: LogStore,
    path: Path,
    *,
    segment_entries: int = SEGMENT_ENTRIES_MAX,
    processes: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Build the index anew from the log; return the number of segments.

    It starts `processes` processes, by default one for each processor.
    Raises: UnavailableError while another process, such as the service, writes it.
    """
    writer = open_index_writer(path, segment_entries=segment_entries)
    try:
        writer.clear(analysis=ANALYSIS, segment_entries=segment_entries)
        total = log.head().tree_size // segment_entries
        workers = min(processes or os.cpu_count() or 1, total)
        progress(0, total)
        built = _build_all(log, total, segment_entries, workers)
        for segment, sealed in enumerate(built):
            writer.put(segment, sealed)
            progress(segment + 1, total)
        return total
    finally:
        writer.close()


class OtherAnalysisError(ValueError):
    """Another version of the service or of Python built the index, so it can't be compared."""

    def __init__(self, analysis: str) -> None:
        super().__init__(
            f"the rules {analysis!r} built the index, and these are the rules {ANALYSIS!r}: it was"
            " not checked. Run fsck with the Python and the version that built it, or build it anew"
            " with ledger reindex"
        )


def check_index(
    log: LogStore, index: IndexStore, *, progress: Progress = lambda _done, _total: None
) -> int:
    """Check the index against itself and against the log; return the number of segments.

    Raises: VerificationError or MalformedError that names the first wrong segment;
    OtherAnalysisError when nothing can be said. Cost: that of building it anew in one process.
    """
    leaf_cache = LeafCache(log, bytes_max=0)
    segment = 0
    while True:
        # One read transaction a segment: LMDB cannot reuse pages while a long one lasts.
        with index.snapshot() as snapshot:
            if snapshot.analysis != ANALYSIS:
                raise OtherAnalysisError(snapshot.analysis)
            total = len(snapshot.records)
            if segment >= total:
                return segment
            if (segment + 1) * snapshot.segment_entries > log.head().tree_size:
                raise VerificationError(f"segment {segment} has entries that the log does not have")
            check_segment(
                snapshot, segment, build_segment(leaf_cache, segment, snapshot.segment_entries)
            )
        segment += 1
        progress(segment, total)


def _build_all(
    log: LogStore, total: int, segment_entries: int, workers: int
) -> Iterator[SealedSegment]:
    if workers <= 1:
        leaf_cache = LeafCache(log, bytes_max=0)
        for segment in range(total):
            yield build_segment(leaf_cache, segment, segment_entries)
        return
    # An LMDB environment must not cross fork().
    context = multiprocessing.get_context("spawn")
    # As -P, for which multiprocessing has no option: nothing comes from the working directory.
    os.environ["PYTHONSAFEPATH"] = "1"
    # Segments have no cycles, so collection is off.
    with ProcessPoolExecutor(workers, context, gc.disable) as pool:
        pending: deque[Future[SealedSegment]] = deque()
        for segment in range(total):
            pending.append(pool.submit(_build_in_process, log.path, segment, segment_entries))
            if len(pending) > _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@cache
def _open_leaf_cache(log_path: Path) -> LeafCache:
    return LeafCache(LogStore.open(log_path), bytes_max=0)


def _build_in_process(log_path: Path, segment: int, segment_entries: int) -> SealedSegment:
    return build_segment(_open_leaf_cache(log_path), segment, segment_entries)
