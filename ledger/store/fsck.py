"""fsck recomputes a whole log from its stored bytes and names the first thing that is wrong.

It makes one pass over the entries, in order, in one reader's snapshot, so it can run beside a live
service. It decodes and hashes each leaf again and compares the tiles of those hashes with the
stored ones, byte for byte. Each id must lead to its entry, and the root must be the head's. Each
checkpoint that is kept must have the log's signature, and the root that the tree had at its size.

Of entries that were pruned, the leaf hashes in their tiles stand for them: the root of the head is
made of these, so a changed one is found. Of their ids only the number is checked. So it is with
entries that were released to an archive, unless `reads_archive`: then they are read from there.

Memory does not grow with the log: checkpoints are read as the pass comes to their sizes.
`is_strict` parses each leaf as a verifier does, which takes four times as long; the hashes show any
change that came later.

It checks the log alone. `ledger/service/fsck.py` checks the other parts against it, in the same
pass: `visit` gets every leaf.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from ledger.store import keyspace
from ledger.store.id_rows import decode_id_row, tenant_id_key
from ledger.store.log import LogStore
from ledger.store.pages import check_pages
from ledger.store.released import read_release
from ledger.store.transaction import Transaction
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.growing_tiles import GrowingTiles
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hashes
from ledger_core.tlog.note import NoteVerifier, verify_note
from ledger_core.tlog.tile import FULL_TILE_HASHES, TILE_WIDTH, stored_offset
from ledger_core.tlog.tree import TreeHead


class _Event(msgspec.Struct, gc=False):
    id: str
    tenant: str | None = None


class _Received(msgspec.Struct, gc=False):
    time: str


class _Leaf(msgspec.Struct, gc=False):
    event: _Event
    received: _Received
    v: Literal[1]


_decode_leaf = msgspec.json.Decoder(_Leaf).decode
_FORM: Final = "00000000-0000-0000-0000-000000000000 "
_ZERO_DIGITS: Final = str.maketrans("123456789abcdef", "0" * 15)
_ID_BYTES: Final = 16


Visit = Callable[[int, Sequence[bytes]], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """The contents of a log that passed."""

    head: TreeHead
    tiles: int
    checkpoints: int


def check_store(
    store: LogStore,
    *,
    log_keys: Sequence[NoteVerifier],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    visit: Visit | None = None,
    is_strict: bool = False,
    reads_archive: bool = False,
) -> Checked:
    """Check a log. `progress` gets the number of entries that are done, and of all.

    `visit` gets every leaf, a bundle at a time and in order, with the index of the first.
    Raises: VerificationError or MalformedError that names the first wrong thing.
    Cost: reads the whole log; memory for one bundle, and bits for the pages of the file.
    """
    check_pages(store.environment)
    with store.environment.read() as transaction:
        return _Pass(store, transaction, log_keys, progress, visit, is_strict, reads_archive).run()


@dataclass(slots=True)
class _Pass:
    """One pass over one snapshot. `received` is the time of the entry before."""

    store: LogStore
    transaction: Transaction[bytes]
    log_keys: Sequence[NoteVerifier]
    progress: Callable[[int, int], None]
    visit: Visit | None
    is_strict: bool
    reads_archive: bool
    tiles: int = 0
    checkpoints: int = 0
    received: str = ""

    def run(self) -> Checked:
        tree = self.transaction.require(keyspace.META, keyspace.META_TREE)
        head = TreeHead(*keyspace.decode_tree(tree))
        with self.transaction.cursor(keyspace.CHECKPOINTS) as cursor:
            if cursor.last() and keyspace.decode_u64(cursor.key()) > head.tree_size:
                raise VerificationError(
                    f"a head of size {keyspace.decode_u64(cursor.key())} was signed, "
                    f"the log ends at {head.tree_size}"
                )
        self._check_entries(head)
        self._check_counts(head)
        return Checked(head, self.tiles, self.checkpoints)

    def _check_entries(self, head: TreeHead) -> None:
        edge = GrowingTiles()
        checkpoints = self._read_checkpoints()
        due = next(checkpoints, None)
        while due is not None and due[0] == 0:
            _check_root(edge, due)
            due = next(checkpoints, None)
        for first, hashes in self._hashes(head.tree_size):
            start, end = first, first + len(hashes)
            while start < end:
                stop = end if due is None else min(due[0], end)
                for tile in edge.extend(hashes[start - first : stop - first]):
                    self._check_tile(tile.coord.level, tile.coord.index, tile.rows)
                start = stop
                while due is not None and due[0] == stop:
                    _check_root(edge, due)
                    due = next(checkpoints, None)
            self.progress(end, head.tree_size)
        for level in range(edge.levels):
            coord, partial = edge.partial_tile(level)
            if partial:
                self._check_tile(level, coord.index, partial)
        if edge.root() != head.root_hash:
            raise VerificationError(
                f"the entries give the root {edge.root().hex()}, the head of size "
                f"{head.tree_size} says {head.root_hash.hex()}"
            )

    def _hashes(self, tree_size: int) -> Iterator[tuple[int, list[Hash]]]:
        """The leaf hashes by bundle, each with the index of its first, once it was checked."""
        for index in range(self._local_start() // TILE_WIDTH):
            gone = "pruned" if index < self.store.minimum_index // TILE_WIDTH else "released"
            if self.transaction.get(keyspace.ENTRIES, keyspace.bundle_key(index)) is not None:
                raise VerificationError(f"bundle {index} was {gone}, and is there")
            if self.reads_archive and gone == "released":
                continue
            tile = self.transaction.get(keyspace.TILES, keyspace.tile_key(level=0, index=index))
            if tile is None or len(tile) != FULL_TILE_HASHES * HASH_BYTES:
                raise VerificationError(f"tile 0/{index} of {gone} entries is missing")
            places = range(0, TILE_WIDTH * HASH_BYTES, HASH_BYTES)
            yield index * TILE_WIDTH, [tile[place : place + HASH_BYTES] for place in places]
        for first, leaves in self._bundles(tree_size):
            self._check_bundle(first, leaves)
            if self.visit is not None:
                self.visit(first, leaves)
            yield first, leaf_hashes(leaves)

    def _bundles(self, tree_size: int) -> Iterator[tuple[int, list[bytes]]]:
        """The entries by bundle, each with the index of its first."""
        whole = tree_size // TILE_WIDTH
        local = self._local_start()
        if self.reads_archive:
            start = self.store.minimum_index
            for bundle in self.store.leaves_between(self.transaction, start, local):
                yield start, bundle
                start += len(bundle)
        for index in range(local // TILE_WIDTH, whole):
            leaves = self.store.full_bundle(self.transaction, index)
            if leaves is None:
                raise VerificationError(f"bundle {index} is missing")
            yield index * TILE_WIDTH, leaves
        leaves = []
        for leaf_index in range(whole * TILE_WIDTH, tree_size):
            leaf = self.transaction.get(keyspace.ENTRIES, keyspace.open_entry_key(leaf_index))
            if leaf is None:
                raise VerificationError(f"entry {leaf_index} is missing")
            leaves.append(leaf)
        if leaves:
            yield whole * TILE_WIDTH, leaves

    def _local_start(self) -> int:
        """The first entry that is on this disk, in the snapshot."""
        release = read_release(self.transaction)
        return max(self.store.minimum_index, 0 if release is None else release.end)

    def _check_bundle(self, first: int, leaves: list[bytes]) -> None:
        """Check consecutive entries together, and one by one where that fails, to name the first.

        Together they take half of the time.
        """
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            decoded = list(map(_decode_leaf, leaves))
            times = [self.received, *(each.received.time for each in decoded)]
            ids = "".join([f"{each.event.id} " for each in decoded])
            if not self.is_strict and times == sorted(times) and _are_ids(ids, len(leaves)):
                keys = bytes.fromhex(ids.replace("-", ""))
                with self.transaction.cursor(keyspace.IDS) as cursor:
                    found = cursor.getmulti(
                        [keys[at : at + _ID_BYTES] for at in range(0, len(keys), _ID_BYTES)]
                    )
                want = range(first, first + len(leaves))
                if [value for _, value in found] == list(map(keyspace.encode_u64, want)):
                    self.received = times[-1]
                    return
        for leaf_index, leaf in enumerate(leaves, first):
            self._check_entry(leaf_index, leaf)

    def _check_entry(self, leaf_index: int, leaf: bytes) -> None:
        try:
            if self.is_strict:
                parse_leaf(leaf)
            event_id, tenant, time = _decode(leaf)
        except (MalformedError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MalformedError(f"entry {leaf_index}: {error}") from error
        if time < self.received:
            raise VerificationError(
                f"entry {leaf_index} was received at {time}, "
                f"before the entry in front of it at {self.received}"
            )
        self.received = time
        id_bytes = bytes.fromhex(event_id.replace("-", ""))
        found = self.transaction.get(keyspace.IDS, id_bytes)
        want = keyspace.encode_u64(leaf_index)
        if found != want and found is not None:
            found = self.transaction.get(keyspace.IDS, tenant_id_key(id_bytes, tenant)) or found
        if found is None:
            raise VerificationError(f"entry {leaf_index}: its id leads nowhere")
        if found != want:
            raise VerificationError(
                f"entry {leaf_index}: its id leads to entry {decode_id_row(found).leaf_index}"
            )

    def _check_tile(self, level: int, index: int, want: bytes) -> None:
        self.tiles += 1
        got = self.transaction.get(keyspace.TILES, keyspace.tile_key(level=level, index=index))
        if got == want:
            return
        if got is None:
            raise VerificationError(f"tile {level}/{index} is missing")
        if len(got) != len(want):
            raise VerificationError(f"tile {level}/{index} has {len(got)} bytes, want {len(want)}")
        at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b) // HASH_BYTES
        # Each row has half the hashes of the row before, and the last one has one.
        row = FULL_TILE_HASHES.bit_length() - (FULL_TILE_HASHES - at).bit_length()
        offset = at - stored_offset(row, 0) // HASH_BYTES
        raise VerificationError(
            f"tile {level}/{index}, row {row}, hash {offset}: the entries give another hash"
        )

    def _read_checkpoints(self) -> Iterator[tuple[int, Hash]]:
        """The signed root of every checkpoint that is kept, by size."""
        for key, value in self.transaction.rows(keyspace.CHECKPOINTS):
            tree_size = keyspace.decode_u64(key)
            try:
                signed = parse_signed_checkpoint(value)
                verify_note(signed.as_note(), self.log_keys)
            except (MalformedError, VerificationError) as error:
                raise type(error)(f"checkpoint {tree_size}: {error}") from error
            checkpoint = signed.checkpoint
            if (checkpoint.origin, checkpoint.tree_size) != (self.store.origin(), tree_size):
                raise VerificationError(
                    f"checkpoint {tree_size} is one of {checkpoint.origin}, "
                    f"size {checkpoint.tree_size}"
                )
            self.checkpoints += 1
            yield tree_size, checkpoint.root_hash

    def _check_counts(self, head: TreeHead) -> None:
        """Check that the store has no rows beside those that the entries account for."""
        whole, rest = divmod(head.tree_size, TILE_WIDTH)
        gone = self._local_start() // TILE_WIDTH
        for name, want in (
            (keyspace.ENTRIES, whole + rest - gone),
            (keyspace.TILES, self.tiles),
            (keyspace.IDS, head.tree_size),
        ):
            got = self.transaction.count(name)
            if got != want:
                raise VerificationError(
                    f"the database {name.decode()} has {got} rows, the entries account for {want}"
                )


def _check_root(edge: GrowingTiles, checkpoint: tuple[int, Hash]) -> None:
    tree_size, root_hash = checkpoint
    if root_hash != edge.root():
        raise VerificationError(
            f"the checkpoint of size {tree_size} was signed with the root {root_hash.hex()}, "
            f"the entries give {edge.root().hex()}"
        )


def _decode(leaf: bytes) -> tuple[str, str | None, str]:
    """Id, tenant and time of receipt of a leaf. Raises: MalformedError, msgspec.MsgspecError."""
    decoded = _decode_leaf(leaf)
    if not _are_ids(f"{decoded.event.id} ", 1):
        raise MalformedError(f"{decoded.event.id!r} is not the id of an event")
    return decoded.event.id, decoded.event.tenant, decoded.received.time


def _are_ids(text: str, count: int) -> bool:
    """Whether a text is so many ids, a space behind each, in a sixth of the time of a regex."""
    return text.translate(_ZERO_DIGITS) == _FORM * count
