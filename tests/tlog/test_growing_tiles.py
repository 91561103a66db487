"""The right edge of a tiled tree, held against the tiles and roots of the whole."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core.tlog.growing_tiles import FilledTile, GrowingTile, GrowingTiles
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash, node_hash
from ledger_core.tlog.tile import TILE_WIDTH, TileCoord, tile_rows
from ledger_core.tlog.tree import Frontier

LEAVES = [leaf_hash(b"%d" % number) for number in range(70_000)]


def grown(size: int, *, step: int) -> tuple[GrowingTiles, dict[TileCoord, bytes]]:
    edge = GrowingTiles()
    filled: dict[TileCoord, bytes] = {}
    for start in range(0, size, step):
        for tile in edge.extend(LEAVES[start : min(start + step, size)]):
            filled[tile.coord] = tile.rows
    return edge, filled


@cache
def frontier_root(size: int) -> bytes:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    return frontier.root()


def partials(edge: GrowingTiles) -> list[bytes]:
    return [edge.partial_tile(level)[1] for level in range(edge.levels)]


@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 255, 256, 257, 511, 512, 1000, 65_535, 65_536, 65_537]
)
@pytest.mark.parametrize("step", [1, 7, 256, 1000])
def test_the_root_is_that_of_the_frontier_however_the_leaves_come(size: int, step: int) -> None:
    edge, filled = grown(size, step=step)
    assert edge.root() == frontier_root(size)
    assert edge.size == size
    assert len(filled) == size // 256 + size // 65_536


def test_a_filled_tile_holds_the_rows_of_its_leaves() -> None:
    _, filled = grown(65_600, step=100)
    for index in (0, 1, 255):
        leaves = b"".join(LEAVES[index * TILE_WIDTH : (index + 1) * TILE_WIDTH])
        assert filled[TileCoord(0, index)] == tile_rows(leaves)
    above = b"".join(filled[TileCoord(0, index)][-HASH_BYTES:] for index in range(TILE_WIDTH))
    assert filled[TileCoord(1, 0)] == tile_rows(above)


def test_a_growing_tile_gives_the_hashes_that_it_has() -> None:
    tile = GrowingTile(0)
    for leaf in LEAVES[:5]:
        tile.extend(leaf)
    assert [tile.hash(0, offset) for offset in range(6)] == [*LEAVES[:5], None]
    assert [tile.hash(1, offset) for offset in (0, 1, 2)] == [
        node_hash(LEAVES[0], LEAVES[1]),
        node_hash(LEAVES[2], LEAVES[3]),
        None,
    ]


@settings(deadline=None)
@given(st.integers(0, 1500), st.integers(0, 600))
def test_a_restored_edge_goes_on_like_the_one_it_was_read_from(size: int, more: int) -> None:
    edge, _ = grown(size, step=300)
    restored = GrowingTiles.restore(size=size, partial_tiles=partials(edge)[: _levels(size)])
    assert restored.root() == edge.root()
    filled: list[FilledTile] = edge.extend(LEAVES[size : size + more])
    assert restored.extend(LEAVES[size : size + more]) == filled
    assert restored.root() == edge.root()
    assert partials(restored)[: _levels(size + more)] == partials(edge)[: _levels(size + more)]


def _levels(size: int) -> int:
    return next(level for level in range(9) if not size >> (8 * level))


def test_partial_tiles_that_do_not_fit_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match="level 0 has 32 bytes, want 64"):
        GrowingTiles.restore(size=2, partial_tiles=[LEAVES[0]])
    with pytest.raises(ValueError, match="cannot hold a tree of size 257"):
        GrowingTiles.restore(size=257, partial_tiles=[LEAVES[0]])
