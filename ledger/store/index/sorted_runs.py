"""Terms and blocks that don't fit into memory, in files without names.

Runs of terms are sorted, and merged as they are read:

    run       records whose terms ascend
    record    u32 bytes of the term ‖ u16 count − 1 ‖ u16 form ‖ u8 several ‖ the term ‖ its payload

`several` is 1 where the list was united from those of more than one value. A file is given back
when nothing refers to it, and by the kernel when the process is killed: nothing is left behind.
"""

import os
import struct
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from io import BufferedReader, RawIOBase
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, TypeAlias

from ledger.store.index.roaring_containers import (
    ARRAY_OFFSETS_MAX,
    FORM_ARRAY,
    Container,
    encode_bitmap,
    payload_bytes,
    to_little_endian,
    unite,
)

RUNS_MERGED: Final = 64
"""Runs that become one, so that no merge reads more at once."""

BUFFER_BYTES: Final = 1 << 16
_RECORD = struct.Struct("<IHHB")

Record: TypeAlias = tuple[bytes, Container, bool]
"""A term, its posting list, and whether it was united from those of several values."""


class Scratch:
    """A file without a name. Raises: OSError, as when the disk is full."""

    def __init__(self, folder: Path) -> None:
        file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed when nothing refers to this
        self._file: Final = file
        self._end = 0
        weakref.finalize(self, file.close)

    def append(self, parts: Iterable[bytes]) -> tuple[int, int]:
        """Write some bytes at the end; return where they begin and end."""
        start = self._end
        for part in parts:
            self._file.write(part)
            self._end += len(part)
        return start, self._end

    def open(self, start: int, end: int) -> BufferedReader:
        """A reader of the bytes `[start, end)`."""
        self._file.flush()
        return BufferedReader(_Part(self._file.fileno(), start, end), BUFFER_BYTES)


class _Part(RawIOBase):
    """A part of a file. It moves no position that others share."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._at = start
        self._end = end

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io passes
        """Read the next bytes."""
        size = min(len(buffer), self._end - self._at)
        read = os.preadv(self._descriptor, [buffer[:size]], self._at) if size else 0
        self._at += read
        return read


class SortedRuns:
    """The runs of one dimension. Reading it gives every term once, ascending."""

    def __init__(self, scratch: Scratch, unite_records: Callable[[list[Record]], Record]) -> None:
        """`unite_records`: makes one record of several of the same term."""
        self._scratch = scratch
        self._unite = unite_records
        # Runs of one level were made from equally many.
        self._levels: list[list[tuple[int, int]]] = []

    def add(self, records: Iterable[Record]) -> None:
        """Add a run. Precondition: its terms ascend, each once."""
        run = self._write(records)
        for level in self._levels:
            level.append(run)
            if len(level) < RUNS_MERGED:
                return
            run = self._write(self._merged(level))
            level.clear()
        self._levels.append([run])

    def __iter__(self) -> Iterator[Record]:
        return self._merged([run for level in self._levels for run in level])

    def _write(self, records: Iterable[Record]) -> tuple[int, int]:
        return self._scratch.append(
            b"".join(
                (
                    _RECORD.pack(len(term), container.cardinality - 1, container.form, is_several),
                    term,
                    container.payload,
                )
            )
            for term, container, is_several in records
        )

    def _merged(self, runs: Iterable[tuple[int, int]]) -> Iterator[Record]:
        parts = [self._read(start, end) for start, end in runs]
        for _, some in groupby(merge(*parts, key=itemgetter(0)), itemgetter(0)):
            records = list(some)
            yield records[0] if len(records) == 1 else self._unite(records)

    def _read(self, start: int, end: int) -> Iterator[Record]:
        read = self._scratch.open(start, end).read
        while head := read(_RECORD.size):
            size, count, form, is_several = _RECORD.unpack(head)
            term = read(size)
            payload = read(payload_bytes(cardinality=count + 1, form=form))
            yield term, Container(count + 1, form, payload), bool(is_several)


def unite_in_runs(records: list[Record]) -> Record:
    """As a `TermsBuilder` in runs, or the union of several values, stores their entries."""
    bitmap = unite([(0, [container for _, container, _ in records])])
    return records[0][0], encode_bitmap(bitmap), True


def unite_entries(records: list[Record]) -> Record:
    """As a `TermsBuilder` stores the entries of a value."""
    bitmap = unite([(0, [container for _, container, _ in records])])
    if len(bitmap) > ARRAY_OFFSETS_MAX:
        return records[0][0], encode_bitmap(bitmap), False
    payload = to_little_endian(array("H", bitmap)).tobytes()
    return records[0][0], Container(len(bitmap), FORM_ARRAY, payload), False


class SpilledBlocks:
    """The blocks of a dimension on disk, each with its last value."""

    def __init__(self, scratch: Scratch, blocks: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the blocks, in order. Nothing else is written meanwhile. Raises: OSError."""
        self._scratch = scratch
        self._lasts: list[bytes] = []
        self._lengths = array("I")
        self._start, self._end = scratch.append(self._noted(blocks))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        read = self._scratch.open(self._start, self._end).read
        for last, length in zip(self._lasts, self._lengths, strict=True):
            yield last, read(length)

    @property
    def block_bytes(self) -> int:
        """The bytes of all blocks."""
        return self._end - self._start

    def _noted(self, blocks: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
        for last, block in blocks:
            self._lasts.append(last)
            self._lengths.append(len(block))
            yield block
