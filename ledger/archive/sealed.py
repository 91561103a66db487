"""Compares the objects of full segments (index, ids, Parquet) with their names."""

from typing import Final, NamedTuple

from ledger.archive.ids import IdTableName, check_table
from ledger.object_storage.objects import index_name, is_named_for, match_index
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment_file import SegmentFile
from ledger_core.query.analyzer import ANALYSIS
from ledger_core.tlog.errors import MalformedError


class Sealed(NamedTuple):
    """The claim of an object: the SHA-256 of the leaf hashes of its entries, in hex.

    Empty for Parquet, and for a segment of the index that an earlier version wrote.
    """

    entries_hash: str


class BytesInMemory:
    """The bytes of a segment's file, in memory."""

    inode: Final = 0

    def __init__(self, data: bytes) -> None:
        self.length: Final = len(data)
        self._data = data

    def read(self, start: int, length: int) -> bytes:
        """The bytes from `start` on."""
        return self._data[start : start + length]


def check_sealed(name: str, data: bytes) -> Sealed:
    """Check the checksums of all bytes of an object, and that its name has their hash.

    Raises: MalformedError; StaleSegmentError for a segment that other rules made.
    """
    match = match_index(name)
    if match is not None:
        segment = int(match[1])
        file = SegmentFile.over(
            BytesInMemory(data), segment, analysis=ANALYSIS, entries=SEGMENT_ENTRIES_MAX
        )
        file.check()
        record = file.head.record
        if index_name(segment, record.root) != name:
            raise MalformedError("its name has the root of another one")
        return Sealed(record.entries_hash)
    ids = IdTableName.parse(name)
    if ids is not None:
        return Sealed(check_table(ids, data))
    if not is_named_for(name, data):
        raise MalformedError("its name has the hash of another file")
    return Sealed("")
