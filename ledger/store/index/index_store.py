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
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import structlog
import zstandard

from ledger.store.index.cached_parts import SegmentCache, ValueColumn
from ledger.store.index.group_filter import GroupFilters
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX, Container, from_little_endian
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import (
    BlockTable,
    DamagedSegmentError,
    SegmentFile,
    StaleSegmentError,
    StoredTimes,
    place_of,
)
from ledger.store.index.term_blocks import OpenBlock, read_loose
from ledger.store.index.time_column import TIMES
from ledger_core.query.analyzer import ANALYSIS
from ledger_core.query.fields import DIMENSIONS

FILES_OPEN_MAX: Final = 1024
SEGMENTS_AHEAD: Final = 16
"""Segments whose tables are fetched at once, where they are elsewhere."""

_LAST_BYTE = b"\xff"
"""Above every byte of UTF-8."""

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

    def snapshot(self) -> AbstractContextManager["IndexSnapshot"]:
        """The index as it is now, for one thread. Raises: DamagedSegmentError."""
        ...

    def health(self) -> IndexHealth:
        """The faults that keep segments from being read, as of the last snapshot."""
        ...

    def set_aside(self, error: DamagedSegmentError) -> None:
        """Take a damaged file out of use."""
        ...


class SegmentFiles(Protocol):
    """The open files of an index. Safe from any thread."""

    @property
    def segment_entries(self) -> int: ...

    @property
    def cache(self) -> SegmentCache: ...

    def file(self, segment: int) -> SegmentFile:
        """The open file of a segment. Raises: DamagedSegmentError."""
        ...

    def table(self, file: SegmentFile, dimension: str) -> BlockTable:
        """The table of a dimension in a segment. Raises: DamagedSegmentError."""
        ...

    def expect(self, dimension: str, value: bytes | None, segments: Sequence[int]) -> None:
        """Tables that are read next, with the block of a value: what is elsewhere is fetched."""
        ...


class IndexStore:
    """Reads the segments in a folder, as they come and go. Safe from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        segment_entries: int = SEGMENT_ENTRIES_MAX,
        sets_aside: bool = False,
    ) -> None:
        """`sets_aside`: rename damaged files, for a process that has them built again."""
        self.path: Final = path
        self.segment_entries: Final = segment_entries
        self._sets_aside = sets_aside
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
    def snapshot(self) -> Iterator["IndexSnapshot"]:
        """The index as it is now, for one thread. Raises: DamagedSegmentError."""
        records = self._refresh()
        yield IndexSnapshot(self, records, self._filters)

    def health(self) -> "IndexHealth":
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
        return self.cache.tables.table(file, dimension)

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

    def _fail(self, reason: str) -> Mapping[int, SegmentRecord]:
        if reason != self._failure:
            self._failure = reason
            _log.warning("index_unreadable", path=str(self.path), reason=reason)
        return {}


class IndexSnapshot:
    """The segments of one moment, for one thread. Methods that read raise DamagedSegmentError."""

    def __init__(
        self, store: SegmentFiles, records: Mapping[int, SegmentRecord], filters: GroupFilters
    ) -> None:
        self.records: Final = records
        self.filters: Final = filters
        self.segment_entries: Final = store.segment_entries
        self._store = store
        self._decompressor = zstandard.ZstdDecompressor()

    def segments_with(self, dimension: str, value: str, segments: Sequence[int]) -> Sequence[int]:
        """The segments, of some that ascend, that may have a term. Cost: 3 µs for 16 of them."""
        return self.filters.segments_with(dimension, value.encode(), segments)

    def find(
        self, dimension: str, value: str, segments: Iterable[int]
    ) -> Iterator[tuple[int, Container]]:
        """The posting list of a term in each of the segments that has it. Cost: 6 µs each."""
        encoded = value.encode()
        store = self._store
        for segment in self._ahead(dimension, encoded, segments):
            file = store.file(segment)
            table = store.table(file, dimension)
            place = place_of(table, encoded)
            if place < len(table.lasts):
                read = partial(self._open_block, file, table, place)
                block = store.cache.blocks.get((file.serial, dimension, place), read)
                found = block.find(encoded)
                if found is not None:
                    yield segment, found

    def _open_block(self, file: SegmentFile, table: BlockTable, place: int) -> OpenBlock:
        return OpenBlock(file.block(table, place), self._decompressor)

    def between(
        self, dimension: str, low: str, high: str, segments: Iterable[int]
    ) -> Iterator[tuple[int, list[Container]]]:
        """The posting lists of the values `low <= value < high` in each segment that has any.

        Short lists of one block come together as one loose list.
        """
        low_encoded, high_encoded = low.encode(), high.encode()
        for segment in self._ahead(dimension, low_encoded, segments):
            file = self._store.file(segment)
            table = self._store.table(file, dimension)
            first, last = place_of(table, low_encoded), place_of(table, high_encoded)
            found: list[Container] = []
            # The first block may begin before the range, and the last may end after it.
            for place, data in enumerate(
                file.blocks(table, first, min(last + 1, len(table.lasts))), first
            ):
                loose = read_loose(data) if first < place < last else None
                if loose is not None:
                    found.append(loose)
                else:
                    block = OpenBlock(data, self._decompressor)
                    found += block.between(low_encoded, high_encoded)
            if found:
                yield segment, found

    def _ahead(self, dimension: str, value: bytes, segments: Iterable[int]) -> Iterator[int]:
        """The segments, some of them expected at once."""
        rest = iter(segments)
        while some := list(islice(rest, SEGMENTS_AHEAD)):
            self._store.expect(dimension, value, some)
            yield from some

    def within(
        self, dimension: str, ranges: Sequence[tuple[str, str]], segment: int
    ) -> list[Container]:
        """The posting lists of the values `low <= value < high` of any range in a segment.

        Precondition: the ranges ascend and do not touch. Cost: 50 µs for each block that is read.
        """
        file = self._store.file(segment)
        table = self._store.table(file, dimension)
        encoded = [(low.encode(), high.encode()) for low, high in ranges]
        lows = [low for low, _ in encoded]
        found: list[Container] = []
        at = place = 0
        while at < len(encoded):
            place = max(place, place_of(table, lows[at]))
            if place == len(table.lasts):
                break
            last = table.lasts[place]
            end = bisect_right(lows, last, at)
            block = OpenBlock(file.block(table, place), self._decompressor)
            found += block.within(encoded[at:end])
            # The last range may go on in the next block.
            goes_on = end > at and encoded[end - 1][1] > last + b"\0"
            at = end - 1 if goes_on else end
            place += 1
        return found

    def column(self, dimension: str, segment: int) -> ValueColumn | None:
        """The values of a dimension by the entries of a segment, where a column is stored."""
        file = self._store.file(segment)
        if dimension not in file.head.columns:
            return None
        read = partial(self._read_column, dimension, segment)
        return self._store.cache.columns.get((file.serial, dimension), read)

    def _read_column(self, dimension: str, segment: int) -> ValueColumn:
        frame = self._store.file(segment).column(dimension) or b""
        blocks = self.blocks(dimension, segment)
        return ValueColumn(
            self.decode_column(frame), (OpenBlock(data, self._decompressor) for _, data in blocks)
        )

    def decode_column(self, frame: bytes) -> "array[int]":
        """The ranks in a stored column."""
        size = 2 * self.segment_entries
        return from_little_endian(self._decompressor.decompress(frame, max_output_size=size))

    def times(self, segment: int) -> StoredTimes:
        """The event times of a segment."""
        file = self._store.file(segment)
        return StoredTimes(file, self._store.table(file, TIMES), self._decompressor)

    def postings(self, dimension: str, segment: int, *, prefix: str = "") -> Iterator[Postings]:
        """Every term of a dimension in a segment, in order, a block at a time.

        With a prefix, the blocks that may have terms that begin so.
        """
        file = self._store.file(segment)
        table = self._store.table(file, dimension)
        first, end = 0, len(table.lasts)
        if prefix:
            first = place_of(table, prefix.encode())
            end = min(end, place_of(table, prefix.encode() + _LAST_BYTE) + 1)
        for data in file.blocks(table, first, end):
            yield OpenBlock(data, self._decompressor).postings()

    def terms(self, segment: int) -> Iterator[tuple[str, list[bytes]]]:
        """All terms of a segment, a block at a time, each with its dimension."""
        for dimension in DIMENSIONS:
            for _, data in self.blocks(dimension, segment):
                yield dimension, OpenBlock(data, self._decompressor).values()

    def blocks(self, dimension: str, segment: int) -> Iterator[tuple[bytes, bytes]]:
        """The stored blocks of a dimension in a segment, each with its last value."""
        file = self._store.file(segment)
        table = self._store.table(file, dimension)
        yield from zip(table.lasts, file.blocks(table, 0, len(table.lasts)), strict=True)
