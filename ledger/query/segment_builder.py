"""Sealing: full segments of the log become segments of the index.

It reads the log as any reader does, and nothing waits for it: not the writer, whose entries are
there to be read the moment they are durable, and no query, which indexes in memory what is not
sealed yet. So it may be killed at any time; a segment is stored as a whole or not at all, and the
next one to seal is the number of those that are there.
"""

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Final

from ledger.query.leaf_cache import RowReader
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexStore, IndexWriter, check_segment, create_index
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SealedSegment, SegmentFacts
from ledger.store.log import LogStore
from ledger_core.query.analyzer import ANALYSIS, decode_view
from ledger_core.tlog.errors import VerificationError

Progress = Callable[[int, int], None]
"""Told the segments done, and their number."""

_AHEAD: Final = 2
"""Segments that each process may be ahead of the writer: 4 MB each."""


class SegmentBuilder:
    """Seals what there is to seal, on the thread that calls it."""

    def __init__(self, log: LogStore, writer: IndexWriter) -> None:
        self._log = log
        self._writer = writer
        self._rows = RowReader(log, kept_bytes=0)

    def prepare(self) -> bool:
        """Begin the index anew when other rules made it; tell whether that was so."""
        analysis, segment_entries = self._writer.made_by()
        if analysis == ANALYSIS:
            return False
        self._writer.clear(analysis=ANALYSIS, segment_entries=segment_entries)
        return True

    def seal_next(self) -> bool:
        """Seal one segment if there is one. Cost: 15 µs an entry, and one sync."""
        segment = self._writer.sealed()
        _, segment_entries = self._writer.made_by()
        if self._log.head().tree_size < (segment + 1) * segment_entries:
            return False
        self._writer.put(segment, make_segment(self._rows, segment, segment_entries))
        return True


def make_segment(rows: RowReader, segment: int, segment_entries: int) -> SealedSegment:
    """A full segment of the log, as it is stored in the index."""
    start = segment * segment_entries
    terms = SegmentTerms()
    first = last = b""
    for _, leaves in rows.bundles(start, start + segment_entries):
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
    """The index at `path`, for writing; made when there is none."""
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
    """Make the index anew from the log; the number of segments sealed.

    As many processes make segments as there are processors, or as are asked for.
    Raises: UnavailableError while another process, such as the service, writes it.
    """
    writer = open_index_writer(path, segment_entries=segment_entries)
    try:
        writer.clear(analysis=ANALYSIS, segment_entries=segment_entries)
        total = log.head().tree_size // segment_entries
        workers = min(processes or os.cpu_count() or 1, total)
        progress(0, total)
        made = _make_all(log, total, segment_entries, workers)
        for segment, sealed in enumerate(made):
            writer.put(segment, sealed)
            progress(segment + 1, total)
        return total
    finally:
        writer.close()


def check_index(
    log: LogStore, index: IndexStore, *, progress: Progress = lambda _done, _total: None
) -> int:
    """Hold the index against itself and against the log; the number of segments that passed.

    Raises: VerificationError or MalformedError that names the first wrong segment.
    Cost: as making it anew, in one process.
    """
    rows = RowReader(log, kept_bytes=0)
    segment = 0
    while True:
        # One read transaction a segment: a long one would keep pages from being used again.
        with index.snapshot() as snapshot:
            total = len(snapshot.records)
            if segment >= total:
                return segment
            if snapshot.analysis != ANALYSIS:
                raise VerificationError(
                    f"the index was made by the rules {snapshot.analysis!r}, these are {ANALYSIS!r}"
                )
            if (segment + 1) * snapshot.segment_entries > log.head().tree_size:
                raise VerificationError(
                    f"segment {segment} is of entries that the log does not have"
                )
            check_segment(snapshot, segment, make_segment(rows, segment, snapshot.segment_entries))
        segment += 1
        progress(segment, total)


def _make_all(
    log: LogStore, total: int, segment_entries: int, workers: int
) -> Iterator[SealedSegment]:
    """All segments, in order."""
    if workers <= 1:
        rows = RowReader(log, kept_bytes=0)
        for segment in range(total):
            yield make_segment(rows, segment, segment_entries)
        return
    # LMDB must not be carried through fork().
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _Worker.start, (log.path,)) as pool:
        pending: deque[Future[SealedSegment]] = deque()
        for segment in range(total):
            pending.append(pool.submit(_Worker.make, segment, segment_entries))
            if len(pending) > _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class _Worker:
    """What a process that makes segments holds."""

    rows: RowReader

    @classmethod
    def start(cls, log_path: Path) -> None:
        """Open the log in this process. Nothing that is made here has cycles to collect."""
        gc.disable()
        cls.rows = RowReader(LogStore.open(log_path), kept_bytes=0)

    @classmethod
    def make(cls, segment: int, segment_entries: int) -> SealedSegment:
        """Make one segment."""
        return make_segment(cls.rows, segment, segment_entries)
