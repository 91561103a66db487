"""The log on disk: entries, tiles, ids and published checkpoints in one LMDB environment.

`LogStore` reads from any thread of the process that opened it. `LogWriter` (writer.py) is the only
writer and belongs to one thread. A commit is one LMDB transaction: the entries, the tiles that they
grow or fill, their ids and the new tree head become durable together or not at all.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from ledger.store import keyspace
from ledger.store.bundles import BUNDLE_BYTES_MAX as BUNDLE_BYTES_MAX
from ledger.store.bundles import UNREADABLE as UNREADABLE
from ledger.store.bundles import BundleReader
from ledger.store.damage import DamagedBundleError as DamagedBundleError
from ledger.store.damage import DamagedTreeError as DamagedTreeError
from ledger.store.environment import MAP_BYTES_DEFAULT, Environment, create_environment
from ledger.store.id_rows import decode_id_row, indices_between, tenant_id_key, tenant_mark
from ledger.store.kept_heads import kept_heads, latest_head
from ledger.store.minimum_index import PrunedError as PrunedError
from ledger.store.minimum_index import Pruning, read_pruning
from ledger.store.released import Elsewhere, Release, ReleasedError, read_release
from ledger.store.stored_log import FetchFailedError
from ledger.store.transaction import Transaction
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.growing_tiles import GrowingTile
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, HASH_BYTES, Hash
from ledger_core.tlog.prove import Plan, finish, plan_consistency, plan_range, root_of
from ledger_core.tlog.tile import (
    FULL_TILE_HASHES,
    TILE_WIDTH,
    TileCoord,
    encode_bundle,
    locate,
    stored_offset,
)
from ledger_core.tlog.tree import Node, TreeHead, decompose, fold_right, subtree_rows

FULL_TILE_BYTES = FULL_TILE_HASHES * HASH_BYTES
PUBLIC_TILE_BYTES = TILE_WIDTH * HASH_BYTES
DATABASES = (keyspace.ENTRIES, keyspace.TILES, keyspace.IDS, keyspace.CHECKPOINTS, keyspace.META)

NODES_AT_ONCE: Final = 2048
"""Nodes read under the lock of the store, on which acknowledgements wait: a few milliseconds."""
TILES_NAMED: Final = 5
TENANTS_KEPT_MAX: Final = 512
"""Bundles of which the tenants are kept in memory, once an id of them came again."""


class LogStore:
    """Reads the log. Every method is one short read transaction, from any thread."""

    def __init__(self, environment: Environment, elsewhere: Elsewhere | None = None) -> None:
        """`elsewhere` reads entries that were released from this disk; `close` closes it."""
        self.path = environment.path
        self.environment = environment
        self._elsewhere: Final = elsewhere
        self._tenants: dict[int, tuple[str | None, ...]] = {}
        # Inner hashes of tiles that grow; complete subtrees never change. Under the lock.
        self._growing: dict[TileCoord, GrowingTile] = {}
        self._lock = threading.Lock()
        with environment.read() as transaction:
            # It never changes while a process has the log open: pruning replaces the file.
            self.pruning: Final[Pruning | None] = read_pruning(transaction)
        self.minimum_index: Final = self.pruning.minimum_index if self.pruning else 0
        self._bundles: Final = BundleReader(environment, self.pruning, elsewhere)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        readonly: bool = True,
        map_bytes: int = MAP_BYTES_DEFAULT,
        elsewhere: Elsewhere | None = None,
    ) -> Self:
        """Open an existing log, whose released entries `elsewhere` reads.

        `ledger.object_storage.open_log` finds that by the folder. Raises: as `Environment.open`.
        """
        environment = Environment.open(path, DATABASES, readonly=readonly, map_bytes=map_bytes)
        return cls(environment, elsewhere)

    def close(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.close()
        self.environment.close()

    def release(self) -> Release | None:
        """What left this disk for an archive; None if nothing did. It may change at any time."""
        with self.environment.read() as transaction:
            return read_release(transaction)

    def local_start(self) -> int:
        """The first entry that is on this disk: neither pruned nor released."""
        release = self.release()
        return self.minimum_index if release is None else max(self.minimum_index, release.end)

    def origin(self) -> str:
        with self.environment.read() as transaction:
            return transaction.require(keyspace.META, keyspace.META_ORIGIN).decode()

    def head(self) -> TreeHead:
        """The durable tree head."""
        with self.environment.read() as transaction:
            return _stored_head(transaction)

    def leaf(self, leaf_index: int) -> bytes | None:
        """The leaf bytes at an index, or None past the end. Raises: as `UNREADABLE`."""
        return self._bundles.read(lambda transaction: self.leaf_in(transaction, leaf_index))

    def expect(self, bundles: Sequence[int]) -> None:
        """Fetch bundles that are read next, if they were released."""
        self._bundles.expect(bundles)

    async def fetch(self, bundles: Sequence[int]) -> None:
        """Fetch released bundles into memory. Raises: FetchFailedError, DamagedObjectError."""
        release = self.release()
        if release is not None and self._elsewhere is not None:
            await self._elsewhere.fetch(release.archive, bundles)

    def leaf_in(self, transaction: Transaction[bytes], leaf_index: int) -> bytes | None:
        """As `leaf`, in the caller's transaction. Raises: ReleasedError, it never waits."""
        leaves = self._bundles.leaves(transaction, (leaf_index,))
        return leaves[0] if leaves else None

    def bundle_in(self, transaction: Transaction[bytes], index: int) -> list[bytes] | None:
        """The leaves of a full bundle, in the caller's transaction. Raises: as `leaf_in`."""
        return self._bundles.full(transaction, index)

    def index_of(self, id_bytes: bytes) -> int | None:
        found = self.environment.get(keyspace.IDS, id_bytes)
        return None if found is None else decode_id_row(found).leaf_index

    def is_pruned_of(self, key: bytes, tenant: str | None) -> bool:
        """Whether the event of a key of ids was pruned, and was of this tenant; None: of none."""
        found = self.environment.get(keyspace.IDS, key)
        row = None if found is None else decode_id_row(found)
        return (
            row is not None
            and (row.leaf_index < self.minimum_index)
            and (row.mark == tenant_mark(tenant))
        )

    def indices_of(self, id_bytes: bytes, tenant: str | None) -> Iterator[int | None]:
        """The index of the first event with an id, then that of the tenant's own.

        Each is None where there is none, or another tenant's was removed.
        Raises: PrunedError for a removed event of the tenant.
        """
        for key in (id_bytes, tenant_id_key(id_bytes, tenant)):
            index = self.index_of(key)
            if self.pruning is not None and self.is_pruned_of(key, tenant):
                raise PrunedError(self.pruning)
            yield None if index is not None and index < self.minimum_index else index

    def index_for(self, id_bytes: bytes, tenant: str | None) -> int | None:
        """The index of the event with an id that belongs to this tenant, or to none.

        No append waits for an archive: a released event that isn't held here counts as theirs.
        """
        for key in (id_bytes, tenant_id_key(id_bytes, tenant)):
            index = self.index_of(key)
            if index is not None and index < self.minimum_index:
                if self.is_pruned_of(key, tenant):
                    return index
                continue
            try:
                if index is not None and self._tenant_of(index) == tenant:
                    return index
            except (ReleasedError, FetchFailedError):
                return index
        return None

    def _tenant_of(self, leaf_index: int) -> str | None:
        """The tenant of a stored event; no tenant's name if it isn't there. Raises: as `leaf_in`.

        Its bundle is read once: a request may name one of 16 MiB 10,000 times.
        """
        bundle, offset = divmod(leaf_index, TILE_WIDTH)
        tenants = self._tenants.get(bundle)
        if tenants is None:
            with self.environment.read() as transaction:
                leaves = self.bundle_in(transaction, bundle)
                if leaves is None:
                    leaf = self.leaf_in(transaction, leaf_index)
                    return "" if leaf is None else _tenant_in(leaf)
            tenants = tuple(map(_tenant_in, leaves))
            if len(self._tenants) >= TENANTS_KEPT_MAX:
                self._tenants.clear()
            self._tenants[bundle] = tenants
        return tenants[offset]

    def indices_between(self, *, low: bytes, last: bytes, most: int) -> list[int] | None:
        return indices_between(self.environment, low=low, last=last, most=most)

    def node_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        """The hashes of complete subtrees, in one read transaction.

        Precondition: every node lies within the durable tree.
        Cost: at most one point read a node; the inner hashes of partial tiles are kept.
        """
        with self._lock, self.environment.view() as transaction:
            return [self._node_hash(transaction, node) for node in nodes]

    def prove(self, plan: Plan, proven: Sequence[Node], head: TreeHead) -> tuple[Hash, ...]:
        """Read what a plan names, check it and assemble its proof.

        `proven`: the complete subtrees that are proved. With the nodes of the plan they make up the
        tree of `head`, which was signed or checked before; so no damaged hash gets into a proof.
        Precondition: head.tree_size <= the durable size, below which no node ever changes.
        Raises: DamagedTreeError. Cost: a point read and a hash for each node.
        """
        hashes = self._read_nodes(plan.nodes)
        self._check(dict(zip(plan.nodes, hashes, strict=True)), proven, head)
        return finish(plan, hashes)

    def prove_consistency(self, old_size: int, head: TreeHead) -> tuple[Hash, ...]:
        """Prove that the tree of `head` begins with the first leaves. Raises: as `prove`."""
        plan = plan_consistency(old_size=old_size, new_size=head.tree_size)
        return self.prove(plan, decompose(0, old_size), head) if plan.nodes else ()

    def root_at(self, tree_size: int) -> Hash:
        """The root hash of the first `tree_size` leaves, `0 <= tree_size <=` the durable size.

        Raises: DamagedTreeError when it is not a part of the durable tree.
        """
        head = self.head()
        nodes = decompose(0, tree_size)
        hashes = self._read_nodes(nodes)
        plan = plan_consistency(old_size=tree_size, new_size=head.tree_size)
        others = plan.nodes if tree_size else decompose(0, head.tree_size)
        self._check(dict(zip(nodes, hashes, strict=True)), others, head)
        return fold_right(hashes)

    def head_at(self, tree_size: int) -> TreeHead:
        """The head of the first `tree_size` leaves. Raises: as `root_at`."""
        return TreeHead(tree_size, self.root_at(tree_size))

    def tile(self, *, level: int, index: int, width: int) -> bytes | None:
        """The first `width` hashes of a tile as tlog-tiles serves them; None when it has fewer.

        Raises: DamagedTreeError for a full tile whose root is not that of its hashes, and for
        another one with hashes that are not those of the tree.
        Cost: at most 300 node hashes, 0.1 ms.
        """
        with self.environment.read() as transaction:
            stored = transaction.get(keyspace.TILES, keyspace.tile_key(level=level, index=index))
            head = _stored_head(transaction)
        if stored is None:
            return None
        public = stored[: min(width * HASH_BYTES, PUBLIC_TILE_BYTES)]
        if len(stored) != FULL_TILE_BYTES:
            self._check_partial_tile(stored, level, index, head)
        elif subtree_rows(stored[:PUBLIC_TILE_BYTES])[-1] != stored[-HASH_BYTES:]:
            raise DamagedTreeError(f"tile {level}/{index} is damaged")
        return public if len(public) == width * HASH_BYTES else None

    def bundle_bytes(self, index: int) -> int:
        """As `BundleReader.size`."""
        return self._bundles.size(index)

    def bundle(self, *, index: int, width: int) -> bytes | None:
        """The first `width` entries of a bundle, each behind its length; None when it has fewer."""
        if width == TILE_WIDTH:
            return self._bundles.read(lambda read: self._bundles.bundle(read, index))
        indices = range(index * TILE_WIDTH, index * TILE_WIDTH + width)
        leaves = self._bundles.read(lambda read: self._bundles.leaves(read, indices))
        return encode_bundle(leaves) if len(leaves) == width else None

    def published(self, tree_size: int | None = None) -> SignedCheckpoint | None:
        """The checkpoint that was published first with this size, if it is kept; or the latest."""
        if tree_size is None:
            with self.environment.read() as transaction:
                return latest_head(transaction)
        note = self.environment.get(keyspace.CHECKPOINTS, keyspace.encode_u64(tree_size))
        return None if note is None else parse_signed_checkpoint(note)

    def kept_heads(self, *, start: int, most: int) -> list[SignedCheckpoint]:
        """As `kept_heads.kept_heads`."""
        return kept_heads(self.environment, start=start, most=most)

    def fill_ratio(self) -> float:
        return self.environment.fill_ratio()

    def full_bundle(self, transaction: Transaction[bytes], index: int) -> list[bytes] | None:
        """The leaves of a full bundle, in the caller's transaction. Raises: MalformedError."""
        return self._bundles.full(transaction, index)

    def damaged_bundles(self) -> Sequence[DamagedBundleError]:
        """The bundles that proved damaged since the log was opened, in order."""
        return self._bundles.damaged_bundles()

    def damaged(self, bundle: int, reason: str) -> DamagedBundleError:
        """The error that a bundle is damaged, which is remembered, and logged the first time."""
        return self._bundles.damaged(bundle, reason)

    def leaves_between(
        self, transaction: Transaction[bytes], start: int, end: int
    ) -> Iterator[list[bytes]]:
        """The leaves `[start, end)`, a bundle's at a time. Raises: MalformedError for a hole.

        It waits for released ones within the transaction, 16 bundles at once.
        """
        return self._bundles.between(transaction, start, end)

    def _read_nodes(self, nodes: Sequence[Node]) -> list[Hash]:
        """As `node_hashes`; many of them in pieces, each a transaction."""
        hashes: list[Hash] = []
        for start in range(0, len(nodes), NODES_AT_ONCE):
            hashes += self.node_hashes(nodes[start : start + NODES_AT_ONCE])
        return hashes

    def _check(self, hashes: dict[Node, Hash], others: Sequence[Node], head: TreeHead) -> None:
        """Check that hashes and those of `others`, which it reads, are the tree of a head."""
        missing = [node for node in others if node not in hashes]
        hashes |= zip(missing, self._read_nodes(missing), strict=True)
        if root_of(hashes, head.tree_size) == head.root_hash:
            return
        tiles = sorted({locate(node)[0] for node in hashes})
        damaged = [f"{level}/{index}" for level, index in tiles if self._is_damaged(level, index)]
        raise DamagedTreeError(
            f"the hashes of the tree of size {head.tree_size} contradict its root: damaged "
            f"{'are the tiles ' + ', '.join(damaged[:TILES_NAMED]) if damaged else 'is a tile'}"
        )

    def _is_damaged(self, level: int, index: int) -> bool:
        """Whether a full tile contradicts itself."""
        stored = self.environment.get(keyspace.TILES, keyspace.tile_key(level=level, index=index))
        return stored is not None and len(stored) == FULL_TILE_BYTES and not _is_whole(stored)

    def _check_partial_tile(self, stored: bytes, level: int, index: int, head: TreeHead) -> None:
        found = [stored[at : at + HASH_BYTES] for at in range(0, len(stored), HASH_BYTES)]
        first = index * TILE_WIDTH
        nodes = [Node(8 * level, number) for number in range(first, first + len(found))]
        span = 1 << (8 * level)
        end = (first + len(found)) * span
        if not found or len(stored) % HASH_BYTES or end > head.tree_size:
            raise DamagedTreeError(
                f"tile {level}/{index} has {len(stored)} bytes: more or less than the tree of size "
                f"{head.tree_size} has there"
            )
        others = plan_range(start=first * span, end=end, tree_size=head.tree_size).nodes
        self._check(dict(zip(nodes, found, strict=True)), others, head)

    def _node_hash(self, transaction: Transaction[memoryview], node: Node) -> Hash:
        coord, row, offset = locate(node)
        growing = self._growing.get(coord)
        known = growing and growing.hash(row, offset)
        if known:
            return known
        tile = transaction.get(
            keyspace.TILES, keyspace.tile_key(level=coord.level, index=coord.index)
        )
        if tile is None:
            raise DamagedTreeError(f"tile {coord.level}/{coord.index} is missing")
        if len(tile) == FULL_TILE_BYTES:
            self._growing.pop(coord, None)
            start = stored_offset(row, offset)
            # Sliced before it is copied, and copied before the transaction ends.
            return bytes(tile[start : start + HASH_BYTES])
        if growing is None:
            growing = self._growing[coord] = GrowingTile(index=coord.index)
        growing.extend(bytes(tile[growing.width * HASH_BYTES :]))
        grown = growing.hash(row, offset)
        if grown is None:
            raise DamagedTreeError(
                f"tile {coord.level}/{coord.index} of width {growing.width} has no hash {offset} "
                f"in row {row}"
            )
        return grown


def _stored_head(transaction: Transaction[bytes]) -> TreeHead:
    return TreeHead(*keyspace.decode_tree(transaction.require(keyspace.META, keyspace.META_TREE)))


def _is_whole(tile: bytes) -> bool:
    """Whether all hashes of a full tile follow from its leaves."""
    return b"".join(subtree_rows(tile[:PUBLIC_TILE_BYTES])) == tile


def create_log(path: Path, *, origin: str, map_bytes: int = MAP_BYTES_DEFAULT) -> None:
    """Make an empty log in the folder `path`. Raises: as `create_environment`."""
    tree = keyspace.encode_tree(tree_size=0, root_hash=EMPTY_ROOT_HASH)
    meta = {
        keyspace.META_ORIGIN: origin.encode(),
        keyspace.META_TREE: tree,
        keyspace.META_TOKEN_EVENTS: b"",
    }
    create_environment(path, DATABASES, meta=meta, map_bytes=map_bytes)


def _tenant_in(leaf: bytes) -> str | None:
    return parse_leaf(leaf).event.tenant or None
