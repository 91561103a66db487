"""Recompute a whole log from its stored bytes and name the first thing that is wrong.

One pass over the entries, in order, by a reader's snapshot, so it can run beside a live service.
Every leaf is parsed and hashed again; the tiles that those hashes give are held against the stored
ones, byte for byte; every id must lead to its entry; the root must be the head's; every checkpoint
that was ever published must carry the log's signature and the root that the tree had at its size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import zstandard

from ledger.store import keyspace
from ledger.store.environment import Transaction
from ledger.store.log import BUNDLE_BYTES_MAX, LogStore
from ledger_core.event.canonical import Leaf, parse_leaf
from ledger_core.tlog.checkpoint import parse_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.growing_tiles import GrowingTiles
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash
from ledger_core.tlog.note import NoteVerifier, parse_note, verify_note
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle
from ledger_core.tlog.tree import TreeHead


@dataclass(frozen=True, slots=True)
class Checked:
    """What a log that passed holds."""

    head: TreeHead
    tiles: int
    checkpoints: int


def check_store(
    store: LogStore,
    *,
    log_keys: Sequence[NoteVerifier],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Checked:
    """Check everything. `progress` is told the entries done and their number.

    Raises: VerificationError or MalformedError that names the first wrong thing.
    Cost: reads the whole log; memory for one bundle.
    """
    with store.environment.read() as transaction:
        return _Pass(store, transaction, log_keys, progress).run()


class _Pass:
    """One pass over one snapshot."""

    def __init__(
        self,
        store: LogStore,
        transaction: Transaction[bytes],
        log_keys: Sequence[NoteVerifier],
        progress: Callable[[int, int], None],
    ) -> None:
        self._transaction = transaction
        self._log_keys = log_keys
        self._progress = progress
        self._origin = store.origin()
        self._tiles = 0
        self._received = ""

    def run(self) -> Checked:
        tree = self._transaction.require(keyspace.META, keyspace.META_TREE)
        head = TreeHead(*keyspace.decode_tree(tree))
        checkpoints = self._read_checkpoints(head)
        self._check_entries(head, checkpoints)
        self._check_counts(head)
        return Checked(head, self._tiles, len(checkpoints))

    def _check_entries(self, head: TreeHead, checkpoints: dict[int, bytes]) -> None:
        edge = GrowingTiles()
        self._check_root(edge, checkpoints)
        sizes = sorted(checkpoints.keys() | {head.tree_size})
        for first, leaves in self._bundles(head.tree_size):
            hashes = [self._check_entry(first + offset, leaf) for offset, leaf in enumerate(leaves)]
            end = first + len(leaves)
            stops = [first, *(size for size in sizes if first < size < end), end]
            for start, stop in pairwise(stops):
                for tile in edge.extend(hashes[start - first : stop - first]):
                    self._check_tile(tile.coord.level, tile.coord.index, tile.rows)
                self._check_root(edge, checkpoints)
            self._progress(end, head.tree_size)
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
        whole, rest = divmod(tree_size, TILE_WIDTH)
        for index in range(whole):
            frame = self._transaction.get(keyspace.ENTRIES, keyspace.bundle_key(index))
            if frame is None:
                raise VerificationError(f"bundle {index} is missing")
            try:
                data = zstandard.ZstdDecompressor().decompress(
                    frame, max_output_size=BUNDLE_BYTES_MAX
                )
                leaves = decode_bundle(data)
            except (zstandard.ZstdError, MalformedError) as error:
                raise MalformedError(f"bundle {index}: {error}") from error
            if len(leaves) != TILE_WIDTH:
                raise VerificationError(
                    f"bundle {index} holds {len(leaves)} entries, want {TILE_WIDTH}"
                )
            yield index * TILE_WIDTH, leaves
        first = whole * TILE_WIDTH
        rows = [
            self._transaction.get(keyspace.ENTRIES, keyspace.open_entry_key(leaf_index))
            for leaf_index in range(first, first + rest)
        ]
        if None in rows:
            raise VerificationError(f"entry {first + rows.index(None)} is missing")
        if rest:
            yield first, [row for row in rows if row is not None]

    def _check_entry(self, leaf_index: int, leaf: bytes) -> bytes:
        try:
            parsed: Leaf = parse_leaf(leaf)
        except MalformedError as error:
            raise MalformedError(f"entry {leaf_index}: {error}") from error
        if parsed.received.time < self._received:
            raise VerificationError(
                f"entry {leaf_index} was received at {parsed.received.time}, "
                f"before the entry in front of it at {self._received}"
            )
        self._received = parsed.received.time
        id_bytes = bytes.fromhex(str(parsed.event.id).replace("-", ""))
        found = self._transaction.get(keyspace.IDS, id_bytes)
        if found is None:
            raise VerificationError(f"entry {leaf_index}: its id leads nowhere")
        if keyspace.decode_u64(found) != leaf_index:
            raise VerificationError(
                f"entry {leaf_index}: its id leads to entry {keyspace.decode_u64(found)}"
            )
        return leaf_hash(leaf)

    def _check_tile(self, level: int, index: int, want: bytes) -> None:
        self._tiles += 1
        got = self._transaction.get(keyspace.TILES, keyspace.tile_key(level=level, index=index))
        if got == want:
            return
        if got is None:
            raise VerificationError(f"tile {level}/{index} is missing")
        if len(got) != len(want):
            raise VerificationError(f"tile {level}/{index} has {len(got)} bytes, want {len(want)}")
        wrong = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
        hash_index = wrong // HASH_BYTES
        row = 0
        width = TILE_WIDTH
        while hash_index >= width and width > 1:
            hash_index -= width
            width //= 2
            row += 1
        raise VerificationError(
            f"tile {level}/{index}, row {row}, hash {hash_index}: the entries give another hash"
        )

    def _check_root(self, edge: GrowingTiles, checkpoints: dict[int, bytes]) -> None:
        root_hash = checkpoints.get(edge.size)
        if root_hash is not None and root_hash != edge.root():
            raise VerificationError(
                f"the checkpoint of size {edge.size} was signed with the root {root_hash.hex()}, "
                f"the entries give {edge.root().hex()}"
            )

    def _read_checkpoints(self, head: TreeHead) -> dict[int, bytes]:
        """The signed root of every size that was published."""
        roots: dict[int, bytes] = {}
        with self._transaction.cursor(keyspace.CHECKPOINTS) as cursor:
            for key, value in cursor:
                tree_size = keyspace.decode_u64(key)
                try:
                    note = parse_note(value)
                    verify_note(note, self._log_keys)
                    checkpoint = parse_checkpoint(note.text)
                except (MalformedError, VerificationError) as error:
                    raise type(error)(f"checkpoint {tree_size}: {error}") from error
                if (checkpoint.origin, checkpoint.tree_size) != (self._origin, tree_size):
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
        """Nothing may lie in the store beside what the entries account for."""
        whole, rest = divmod(head.tree_size, TILE_WIDTH)
        for name, want in (
            (keyspace.ENTRIES, whole + rest),
            (keyspace.TILES, self._tiles),
            (keyspace.IDS, head.tree_size),
        ):
            got = self._transaction.count(name)
            if got != want:
                raise VerificationError(
                    f"the database {name.decode()} has {got} rows, the entries account for {want}"
                )
