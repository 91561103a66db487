"""Seals full segments of the log: encodes them and stores them in the index.

The builder reads the log as any reader does, and nothing waits for it: neither the writer, nor a
query, which indexes unsealed segments in memory. It may be killed at any time: a segment is stored
as a whole or not at all. The newest missing segment is sealed first, since searches begin there.
"""

import gc
import hashlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Final

from ledger.object_storage.open_log import open_log
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms, split_leaves
from ledger.query.spilled_segment import SpilledSegment
from ledger.query.term_sources import TooManyTermsError
from ledger.store.index.group_filter import groups_of
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter, write_filter, write_segment
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SealedSegment, SegmentFacts
from ledger.store.index.segment_check import check_filters, check_segment
from ledger.store.log import DamagedBundleError, LogStore
from ledger.store.stored_log import StoredLog
from ledger_client.runtime.files import keep_owner, sync_directory
from ledger_core.query.analyzer import ANALYSIS, decode_view
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hashes
from ledger_core.tlog.tile import TILE_WIDTH

PIECE_BYTES: Final = 96 << 20
"""The terms of a segment that are held in memory, as they are counted. A segment of ordinary
entries has 70 MB, and becomes a file without a detour by disk."""

Progress = Callable[[int, int], None]
"""A callback for the number of finished segments and of all."""


class SegmentBuilder:
    """Seals full segments one by one, on the thread that calls it."""

    def __init__(self, log: LogStore, writer: IndexWriter) -> None:
        self._log = log
        self._writer = writer
        self._leaf_cache = LeafCache(log, bytes_max=0)
        self._unreadable: set[int] = set()

    def seal_next(self) -> bool:
        """Seal the newest full segment that the index lacks, or make the newest filter.

        Returns whether one was lacking. A segment with a damaged bundle is left out, for as long as
        this builder lives. Cost: 15 µs an entry, and one sync.
        """
        entries = self._writer.segment_entries
        sealed = self._writer.sealed()
        size = self._log.head().tree_size
        for segment in reversed(range(first_whole(self._log, entries), size // entries)):
            if segment in sealed or segment in self._unreadable:
                continue
            try:
                made = build_segment(self._leaf_cache, segment, entries, scratch=self._writer.path)
                self._writer.put(segment, made)
            except DamagedBundleError:  # The log store has logged it.
                self._unreadable.add(segment)
                continue
            return True
        return self._writer.put_filter()


def first_whole(log: StoredLog, segment_entries: int) -> int:
    """The first segment of which no entry was pruned. The one before it may have some that stay."""
    return -(-log.minimum_index // segment_entries)


def build_segment(
    leaf_cache: LeafCache, segment: int, segment_entries: int, *, scratch: Path
) -> SealedSegment:
    """A full segment of the log as the index stores it.

    `scratch`: the folder for terms that don't fit into memory, in files without names.
    Raises: OSError, as when its disk is full.
    """
    start = segment * segment_entries
    terms = SegmentTerms()
    spilled: SpilledSegment | None = None
    times: list[tuple[str, str]] = []
    first = last = b""
    entries_hash = hashlib.sha256()
    for _, leaves in leaf_cache.bundles(start, start + segment_entries):
        for part in split_leaves(leaves):
            terms.add(part)
            if terms.held_size > PIECE_BYTES:
                spilled = spilled or SpilledSegment(scratch, segment_entries)
                spilled.add(terms)
                times.append(terms.times)
                terms = SegmentTerms(terms.end)
        entries_hash.update(b"".join(leaf_hashes(leaves)))
        first = first or leaves[0]
        last = leaves[-1]
    if terms.end > terms.start:
        times.append(terms.times)
    facts = SegmentFacts(
        earliest=min(earliest for earliest, _ in times),
        latest=max(latest for _, latest in times),
        first_received=decode_view(first).received.time,
        last_received=decode_view(last).received.time,
    )
    hexdigest = entries_hash.hexdigest()
    if spilled is None:
        try:
            return terms.seal(facts, entries_hash=hexdigest)
        except TooManyTermsError:
            spilled = SpilledSegment(scratch, segment_entries)
    spilled.add(terms)
    del terms
    return spilled.seal(facts, entries_hash=hexdigest)


def reindex(
    log: LogStore,
    path: Path,
    *,
    segment_entries: int = SEGMENT_ENTRIES_MAX,
    processes: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Build the index anew from the log; return the number of segments.

    It is built in a folder beside the present one, which it then replaces: until then, and if this
    is interrupted, the present one stays as it is. `processes` are started, by default one for each
    processor. Where `path` is a link, the folder that it names is replaced, on its own disk.
    Raises: UnavailableError while another process, such as the service, writes it, and for the
    root of a mounted disk, which nothing can replace.
    """
    path = path.resolve()
    if path.is_mount():
        raise UnavailableError(
            f"{path} is a disk of its own, which can't be replaced by a new folder: stop the "
            "service, delete all files in it and start the service, which builds them anew"
        )
    with closing(IndexWriter.open(path, segment_entries=segment_entries)):
        new, old = (path.with_name(f"{path.name}.{what}") for what in ("new", "old"))
        for leftover in (new, old):
            if leftover.is_symlink():
                leftover.unlink()
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir(mode=0o700)
        keep_owner(new)
        segments = range(first_whole(log, segment_entries), log.head().tree_size // segment_entries)
        total = len(segments)
        progress(0, total)
        for done in _build_all(
            log, new, segments, segment_entries, processes or os.cpu_count() or 1
        ):
            progress(done, total)
        path.replace(old)
        new.replace(path)
        sync_directory(path.parent)
        shutil.rmtree(old)
        return len(list(path.glob("*.segment")))


class OtherAnalysisError(ValueError):
    """Another version of the service or of Python built the index, so it can't be compared."""

    def __init__(self, analysis: str) -> None:
        super().__init__(
            f"the rules {analysis!r} built the index, and these are the rules {ANALYSIS!r}: it was"
            " not checked. Run fsck with the Python and the version that built it, or build it anew"
            " with ledger reindex"
        )


def check_index(
    log: LogStore,
    index: IndexStore,
    *,
    is_strict: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Check the index; return the number of segments. Precondition: the log was checked.

    Every byte is held against its checksum, and each segment against the hashes of the entries that
    it was built from. `is_strict` builds each segment again, as for a file without that hash: it
    finds one that somebody changed together with its checksums.

    Raises: VerificationError or MalformedError that names the first wrong segment;
    OtherAnalysisError when nothing can be said. Cost: a read of the index and of the tree; when it
    is strict, that of building it anew in one process.
    """
    leaf_cache = LeafCache(log, bytes_max=0)
    entries = index.segment_entries
    with index.snapshot() as snapshot:
        stale = index.health().stale
        if stale:
            raise OtherAnalysisError(stale)
        total = len(snapshot.records)
        for done, (segment, record) in enumerate(snapshot.records.items(), start=1):
            if (segment + 1) * entries > log.head().tree_size:
                raise VerificationError(f"segment {segment} has entries that the log does not have")
            if segment < first_whole(log, entries):
                raise VerificationError(f"segment {segment} has entries that were pruned")
            if is_strict or not record.entries_hash or entries % TILE_WIDTH:
                rebuilt = build_segment(leaf_cache, segment, entries, scratch=index.path)
                check_segment(snapshot, segment, rebuilt)
            else:
                index.file(segment).check()
                if record.entries_hash != _entries_hash(log, segment * entries, entries):
                    raise VerificationError(f"segment {segment} was built from other entries")
            progress(done, total)
        check_filters(snapshot, is_strict=is_strict)
        return total


def _entries_hash(log: LogStore, start: int, entries: int) -> str:
    """The hash of the leaf hashes of whole tiles, as in `SegmentRecord`."""
    hash_ = hashlib.sha256()
    for index in range(start // TILE_WIDTH, (start + entries) // TILE_WIDTH):
        hash_.update(log.tile(level=0, index=index, width=TILE_WIDTH) or b"")
    return hash_.hexdigest()


def _build_all(
    log: LogStore, folder: Path, segments: range, segment_entries: int, workers: int
) -> Iterator[int]:
    """Build some segments into a folder, and yield after each how many are there."""
    total = len(segments)
    if min(workers, total) <= 1:
        for done, segment in enumerate(segments, start=1):
            _build_into(LeafCache(log, bytes_max=0), folder, segment, segment_entries)
            yield done
        for group in _groups(folder, segment_entries):
            _build_filter(folder, segment_entries, group)
        return
    # An LMDB environment must not cross fork().
    context = multiprocessing.get_context("spawn")
    # As -P, for which multiprocessing has no option: nothing comes from the working directory.
    os.environ["PYTHONSAFEPATH"] = "1"
    with ProcessPoolExecutor(min(workers, total), context, _begin_process) as pool:
        build = partial(_build_in_process, log.path, folder, segment_entries)
        for done, _ in enumerate(pool.map(build, segments), start=1):
            yield done
        build_filter = partial(_build_filter, folder, segment_entries)
        list(pool.map(build_filter, _groups(folder, segment_entries)))


def _begin_process() -> None:
    """Prepare a process that builds segments."""
    gc.disable()  # Segments have no cycles.
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone.

    A killed parent closes no pool: its processes would wait for ever for the next segment.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _groups(folder: Path, segment_entries: int) -> list[int]:
    """The groups in a folder, of which each gets a filter."""
    with IndexStore(folder, segment_entries=segment_entries).snapshot() as snapshot:
        return groups_of(snapshot.records)


def _build_filter(folder: Path, segment_entries: int, group: int) -> None:
    with IndexStore(folder, segment_entries=segment_entries).snapshot() as snapshot:
        write_filter(folder, group, snapshot)


@cache
def _open_leaf_cache(log_path: Path) -> LeafCache:
    return LeafCache(open_log(log_path), bytes_max=0)


def _build_in_process(log_path: Path, folder: Path, segment_entries: int, segment: int) -> None:
    _build_into(_open_leaf_cache(log_path), folder, segment, segment_entries)


def _build_into(leaf_cache: LeafCache, folder: Path, segment: int, segment_entries: int) -> None:
    try:
        sealed = build_segment(leaf_cache, segment, segment_entries, scratch=folder)
    except DamagedBundleError:
        return  # The log store has logged it; the other segments are worth having.
    write_segment(folder, segment, sealed, segment_entries=segment_entries)
