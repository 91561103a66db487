"""The tree of one verified head, read tile by tile: plan, read, finish.

    bundles = bundles_under_tile(3, leaves_end=70_000)         # 3 to 255
    nodes = tree.bundle_nodes(bundles)
    tiles = {ref: read(ref) for ref in tree.plan(nodes)}       # the edge: one batch
    tree.finish(nodes, tiles)
    tree.check_bundle(3, leaf_hashes)                          # reads nothing, as for 4 to 255

Nothing here does I/O. A tile of level 1 has the roots of 256 entry bundles, so verifying 65,536
entries takes a tile or two more than reading them.

Source: c2sp.org/tlog-tiles.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tile import TILE_WIDTH, TileHashes, TileRef, authenticate_tiles, tiles_for
from ledger_core.tlog.tree import Node, decompose, subtree_rows


class TiledTree:
    """The tree of one verified head, as far as its tiles were read. Mutable; one reader's."""

    def __init__(self, head: VerifiedHead, *, tiles: Mapping[TileRef, bytes] | None = None) -> None:
        """`tiles` are those of a smaller tree that this one extends, so that none is read twice."""
        self._head: Final = head
        self.tiles = dict(tiles or {})
        """The tiles of the latest `finish`: it drops those that its nodes did not need."""
        self._hashes = TileHashes({})

    def plan(self, nodes: Iterable[Node]) -> tuple[TileRef, ...]:
        """The tiles to read before `finish` is called with the same nodes.

        Raises: ValueError for a node that the tree does not have.
        """
        needed = tiles_for(nodes, self._head.checkpoint.tree_size)
        return tuple(ref for ref in needed if ref not in self.tiles)

    def finish(self, nodes: Iterable[Node], tiles: Mapping[TileRef, bytes]) -> None:
        """Authenticate the tiles for these nodes; `tiles` are those that `plan` named.

        Cost: 255 node hashes a full tile. Raises: VerificationError with the head and the tiles,
        MalformedError for a tile that isn't as wide as its name says.
        """
        checkpoint = self._head.checkpoint
        known = {**self.tiles, **tiles}
        self.tiles = {ref: known[ref] for ref in tiles_for(nodes, checkpoint.tree_size)}
        try:
            self._hashes = authenticate_tiles(
                tree_size=checkpoint.tree_size, root_hash=checkpoint.root_hash, tiles=self.tiles
            )
        except VerificationError as error:
            raise VerificationError(str(error), evidence=self.evidence()) from error

    def hash(self, node: Node) -> Hash:
        """The hash of a node. Raises: ValueError when the latest `finish` did not cover it."""
        return self._hashes.hash(node)

    def bundle_nodes(self, bundles: Iterable[int]) -> tuple[Node, ...]:
        """The nodes that `check_bundle` compares for these bundles."""
        size = self._head.checkpoint.tree_size
        return tuple(
            node
            for first in (index * TILE_WIDTH for index in bundles)
            for node in decompose(first, min(first + TILE_WIDTH, size))
        )

    def check_bundle(self, index: int, leaf_hashes: Sequence[Hash]) -> None:
        """Check that the tree has these leaves in its bundle of this index.

        Precondition: the latest `finish` covered `bundle_nodes` of it, and the bundle is as wide as
        in this tree. Cost: one hash a leaf. Raises: VerificationError with the head and the tiles.
        """
        first = index * TILE_WIDTH
        for node in decompose(first, first + len(leaf_hashes)):
            start = (node.index << node.level) - first
            leaves = leaf_hashes[start : start + (1 << node.level)]
            if subtree_rows(b"".join(leaves))[-1] != self.hash(node):
                raise VerificationError(
                    f"the bundle of the entries from {first} on is not of the tree of size"
                    f" {self._head.checkpoint.tree_size}",
                    evidence=self.evidence(),
                )

    def evidence(self) -> dict[str, bytes]:
        """The signed head, and the tiles that were read under its root, as files by name."""
        tiles = {evidence_name(ref): tile for ref, tile in self.tiles.items()}
        return {"checkpoint.note": self._head.note.encode(), **tiles}


def bundles_under_tile(index: int, *, leaves_end: int) -> range:
    """The bundles from `index` on under one tile of level 1, as far as they begin before a leaf."""
    bundles = -(-leaves_end // TILE_WIDTH)
    return range(index, min((index // TILE_WIDTH + 1) * TILE_WIDTH, bundles))


def evidence_name(ref: TileRef) -> str:
    """The file name of a tile or a bundle among evidence."""
    return f"{ref.path.replace('/', '-')}.bin"
