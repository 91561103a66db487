"""The log of an archive, read object by object under one head that was verified.

Two views share their state: one for threads, which waits for the bucket, and one for the event
loop, which raises `NotFetchedError` instead. Every tile is authenticated by the root of the head
and every bundle by its tile, each time that one is read, from the bucket or from the cache. What
isn't of the tree is dropped, never served.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ledger.archive.ids import id_of
from ledger.object_storage.fetching import Objects, Obtain, Part, read_parts
from ledger.object_storage.objects import packed_bytes_max, unpack
from ledger.reader.id_tables import ArchivedIds, IdTable
from ledger.store.log import DamagedBundleError
from ledger.store.minimum_index import Pruning
from ledger.store.stored_log import DamagedObjectError
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, Hash, leaf_hashes
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.prove import Plan, finish, plan_consistency
from ledger_core.tlog.tile import (
    TILE_HEIGHT,
    TILE_WIDTH,
    TileRef,
    decode_bundle,
    encode_bundle,
    tile_width,
)
from ledger_core.tlog.tiled_tree import TiledTree
from ledger_core.tlog.tree import Node, TreeHead, decompose, fold_right

TENANTS_MAX: Final = 256
"""Events with one id, each another tenant's, that a look-up finds."""


@dataclass(frozen=True, slots=True)
class ArchivedHead:
    """A verified head, and the tiles at the right edge of its tree, authenticated."""

    verified: VerifiedHead
    signed: SignedCheckpoint
    edge: Mapping[TileRef, bytes]


class ArchiveState:
    """The state that all views of an archive share. The event loop replaces `current`."""

    def __init__(self, objects: Objects, origin: str) -> None:
        self.objects: Final = objects
        self.origin: Final = origin
        self.ids: Final = ArchivedIds()
        self.current: ArchivedHead | None = None
        self.damaged: dict[int, str] = {}
        """Why bundles were damaged when they were read last, by number."""


class ArchivedLog:
    """A view of an archive as a `StoredLog`. Methods that read raise, beside what `obtain` does,
    FetchFailedError and DamagedObjectError.
    """

    pruning: Final[Pruning | None] = None
    minimum_index: Final = 0
    """An archive keeps what its ledger has removed."""

    def __init__(self, state: ArchiveState, obtain: Obtain) -> None:
        self._state: Final = state
        self._obtain: Final = obtain

    def local_start(self) -> int:
        """See `StoredLog`: the bucket has all entries."""
        return self.head().tree_size

    def bundle_bytes(self, index: int) -> int:  # noqa: ARG002 - of `StoredLog`
        """See `StoredLog`: none is on this disk."""
        return 0

    def origin(self) -> str:
        """The name of the log."""
        return self._state.origin

    def head(self) -> TreeHead:
        """The head that is served: an empty one before the first was read."""
        current = self._state.current
        return TreeHead(0, EMPTY_ROOT_HASH) if current is None else current.verified.checkpoint.head

    def expect(self, bundles: Sequence[int]) -> None:
        """Fetch, in parallel, the bundles that are read next, and the tiles that verify them."""
        current = self._state.current
        if current is None or len(bundles) < 2:  # noqa: PLR2004 - one is fetched when it is read
            return
        size = current.verified.checkpoint.tree_size
        refs = [
            TileRef(None, each, width)
            for each in bundles
            if (width := tile_width(level=0, index=each, tree_size=size))
        ]
        tree = TiledTree(current.verified, tiles=current.edge)
        refs += tree.plan(tree.bundle_nodes(ref.index for ref in refs))
        objects = self._state.objects
        missing = [part for part in map(part_of, refs) if objects.held(part) is None]
        if missing:
            with suppress(DamagedObjectError):  # It is read again by itself, and then named.
                self._obtain(objects, missing)

    def leaf(self, leaf_index: int) -> bytes | None:
        """The leaf at an index, None past the end. Raises: DamagedBundleError."""
        size = self.head().tree_size
        if not 0 <= leaf_index < size:
            return None
        index, offset = divmod(leaf_index, TILE_WIDTH)
        return self._leaves(index)[offset]

    def indices_of(self, id_bytes: bytes, tenant: str | None) -> Sequence[int | None]:  # noqa: ARG002
        """The indices of the events with an id, of any tenant; None for none."""
        return self.indices_between(low=id_bytes, last=id_bytes, most=TENANTS_MAX) or [None]

    def index_for(self, id_bytes: bytes, tenant: str | None) -> int | None:
        """The index of the event with an id that belongs to this tenant, or to none."""
        for index in self.indices_of(id_bytes, tenant):
            leaf = None if index is None else self.leaf(index)
            if leaf is not None and (parse_leaf(leaf).event.tenant or None) == tenant:
                return index
        return None

    def indices_between(self, *, low: bytes, last: bytes, most: int) -> list[int] | None:
        """The indices of the events with ids from `low` to `last`; None for more than `most`."""
        ids = self._state.ids.snapshot()
        found = ids.open_between(low, last)
        size = self.head().tree_size
        for tables in ids.tables_for(low, last):
            told = self._find_ids(tables, low=low, last=last, most=most + 1)
            found += [each for each in told if each < size and self._may_have_id(each, low, last)]
            if len(found) > most:
                return None
        size = self.head().tree_size
        if not found:
            ids.check_known()
        # An id may be in a table and in memory.
        return sorted({index for index in found if index < size})

    def node_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        """The hashes of complete subtrees. Precondition: they lie within the head."""
        if not nodes:
            return []
        tree = self._tree(nodes)
        return [tree.hash(node) for node in nodes]

    def prove(self, plan: Plan, proven: Sequence[Node], head: TreeHead) -> tuple[Hash, ...]:  # noqa: ARG002
        """The proof of a plan. All hashes that it reads are of the verified tree."""
        return finish(plan, self.node_hashes(plan.nodes))

    def prove_consistency(self, old_size: int, head: TreeHead) -> tuple[Hash, ...]:
        """Prove that the tree of `head` begins with the first leaves."""
        plan = plan_consistency(old_size=old_size, new_size=head.tree_size)
        return self.prove(plan, (), head) if plan.nodes else ()

    def head_at(self, tree_size: int) -> TreeHead:
        """The head of the first `tree_size` leaves."""
        return TreeHead(tree_size, fold_right(self.node_hashes(decompose(0, tree_size))))

    def tile(self, *, level: int, index: int, width: int) -> bytes | None:
        """The first `width` hashes of a tile; None when it has fewer."""
        size = self.head().tree_size
        if tile_width(level=level, index=index, tree_size=size) < width:
            return None
        first = index * TILE_WIDTH
        nodes = [Node(TILE_HEIGHT * level, each) for each in range(first, first + width)]
        return b"".join(self.node_hashes(nodes))

    def bundle(self, *, index: int, width: int) -> bytes | None:
        """The first `width` entries of a bundle, each behind its length; None when it has fewer.

        Raises: DamagedBundleError.
        """
        if tile_width(level=0, index=index, tree_size=self.head().tree_size) < width:
            return None
        return encode_bundle(self._leaves(index)[:width])

    def published(self, tree_size: int | None = None) -> SignedCheckpoint | None:
        """The head that is served, if it has this size: an archive keeps no other."""
        current = self._state.current
        if current is None:
            return None
        signed = current.signed
        return signed if tree_size in (None, signed.head.tree_size) else None

    def kept_heads(self, *, start: int, most: int) -> list[SignedCheckpoint]:
        """The head that is served, if it is so large."""
        signed = self.published()
        return [signed][:most] if signed is not None and signed.head.tree_size >= start else []

    def damaged_bundles(self) -> Sequence[DamagedBundleError]:
        """The bundles that were damaged or missing when they were read last, in order."""
        return [DamagedBundleError(*each) for each in sorted(self._state.damaged.copy().items())]

    def damaged(self, bundle: int, reason: str) -> DamagedBundleError:
        """The error that a bundle is damaged, which is remembered until it is read as a whole."""
        self._state.damaged[bundle] = reason
        return DamagedBundleError(bundle, reason)

    def fill_ratio(self) -> float:
        """The used part of the cache."""
        cache = self._state.objects.cache
        return cache.bytes_used / cache.bytes_max

    def _find_ids(
        self, tables: Sequence[IdTable], *, low: bytes, last: bytes, most: int
    ) -> list[int]:
        """The indices of ids in the tables of one segment, of which one must be whole.

        Raises: DamagedObjectError.
        """
        found: list[int] = []
        damaged: list[DamagedObjectError] = []
        for table in tables:
            try:
                (data,) = self._read([table.part])
                places = table.find(data, low=low, last=last, most=most)
            except DamagedObjectError as error:
                damaged.append(error)
            except MalformedError as error:
                self._state.objects.drop([table.part])
                damaged.append(DamagedObjectError(str(error)))
            else:
                self._state.objects.keep(table.part, data)
                found += [table.start + place for place in places]
        if len(damaged) == len(tables):
            raise damaged[0]
        return found

    def _may_have_id(self, index: int, low: bytes, last: bytes) -> bool:
        """Whether an entry has an id of a range: a table that says so is no evidence."""
        try:
            leaf = self.leaf(index)
        except DamagedBundleError:
            return True  # Whoever reads the entry says that it can't be read.
        return leaf is not None and low <= id_of(leaf) <= last

    def _leaves(self, index: int) -> list[bytes]:
        """The leaves of a bundle, verified. Raises: DamagedBundleError."""
        try:
            leaves = self._verified_leaves(index)
        except DamagedObjectError as error:
            raise self.damaged(index, str(error)) from None
        self._state.damaged.pop(index, None)
        return leaves

    def _verified_leaves(self, index: int) -> list[bytes]:
        current = self._head()
        size = current.verified.checkpoint.tree_size
        ref = TileRef(None, index, tile_width(level=0, index=index, tree_size=size))
        tree = self._tree(TiledTree(current.verified).bundle_nodes([index]), current)
        part = part_of(ref)
        (data,) = self._read([part])
        try:
            leaves = _decode(ref, data)
            tree.check_bundle(index, leaf_hashes(leaves))
        except (MalformedError, VerificationError) as error:
            self._state.objects.drop([part])
            raise DamagedObjectError(f"{ref.path} is damaged: {error}") from None
        self._state.objects.keep(part, data)
        return leaves

    def _tree(self, nodes: Sequence[Node], current: ArchivedHead | None = None) -> TiledTree:
        """The tree with the tiles for some nodes, authenticated."""
        current = current or self._head()
        return authenticate(self._state.objects, current, nodes, self._read)

    def _head(self) -> ArchivedHead:
        if self._state.current is None:
            raise ValueError("nothing lies within an empty tree")
        return self._state.current

    def _read(self, parts: Sequence[Part]) -> list[bytes]:
        """The bytes of parts, unverified."""
        return read_parts(self._state.objects, parts, self._obtain)


def authenticate(
    objects: Objects,
    head: ArchivedHead,
    nodes: Sequence[Node],
    read: Callable[[Sequence[Part]], list[bytes]],
) -> TiledTree:
    """The tree of a head with the tiles for some nodes; they are kept once they are authenticated.

    Raises: DamagedObjectError naming a tile; what `read` raises.
    """
    tree = TiledTree(head.verified, tiles=head.edge)
    refs = tree.plan(nodes)
    parts = [part_of(ref) for ref in refs]
    tiles = read(parts) if parts else []
    try:
        tree.finish(nodes, dict(zip(refs, tiles, strict=True)))
    except (VerificationError, MalformedError) as error:
        objects.drop(parts)
        raise DamagedObjectError(str(error)) from None
    for part, data in zip(parts, tiles, strict=True):
        objects.keep(part, data)
    return tree


def _decode(ref: TileRef, data: bytes) -> list[bytes]:
    """The entries of a bundle as wide as its name says. Raises: MalformedError."""
    leaves = decode_bundle(unpack(ref, data))
    if len(leaves) != ref.width:
        raise MalformedError(f"it has {len(leaves)} entries, want {ref.width}")
    return leaves


def part_of(ref: TileRef) -> Part:
    """The object of a tile or a bundle."""
    return Part(ref.path, packed_bytes_max(ref))
