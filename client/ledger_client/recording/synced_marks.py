"""The file `synced` beside the segments of a recorder: how much of each segment is on the disk.

A crash may cut a segment short, or leave zeros, behind what was synced, and nowhere else. So a
reader that finds no event where this file knows of one has found damage, and reports it.

    one row for each segment, in order: number ‖ end (8 bytes each, little endian) ‖ CRC-32

A row is written after the sync that it tells of, and is not synced itself: an older one reports
less damage and never too much. A row that can't be read counts as none, as does a file that an
earlier version did not write. With `fsync="none"` there is no such file.
"""

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

MARKS_FILE: Final = "synced"

_ROW: Final = struct.Struct("<QQ")
_CHECKSUM: Final = struct.Struct("<I")
_ROW_BYTES: Final = _ROW.size + _CHECKSUM.size
_SEED: Final = crc32(b"witnessed-ledger/synced@v1")


def write_marks(folder: Path, ends: Iterable[tuple[int, int]]) -> None:
    """Note the synced end of segments, by their numbers from 1 on.

    An error of the disk is ignored: the rows that are there stay true.
    """
    with suppress(OSError):
        descriptor = os.open(folder / MARKS_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for number, end in ends:
                row = _ROW.pack(number, end)
                data = row + _CHECKSUM.pack(crc32(row, _SEED))
                os.pwrite(descriptor, data, (number - 1) * _ROW_BYTES)
        finally:
            os.close(descriptor)


def synced_end(folder: Path, number: int) -> int:
    """The offset in a segment up to which it was synced; 0 if nothing says so."""
    with suppress(OSError):
        descriptor = os.open(folder / MARKS_FILE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, _ROW_BYTES, (number - 1) * _ROW_BYTES)
        finally:
            os.close(descriptor)
        row, checksum = data[: _ROW.size], data[_ROW.size :]
        if len(row) == _ROW.size and checksum == _CHECKSUM.pack(crc32(row, _SEED)):
            found, end = _ROW.unpack(row)
            return int(end) if found == number else 0
    return 0
