"""Reads posting lists, columns, hours and times from the segments of one moment."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Final, Protocol

import zstandard

from ledger.store.index.cached_parts import (
    HOUR_BLOCKS_MAX,
    SegmentCache,
    SegmentHours,
    ValueColumn,
)
from ledger.store.index.group_filter import GroupFilters
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import Container, encode_bitmap, from_little_endian
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import BlockTable, SegmentFile, StoredTimes, place_of
from ledger.store.index.term_blocks import OpenBlock, read_loose
from ledger.store.index.time_column import TIMES
from ledger_core.query.fields import DIMENSIONS

SEGMENTS_AHEAD: Final = 16
"""Segments whose tables are fetched at once, where they are elsewhere."""

_LAST_BYTE = b"\xff"
"""Above every byte of UTF-8."""


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


class IndexSnapshot:
    """The segments of one moment, for one thread. Methods that read raise DamagedSegmentError."""

    def __init__(
        self, store: SegmentFiles, records: Mapping[int, SegmentRecord], filters: GroupFilters
    ) -> None:
        self.records: Final = records
        self.filters: Final = filters
        self.segment_entries: Final = store.segment_entries
        self._store = store

    @cached_property
    def _decompressor(self) -> zstandard.ZstdDecompressor:
        # Made when it is needed, in 11 µs: a rare value often finds all that it reads in memory.
        return zstandard.ZstdDecompressor()

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
            hours = self.hours(segment) if dimension == "hour" else None
            if hours is not None:
                members = hours.between(low, high)
                if members:
                    yield segment, [encode_bitmap(members)]
                continue
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

    def hours(self, segment: int) -> SegmentHours | None:
        """The entries of a segment by hour and by day; None where it has too many hours."""
        file = self._store.file(segment)
        table = self._store.table(file, "hour")
        if len(table.lasts) > HOUR_BLOCKS_MAX:
            return None

        def read() -> SegmentHours:
            blocks = file.blocks(table, 0, len(table.lasts))
            return SegmentHours(OpenBlock(data, self._decompressor) for data in blocks)

        return self._store.cache.hours.get((file.serial, "hour"), read)

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
