"""The index of an archive: lists its segments, and fetches their bytes when a search reads them.

A segment is read in pieces of 128 KiB, through the cache. Each part of it has a CRC-32 that is
compared when it is read (`ledger.store.index.segment_file`), and the name has the root of its head.
A segment that is damaged or missing is taken out of use, with its pieces, until the list is read
again: its entries are then read as rows, so no search lacks them.
"""

import errno
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import structlog

from ledger.object_storage.fetching import Objects, Obtain, Part, pieces_of, read_pieces, wait_for
from ledger.object_storage.objects import (
    SEGMENT_BYTES_MAX,
    SEGMENT_OBJECTS_MAX,
    index_name,
    match_index,
)
from ledger.object_storage.s3_requests import Listed
from ledger.store.index.cached_parts import SegmentCache
from ledger.store.index.group_filter import GroupFilters
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.index_store import FILES_OPEN_MAX, IndexHealth
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import (
    BlockTable,
    DamagedSegmentError,
    SegmentFile,
    StaleSegmentError,
    place_of,
)
from ledger.store.stored_log import DamagedObjectError, FetchFailedError
from ledger_core.query.analyzer import ANALYSIS

DAMAGED_S: Final = 60.0
"""Seconds for which a damaged segment is not asked for again."""

_UNREADABLE: Final = (
    DamagedSegmentError,
    StaleSegmentError,
    FetchFailedError,
    KeyError,
)

_log = structlog.get_logger("ledger.reader")


class ArchivedIndex:
    """The index of one archive, as an `Index`. Safe from any thread."""

    def __init__(self, objects: Objects, obtain: Obtain = wait_for) -> None:
        self.segment_entries: Final = SEGMENT_ENTRIES_MAX
        self._objects: Final = objects
        self._obtain: Final = obtain
        self._lock: Final = threading.Lock()
        # Replaced as a whole under the lock.
        self._files: Mapping[int, Sequence[Listed]] = {}
        self._listed: Mapping[int, Listed] = {}
        self._records: Mapping[int, SegmentRecord] = {}
        self._bad_until_s: dict[int, float] = {}
        self._stale = ""
        self._file: Final = lru_cache(FILES_OPEN_MAX)(self._open)
        self.cache: Final = SegmentCache()
        self._filters: Final = GroupFilters(Path("/"), removes=False)  # Archives have none.

    @contextmanager
    def snapshot(self) -> Iterator[IndexSnapshot]:
        """The segments as they are now, for one thread."""
        yield IndexSnapshot(self, self._records, self._filters)

    def health(self) -> IndexHealth:
        """The segments that are damaged or missing in the bucket."""
        return IndexHealth(frozenset(self._bad_until_s), stale=self._stale, failure="")

    def set_aside(self, error: DamagedSegmentError) -> None:
        """Do not use a segment for a while."""
        with self._lock:
            listed = self._listed.get(error.segment)
            if listed is not None:
                _log.warning("archived_segment_damaged", name=listed.name, reason=str(error))
                self._objects.drop(pieces_of(listed, 0, listed.length))
            self._bad_until_s[error.segment] = time.monotonic() + DAMAGED_S
            self._records = {
                key: record for key, record in self._records.items() if key != error.segment
            }
            self._file.cache_clear()

    def file(self, segment: int) -> SegmentFile:
        """The open file of a segment. Raises: DamagedSegmentError, FetchFailedError."""
        try:
            return self._file(segment)
        except (KeyError, StaleSegmentError):
            raise DamagedSegmentError(segment, 0, "it is not in the archive") from None

    def table(self, file: SegmentFile, dimension: str) -> BlockTable:
        """The table of a dimension in a segment. Raises: as `file`."""
        return self.cache.table(file, dimension)

    def expect(self, dimension: str, value: bytes | None, segments: Sequence[int]) -> None:
        """Fetch, in parallel, the parts of several segments that a search reads next.

        What fails here fails again when it is read, and is said then.
        """
        listed = {each: self._listed[each] for each in segments if each in self._listed}
        self._fetch(pieces_of(each, 0, 1) for each in listed.values())
        files: dict[int, SegmentFile] = {}
        for segment in listed:
            with suppress(*_UNREADABLE):
                files[segment] = self._file(segment)
        tables = {segment: file.table_span(dimension) for segment, file in files.items()}
        self._fetch(pieces_of(listed[segment], *tables[segment]) for segment in files)
        blocks: list[list[Part]] = []
        for segment, file in files.items() if value is not None else ():
            with suppress(*_UNREADABLE):
                table = self.table(file, dimension)
                place = place_of(table, value or b"")
                if place < len(table.lasts):
                    blocks.append(pieces_of(listed[segment], *file.block_span(table, place)))
        self._fetch(blocks)

    def _fetch(self, wanted: Iterable[Sequence[Part]]) -> None:
        parts = {part.key: part for some in wanted for part in some}
        missing = [part for part in parts.values() if self._objects.held(part) is None]
        if missing:
            with suppress(FetchFailedError, DamagedObjectError):
                self._obtain(self._objects, missing)

    def take(self, listed: Iterable[Listed], *, full_segments: int) -> list[Part]:
        """Note the segments that the bucket lists; the pieces to fetch before `read_records`."""
        found: dict[int, list[Listed]] = {}
        for each in listed:
            match = match_index(each.name)
            # Whoever writes into the bucket may put any object there, and a list say any length.
            if match is None or not 0 < each.length <= SEGMENT_BYTES_MAX:
                continue
            if int(match[1]) < full_segments:
                some = found.setdefault(int(match[1]), [])
                if len(some) < SEGMENT_OBJECTS_MAX:
                    some.append(each)
        now_s = time.monotonic()
        with self._lock:
            before = self._listed
            self._files = found
            self._listed = {
                segment: before[segment] if before.get(segment) in some else some[0]
                for segment, some in found.items()
            }
            self._bad_until_s = {
                segment: until_s
                for segment, until_s in self._bad_until_s.items()
                if until_s > now_s and segment in found
            }
            new = [each for each in found if self._is_new(each)]
        return [pieces_of(each, 0, 1)[0] for segment in new for each in found[segment]]

    def read_records(self) -> None:
        """Read the heads of the segments that are new; those that can't be read are set aside."""
        records = {key: each for key, each in self._records.items() if key in self._listed}
        stale = ""
        for segment in filter(self._is_new, sorted(self._listed)):
            found = self._find(segment)
            if isinstance(found, SegmentRecord):
                records[segment] = found
            elif isinstance(found, StaleSegmentError):
                stale = str(found)
            else:
                self.set_aside(found)
        with self._lock:
            self._stale = stale
            self._records = {
                key: each for key, each in records.items() if key not in self._bad_until_s
            }

    def _find(self, segment: int) -> SegmentRecord | DamagedSegmentError | StaleSegmentError:
        """Choose the first file of a segment that can be used; why there is none.

        There are several if rules changed, or if somebody put others there.
        """
        failed: DamagedSegmentError | StaleSegmentError | None = None
        for listed in self._files.get(segment, ()):
            with self._lock:
                self._listed = {**self._listed, segment: listed}
            try:
                return self._open(segment).head.record
            except StaleSegmentError as error:
                failed = failed or error
            except DamagedSegmentError as error:
                failed = error
            except FetchFailedError as error:
                failed = DamagedSegmentError(segment, 0, str(error))
        return failed or DamagedSegmentError(segment, 0, "it is not in the archive")

    def lacks(self, full_segments: int) -> bool:
        """Whether a full segment has no file that can be read."""
        return len(self._records) < full_segments

    def _is_new(self, segment: int) -> bool:
        return segment not in self._records and segment not in self._bad_until_s

    def _open(self, segment: int) -> SegmentFile:
        listed = self._listed[segment]
        source = _Pieces(self._objects, listed, self._obtain)
        file = SegmentFile.over(source, segment, analysis=ANALYSIS, entries=SEGMENT_ENTRIES_MAX)
        if index_name(segment, file.head.record.root) != listed.name:
            raise DamagedSegmentError(segment, 0, "its name has the root of another one")
        return file


class _Pieces:
    """The bytes of a segment in the bucket."""

    inode: Final = 0

    def __init__(self, objects: Objects, listed: Listed, obtain: Obtain) -> None:
        self.length: Final = listed.length
        self._objects = objects
        self._listed = listed
        self._obtain = obtain

    def read(self, start: int, length: int) -> bytes:
        """The bytes from `start` on. Raises: OSError for what is missing, FetchFailedError."""
        try:
            return read_pieces(self._objects, self._listed, start, length, self._obtain)
        except DamagedObjectError as error:
            raise OSError(errno.EIO, str(error)) from None
