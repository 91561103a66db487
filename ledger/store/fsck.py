"""fsck recomputes a whole log from its stored bytes and names the first thing that is wrong.

It makes one pass over the entries, in order, in one reader's snapshot, so it can run beside a live
service. It parses and hashes each leaf again and compares the tiles of those hashes with the stored
ones, byte for byte. Each id must lead to its entry, and the root must be the head's. Each
checkpoint that was ever published must have the log's signature, and the root that the tree had at
its size.

It checks the log alone: tokens, erasable values and settings are not checked here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ledger.store import keyspace
from ledger.store.environment import Transaction
from ledger.store.log import LogStore, tenant_id_key
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.growing_tiles import GrowingTiles
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hash
from ledger_core.tlog.note import NoteVerifier, verify_note
from ledger_core.tlog.tile import FULL_TILE_HASHES, TILE_WIDTH, stored_offset
from ledger_core.tlog.tree import TreeHead


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
) -> Checked:
    """Check a log. `progress` gets the number of entries that are done, and of all.

    Raises: VerificationError or MalformedError that names the first wrong thing.
    Cost: reads the whole log; memory for one bundle, and 40 bytes a checkpoint.
    """
    with store.environment.read() as transaction:
        return _Pass(store, transaction, log_keys, progress).run()


@dataclass(slots=True)
class _Pass:
    """One pass over one snapshot. `received` is the time of the entry before."""

    store: LogStore
    transaction: Transaction[bytes]
    log_keys: Sequence[NoteVerifier]
    progress: Callable[[int, int], None]
    tiles: int = 0
    received: str = ""

    def run(self) -> Checked:
        tree = self.transaction.require(keyspace.META, keyspace.META_TREE)
        head = TreeHead(*keyspace.decode_tree(tree))
        checkpoints = self._read_checkpoints(head)
        self._check_entries(head, checkpoints)
        self._check_counts(head)
        return Checked(head, self.tiles, len(checkpoints))

    def _check_entries(self, head: TreeHead, checkpoints: dict[int, Hash]) -> None:
        edge = GrowingTiles()
        _check_root(edge, checkpoints)
        sizes = sorted(checkpoints.keys() | {head.tree_size})
        for first, leaves in self._bundles(head.tree_size):
            hashes = [self._check_entry(first + offset, leaf) for offset, leaf in enumerate(leaves)]
            end = first + len(leaves)
            stops = [first, *(size for size in sizes if first < size < end), end]
            for start, stop in pairwise(stops):
                for tile in edge.extend(hashes[start - first : stop - first]):
                    self._check_tile(tile.coord.level, tile.coord.index, tile.rows)
                _check_root(edge, checkpoints)
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

    def _bundles(self, tree_size: int) -> Iterator[tuple[int, list[bytes]]]:
        """The entries by bundle, each with the index of its first."""
        whole = tree_size // TILE_WIDTH
        for index in range(whole):
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

    def _check_entry(self, leaf_index: int, leaf: bytes) -> Hash:
        try:
            parsed = parse_leaf(leaf)
        except MalformedError as error:
            raise MalformedError(f"entry {leaf_index}: {error}") from error
        if parsed.received.time < self.received:
            raise VerificationError(
                f"entry {leaf_index} was received at {parsed.received.time}, "
                f"before the entry in front of it at {self.received}"
            )
        self.received = parsed.received.time
        id_bytes = bytes.fromhex(str(parsed.event.id).replace("-", ""))
        found = self.transaction.get(keyspace.IDS, id_bytes)
        if found is not None and keyspace.decode_u64(found) != leaf_index:
            own = tenant_id_key(id_bytes, parsed.event.tenant or None)
            found = self.transaction.get(keyspace.IDS, own) or found
        if found is None:
            raise VerificationError(f"entry {leaf_index}: its id leads nowhere")
        if keyspace.decode_u64(found) != leaf_index:
            raise VerificationError(
                f"entry {leaf_index}: its id leads to entry {keyspace.decode_u64(found)}"
            )
        return leaf_hash(leaf)

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

    def _read_checkpoints(self, head: TreeHead) -> dict[int, Hash]:
        """The signed root of every size that was published."""
        roots: dict[int, Hash] = {}
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
            if tree_size > head.tree_size:
                raise VerificationError(
                    f"a head of size {tree_size} was signed, the log ends at {head.tree_size}"
                )
            roots[tree_size] = checkpoint.root_hash
        return roots

    def _check_counts(self, head: TreeHead) -> None:
        """Check that the store has no rows beside those that the entries account for."""
        whole, rest = divmod(head.tree_size, TILE_WIDTH)
        for name, want in (
            (keyspace.ENTRIES, whole + rest),
            (keyspace.TILES, self.tiles),
            (keyspace.IDS, head.tree_size),
        ):
            got = self.transaction.count(name)
            if got != want:
                raise VerificationError(
                    f"the database {name.decode()} has {got} rows, the entries account for {want}"
                )


def _check_root(edge: GrowingTiles, checkpoints: dict[int, Hash]) -> None:
    root_hash = checkpoints.get(edge.size)
    if root_hash is not None and root_hash != edge.root():
        raise VerificationError(
            f"the checkpoint of size {edge.size} was signed with the root {root_hash.hex()}, "
            f"the entries give {edge.root().hex()}"
        )
