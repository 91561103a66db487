"""The index on disk: for each sealed segment of the log, which entries have which terms.

A segment is 65,536 consecutive entries, the span of one level-1 tile. Its file is written once and
never changes, so any of them may be missing: it was not built yet, or it was damaged. A file that
proves damaged is renamed to `00000012.damaged`, and the indexer builds that segment again.

The index is no evidence: it is built from the log, and again when the rules of analysis change. But
each segment has a root, by which two holders of the same log can compare their indexes, and
`segment_check` recomputes it.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

import structlog

from ledger.store.index.cached_parts import SegmentCache
from ledger.store.index.group_filter import GroupFilters
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import (
    BlockTable,
    DamagedSegmentError,
    SegmentFile,
    StaleSegmentError,
)
from ledger_core.query.analyzer import ANALYSIS

FILES_OPEN_MAX: Final = 1024
_SETTLED_NS = 100_000_000
"""A folder's time of change says nothing about changes within one tick of the clock."""

_match_name = re.compile(r"(\d{8,10})\.(segment|damaged|filter)").fullmatch

_log = structlog.get_logger("ledger.index")


@dataclass(frozen=True, slots=True)
class IndexHealth:
    """The faults that keep segments of an index from being read.

    `damaged`: segments that were set aside and are not built again yet. `stale`: the rules
    by which files were made that this code does not read. `failure`: why the folder can't be read.
    """

    damaged: frozenset[int]
    stale: str
    failure: str


class Index(Protocol):
    """The segments of an index, on this disk or elsewhere. Safe from any thread."""

    def snapshot(self) -> AbstractContextManager[IndexSnapshot]:
        """The index as it is now, for one thread. Raises: DamagedSegmentError."""
        ...

    def health(self) -> IndexHealth:
        """The faults that keep segments from being read, as of the last snapshot."""
        ...

    def set_aside(self, error: DamagedSegmentError) -> None:
        """Take a damaged file out of use."""
        ...


class IndexStore:
    """Reads the segments in a folder, as they come and go. Safe from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        segment_entries: int = SEGMENT_ENTRIES_MAX,
        sets_aside: bool = False,
        fault_of: Callable[[int, SegmentRecord], str] = lambda _segment, _record: "",
    ) -> None:
        """`sets_aside`: rename damaged files, for a process that has them built again.

        `fault_of`: says why a segment is none of the log's, from its record; empty when it is.
        """
        self.path: Final = path
        self.segment_entries: Final = segment_entries
        self._sets_aside = sets_aside
        self._fault_of = fault_of
        self._lock = threading.RLock()
        # Replaced as a whole under the lock, never changed.
        self._records: Mapping[int, SegmentRecord] = {}
        self._damaged: frozenset[int] = frozenset()
        self._stale = ""
        self._bad_inodes: dict[int, int] = {}
        self._changed_ns = -1
        self._failure = ""
        self._file = lru_cache(FILES_OPEN_MAX)(self._open)
        self.cache: Final = SegmentCache()
        self._filters = GroupFilters(path, removes=sets_aside)

    @contextmanager
    def snapshot(self) -> Iterator[IndexSnapshot]:
        """The index as it is now, for one thread. Raises: DamagedSegmentError."""
        records = self._refresh()
        yield IndexSnapshot(self, records, self._filters)

    def health(self) -> IndexHealth:
        """The faults that keep segments from being read, as of the last snapshot."""
        return IndexHealth(self._damaged, stale=self._stale, failure=self._failure)

    def set_aside(self, error: DamagedSegmentError) -> None:
        """Take a damaged file out of use; another one in its place is not touched."""
        path = self._path(error.segment)
        with self._lock:
            if self._bad_inodes.get(error.segment) == error.inode:
                return
            self._bad_inodes[error.segment] = error.inode
            self._file.cache_clear()
            self._records = {
                key: self._records[key] for key in self._records if key != error.segment
            }
            self._changed_ns = -1
            _log.warning("index_segment_damaged", path=str(path), reason=str(error))
            if not self._sets_aside:
                return
            try:
                if path.stat().st_ino == error.inode:
                    path.replace(path.with_suffix(".damaged"))
            except OSError as failed:
                _log.warning("index_segment_not_renamed", path=str(path), error=failed.strerror)

    def file(self, segment: int) -> SegmentFile:
        """The open file of a segment. Raises: DamagedSegmentError."""
        try:
            return self._file(segment)
        except (FileNotFoundError, StaleSegmentError):
            raise DamagedSegmentError(segment, 0, "its file was removed") from None

    def table(self, file: SegmentFile, dimension: str) -> BlockTable:
        """The table of a dimension in a segment. Raises: DamagedSegmentError."""
        return self.cache.table(file, dimension)

    def expect(self, dimension: str, value: bytes | None, segments: Sequence[int]) -> None:
        """Do nothing: segments are on this disk."""

    def _open(self, segment: int) -> SegmentFile:
        return SegmentFile.open(
            self._path(segment), segment, analysis=ANALYSIS, entries=self.segment_entries
        )

    def _path(self, segment: int) -> Path:
        return self.path / f"{segment:08d}.segment"

    def _refresh(self) -> Mapping[int, SegmentRecord]:
        """The record of each segment, read again when the folder has changed."""
        try:
            changed_ns = self.path.stat().st_mtime_ns
            if changed_ns == self._changed_ns:
                return self._records
            names = frozenset(entry.name for entry in os.scandir(self.path))
        except FileNotFoundError:
            return {}  # The indexer makes it.
        except OSError as error:
            return self._fail(error.strerror or "no reason given")
        with self._lock:
            self._failure = ""
            self._read_heads(names)
            self._changed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1
            return self._records

    def _read_heads(self, names: frozenset[str]) -> None:
        """Read the heads of the files that are new."""
        segments: dict[str, set[int]] = {"segment": set(), "damaged": set(), "filter": set()}
        for match in filter(None, map(_match_name, names)):
            segments[match[2]].add(int(match[1]))
        self._damaged = frozenset(segments["damaged"] - segments["segment"])
        self._stale = ""
        records = {
            segment: record
            for segment, record in self._records.items()
            if segment in segments["segment"]
        }
        for segment in sorted(segments["segment"] - records.keys()):
            record = self._read_record(segment)
            if record is not None:
                records[segment] = record
        if records.keys() != self._records.keys():
            self._records = records
        self._filters.refresh(segments["filter"], records)

    def _read_record(self, segment: int) -> SegmentRecord | None:
        try:
            file = self._open(segment)
            self._check_origin(segment, file)
        except FileNotFoundError:
            return None
        except StaleSegmentError as error:
            self._stale = str(error)
            return None
        except DamagedSegmentError as error:
            if not self._sets_aside and error.inode != self._bad_inodes.get(segment):
                raise
            self.set_aside(error)
            return None
        return None if file.inode == self._bad_inodes.get(segment) else file.head.record

    def _check_origin(self, segment: int, file: SegmentFile) -> None:
        if fault := self._fault_of(segment, file.head.record):
            raise DamagedSegmentError(segment, file.inode, fault)

    def _fail(self, reason: str) -> Mapping[int, SegmentRecord]:
        if reason != self._failure:
            self._failure = reason
            _log.warning("index_unreadable", path=str(self.path), reason=reason)
        return {}
