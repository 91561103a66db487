"""A filter says which of 16 neighbouring segments may have a term: `DIR/index/00000003.filter`.

    "ledger filter 2\\n" ‖ u32 head bytes ‖ u32 CRC-32 of the head ‖ head ‖ blocks

    head     a FilterHead as JSON: the group, the root of each of its segments, empty for one that
             the filter does not know, and the number of blocks
    block    64 rows of 16 bytes ‖ u32 CRC-32 of the rows, begun with the block's number
    row      16 × u8: byte s of row r has the bits 8r to 8r + 7 of segment s in this block

All integers are little-endian; what is read is compared with its CRC-32 first. The CRC-32 of a
term's dimension and value chooses one block and three of its 512 bits (a Bloom filter). They are
set in the segments that have the term, and by chance in one of 70 others. So one read names the few
segments to ask, and never leaves one out.

A filter is derived from the files of its segments, may be missing, and is made again by the
indexer. It holds for the roots that it names, and a segment that it does not know is asked. The
last group grows: with each of its segments the indexer writes its filter again, with one more.
A filter of version 1, which was for 16 segments only, is not read but made again.
"""

import os
import struct
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Final, Self
from zlib import crc32

import msgspec
import structlog

from ledger.store.index.roaring_containers import to_little_endian
from ledger.store.index.segment import SegmentRecord
from ledger_core.query.fields import DIMENSION_NUMBERS
from ledger_core.tlog.errors import MalformedError

GROUP_SEGMENTS: Final = 16
MAGIC: Final = b"ledger filter 2\n"
OTHER_MAGIC: Final = b"ledger filter 1\n"
"""Begins a file of the version before."""

HEAD_BYTES_MAX: Final = 1 << 13
BLOCK_BITS: Final = 512
"""The bits of one segment in one block: nine binary digits choose one of them."""

BLOCKS_MAX: Final = 1 << 14
"""A hash of 32 bits chooses a block by 14 of them and two of its bits by 18."""

TERM_BITS: Final = 8
"""At least so many bits a term, and up to twice as many, as blocks are a power of two."""

_HEAD = struct.Struct("<II")
_CRC = struct.Struct("<I")
_ROWS_BYTES = BLOCK_BITS // 8 * GROUP_SEGMENTS
_BLOCK_BYTES = _ROWS_BYTES + _CRC.size
_LOW_BITS = int.from_bytes(b"\1" * GROUP_SEGMENTS, "little")
_LANE_BYTES = 4
_LANES_MAX = 1 << 18
"""Hashes of which one number is made: a segment may have many millions."""

_DIGITS = bytes.maketrans(b"\0\1", b"01")

_log = structlog.get_logger("ledger.index")


class _StaleFilterError(Exception):
    """The file of a filter is of another version."""


class FilterHead(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a filter's file. The roots are in hexadecimal digits, in order.

    That of a segment which the filter does not know is empty.
    """

    group: int
    roots: tuple[str, ...]
    blocks: int


_decode_head = msgspec.json.Decoder(FilterHead).decode


class GroupFilter:
    """An open file of a filter. Safe from any thread; it is closed when nothing refers to it."""

    def __init__(self, descriptor: int, inode: int, head: FilterHead, body_start: int) -> None:
        self.head: Final = head
        self.inode: Final = inode
        self.unknown: Final = sum(
            1 << 8 * place for place, root in enumerate(head.roots) if not root
        )
        """The segments that it does not know, in the form of `may_have`."""
        self._descriptor = descriptor
        self._body_start = body_start

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def open(cls, path: Path, group: int) -> Self:
        """Open the filter of a group and check its head.

        Raises: MalformedError, OSError, _StaleFilterError.
        """
        with ExitStack() as opened:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            inode = os.fstat(descriptor).st_ino
            head, body_start = _read_head(os.pread(descriptor, HEAD_BYTES_MAX, 0))
            if head.group != group or len(head.roots) != GROUP_SEGMENTS:
                raise MalformedError("it is that of another group")
            opened.pop_all()
        return cls(descriptor, inode, head, body_start)

    def may_have(self, hash_: int) -> int:
        """A number with bit 8·s set where segment s of the group may have the term of a hash.

        Cost: 3 µs. Raises: MalformedError, OSError.
        """
        rows = self.rows(hash_ & self.head.blocks - 1)
        found = _LOW_BITS
        for bit in _bits_of(hash_):
            row = bit >> 3 << 4
            found &= int.from_bytes(rows[row : row + GROUP_SEGMENTS], "little") >> (bit & 7)
        return found | self.unknown

    def content(self) -> bytes:
        """All bytes of the file, also when another one has taken its place. Raises: OSError."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def rows(self, block: int) -> bytes:
        """The rows of a block. Raises: MalformedError, OSError."""
        data = os.pread(self._descriptor, _BLOCK_BYTES, self._body_start + block * _BLOCK_BYTES)
        rows, crc = data[:_ROWS_BYTES], data[_ROWS_BYTES:]
        if len(crc) != _CRC.size or crc32(rows, block) != _CRC.unpack(crc)[0]:
            raise MalformedError("a block does not match its checksum")
        return rows


def hash_of(dimension: str, value: bytes) -> int:
    """The hash of a term."""
    return crc32(value, _seed(dimension))


def blocks_for(terms: int) -> int:
    """The number of blocks of a filter whose largest segment has so many terms."""
    blocks = 1
    while blocks < BLOCKS_MAX and blocks * BLOCK_BITS < TERM_BITS * terms:
        blocks *= 2
    return blocks


def encode_filter(
    group: int,
    roots: Sequence[str],
    hashes: Mapping[int, "array[int]"],
    *,
    extended: GroupFilter | None = None,
) -> bytes:
    """The file of a filter from the hashes of all terms of segments, by their place in the group.

    `extended`: the filter whose other segments it shares; it has blocks enough.
    Cost: 0.15 µs a term. Raises: MalformedError, OSError when `extended` can't be read.
    """
    if extended is None:
        blocks = blocks_for(max(map(len, hashes.values()), default=0))
        body = bytearray(blocks * _ROWS_BYTES)
    else:
        blocks = extended.head.blocks
        body = bytearray(b"".join(map(extended.rows, range(blocks))))
    for place, some in hashes.items():
        body[place::GROUP_SEGMENTS] = _bits(some, blocks)
    head = msgspec.json.encode(FilterHead(group=group, roots=tuple(roots), blocks=blocks))
    parts = [MAGIC, _HEAD.pack(len(head), crc32(head)), head]
    for block in range(blocks):
        rows = bytes(body[block * _ROWS_BYTES : (block + 1) * _ROWS_BYTES])
        parts += (rows, _CRC.pack(crc32(rows, block)))
    return b"".join(parts)


def hashes_of(terms: Iterable[tuple[str, Iterable[bytes]]]) -> "array[int]":
    """The hashes of terms, which come by dimension."""
    hashes = array("I")
    for dimension, values in terms:
        hashes.extend(map(crc32, values, repeat(_seed(dimension))))
    return hashes


def _seed(dimension: str) -> int:
    return crc32(bytes((DIMENSION_NUMBERS[dimension],)))


def _bits_of(hash_: int) -> tuple[int, int, int]:
    """The bits of a term in its block."""
    one, other = hash_ >> 14 & 511, hash_ >> 23
    return one, other, one ^ (other << 5 & 511) ^ other >> 4


def _bits(hashes: "array[int]", blocks: int) -> bytes:
    """The bits of one segment in all blocks, the lowest first.

    What `_bits_of` does for one hash, this does for all of them at once: the hashes are lanes of 32
    bits of one long number.
    """
    flags = bytearray(blocks * BLOCK_BITS)
    for start in range(0, len(hashes), _LANES_MAX):
        some = hashes[start : start + _LANES_MAX]
        lanes = int.from_bytes(to_little_endian(some[:]).tobytes(), "little")
        ones = int.from_bytes((1).to_bytes(_LANE_BYTES, "little") * len(some), "little")
        one, other = lanes >> 14 & 511 * ones, lanes >> 23 & 511 * ones
        third = one ^ (other << 5 & 511 * ones) ^ (other >> 4 & 31 * ones)
        starts = (lanes & (blocks - 1) * ones) * BLOCK_BITS
        for bits in (one, other, third):
            places = array("I", (starts | bits).to_bytes(_LANE_BYTES * len(some), "little"))
            deque(map(flags.__setitem__, to_little_endian(places), repeat(1)), 0)
    return int(flags.translate(_DIGITS)[::-1], 2).to_bytes(len(flags) // 8, "little")


def _read_head(start: bytes) -> tuple[FilterHead, int]:
    """The head at the beginning of a file, and where the blocks begin.

    Raises: MalformedError, _StaleFilterError.
    """
    at = len(MAGIC) + _HEAD.size
    if start.startswith(OTHER_MAGIC):
        raise _StaleFilterError
    if not start.startswith(MAGIC) or len(start) < at:
        raise MalformedError("it is no filter of this version")
    length, crc = _HEAD.unpack_from(start, len(MAGIC))
    data = start[at : at + length]
    if len(data) != length or crc32(data) != crc:
        raise MalformedError("its head does not match its checksum")
    return _decode_head(data), at + length


class GroupFilters:
    """The filters of an index that hold for its segments. Safe from any thread."""

    def __init__(self, folder: Path, *, removes: bool) -> None:
        """`removes`: remove damaged files, for a process that has them made again."""
        self.folder: Final = folder
        self.damaged: Mapping[int, str] = {}
        """Why filters were dropped, by their group."""
        self._removes = removes
        # Replaced as a whole, never changed.
        self._held: Mapping[int, GroupFilter] = {}

    def refresh(self, groups: Iterable[int], records: Mapping[int, SegmentRecord]) -> None:
        """Take those of the groups, whose files are there, that hold for the segments.

        Precondition: one thread at a time.
        """
        held: dict[int, GroupFilter] = {}
        before, self.damaged = self._held, {}
        for group in sorted(groups):
            found = before.get(group)
            if found is None or not _holds(found, records) or _lacks(found, records):
                found = self._open(group)
            if found is not None and _holds(found, records):
                held[group] = found
        self._held = held

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._held))

    def of(self, group: int) -> GroupFilter | None:
        """The filter of a group, if there is one that holds."""
        return self._held.get(group)

    def incomplete(self, records: Mapping[int, SegmentRecord]) -> list[int]:
        """The groups with a segment that no filter knows, ascending."""
        return [
            group
            for group in groups_of(records)
            if group not in self._held or _lacks(self._held[group], records)
        ]

    def check(self, group: int) -> None:
        """Hold every byte of a filter against its checksum. Raises: MalformedError."""
        held = self._held[group]
        try:
            for block in range(held.head.blocks):
                held.rows(block)
        except (MalformedError, OSError) as error:
            raise MalformedError(f"filter {group} of the index: {error}") from None

    def segments_with(self, dimension: str, value: bytes, segments: Sequence[int]) -> Sequence[int]:
        """Those of some segments, which ascend, that may have a term. Cost: 3 µs a group."""
        hash_ = hash_of(dimension, value)
        found: list[int] = []
        at = 0
        while at < len(segments):
            group = segments[at] // GROUP_SEGMENTS
            first = group * GROUP_SEGMENTS
            end = bisect_left(segments, first + GROUP_SEGMENTS, at)
            bits = self._may_have(group, hash_)
            if bits is None:
                found += segments[at:end]
            elif bits:
                found += [each for each in segments[at:end] if bits >> (each - first) * 8 & 1]
            at = end
        return found

    def _may_have(self, group: int, hash_: int) -> int | None:
        held = self._held.get(group)
        if held is None:
            return None
        try:
            return held.may_have(hash_)
        except (MalformedError, OSError) as error:
            # Without it each segment is asked.
            self._held = {key: self._held[key] for key in self._held if key != group}
            self._drop(group, held.inode, str(error))
            return None

    def _open(self, group: int) -> GroupFilter | None:
        try:
            return GroupFilter.open(self._path(group), group)
        except (FileNotFoundError, _StaleFilterError):
            return None
        except (msgspec.MsgspecError, MalformedError, OSError) as error:
            self._drop(group, None, str(error))
            return None

    def _drop(self, group: int, inode: int | None, reason: str) -> None:
        path = self._path(group)
        self.damaged = {**self.damaged, group: reason}
        _log.warning("index_filter_damaged", path=str(path), reason=reason)
        try:
            if self._removes and inode in (None, path.stat().st_ino):
                path.unlink()
        except OSError as failed:
            _log.warning("index_filter_not_removed", path=str(path), error=failed.strerror)

    def _path(self, group: int) -> Path:
        return filter_path(self.folder, group)


def filter_path(folder: Path, group: int) -> Path:
    """The file of a group's filter."""
    return folder / f"{group:08d}.filter"


def groups_of(segments: Iterable[int]) -> list[int]:
    """The groups of which a segment is there, ascending."""
    return sorted({segment // GROUP_SEGMENTS for segment in segments})


def segments_of(group: int) -> range:
    """The segments of a group."""
    return range(group * GROUP_SEGMENTS, (group + 1) * GROUP_SEGMENTS)


def _holds(found: GroupFilter, records: Mapping[int, SegmentRecord]) -> bool:
    """Whether the segments that a filter knows are, if they are there, those it was made from."""
    return all(
        not root or segment not in records or records[segment].root == root
        for segment, root in zip(segments_of(found.head.group), found.head.roots, strict=True)
    )


def _lacks(found: GroupFilter, records: Mapping[int, SegmentRecord]) -> bool:
    """Whether a filter does not know a segment that is there."""
    return any(
        not root and segment in records
        for segment, root in zip(segments_of(found.head.group), found.head.roots, strict=True)
    )
