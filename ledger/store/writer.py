"""The one writer of a log: a batch of entries becomes one durable transaction."""

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import lmdb
import msgspec
import zstandard

from ledger.store import keyspace
from ledger.store.environment import (
    MAP_BYTES_DEFAULT,
    CommitFailedError,
    Transaction,
    WriterLock,
    commit_errors,
)
from ledger.store.log import LogStore, check_right_edge, partial_tile_bytes
from ledger_core.event.reader import is_same_event
from ledger_core.tlog.growing_tiles import GrowingTiles
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.tile import TILE_WIDTH, encode_bundle
from ledger_core.tlog.tree import TreeHead

ZSTD_LEVEL = 3


class NewEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry that asks for an index. `time_filled`: the server chose the event's time."""

    id_bytes: bytes
    leaf: bytes
    leaf_hash: Hash
    event_json: bytes
    time_filled: bool


class Placement(enum.Enum):
    """What the log did with an entry that asked for an index."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """Where an entry is. `leaf`: the bytes that the log holds there, the first ones it was sent."""

    placement: Placement
    leaf_index: int
    leaf: bytes


class LogWriter:
    """Owns the write transactions of a log, on the thread that calls it.

    Opening reads the right edge back from disk and refuses when it disagrees with itself or with
    the last published checkpoint. A commit that failed at the disk closes the writer for good:
    whether it was kept is known only to whoever opens the log next.
    """

    def __init__(self, store: LogStore, lock: WriterLock) -> None:
        self.store = store
        self._lock = lock
        self._failed: CommitFailedError | None = None
        self._edge: GrowingTiles
        self._root_hash: Hash
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        self._recover()

    @classmethod
    def open(cls, path: Path, *, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Open a log for writing.

        Raises: UnavailableError when another process writes it, VerificationError when what is
        stored disagrees with what was signed.
        """
        if not path.is_dir():
            # The error a reader gets, before a lock file is made in a folder that isn't ours.
            LogStore.open(path)
        lock = WriterLock(path).acquire()
        try:
            store = LogStore.open(path, readonly=False, map_bytes=map_bytes)
            try:
                return cls(store, lock)
            except BaseException:
                store.close()
                raise
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Close the log and give the right to write back."""
        self.store.close()
        self._lock.release()

    @property
    def head(self) -> TreeHead:
        """The durable head, after the last commit that returned."""
        return self._head

    def commit(
        self, entries: Sequence[NewEntry], *, checkpoints: Sequence[tuple[int, str]] = ()
    ) -> list[AppendResult]:
        """Place entries in order, and store checkpoints that are about to be published.

        `checkpoints`: tree size and signed note of each. The answer has one Placed for each entry.
        When this returns, all of it is on the disk.
        Raises: StorageFullError with nothing stored; CommitFailedError with the outcome unknown.
        Cost: two node hashes and two point writes an entry, and one sync.
        """
        if self._failed is not None:
            raise CommitFailedError("the writer stopped after a failed commit; restart to go on")
        try:
            with (
                commit_errors(self.store.path),
                self.store.environment.begin(write=True) as transaction,
            ):
                placed = self._place(transaction, entries)
                for tree_size, note in checkpoints:
                    self._put(
                        transaction,
                        keyspace.CHECKPOINTS,
                        keyspace.encode_u64(tree_size),
                        note.encode(),
                    )
        except CommitFailedError as error:
            self._failed = error
            raise
        except BaseException:
            # The transaction was undone, and with it what the edge in memory already counted.
            self._recover()
            raise
        self._head = TreeHead(self._edge.size, self._root_hash)
        return placed

    def _recover(self) -> None:
        """Read the right edge from disk: at start, and after a transaction that was undone."""
        check_right_edge(self.store)
        head = self.store.head()
        self._head = head
        self._root_hash = head.root_hash
        self._edge = GrowingTiles.restore(
            size=head.tree_size, partial_tiles=partial_tile_bytes(self.store, head)
        )
        first = head.tree_size - head.tree_size % TILE_WIDTH
        self._open_leaves: list[bytes] = []
        for leaf_index in range(first, head.tree_size):
            leaf = self.store.leaf(leaf_index)
            if leaf is None:
                raise CommitFailedError(f"entry {leaf_index} of the open bundle is missing")
            self._open_leaves.append(leaf)

    def _place(self, transaction: Transaction, entries: Sequence[NewEntry]) -> list[AppendResult]:
        ids = self.store.databases[keyspace.IDS]
        first_index = next_index = self._edge.size
        placed: list[AppendResult] = []
        fresh: list[NewEntry] = []
        for entry in entries:
            # One call looks the id up and claims it. Claims of this batch are seen by the next.
            if transaction.put(
                entry.id_bytes, keyspace.encode_u64(next_index), overwrite=False, db=ids
            ):
                placed.append(AppendResult(Placement.APPENDED, next_index, entry.leaf))
                fresh.append(entry)
                next_index += 1
                continue
            known = transaction.get(entry.id_bytes, db=ids)
            if known is None:
                raise lmdb.CorruptedError("an id that could not be claimed is not there")
            leaf_index = keyspace.decode_u64(known)
            leaf = (
                fresh[leaf_index - first_index].leaf
                if leaf_index >= first_index
                else self.store.leaf_in(transaction, leaf_index)
            )
            if leaf is None:
                raise lmdb.CorruptedError(f"entry {leaf_index} is missing")
            same = is_same_event(leaf, entry.event_json, ignore_time=entry.time_filled)
            placement = Placement.DUPLICATE if same else Placement.CONFLICT
            placed.append(AppendResult(placement, leaf_index, leaf))
        if fresh:
            self._append(transaction, fresh)
        return placed

    def _append(self, transaction: Transaction, fresh: Sequence[NewEntry]) -> None:
        stored_before = len(self._open_leaves)
        first_open = self._edge.size - stored_before
        self._write_entries(transaction, first_open, stored_before, [e.leaf for e in fresh])
        for tile in self._edge.extend([entry.leaf_hash for entry in fresh]):
            self._put_tile(transaction, tile.coord.level, tile.coord.index, tile.rows)
        grown = self._edge.size
        before = grown - len(fresh)
        for level in range(self._edge.levels):
            # A level whose hashes did not change keeps its row, so that a small commit stays small.
            if grown >> (8 * level) == before >> (8 * level):
                break
            coord, leaves = self._edge.partial_tile(level)
            if leaves:
                self._put_tile(transaction, coord.level, coord.index, leaves)
        self._root_hash = self._edge.root()
        self._put(
            transaction,
            keyspace.META,
            keyspace.META_TREE,
            keyspace.encode_tree(tree_size=grown, root_hash=self._root_hash),
        )

    def _write_entries(
        self, transaction: Transaction, first_open: int, stored: int, leaves: Sequence[bytes]
    ) -> None:
        """Bundles for what fills one, rows for the rest. `stored` rows of the open bundle exist."""
        entries = self.store.databases[keyspace.ENTRIES]
        pending = [*self._open_leaves, *leaves]
        whole = len(pending) - len(pending) % TILE_WIDTH
        for start in range(0, whole, TILE_WIDTH):
            frame = self._compressor.compress(encode_bundle(pending[start : start + TILE_WIDTH]))
            key = keyspace.bundle_key((first_open + start) // TILE_WIDTH)
            if not transaction.put(key, frame, append=True, db=entries):
                raise lmdb.CorruptedError("a bundle is not the last key of its database")
        if whole:
            for leaf_index in range(first_open, first_open + stored):
                transaction.delete(keyspace.open_entry_key(leaf_index), db=entries)
        # A row that is stored already is not written again.
        for offset in range(whole or stored, len(pending)):
            key = keyspace.open_entry_key(first_open + offset)
            self._put(transaction, keyspace.ENTRIES, key, pending[offset])
        self._open_leaves = pending[whole:]

    def _put_tile(self, transaction: Transaction, level: int, index: int, value: bytes) -> None:
        self._put(transaction, keyspace.TILES, keyspace.tile_key(level=level, index=index), value)

    def _put(self, transaction: Transaction, database: bytes, key: bytes, value: bytes) -> None:
        # put() reports some refusals by returning False, which must not pass for success.
        if not transaction.put(key, value, db=self.store.databases[database]):
            raise lmdb.CorruptedError(f"a row of {database.decode()} was not stored")
