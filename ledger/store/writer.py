"""The one writer of a log: a batch of entries becomes one durable transaction."""

import enum
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
import zstandard

from ledger.store import keyspace
from ledger.store.bundle_removal import PreparedRelease, store_release
from ledger.store.commit_errors import CommitFailedError
from ledger.store.earlier_entries import EarlierEntries, NoRoomError
from ledger.store.environment import MAP_BYTES_DEFAULT, CorruptedError, lock_for_writing
from ledger.store.id_rows import decode_id_row, tenant_id_key, tenant_mark
from ledger.store.kept_heads import store_head, thin_heads
from ledger.store.log import UNREADABLE, DamagedBundleError, LogStore
from ledger.store.log_start import check_right_edge, partial_tile_bytes
from ledger.store.released import Elsewhere, ReleasedError, head_time
from ledger.store.stored_log import FetchFailedError
from ledger.store.token_events import TOKEN_ACTION, find_token_events, read_token_event
from ledger.store.transaction import Transaction
from ledger_client.runtime.files import FileLock
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.model import Event
from ledger_core.event.reader import is_same_event
from ledger_core.event.times import parse_time
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import MICROSECONDS
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.growing_tiles import GrowingTiles
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.tile import TILE_WIDTH, TileCoord, encode_bundle
from ledger_core.tlog.tree import TreeHead

ZSTD_LEVEL = 3


class NewEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry to append. `time_filled`: the server chose the event's time.

    Where another tenant's event has the id already, the writer gives the entry a key of its own.
    """

    id_bytes: bytes
    leaf: bytes
    leaf_hash: Hash
    event_json: bytes
    time_filled: bool


def entry_of(leaf: bytes) -> NewEntry:
    """The entry of a leaf that was logged before. Raises: MalformedError."""
    parsed = parse_leaf(leaf)
    return parsed_entry(leaf, parsed.event, parsed.event_json)


def parsed_entry(leaf: bytes, event: Event, event_json: bytes) -> NewEntry:
    """The entry of a leaf that was logged before, with the event that was parsed from it."""
    id_bytes = bytes.fromhex(str(event.id).replace("-", ""))
    return NewEntry(id_bytes, leaf, leaf_hash(leaf), event_json, time_filled=False)


class Placement(enum.Enum):
    """The outcome of an append: new, there already, or refused.

    Refused: its id has another event, or the event with its id can't be read or was pruned.
    Released: it is in an archive, and was not fetched before; the request must be made again.
    Later: a later commit compares it with the event that has its id.
    """

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    DAMAGED = "damaged"
    PRUNED = "pruned"
    RELEASED = "released"
    LATER = "later"


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """The place of an entry. `leaf` is as stored there, empty when that is damaged or pruned."""

    placement: Placement
    leaf_index: int
    leaf: bytes


class LogWriter:
    """Owns the write transactions of a log, on the thread that calls it.

    Opening reads the right edge back from disk, and fails when it disagrees with itself or with the
    last published checkpoint. `head` is the durable head, after the last commit that returned.
    """

    _edge: GrowingTiles
    _root_hash: Hash

    def __init__(self, store: LogStore, lock: FileLock) -> None:
        self.store = store
        self._lock = lock
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        self._recover()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        map_bytes: int = MAP_BYTES_DEFAULT,
        elsewhere: Elsewhere | None = None,
    ) -> Self:
        """Open a log for writing. `elsewhere` reads its released entries.

        Raises: UnavailableError when another process writes it, VerificationError when what is
        stored disagrees with what was signed.
        """
        if not path.is_dir():
            # No lock file in a folder that isn't ours: this raises the error that a reader gets.
            LogStore.open(path)
        with ExitStack() as opened:
            lock = opened.enter_context(lock_for_writing(path))
            store = LogStore.open(path, readonly=False, map_bytes=map_bytes, elsewhere=elsewhere)
            opened.callback(store.close)
            writer = cls(store, lock)
            writer._index_token_events()
            opened.pop_all()
        return writer

    def _index_token_events(self) -> None:
        """Find the events about tokens once, in a log that version 0.1 wrote."""
        if self.store.environment.get(keyspace.META, keyspace.META_TOKEN_EVENTS) is None:
            found = find_token_events(self.store)
            with self.store.environment.write() as transaction:
                transaction.put(keyspace.META, keyspace.META_TOKEN_EVENTS, found)

    def close(self) -> None:
        self.store.close()
        self._lock.release()

    def commit(
        self,
        entries: Sequence[NewEntry],
        *,
        checkpoints: Sequence[tuple[int, str]] = (),
        expected: TreeHead | None = None,
        is_limited: bool = False,
    ) -> list[AppendResult]:
        """Place entries in order, and store checkpoints that are about to be published.

        `checkpoints`: tree size and signed note of each. One result for each entry.
        `is_limited`: it is `LATER` once much was read of entries whose ids come again.
        When this returns, all of it is on the disk.
        Raises: as `Environment.write`; VerificationError, with nothing stored, when the tree
        afterwards isn't the `expected` one.
        Cost: two node hashes and two point writes an entry, and one sync.
        """
        with self._writing() as transaction:
            placed = self._place(transaction, entries, is_limited=is_limited)
            if expected is not None:
                _check_tree(placed, TreeHead(self._edge.size, self._root_hash), expected)
            for tree_size, note in checkpoints:
                store_head(transaction, tree_size, note)
            if checkpoints:
                # Old heads stay while the time of one can't be read.
                with suppress(DamagedBundleError, ReleasedError, FetchFailedError):
                    thin_heads(
                        transaction,
                        partial(self._received_unix_s, transaction),
                        minimum_index=self.store.minimum_index,
                    )
        return placed

    def release(self, prepared: PreparedRelease) -> None:
        """Remove entries from this disk that an archive has. Raises: as `Environment.write`.

        The rows and the end of what is released change in one transaction: after a crash, either
        the bundles are here, or the log says where they are.
        """
        with self._writing() as transaction:
            store_release(transaction, prepared, tree_size=self.head.tree_size)

    @contextmanager
    def _writing(self) -> Iterator[Transaction[bytes]]:
        """A write transaction, and then the head that it made. Raises: as `Environment.write`."""
        try:
            with self.store.environment.write() as transaction:
                self._check_alone(transaction)
                yield transaction
        except CommitFailedError:
            raise
        except BaseException:
            # The transaction was undone, but the edge in memory has counted its entries already.
            self._recover()
            raise
        self.head = TreeHead(self._edge.size, self._root_hash)

    def _received_unix_s(self, transaction: Transaction[bytes], leaf_index: int) -> int:
        if (released_s := head_time(transaction, leaf_index + 1)) is not None:
            return released_s
        leaf = self.store.leaf_in(transaction, leaf_index)
        if leaf is None:
            raise CorruptedError(f"entry {leaf_index} is missing")
        return parse_time(decode_view(leaf).received.time) // MICROSECONDS

    def _check_alone(self, transaction: Transaction[bytes]) -> None:
        """Fail when somebody removed the lock file and another process has written since."""
        tree = transaction.require(keyspace.META, keyspace.META_TREE)
        stored = TreeHead(*keyspace.decode_tree(tree))
        if stored != self.head:
            raise CommitFailedError(
                f"another process writes {self.store.path}: its head has size {stored.tree_size}, "
                f"the head of this process {self.head.tree_size}; stop one and restart the other"
            )

    def _recover(self) -> None:
        """Read the right edge from disk: at start, and after a transaction that was undone."""
        check_right_edge(self.store)
        self.head = head = self.store.head()
        self._root_hash = head.root_hash
        partial_tiles = partial_tile_bytes(self.store, head)
        self._edge = GrowingTiles.restore(size=head.tree_size, partial_tiles=partial_tiles)
        first = head.tree_size - head.tree_size % TILE_WIDTH
        self._open_leaves: list[bytes] = []
        for leaf_index in range(first, head.tree_size):
            leaf = self.store.leaf(leaf_index)
            if leaf is None:
                raise CommitFailedError(f"entry {leaf_index} of the open bundle is missing")
            self._open_leaves.append(leaf)

    def _place(
        self, transaction: Transaction[bytes], entries: Sequence[NewEntry], *, is_limited: bool
    ) -> list[AppendResult]:
        next_index = self._edge.size
        rows = [
            (entry.id_bytes, keyspace.encode_u64(index))
            for index, entry in enumerate(entries, next_index)
        ]
        if len(rows) > 1 and transaction.claim_all(keyspace.IDS, rows):
            self._append(transaction, entries)
            return [
                AppendResult(Placement.APPENDED, index, entry.leaf)
                for index, entry in enumerate(entries, next_index)
            ]
        placed: list[AppendResult] = []
        fresh: list[NewEntry] = []
        earlier = EarlierEntries(self.store, tree_size=self._edge.size, is_limited=is_limited)
        for entry in entries:
            earlier.begin()
            try:
                leaf_index, leaf = self._claim(transaction, entry, entry.id_bytes, fresh, earlier)
                if leaf_index != next_index:
                    tenant = parse_leaf(entry.leaf).event.tenant or None
                    if self._is_of_another(transaction, entry.id_bytes, leaf, tenant):
                        key = tenant_id_key(entry.id_bytes, tenant)
                        leaf_index, leaf = self._claim(transaction, entry, key, fresh, earlier)
            except NoRoomError as error:
                placed.append(AppendResult(Placement.LATER, error.leaf_index, b""))
                continue
            if leaf_index < self.store.minimum_index:
                # Whether it is that event can't be told, and no id ever names two events.
                placement = Placement.PRUNED
            elif leaf_index == next_index:
                placement = Placement.APPENDED
                fresh.append(entry)
                next_index += 1
            elif leaf is None:
                placement = Placement.RELEASED
            elif not leaf:
                placement = Placement.DAMAGED
            else:
                same = is_same_event(leaf, entry.event_json, ignore_time=entry.time_filled)
                placement = Placement.DUPLICATE if same else Placement.CONFLICT
            placed.append(AppendResult(placement, leaf_index, leaf or b""))
        if fresh:
            self._append(transaction, fresh)
        return placed

    def _is_of_another(
        self,
        transaction: Transaction[bytes],
        id_bytes: bytes,
        leaf: bytes | None,
        tenant: str | None,
    ) -> bool:
        """Whether the event that has an id is known to be of another tenant than this one."""
        if leaf:
            return (parse_leaf(leaf).event.tenant or None) != tenant
        row = decode_id_row(transaction.require(keyspace.IDS, id_bytes))
        is_pruned = row.leaf_index < self.store.minimum_index
        return is_pruned and row.mark != tenant_mark(tenant)

    def _claim(
        self,
        transaction: Transaction[bytes],
        entry: NewEntry,
        key: bytes,
        fresh: Sequence[NewEntry],
        earlier: EarlierEntries,
    ) -> tuple[int, bytes | None]:
        """Give a new id the next index, behind the `fresh` entries; the index and leaf that it has.

        The leaf is empty when it was pruned, or its bundle is damaged, which the store has logged.
        It is None when it was released, and nobody has fetched it: a commit waits for no bucket.
        It looks the id up and stores it in one call; the next entries of the batch see it.
        Raises: NoRoomError.
        """
        next_index = self._edge.size + len(fresh)
        if transaction.claim(keyspace.IDS, key, keyspace.encode_u64(next_index)):
            return next_index, entry.leaf
        leaf_index = decode_id_row(transaction.require(keyspace.IDS, key)).leaf_index
        if (offset := leaf_index - self._edge.size) >= 0:
            earlier.spend(leaf_index, len(fresh[offset].leaf))
            return leaf_index, fresh[offset].leaf
        try:
            leaf = earlier.leaf(transaction, leaf_index)
        except UNREADABLE:
            return leaf_index, b""
        except (ReleasedError, FetchFailedError):
            return leaf_index, None
        if leaf is None:
            raise CorruptedError(f"entry {leaf_index} is missing")
        return leaf_index, leaf

    def _append(self, transaction: Transaction[bytes], fresh: Sequence[NewEntry]) -> None:
        before = self._edge.size
        self._grow(transaction, [e.leaf for e in fresh], [e.leaf_hash for e in fresh])
        found = b"".join(
            keyspace.encode_u64(leaf_index)
            for leaf_index, entry in enumerate(fresh, before)
            if TOKEN_ACTION in entry.leaf and read_token_event(entry.leaf) is not None
        )
        if found:
            known = transaction.get(keyspace.META, keyspace.META_TOKEN_EVENTS) or b""
            transaction.put(keyspace.META, keyspace.META_TOKEN_EVENTS, known + found)

    def _grow(
        self, transaction: Transaction[bytes], leaves: Sequence[bytes], leaf_hashes: Sequence[Hash]
    ) -> None:
        """Store entries, the tiles that they change, and the head that they make."""
        stored_before = len(self._open_leaves)
        first_open = self._edge.size - stored_before
        self._write_entries(transaction, first_open, stored_before, leaves)
        for tile in self._edge.extend(leaf_hashes):
            _put_tile(transaction, tile.coord, tile.rows)
        grown = self._edge.size
        before = grown - len(leaves)
        for level in range(self._edge.levels):
            # A level whose hashes did not change keeps its row, so that a small commit stays small.
            if grown >> (8 * level) == before >> (8 * level):
                break
            coord, hashes = self._edge.partial_tile(level)
            if hashes:
                _put_tile(transaction, coord, hashes)
        self._root_hash = self._edge.root()
        tree = keyspace.encode_tree(tree_size=grown, root_hash=self._root_hash)
        transaction.put(keyspace.META, keyspace.META_TREE, tree)

    def _write_entries(
        self, transaction: Transaction[bytes], first_open: int, stored: int, leaves: Sequence[bytes]
    ) -> None:
        """Bundles for what fills one, rows for the rest. `stored` rows of the open bundle exist."""
        pending = [*self._open_leaves, *leaves]
        whole = len(pending) - len(pending) % TILE_WIDTH
        for start in range(0, whole, TILE_WIDTH):
            frame = self._compressor.compress(encode_bundle(pending[start : start + TILE_WIDTH]))
            key = keyspace.bundle_key((first_open + start) // TILE_WIDTH)
            transaction.put(keyspace.ENTRIES, key, frame, append=True)
        if whole:
            transaction.delete_from(keyspace.ENTRIES, keyspace.open_entry_key(first_open), stored)
        # A row that is stored already is not written again.
        new = range(whole or stored, len(pending))
        transaction.put_all(
            keyspace.ENTRIES,
            [(keyspace.open_entry_key(first_open + offset), pending[offset]) for offset in new],
        )
        self._open_leaves = pending[whole:]


def _check_tree(placed: Sequence[AppendResult], got: TreeHead, want: TreeHead) -> None:
    """Check that entries of another log made its tree. Raises: VerificationError."""
    if got == want:
        return
    for each in placed:
        if each.placement is not Placement.APPENDED:
            raise VerificationError(
                f"the log committed to an id twice: entry {each.leaf_index} has it already"
            )
    raise VerificationError(
        f"the entries do not make the tree of size {want.tree_size} with the root "
        f"{want.root_hash.hex()}"
    )


def _put_tile(transaction: Transaction[bytes], coord: TileCoord, value: bytes) -> None:
    key = keyspace.tile_key(level=coord.level, index=coord.index)
    transaction.put(keyspace.TILES, key, value)
