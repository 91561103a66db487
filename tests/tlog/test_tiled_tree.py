"""The tree of a verified head, read from tiles that nobody vouches for."""

from collections.abc import Iterable, Sequence

import pytest

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import VerifiedHead, format_policy, parse_policy
from ledger_core.tlog.tile import TILE_WIDTH, TileRef
from ledger_core.tlog.tiled_tree import TiledTree, bundles_under_tile, evidence_name
from ledger_core.tlog.tree import Node
from tests.tlog.logs import Log

SIGNER = Signer.generate("example.com/audit", seed=bytes(32))
POLICY = parse_policy(format_policy([SIGNER.verifier]).encode())


def head(log: Log) -> VerifiedHead:
    checkpoint = Checkpoint("example.com/audit", log.size, log.root)
    signature = SIGNER.sign(format_checkpoint(checkpoint))
    return POLICY.check(SignedCheckpoint(checkpoint, (signature,)).note)


def read(tree: TiledTree, log: Log, nodes: Sequence[Node]) -> tuple[TileRef, ...]:
    """Plan, read and finish; the tiles that were read."""
    refs = tree.plan(nodes)
    tree.finish(nodes, log.tiles(refs))
    return refs


def bundle(log: Log, index: int) -> list[bytes]:
    return list(log.rows[0][index * TILE_WIDTH : min((index + 1) * TILE_WIDTH, log.size)])


def levels(refs: Iterable[TileRef]) -> set[int | None]:
    return {ref.level for ref in refs}


def test_all_bundles_under_one_tile_are_checked_after_one_read(log: Log) -> None:
    tree = TiledTree(head(log))
    bundles = bundles_under_tile(500, leaves_end=log.size)
    assert bundles == range(500, 512)
    assert levels(read(tree, log, tree.bundle_nodes(bundles))) == {0, 1, 2}
    for index in bundles:
        tree.check_bundle(index, bundle(log, index))
    with pytest.raises(ValueError, match="in none of the tiles"):
        tree.check_bundle(0, bundle(log, 0))


def test_the_last_bundle_is_checked_though_it_is_partial(log: Log) -> None:
    tree = TiledTree(head(log))
    bundles = bundles_under_tile(512, leaves_end=log.size)
    assert bundles == range(512, 516)
    read(tree, log, tree.bundle_nodes(bundles))
    assert len(bundle(log, 515)) == log.size % TILE_WIDTH
    tree.check_bundle(515, bundle(log, 515))


def test_no_tile_is_planned_past_the_leaves_that_are_wanted() -> None:
    assert bundles_under_tile(3, leaves_end=3 * TILE_WIDTH) == range(3, 3)
    assert bundles_under_tile(3, leaves_end=3 * TILE_WIDTH + 1) == range(3, 4)
    assert bundles_under_tile(3, leaves_end=2**40) == range(3, 256)
    assert bundles_under_tile(256, leaves_end=2**40) == range(256, 512)


def test_a_tile_is_read_once_and_dropped_when_it_is_not_needed(log: Log) -> None:
    tree = TiledTree(head(log))
    nodes = tree.bundle_nodes(bundles_under_tile(0, leaves_end=log.size))
    first = read(tree, log, nodes)
    assert set(tree.tiles) == set(first)
    assert read(tree, log, nodes) == ()
    nodes = tree.bundle_nodes(bundles_under_tile(256, leaves_end=log.size))
    (second,) = read(tree, log, nodes)
    assert second == TileRef(1, 1, 256)
    assert TileRef(1, 0, 256) not in tree.tiles
    larger = TiledTree(head(log), tiles=tree.tiles)
    assert larger.plan(nodes) == ()


@pytest.mark.parametrize("place", [0, 100, 255])
def test_a_bundle_with_another_leaf_is_found_with_the_head_and_the_tiles(
    log: Log, place: int
) -> None:
    tree = TiledTree(head(log))
    read(tree, log, tree.bundle_nodes([7]))
    leaf_hashes = bundle(log, 7)
    leaf_hashes[place] = bytes(32)
    with pytest.raises(VerificationError, match="entries from 1792 on is not of the tree") as found:
        tree.check_bundle(7, leaf_hashes)
    assert found.value.evidence == tree.evidence()
    names = {"checkpoint.note", *map(evidence_name, tree.tiles)}
    assert set(found.value.evidence) == names
    assert evidence_name(TileRef(1, 0, 256)) == "tile-1-000.bin"


def test_a_tile_of_another_tree_is_found_with_the_head_and_the_tiles(log: Log) -> None:
    tree = TiledTree(head(log))
    nodes = tree.bundle_nodes([7])
    tiles = log.tiles(tree.plan(nodes))
    tiles[TileRef(1, 0, 256)] = bytes(8192)
    with pytest.raises(VerificationError, match="tile/1/000 is not a tile of the tree") as found:
        tree.finish(nodes, tiles)
    assert found.value.evidence["tile-1-000.bin"] == bytes(8192)
    assert found.value.evidence["checkpoint.note"].startswith(b"example.com/audit\n")
    tiles[TileRef(1, 0, 256)] = b""
    with pytest.raises(MalformedError):
        TiledTree(head(log)).finish(nodes, tiles)
