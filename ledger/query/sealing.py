"""Sealing: full segments of the log become segments of the index.

It reads the log as any reader does, and nothing waits for it: not the writer, whose entries are
there to be read the moment they are durable, and no query, which indexes in memory what is not
sealed yet. So it may be killed at any time; a segment is stored as a whole or not at all, and the
next one to seal is the number of those that are there.
"""

from collections.abc import Callable
from pathlib import Path

from ledger.query.rows import RowReader
from ledger.query.terms import ANALYSIS, SegmentTerms, decode_view
from ledger.store.containers import SEGMENT_ENTRIES_MAX
from ledger.store.index import (
    IndexStore,
    IndexWriter,
    SegmentFacts,
    check_segment,
    create_index,
    page_root,
)
from ledger.store.keyspace import DIMENSIONS
from ledger.store.log import LogStore
from ledger.tlog.errors import VerificationError

Progress = Callable[[int, int], None]
"""Told the segments done, and their number."""


class Sealer:
    """Seals what there is to seal, on the thread that calls it."""

    def __init__(self, log: LogStore, writer: IndexWriter) -> None:
        self._log = log
        self._writer = writer
        self._rows = RowReader(log, kept_bytes=0)

    @property
    def segment_entries(self) -> int:
        """The entries in a segment of this index."""
        return self._writer.made_by()[1]

    def prepare(self) -> bool:
        """Begin the index anew when other rules made it; tell whether that was so."""
        analysis, segment_entries = self._writer.made_by()
        if analysis == ANALYSIS:
            return False
        self._writer.clear(analysis=ANALYSIS, segment_entries=segment_entries)
        return True

    def remaining(self) -> int:
        """The full segments that are not sealed."""
        return self._log.head().tree_size // self.segment_entries - self._writer.sealed()

    def seal_next(self) -> bool:
        """Seal one segment if there is one. Cost: 10 µs an entry, and one sync."""
        segment = self._writer.sealed()
        start = segment * self.segment_entries
        end = start + self.segment_entries
        if self._log.head().tree_size < end:
            return False
        terms, facts = analyse(self._rows, start, end)
        self._writer.seal(segment, ((name, terms.seal(name)) for name in DIMENSIONS), facts)
        return True


def analyse(rows: RowReader, start: int, end: int) -> tuple[SegmentTerms, SegmentFacts]:
    """The terms of the entries `[start, end)`, which are a segment."""
    terms = SegmentTerms()
    first = last = b""
    for _, leaves in rows.bundles(start, end):
        terms.add(leaves)
        first = first or leaves[0]
        last = leaves[-1]
    earliest, latest = terms.times
    facts = SegmentFacts(
        earliest=earliest,
        latest=latest,
        first_received=decode_view(first).received.time,
        last_received=decode_view(last).received.time,
    )
    return terms, facts


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
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Make the index anew from the log; the number of segments sealed.

    Raises: UnavailableError while another process, such as the service, writes it.
    """
    writer = open_index_writer(path, segment_entries=segment_entries)
    try:
        writer.clear(analysis=ANALYSIS, segment_entries=segment_entries)
        sealer = Sealer(log, writer)
        total = sealer.remaining()
        done = 0
        progress(0, total)
        while done < total and sealer.seal_next():
            done += 1
            progress(done, total)
        return done
    finally:
        writer.close()


def check_index(
    log: LogStore, index: IndexStore, *, progress: Progress = lambda _done, _total: None
) -> int:
    """Hold the index against itself and against the log; the number of segments that passed.

    Raises: VerificationError or MalformedError that names the first wrong segment.
    Cost: as making it anew.
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
            check_segment(snapshot, segment)
            record = snapshot.records[segment]
            start = segment * snapshot.segment_entries
            end = start + snapshot.segment_entries
        if end > log.head().tree_size:
            raise VerificationError(f"segment {segment} is of entries that the log does not have")
        terms, facts = analyse(rows, start, end)
        root = page_root((name, terms.seal(name)) for name in DIMENSIONS)
        if root.hex() != record.root:
            raise VerificationError(
                f"segment {segment}: its entries give the root {root.hex()}, the index has "
                f"{record.root}"
            )
        if any(getattr(record, name) != getattr(facts, name) for name in facts.__struct_fields__):
            raise VerificationError(f"segment {segment}: its entries have other times")
        segment += 1
        progress(segment, total)
