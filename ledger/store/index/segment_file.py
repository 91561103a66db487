"""The file of a sealed segment, `DIR/index/00000012.segment`: written once, never changed.

    "ledger segment 3\\n" ‖ u32 head bytes ‖ u32 CRC-32 of the head ‖ head ‖ body

    head     a SegmentHead as JSON: which segment this is, the rules that made it, and for each
             dimension the place of its table and of its column in the body, with their CRC-32
    body     for each dimension its table, then its blocks; those of the times; then the columns
    table    u32 blocks n ‖ n × u32 length ‖ n × u32 CRC-32 ‖ n last values, with NUL between them
    block    consecutive terms of the dimension (term_blocks.py), or consecutive times, with a label
             instead of the last value (time_column.py)
    column   one zstd frame: for each entry the place of its value in the dimension, u16, or 0xFFFF

All integers are little-endian. The file is read by `pread`, never mapped into memory, and each
piece is compared with its CRC-32 before it is decoded. So a damaged file, a file that was cut short
or a failing disk is an error of one segment; it can't end the process, and gives no wrong answer.
"""

import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, count
from pathlib import Path
from typing import Final, NamedTuple, Protocol, Self
from zlib import crc32

import msgspec
import zstandard

from ledger.store.index.roaring_containers import to_little_endian
from ledger.store.index.segment import Blocks, SealedSegment, SegmentRecord
from ledger.store.index.time_column import TIMES, decode_block, read_label
from ledger_core.tlog.errors import MalformedError

MAGIC: Final = b"ledger segment 3\n"
OTHER_MAGIC: Final = b"ledger segment "
"""Begins a file of another version of this format."""

HEAD_BYTES_MAX: Final = 1 << 16
_BLOCKS_AT_ONCE = 64
PART_BYTES_MAX: Final = 1 << 28
"""Of what is read in one piece. A table of a million terms of 512 bytes is shorter."""

BLOCKS_MAX: Final = 1 << 22
"""Of one table: a segment's file is no longer than a gigabyte."""

_BLOCK_BYTES = 100
"""The memory that a block takes in a table beside its last value."""

_HEAD = struct.Struct("<II")
_COUNT = struct.Struct("<I")
_SEPARATOR = b"\0"
_serials = count()


class DamagedSegmentError(MalformedError):
    """The file of a segment can't be read, or its bytes are not those that were written."""

    def __init__(self, segment: int, inode: int, reason: str) -> None:
        super().__init__(f"segment {segment} of the index: {reason}")
        self.segment: Final = segment
        self.inode: Final = inode


class StaleSegmentError(Exception):
    """The file of a segment was made by other rules, which the message names."""


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A piece of the body: its offset there, its length, and its CRC-32."""

    start: int
    length: int
    crc: int


class SegmentHead(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a segment's file."""

    segment: int
    entries: int
    analysis: str
    record: SegmentRecord
    tables: dict[str, Extent]
    columns: dict[str, Extent]


_decode_head = msgspec.json.Decoder(SegmentHead).decode


class BlockTable(NamedTuple):
    """The blocks of one dimension, in order: last value, offset in the body, length, CRC-32."""

    lasts: list[bytes]
    starts: list[int]
    lengths: "array[int]"
    crcs: "array[int]"

    @property
    def size(self) -> int:
        """About the bytes that it takes in memory. Cost: 0.02 µs a block."""
        return sum(map(len, self.lasts)) + _BLOCK_BYTES * len(self.lasts) + _BLOCK_BYTES


_NO_BLOCKS: Final = BlockTable([], [], array("I"), array("I"))


class SegmentBytes(Protocol):
    """The bytes of a segment's file, on this disk or elsewhere. Read from any thread.

    `inode` differs between two files of one segment, and `length` is that of the file.
    """

    @property
    def inode(self) -> int: ...

    @property
    def length(self) -> int: ...

    def read(self, start: int, length: int) -> bytes:
        """The bytes from `start` on, fewer at the end of the file. Raises: OSError."""
        ...


class LocalBytes:
    """A file on this disk. It is closed when nothing refers to it."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.inode: Final = status.st_ino
        self.length: Final = status.st_size

    def __del__(self) -> None:
        with suppress(AttributeError):  # It was never opened.
            os.close(self._descriptor)

    def read(self, start: int, length: int) -> bytes:
        """The bytes from `start` on. Raises: OSError."""
        return os.pread(self._descriptor, length, start)


class SegmentFile:
    """An open file of a segment. Safe from any thread; it is closed when nothing refers to it."""

    def __init__(self, source: "SegmentBytes", head: SegmentHead, *, body_start: int) -> None:
        self.head: Final = head
        self.serial: Final = next(_serials)
        """Another number for each file that is opened: a key for caches."""
        self.inode: Final = source.inode
        self._source = source
        self._body_start = body_start
        self._body_bytes = source.length - body_start

    @classmethod
    def open(cls, path: Path, segment: int, *, analysis: str, entries: int) -> Self:
        """Open the file of a segment and check its head.

        Raises: FileNotFoundError, StaleSegmentError, DamagedSegmentError.
        """
        try:
            source = LocalBytes(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedSegmentError(segment, 0, _reason(error)) from error
        return cls.over(source, segment, analysis=analysis, entries=entries)

    @classmethod
    def over(cls, source: "SegmentBytes", segment: int, *, analysis: str, entries: int) -> Self:
        """Check the head of a file that is open already. Raises: as `open`."""
        try:
            start = source.read(0, HEAD_BYTES_MAX)
        except OSError as error:
            raise DamagedSegmentError(segment, source.inode, _reason(error)) from error
        head, body_start = cls._check_head(start, segment, source.inode, analysis, entries)
        return cls(source, head, body_start=body_start)

    @staticmethod
    def _check_head(
        start: bytes, segment: int, inode: int, analysis: str, entries: int
    ) -> tuple[SegmentHead, int]:
        """The head, and the place of the body behind it."""
        if start.startswith(OTHER_MAGIC) and not start.startswith(MAGIC):
            raise StaleSegmentError("of another version of the format")
        head = _read_head(start)
        if head is None or head.segment != segment:
            raise DamagedSegmentError(segment, inode, "its head is damaged")
        if (head.analysis, head.entries) != (analysis, entries):
            raise StaleSegmentError(f"{head.analysis}, {head.entries} entries")
        body_start = len(MAGIC) + _HEAD.size + _HEAD.unpack_from(start, len(MAGIC))[0]
        return head, body_start

    def table(self, dimension: str) -> BlockTable:
        """The table of a dimension; an empty one if the segment has no term of it."""
        extent = self.head.tables.get(dimension)
        if extent is None:
            return _NO_BLOCKS
        data = self._read_extent(extent, f"the table of {dimension}")
        blocks = int.from_bytes(data[: _COUNT.size], "little")
        crcs_at, lasts_at = _COUNT.size + 4 * blocks, _COUNT.size + 8 * blocks
        # Counted first: a list of the parts takes many times their bytes.
        is_whole = len(data) >= lasts_at and data.count(_SEPARATOR, lasts_at) + 1 == blocks
        if not is_whole or blocks > BLOCKS_MAX:
            raise self.damaged(f"the table of {dimension} does not have the blocks that it counts")
        lasts = data[lasts_at:].split(_SEPARATOR)
        lengths = to_little_endian(array("I", data[_COUNT.size : crcs_at]))
        *starts, _end = accumulate(lengths, initial=extent.start + extent.length)
        crcs = to_little_endian(array("I", data[crcs_at:lasts_at]))
        return BlockTable(lasts, starts, lengths, crcs)

    def table_span(self, dimension: str) -> tuple[int, int]:
        """The place of the table of a dimension in the file, and its length."""
        extent = self.head.tables.get(dimension)
        return (0, 0) if extent is None else (self._body_start + extent.start, extent.length)

    def block_span(self, table: BlockTable, place: int) -> tuple[int, int]:
        """The place of a block in the file, and its length."""
        return self._body_start + table.starts[place], table.lengths[place]

    def block(self, table: BlockTable, place: int) -> bytes:
        """One block of a table."""
        data = self._read(table.starts[place], table.lengths[place])
        return self._checked(data, table.crcs[place], "a block")

    def blocks(self, table: BlockTable, first: int, end: int) -> Iterator[bytes]:
        """The blocks `[first, end)` of a table, many of them in one read."""
        for at in range(first, end, _BLOCKS_AT_ONCE):
            stop = min(at + _BLOCKS_AT_ONCE, end)
            start = table.starts[at]
            data = self._read(start, table.starts[stop - 1] + table.lengths[stop - 1] - start)
            for place in range(at, stop):
                begin = table.starts[place] - start
                block = data[begin : begin + table.lengths[place]]
                yield self._checked(block, table.crcs[place], "a block")

    def column(self, dimension: str) -> bytes | None:
        """The stored column of a dimension, if there is one."""
        extent = self.head.columns.get(dimension)
        if extent is None:
            return None
        return self._read_extent(extent, f"the column of {dimension}")

    def check(self) -> None:
        """Hold every byte of the file against its checksum. Raises: DamagedSegmentError."""
        left = self._body_bytes
        for dimension, extent in self.head.tables.items():
            table = self.table(dimension)
            left = self._rest(left, extent.length + sum(table.lengths))
            for _ in self.blocks(table, 0, len(table.lasts)):
                pass
        for dimension, extent in self.head.columns.items():
            left = self._rest(left, extent.length)
            self.column(dimension)

    def _rest(self, left: int, part: int) -> int:
        """The bytes that are left for other parts: parts share none."""
        if part > left:
            raise self.damaged("its parts are longer than the file")
        return left - part

    def damaged(self, reason: str) -> DamagedSegmentError:
        """The error that this file holds what nobody wrote."""
        return DamagedSegmentError(self.head.segment, self.inode, reason)

    def _read_extent(self, extent: Extent, what: str) -> bytes:
        return self._checked(self._read(extent.start, extent.length), extent.crc, what)

    def _read(self, start: int, length: int) -> bytes:
        if not 0 <= start <= start + length <= self._body_bytes:
            raise self.damaged("a part of it is outside the file")
        if length > PART_BYTES_MAX:
            raise self.damaged(f"a part of it has more than {PART_BYTES_MAX:,} bytes")
        try:
            return self._source.read(self._body_start + start, length)
        except OSError as error:
            raise self.damaged(_reason(error)) from error

    def _checked(self, data: bytes, crc: int, what: str) -> bytes:
        if crc32(data) != crc:
            raise self.damaged(f"{what} does not match its checksum")
        return data


class StoredTimes:
    """The event times of a segment, in blocks of `block_entries`; the last may have fewer.

    Methods raise DamagedSegmentError.
    """

    def __init__(
        self, file: SegmentFile, table: BlockTable, decompressor: zstandard.ZstdDecompressor
    ) -> None:
        self._file = file
        self._table = table
        self._decompressor = decompressor
        self.block_entries: Final = -(-file.head.entries // max(1, len(table.lasts)))

    def entries_in(self, place: int) -> int:
        """The number of entries of a block."""
        return min(self.block_entries, self._file.head.entries - place * self.block_entries)

    def bounds(self, place: int) -> tuple[int, int]:
        """The earliest and the latest time of a block, in microseconds since 1970."""
        return read_label(self._table.lasts[place])

    def read(self, place: int) -> Sequence[int]:
        """The times of a block's entries, in microseconds since 1970. Cost: 20 µs and a read."""
        block = self._file.block(self._table, place)
        return decode_block(
            self._table.lasts[place],
            block,
            entries=self.entries_in(place),
            decompressor=self._decompressor,
        )


def encode_segment_file(
    segment: int, sealed: SealedSegment, *, analysis: str, entries: int
) -> bytes:
    """The bytes of a segment's file."""
    return b"".join(segment_file_parts(segment, sealed, analysis=analysis, entries=entries))


def segment_file_parts(
    segment: int, sealed: SealedSegment, *, analysis: str, entries: int
) -> Iterator[bytes]:
    """The bytes of a segment's file, part by part."""
    parts = {**sealed.blocks, TIMES: sealed.times}
    encoded: dict[str, bytes] = {}
    at = 0
    tables: dict[str, Extent] = {}
    columns: dict[str, Extent] = {}
    for dimension, blocks in parts.items():
        table, block_bytes = _encode_table(blocks)
        encoded[dimension] = table
        tables[dimension] = Extent(at, len(table), crc32(table))
        at += len(table) + block_bytes
    for dimension, column in sealed.columns:
        columns[dimension] = Extent(at, len(column), crc32(column))
        at += len(column)
    head = msgspec.json.encode(
        SegmentHead(
            segment=segment,
            entries=entries,
            analysis=analysis,
            record=sealed.record,
            tables=tables,
            columns=columns,
        )
    )
    yield from (MAGIC, _HEAD.pack(len(head), crc32(head)), head)
    for dimension, blocks in parts.items():
        yield encoded[dimension]
        for _, block in blocks:
            yield block
    for _, column in sealed.columns:
        yield column


def place_of(table: BlockTable, value: bytes) -> int:
    """The place of the only block that can hold a value, or the number of blocks."""
    return bisect_left(table.lasts, value)


def _encode_table(blocks: Blocks) -> tuple[bytes, int]:
    """The table of some blocks, and the bytes of these."""
    lasts: list[bytes] = []
    lengths, crcs = array("I"), array("I")
    for last, block in blocks:
        lasts.append(last)
        lengths.append(len(block))
        crcs.append(crc32(block))
    block_bytes = sum(lengths)
    parts = (to_little_endian(lengths).tobytes(), to_little_endian(crcs).tobytes())
    return b"".join((_COUNT.pack(len(lasts)), *parts, _SEPARATOR.join(lasts))), block_bytes


def _read_head(start: bytes) -> SegmentHead | None:
    """The head at the beginning of a file; None for any other bytes."""
    at = len(MAGIC) + _HEAD.size
    if not start.startswith(MAGIC) or len(start) < at:
        return None
    length, crc = _HEAD.unpack_from(start, len(MAGIC))
    data = start[at : at + length]
    if len(data) != length or crc32(data) != crc:
        return None
    try:
        return _decode_head(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _reason(error: OSError) -> str:
    return f"it can't be read: {error.strerror}"
