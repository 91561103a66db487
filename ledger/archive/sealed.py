"""Reads the objects of full segments (index, ids, Parquet) and compares them with their names.

An object may have a gigabyte, and nobody vouches for it: it goes through a file without a name in
the folder for temporary files, and of its content a part at a time is in memory.
"""

import asyncio
import hashlib
import os
from tempfile import TemporaryFile, gettempdir
from typing import IO, Final, NamedTuple

from ledger.archive.ids import TABLE_BYTES, IdTableName, check_table
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import (
    SEGMENT_BYTES_MAX,
    index_name,
    is_named_for,
    match_index,
)
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment_file import SegmentFile
from ledger_core.query.analyzer import ANALYSIS
from ledger_core.tlog.errors import MalformedError, UnavailableError

READ_BYTES: Final = 1 << 20


class Sealed(NamedTuple):
    """The claim of an object: the SHA-256 of the leaf hashes of its entries, in hex.

    Empty for Parquet, and for a segment of the index that an earlier version wrote.
    """

    entries_hash: str


class OpenBytes:
    """The bytes of a segment's file that is open already."""

    inode: Final = 0

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self.length: Final = os.fstat(self._descriptor).st_size

    def read(self, start: int, length: int) -> bytes:
        """The bytes from `start` on. Raises: OSError."""
        return os.pread(self._descriptor, length, start)


async def read_sealed(bucket: Bucket, name: str) -> Sealed | None:
    """Read an object and check it, as `check_sealed`; None when there is none.

    Raises: MalformedError, StaleSegmentError, UnavailableError, also when no temporary file can be
    written.
    """
    bytes_max = SEGMENT_BYTES_MAX if IdTableName.parse(name) is None else TABLE_BYTES
    with _temporary_file() as file:
        if not await bucket.get_into(file, name, bytes_max=bytes_max):
            return None
        return await asyncio.to_thread(check_sealed, name, file)


def check_sealed(name: str, file: IO[bytes]) -> Sealed:
    """Check the checksums of all bytes of an object in a file, and that its name has their hash.

    Raises: MalformedError; StaleSegmentError for a segment that other rules made.
    """
    match = match_index(name)
    if match is not None:
        segment = SegmentFile.over(
            OpenBytes(file), int(match[1]), analysis=ANALYSIS, entries=SEGMENT_ENTRIES_MAX
        )
        segment.check()
        record = segment.head.record
        if index_name(int(match[1]), record.root) != name:
            raise MalformedError("its name has the root of another one")
        return Sealed(record.entries_hash)
    file.seek(0)
    ids = IdTableName.parse(name)
    if ids is not None:
        return Sealed(check_table(ids, file.read(TABLE_BYTES)))
    if not is_named_for(name, _sha256_hex(file)):
        raise MalformedError("its name has the hash of another file")
    return Sealed("")


def _temporary_file() -> IO[bytes]:
    """A file without a name. Raises: UnavailableError."""
    try:
        return TemporaryFile()
    except OSError as error:
        raise UnavailableError(
            f"no temporary file can be made in {gettempdir()}: {error.strerror}"
        ) from None


def _sha256_hex(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(READ_BYTES):
        digest.update(piece)
    return digest.hexdigest()
