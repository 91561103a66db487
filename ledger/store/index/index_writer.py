"""Writes the index: the files of sealed segments, and the filters over groups of them."""

import re
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Self

import structlog

from ledger.store.environment import lock_for_writing
from ledger.store.index.group_filter import (
    blocks_for,
    encode_filter,
    filter_path,
    hashes_of,
    segments_of,
)
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.index_store import IndexStore
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SealedSegment, SegmentRecord
from ledger.store.index.segment_file import DamagedSegmentError, segment_file_parts
from ledger_client.runtime.files import (
    FileLock,
    keep_owner,
    write_atomically,
    write_parts_atomically,
)
from ledger_core.query.analyzer import ANALYSIS
from ledger_core.tlog.errors import MalformedError

_is_leftover = re.compile(r"\.\d{8,10}\.(segment|filter)\..*|data\.mdb|lock\.mdb").fullmatch
"""Files of an interrupted write, and the index of version 0.1.0."""

_log = structlog.get_logger("ledger.index")


class IndexWriter:
    """The one writer of an index."""

    def __init__(self, store: IndexStore, lock: FileLock) -> None:
        self.path: Final = store.path
        self.segment_entries: Final = store.segment_entries
        self._store = store
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        segment_entries: int = SEGMENT_ENTRIES_MAX,
        fault_of: Callable[[int, SegmentRecord], str] = lambda _segment, _record: "",
    ) -> Self:
        """Open the index in a folder for writing; the folder is made if there is none.

        `fault_of`: as `IndexStore`.

        What interrupted writes left, and an index of version 0.1.0, is deleted.
        Raises: UnavailableError when another process writes it, OSError.
        """
        if path.exists() and not path.is_dir():
            path.replace(path.with_name(f"{path.name}.damaged"))
        if not path.exists():
            path.mkdir(mode=0o700, parents=True)
            keep_owner(path)
        lock = lock_for_writing(path)
        for leftover in [found for found in path.iterdir() if _is_leftover(found.name)]:
            leftover.unlink()
            if leftover.name == "data.mdb":
                _log.warning("index_of_version_0.1.0_deleted", path=str(path))
        store = IndexStore(
            path, segment_entries=segment_entries, sets_aside=True, fault_of=fault_of
        )
        return cls(store, lock)

    def close(self) -> None:
        """Release the right to write."""
        self._lock.release()

    def sealed(self) -> Mapping[int, SegmentRecord]:
        """The segments that are there."""
        with self._store.snapshot() as snapshot:
            return snapshot.records

    def put(self, segment: int, sealed: SealedSegment) -> None:
        """Store a segment. It is durable as a whole when this returns."""
        write_segment(self.path, segment, sealed, segment_entries=self.segment_entries)

    def put_filter(self) -> bool:
        """Make or extend the newest filter that lacks a segment; return whether there was one.

        Raises: OSError.
        """
        with self._store.snapshot() as snapshot:
            groups = snapshot.filters.incomplete(snapshot.records)
            if groups:
                try:
                    write_filter(self.path, groups[-1], snapshot)
                except DamagedSegmentError as error:
                    self._store.set_aside(error)
            return bool(groups)


def write_filter(folder: Path, group: int, snapshot: IndexSnapshot) -> None:
    """Write the filter of a group for its segments that are there. Raises: OSError."""
    write_atomically(filter_path(folder, group), make_filter(group, snapshot))


def make_filter(group: int, snapshot: IndexSnapshot, *, is_anew: bool = False) -> bytes:
    """The file of the filter of a group, extended from the one that is there unless `is_anew`.

    Both ways give the same bytes. Cost: 2 µs an entry of each segment that the present filter does
    not know. Raises: DamagedSegmentError.
    """
    records = snapshot.records
    roots = [records[each].root if each in records else "" for each in segments_of(group)]
    present = None if is_anew else snapshot.filters.of(group)
    if present is not None:
        added = [place for place, root in enumerate(roots) if root != present.head.roots[place]]
        hashes = _hashes(group, added, snapshot)
        is_enough = blocks_for(max(map(len, hashes.values()), default=0)) <= present.head.blocks
        if is_enough and not any(present.head.roots[place] for place in added):
            try:
                return encode_filter(group, roots, hashes, extended=present)
            except (MalformedError, OSError):
                pass  # It is damaged: all of it is made anew.
    known = [place for place, root in enumerate(roots) if root]
    return encode_filter(group, roots, _hashes(group, known, snapshot))


def _hashes(group: int, places: Iterable[int], snapshot: IndexSnapshot) -> "dict[int, array[int]]":
    segments = segments_of(group)
    return {place: hashes_of(snapshot.terms(segments[place])) for place in places}


def write_segment(
    folder: Path, segment: int, sealed: SealedSegment, *, segment_entries: int
) -> None:
    """Write the file of a segment into a folder, durably and as a whole. Raises: OSError."""
    parts = segment_file_parts(segment, sealed, analysis=ANALYSIS, entries=segment_entries)
    write_parts_atomically(folder / f"{segment:08d}.segment", parts)
