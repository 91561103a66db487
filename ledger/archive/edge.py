"""The tiles at the right edge of a tree, by which its root is checked, and what mends them.

The partial tile of level L has `(size >> 8L) % 256` hashes, and together these tiles hold every
node of `decompose(0, size)`. Where one of them is missing or damaged, the tiles below it give it
again; the root says whether they do.
"""

from collections.abc import Mapping, Sequence
from itertools import product

from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.tile import TILE_HEIGHT, TileRef, locate, node_hash_in_tile, tile_width
from ledger_core.tlog.tree import decompose, fold_right

LEVELS = 8


def edge_tiles(tree_size: int) -> list[TileRef]:
    """The partial tiles of a tree, level by level."""
    refs = []
    for level in range(LEVELS):
        index = tree_size >> TILE_HEIGHT * (level + 1)
        width = tile_width(level=level, index=index, tree_size=tree_size)
        if width:
            refs.append(TileRef(level, index, width))
    return refs


def choose_edge(
    tree_size: int, root_hash: Hash, candidates: Mapping[TileRef, Sequence[bytes]]
) -> dict[TileRef, bytes] | None:
    """The contents of the edge that have the root, one of the candidates each; None if none do."""
    refs = edge_tiles(tree_size)
    for chosen in product(*(candidates[ref] for ref in refs)):
        tiles = dict(zip(refs, chosen, strict=True))
        if _root(tree_size, tiles) == root_hash:
            return tiles
    return None


def _root(tree_size: int, tiles: Mapping[TileRef, bytes]) -> Hash:
    by_level = {ref.level: data for ref, data in tiles.items()}
    hashes = []
    for node in decompose(0, tree_size):
        coord, row, offset = locate(node)
        hashes.append(node_hash_in_tile(by_level[coord.level], row, offset))
    return fold_right(hashes)
