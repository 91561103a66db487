"""The event times of a segment: a column in blocks, so that a query reads only those it needs.

A block is up to 1,024 consecutive entries. It is one zstd frame of planes: plane k holds byte k of
each entry's time, counted in microseconds from the earliest time of the block. Upper planes hold
few different bytes, which compress well. The label of a block, by which the segment's file lists
it, is its earliest and its latest time as decimal numbers.

    label     1790000000000000 1790000004194302
    block     zstd of   byte 0 of 1,024 times ‖ byte 1 of 1,024 times ‖ …

Random times cost 3 to 5 bytes an entry. Reading a block takes 20 µs.
"""

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import zstandard

from ledger.store.index.roaring_containers import to_little_endian
from ledger_core.tlog.errors import MalformedError

TIMES: Final = "time"
"""The name of the column's table in the file of a segment."""

BLOCK_ENTRIES: Final = 1024
_TIME_BYTES = 8
_BLOCK_BYTES_MAX = _TIME_BYTES * (1 << 16)
_compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)


def encode_times(times: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """The blocks of a column, each with its label; times are microseconds since 1970."""
    starts = range(0, len(times), BLOCK_ENTRIES)
    return [_encode_block(times[start : start + BLOCK_ENTRIES]) for start in starts]


def _encode_block(times: Sequence[int]) -> tuple[bytes, bytes]:
    earliest, latest = min(times), max(times)
    data = to_little_endian(array("Q", [time - earliest for time in times])).tobytes()
    planes = -(-(latest - earliest).bit_length() // 8)
    block = b"".join([data[plane::_TIME_BYTES] for plane in range(planes)])
    return b"%d %d" % (earliest, latest), _compressor.compress(block)


def read_label(label: bytes) -> tuple[int, int]:
    """The earliest and the latest time of a block."""
    earliest, _, latest = label.partition(b" ")
    return int(earliest), int(latest)


def decode_block(
    label: bytes, block: bytes, *, entries: int, decompressor: zstandard.ZstdDecompressor
) -> Sequence[int]:
    """The times of a block that has so many entries. Raises: MalformedError."""
    earliest, latest = read_label(label)
    if earliest == latest:
        return [earliest] * entries
    try:
        planes = decompressor.decompress(block, max_output_size=_BLOCK_BYTES_MAX)
    except zstandard.ZstdError:
        raise MalformedError("a block of times is no frame") from None
    data = bytearray(_TIME_BYTES * entries)
    if len(planes) != entries * -(-(latest - earliest).bit_length() // 8):
        raise MalformedError("a block of times has another length")
    for plane, (start, end) in enumerate(pairwise(range(0, len(planes) + 1, entries))):
        data[plane::_TIME_BYTES] = planes[start:end]
    return [earliest + more for more in to_little_endian(array("Q", bytes(data)))]
