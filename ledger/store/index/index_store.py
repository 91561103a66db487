"""The index on disk: for each sealed segment of the log, which entries have which terms.

A segment is 65,536 consecutive entries, the span of one level-1 tile. It is sealed once, in one
LMDB transaction, and never changes. Segments are sealed in order, so the stored ones are the first
ones. The index is no evidence: it can be built again from the log, and is when the rules of
analysis change. But each segment has a root, by which two holders of the same log can compare their
indexes, and `check_index` recomputes it.
"""

import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import msgspec
import zstandard

from ledger.store import keyspace
from ledger.store.environment import (
    MAP_BYTES_DEFAULT,
    Environment,
    Transaction,
    create_environment,
    lock_for_writing,
)
from ledger.store.index.postings import Postings, join
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX, Container, from_little_endian
from ledger.store.index.segment import SealedSegment, SegmentRecord, segment_root
from ledger.store.index.term_blocks import OpenBlock, check_block, read_loose
from ledger_client.runtime.files import FileLock
from ledger_core.query.fields import DIMENSIONS
from ledger_core.tlog.errors import MalformedError, VerificationError

_DATABASES: Final = (keyspace.BLOCKS, keyspace.COLUMNS, keyspace.SEGMENTS, keyspace.META)
_record_decoder = msgspec.json.Decoder(SegmentRecord)


class IndexStore:
    """Reads the index. Safe from any thread of the process that opened it."""

    def __init__(self, environment: Environment) -> None:
        self.path = environment.path
        self._environment = environment
        self._lock = threading.Lock()
        self._known: tuple[int, list[SegmentRecord]] = (-1, [])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing index for reading. Raises: as `Environment.open`."""
        return cls(Environment.open(path, _DATABASES, readonly=True))

    def close(self) -> None:
        """Close the environment; every other method is an error from here on."""
        self._environment.close()

    @contextmanager
    def snapshot(self) -> Iterator["IndexSnapshot"]:
        """The index as it is now, for one thread, until the context ends."""
        with self._environment.read() as transaction:
            yield IndexSnapshot(transaction, self._records(transaction))

    def _records(self, transaction: Transaction[bytes]) -> Sequence[SegmentRecord]:
        """The record of every sealed segment; records never change, so each is read once."""
        generation = _generation(transaction)
        count = transaction.count(keyspace.SEGMENTS)
        with self._lock:
            known_generation, known = self._known
            # A later snapshot may have made a longer list; this snapshot sees its beginning.
            if known_generation == generation and len(known) >= count:
                return known[:count]
            records = known[:count] if known_generation == generation else []
            for segment in range(len(records), count):
                value = transaction.get(keyspace.SEGMENTS, keyspace.segment_key(segment))
                if value is None:
                    raise MalformedError(f"{self.path}: segment {segment} is missing")
                records.append(_record_decoder.decode(value))
            self._known = (generation, records)
            return records


class IndexSnapshot:
    """One state of the index. Not thread-safe, and valid only inside `IndexStore.snapshot`."""

    def __init__(self, transaction: Transaction[bytes], records: Sequence[SegmentRecord]) -> None:
        self.analysis, self.segment_entries = _made_by(transaction)
        self.records: Final = records
        self._transaction = transaction
        self._cursor = transaction.cursor(keyspace.BLOCKS)
        self._decompressor = zstandard.ZstdDecompressor()

    def find(
        self, dimension: str, value: str, segments: Iterable[int]
    ) -> Iterator[tuple[int, Container]]:
        """The posting list of a term in each of the segments that has it. Cost: 5 µs each."""
        encoded = value.encode()
        cursor = self._cursor
        for segment in segments:
            prefix = keyspace.dimension_key(segment=segment, dimension=dimension)
            if cursor.set_range(prefix + encoded) and cursor.key().startswith(prefix):
                found = OpenBlock(cursor.value(), self._decompressor).find(encoded)
                if found is not None:
                    yield segment, found

    def between(
        self, dimension: str, low: str, high: str, segments: Iterable[int]
    ) -> Iterator[tuple[int, list[Container]]]:
        """The posting lists of the values `low <= value < high` in each segment that has any.

        Short lists of one block come together as one loose list.
        """
        low_encoded, high_encoded = low.encode(), high.encode()
        for segment in segments:
            prefix = keyspace.dimension_key(segment=segment, dimension=dimension)
            end = prefix + high_encoded
            found: list[Container] = []
            # The first block may begin before the range, and the last may end after it.
            is_inner = False
            for key, data in self._from(prefix + low_encoded, prefix):
                loose = read_loose(data) if is_inner and key < end else None
                if loose is not None:
                    found.append(loose)
                else:
                    block = OpenBlock(data, self._decompressor)
                    found += block.between(low_encoded, high_encoded)
                if key >= end:
                    break
                is_inner = True
            if found:
                yield segment, found

    def column(self, dimension: str, segment: int) -> "array[int] | None":
        """The rank of the value of each entry of a segment, where a column is stored."""
        key = keyspace.dimension_key(segment=segment, dimension=dimension)
        frame = self._transaction.get(keyspace.COLUMNS, key)
        return None if frame is None else self.decode_column(frame)

    def decode_column(self, frame: bytes) -> "array[int]":
        """The ranks in a stored column."""
        size = 2 * self.segment_entries
        return from_little_endian(self._decompressor.decompress(frame, max_output_size=size))

    def values(self, dimension: str, segment: int) -> list[str]:
        """Every value of a dimension in a segment, in order."""
        postings = self.postings(dimension, segment)
        return [value for block in postings for value in block.values]

    def postings(self, dimension: str, segment: int) -> Iterator[Postings]:
        """Every term of a dimension in a segment, in order, a block at a time."""
        for _, data in self.blocks(dimension, segment):
            yield OpenBlock(data, self._decompressor).postings()

    def blocks(self, dimension: str, segment: int) -> Iterator[tuple[bytes, bytes]]:
        """The stored blocks of a dimension in a segment, each with its last value."""
        prefix = keyspace.dimension_key(segment=segment, dimension=dimension)
        for key, data in self._from(prefix, prefix):
            yield key[len(prefix) :], data

    def _from(self, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._cursor
        found = cursor.set_range(start)
        while found:
            key = cursor.key()
            if not key.startswith(prefix):
                return
            yield key, cursor.value()
            found = cursor.next()


class IndexWriter:
    """The one writer of an index, on the thread that calls it."""

    def __init__(self, environment: Environment, lock: FileLock) -> None:
        self.path = environment.path
        self._environment = environment
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Open an existing index for writing.

        Raises: UnavailableError when there is none, or when another process writes it.
        """
        environment = Environment.open(path, _DATABASES, readonly=False, map_bytes=map_bytes)
        try:
            return cls(environment, lock_for_writing(path))
        except BaseException:
            environment.close()
            raise

    def close(self) -> None:
        """Close the index and release the right to write."""
        self._environment.close()
        self._lock.release()

    def sealed(self) -> int:
        """The number of sealed segments: the next one to seal."""
        return self._environment.count(keyspace.SEGMENTS)

    def made_by(self) -> tuple[str, int]:
        """The rules of analysis that built the index, and the entries in a segment."""
        with self._environment.read() as transaction:
            return _made_by(transaction)

    def clear(self, *, analysis: str, segment_entries: int) -> None:
        """Delete every segment, and record other rules for the next ones."""
        with self._environment.write() as transaction:
            generation = _generation(transaction) + 1
            for name in (keyspace.BLOCKS, keyspace.COLUMNS, keyspace.SEGMENTS):
                transaction.clear(name)
            for key, value in _meta(analysis, segment_entries, generation).items():
                transaction.put(keyspace.META, key, value)

    def put(self, segment: int, sealed: SealedSegment) -> None:
        """Store the next segment. It is durable as a whole when this returns.

        Raises: ValueError for any other segment.
        """
        with self._environment.write() as transaction:
            if transaction.count(keyspace.SEGMENTS) != segment:
                raise ValueError(f"segment {segment} is not the next one to seal")
            for dimension, last, block in sealed.blocks:
                prefix = keyspace.dimension_key(segment=segment, dimension=dimension)
                transaction.put(keyspace.BLOCKS, prefix + last, block, append=True)
            for dimension, column in sealed.columns:
                key = keyspace.dimension_key(segment=segment, dimension=dimension)
                transaction.put(keyspace.COLUMNS, key, column, append=True)
            key, record = keyspace.segment_key(segment), msgspec.json.encode(sealed.record)
            transaction.put(keyspace.SEGMENTS, key, record, append=True)


def create_index(
    path: Path,
    *,
    analysis: str,
    segment_entries: int = SEGMENT_ENTRIES_MAX,
    map_bytes: int = MAP_BYTES_DEFAULT,
) -> None:
    """Create an empty index in the folder `path`.

    Raises: FileExistsError when it has one.
    """
    if not 1 <= segment_entries <= SEGMENT_ENTRIES_MAX:
        raise ValueError(f"a segment has 1 to {SEGMENT_ENTRIES_MAX} entries")
    meta = _meta(analysis, segment_entries, 0)
    create_environment(path, _DATABASES, meta=meta, map_bytes=map_bytes)


def check_segment(snapshot: IndexSnapshot, segment: int, rebuilt: SealedSegment) -> None:
    """Check a stored segment against its own record and against one rebuilt from the log.

    Raises: VerificationError or MalformedError that names the first difference.
    """
    record = snapshot.records[segment]
    root = segment_root(
        (name, join(_stored_terms(snapshot, name, segment))) for name in DIMENSIONS
    ).hex()
    if root != record.root:
        raise VerificationError(
            f"segment {segment}: its blocks give the root {root}, its record says {record.root}"
        )
    if record.root != rebuilt.record.root:
        raise VerificationError(
            f"segment {segment}: the log gives the root {rebuilt.record.root}, the index has "
            f"{record.root}"
        )
    # Other versions of zstd give other sizes.
    if msgspec.structs.replace(rebuilt.record, block_bytes=record.block_bytes) != record:
        raise VerificationError(f"segment {segment}: the log gives another record")
    for dimension, frame in rebuilt.columns:
        if snapshot.column(dimension, segment) != snapshot.decode_column(frame):
            raise VerificationError(f"segment {segment}: the log gives another column {dimension}")


def _stored_terms(
    snapshot: IndexSnapshot, dimension: str, segment: int
) -> Iterator[tuple[str, Container]]:
    for last, data in snapshot.blocks(dimension, segment):
        try:
            terms = check_block(data)
        except MalformedError as error:
            raise MalformedError(f"segment {segment}, {dimension}: {error}") from None
        if terms[-1][0] != last:
            raise MalformedError(f"segment {segment}, {dimension}: a block has another's key")
        for value, container in terms:
            yield value.decode(), container


def _made_by(transaction: Transaction[bytes]) -> tuple[str, int]:
    """The rules of analysis and the entries in a segment. Raises: MalformedError."""
    segment_entries = transaction.require(keyspace.META, keyspace.META_SEGMENT)
    analysis = transaction.require(keyspace.META, keyspace.META_ANALYSIS).decode()
    return analysis, keyspace.decode_u64(segment_entries)


def _generation(transaction: Transaction[bytes]) -> int:
    """The number of times that the index was cleared."""
    found = transaction.get(keyspace.META, keyspace.META_GENERATION)
    return 0 if found is None else keyspace.decode_u64(found)


def _meta(analysis: str, segment_entries: int, generation: int) -> dict[bytes, bytes]:
    return {
        keyspace.META_ANALYSIS: analysis.encode(),
        keyspace.META_SEGMENT: keyspace.encode_u64(segment_entries),
        keyspace.META_GENERATION: keyspace.encode_u64(generation),
    }
