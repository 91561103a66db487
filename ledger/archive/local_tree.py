"""The tree of a head, from the tiles of the log on this disk."""

from collections.abc import Sequence

from ledger.store.log import LogStore
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tile import TILE_HEIGHT, TILE_WIDTH, TileRef
from ledger_core.tlog.tiled_tree import TiledTree
from ledger_core.tlog.tree import Node


def local_tree(
    log: LogStore, head: VerifiedHead, bundles: Sequence[int], tiles: Sequence[TileRef] = ()
) -> TiledTree:
    """The tree of a head, with the tiles for some bundles, and some tiles.

    Raises: MalformedError for a tile that the log lacks; VerificationError for one of another tree.
    """
    tree = TiledTree(head)
    inner = [Node(TILE_HEIGHT * (ref.level or 0), ref.index * TILE_WIDTH) for ref in tiles]
    nodes = (*tree.bundle_nodes(bundles), *inner)
    tree.finish(nodes, {ref: _read_tile(log, ref) for ref in tree.plan(nodes)})
    return tree


def _read_tile(log: LogStore, ref: TileRef) -> bytes:
    tile = log.tile(level=ref.level or 0, index=ref.index, width=ref.width)
    if tile is None:
        raise MalformedError(f"the log has no {ref.path}")
    return tile
