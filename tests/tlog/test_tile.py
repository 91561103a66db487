"""Tiles: where they are, what is in them, and that none is believed before it was checked."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, HASH_BYTES, SIZE_MAX, leaf_hash
from ledger_core.tlog.prove import finish, plan_inclusion, plan_range
from ledger_core.tlog.tile import (
    FULL_TILE_HASHES,
    TILE_WIDTH,
    TileCoord,
    TileRef,
    authenticate_tiles,
    decode_bundle,
    encode_bundle,
    locate,
    node_hash_in_tile,
    parse_tile_path,
    plan_tiles,
    tile_rows,
    tile_width,
    tiles_for,
)
from ledger_core.tlog.tree import Node, decompose, fold_right
from ledger_core.tlog.verify import check_inclusion, check_range
from tests.tlog.logs import Log


def test_paths_are_those_of_the_specification() -> None:
    assert TileRef(0, 1234067, 256).path == "tile/0/x001/x234/067"
    assert TileRef(1, 0, 17).path == "tile/1/000.p/17"
    assert TileRef(None, 273, 112).path == "tile/entries/273.p/112"
    assert TileRef(None, 1000, 256).path == "tile/entries/x001/000"


refs = st.builds(
    TileRef, st.none() | st.integers(0, 5), st.integers(0, 2**14), st.integers(1, TILE_WIDTH)
) | st.builds(TileRef, st.sampled_from([None, 0]), st.integers(0, 2**55 - 2), st.integers(1, 256))


@given(refs)
def test_every_path_of_a_tile_is_read_back(ref: TileRef) -> None:
    assert parse_tile_path(ref.path) == ref


@pytest.mark.parametrize(
    ("level", "index", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)]
)
def test_a_tile_that_has_no_path_is_refused(level: int, index: int, width: int) -> None:
    with pytest.raises(ValueError, match="tile"):
        _ = TileRef(level, index, width).path


def test_the_widths_are_those_of_the_specification() -> None:
    # "A tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile
    # of width 112, one full level 1 tile, one partial level 1 tile of width 17, and one partial
    # level 2 tile of width 1."
    widths = {
        (level, index): tile_width(level=level, index=index, tree_size=70_000)
        for level in range(8)
        for index in range(300)
    }
    assert [coord for coord, width in widths.items() if width == 256] == [
        *((0, index) for index in range(273)),
        (1, 0),
    ]
    partial = {coord: width for coord, width in widths.items() if 0 < width < 256}
    assert partial == {(0, 273): 112, (1, 1): 17, (2, 0): 1}


@given(st.integers(0, SIZE_MAX), st.integers(0, 7))
def test_the_tiles_of_a_level_hold_each_of_its_nodes_once(size: int, level: int) -> None:
    count = size >> 8 * level
    last = count // TILE_WIDTH
    assert tile_width(level=level, index=last, tree_size=size) == count % TILE_WIDTH
    assert tile_width(level=level, index=last + 1, tree_size=size) == 0
    if last:
        assert tile_width(level=level, index=last - 1, tree_size=size) == TILE_WIDTH


def test_the_rows_of_a_tile_are_the_nodes_above_its_leaves(log: Log) -> None:
    rows = tile_rows(log.tile(TileRef(0, 5, 256)))
    assert len(rows) == FULL_TILE_HASHES * HASH_BYTES == 16_352
    expected = [
        log.hash(Node(level, (5 << (8 - level)) + offset))
        for level in range(9)
        for offset in range(TILE_WIDTH >> level)
    ]
    assert rows == b"".join(expected)


@pytest.mark.parametrize("size_bytes", [0, 8191, 8193, 16_352])
def test_rows_are_made_of_a_full_tile_only(size_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"8192 bytes, got {size_bytes}"):
        tile_rows(bytes(size_bytes))


def test_every_node_is_read_from_its_tile_in_each_of_its_forms(log: Log) -> None:
    for level in range(18):
        for index in (0, 1, 129, (log.size >> level) // 2, (log.size >> level) - 1):
            if not 0 <= index < log.size >> level:
                continue
            node = Node(level, index)
            (tile_level, tile_index), row, offset = locate(node)
            width = tile_width(level=tile_level, index=tile_index, tree_size=log.size)
            public = log.tile(TileRef(tile_level, tile_index, width))
            assert node_hash_in_tile(public, row, offset) == log.hash(node)
            if width == TILE_WIDTH:
                assert node_hash_in_tile(tile_rows(public), row, offset) == log.hash(node)


@given(st.integers(0, 63), st.integers(0, 2**40))
def test_a_node_is_where_its_leaves_are(level: int, index: int) -> None:
    coord, row, offset = locate(Node(level, index))
    assert coord.level * 8 + row == level
    first = ((coord.index << 8) + (offset << row)) << 8 * coord.level
    assert first == index << level


@pytest.mark.parametrize(("row", "offset"), [(-1, 0), (9, 0), (0, -1), (0, 256), (7, 2), (3, 4)])
def test_a_hash_that_a_tile_does_not_hold_is_refused(row: int, offset: int) -> None:
    with pytest.raises(ValueError, match="has no hash"):
        node_hash_in_tile(bytes(32 * 33), row, offset)


def test_bundles_are_those_of_the_specification() -> None:
    leaves = [b"", b"a", b"bc" * 100]
    assert encode_bundle(leaves) == b"\x00\x00" + b"\x00\x01a" + b"\x00\xc8" + b"bc" * 100
    assert decode_bundle(encode_bundle(leaves)) == leaves


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_every_bundle_is_read_back_and_never_when_cut(leaves: list[bytes]) -> None:
    data = encode_bundle(leaves)
    assert decode_bundle(data) == leaves
    with pytest.raises(MalformedError):
        decode_bundle(data[:-1])


@given(st.binary(max_size=40))
def test_what_is_read_as_a_bundle_is_written_the_same_again(data: bytes) -> None:
    try:
        leaves = decode_bundle(data)
    except MalformedError:
        return
    assert encode_bundle(leaves) == data


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x01", b"\x00\x02a", b"\x00\x00\x00", b"\x00\x00" * 257]
)
def test_a_malformed_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_bundle(data)


@pytest.mark.parametrize("leaves", [[], [b""] * 257, [bytes(65_536)]])
def test_entries_that_no_bundle_can_carry_are_refused(leaves: list[bytes]) -> None:
    with pytest.raises(ValueError, match="got"):
        encode_bundle(leaves)


def test_the_largest_entries_fit(log: Log) -> None:
    leaves = [bytes(65_535)] * 256
    assert decode_bundle(encode_bundle(leaves)) == leaves


def test_a_plan_of_tiles_names_each_once() -> None:
    nodes = [Node(0, 0), Node(7, 1), Node(0, 256), Node(8, 0)]
    assert plan_tiles(nodes, 300) == (TileRef(0, 0, 256), TileRef(0, 1, 44), TileRef(1, 0, 1))
    for node in (Node(0, 300), Node(9, 0), Node(0, -1)):
        with pytest.raises(ValueError, match="not in a tree"):
            plan_tiles([node], 300)


def test_every_node_is_read_from_tiles_of_an_untrusted_source(log: Log) -> None:
    nodes = [Node(level, (log.size >> level) - 1) for level in range(18)]
    nodes += [Node(0, index) for index in range(0, log.size, 5000)]
    tiles = log.tiles(tiles_for(nodes, log.size))
    hashes = authenticate_tiles(tree_size=log.size, root_hash=log.root, tiles=tiles)
    for node in nodes:
        assert hashes.hash(node) == log.hash(node)
    with pytest.raises(ValueError, match="in none of the tiles"):
        hashes.hash(Node(0, 301))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537])
def test_proofs_from_tiles_verify_in_trees_of_every_shape(log: Log, size: int) -> None:
    small = Log(size, _root(log, size), log.rows)
    nodes = decompose(0, size)
    authenticate_tiles(
        tree_size=size, root_hash=small.root, tiles=small.tiles(tiles_for(nodes, size))
    )
    for index in {0, size // 2, size - 1} & set(range(size)):
        plan = plan_inclusion(leaf_index=index, tree_size=size)
        tiles = small.tiles(tiles_for(plan.nodes, size))
        hashes = authenticate_tiles(tree_size=size, root_hash=small.root, tiles=tiles)
        check_inclusion(
            leaf_hash=leaf_hash(b"leaf %d" % index),
            leaf_index=index,
            tree_size=size,
            proof=finish(plan, [hashes.hash(node) for node in plan.nodes]),
            root_hash=small.root,
        )


def test_a_range_of_a_thousand_is_proved_from_few_tiles(log: Log) -> None:
    start, end = 60_000, 61_000
    plan = plan_range(start=start, end=end, tree_size=log.size)
    tiles = log.tiles(tiles_for(plan.nodes, log.size))
    assert len(tiles) <= 8
    hashes = authenticate_tiles(tree_size=log.size, root_hash=log.root, tiles=tiles)
    check_range(
        leaf_hashes=log.rows[0][start:end],
        start=start,
        tree_size=log.size,
        proof=finish(plan, [hashes.hash(node) for node in plan.nodes]),
        root_hash=log.root,
    )


@given(st.data())
def test_one_flipped_bit_in_any_tile_is_found(log: Log, data: st.DataObject) -> None:
    nodes = [Node(0, data.draw(st.integers(0, log.size - 1)))]
    tiles = log.tiles(tiles_for(nodes, log.size))
    ref = data.draw(st.sampled_from(sorted(tiles)))
    bit = data.draw(st.integers(0, 8 * len(tiles[ref]) - 1))
    flipped = bytearray(tiles[ref])
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationError, match="tile"):
        authenticate_tiles(
            tree_size=log.size, root_hash=log.root, tiles={**tiles, ref: bytes(flipped)}
        )


def test_another_tile_of_the_same_tree_is_found(log: Log) -> None:
    tiles = log.tiles(tiles_for([Node(0, 1000)], log.size))
    swapped = {**tiles, TileRef(0, 3, 256): log.tile(TileRef(0, 4, 256))}
    with pytest.raises(VerificationError, match=r"tile/0/003 is not a tile of the tree"):
        authenticate_tiles(tree_size=log.size, root_hash=log.root, tiles=swapped)


def test_tiles_of_a_wrong_length_are_malformed(log: Log) -> None:
    tiles = log.tiles(tiles_for([Node(0, 1000)], log.size))
    for ref in tiles:
        for data in (b"", tiles[ref][:-1], tiles[ref] + bytes(32)):
            with pytest.raises(MalformedError, match=f"{ref.path} has {len(data)} bytes"):
                authenticate_tiles(
                    tree_size=log.size, root_hash=log.root, tiles={**tiles, ref: data}
                )


def test_missing_and_foreign_tiles_are_the_mistake_of_the_caller(log: Log) -> None:
    tiles = log.tiles(tiles_for([Node(0, 1000)], log.size))
    for ref in tiles:
        if ref == TileRef(0, 3, 256):
            continue  # It holds the node, and no other tile needs it.
        rest = {other: data for other, data in tiles.items() if other != ref}
        with pytest.raises(ValueError, match="needed"):
            authenticate_tiles(tree_size=log.size, root_hash=log.root, tiles=rest)
    for foreign in (TileRef(0, 3, 255), TileRef(0, 9999, 256), TileRef(None, 3, 256)):
        with pytest.raises(ValueError, match=r"does not have|entries"):
            authenticate_tiles(
                tree_size=log.size,
                root_hash=log.root,
                tiles={**tiles, foreign: bytes(32 * foreign.width)},
            )


def test_the_empty_tree_has_no_tiles() -> None:
    assert tiles_for([], 0) == ()
    authenticate_tiles(tree_size=0, root_hash=EMPTY_ROOT_HASH, tiles={})
    with pytest.raises(VerificationError):
        authenticate_tiles(tree_size=0, root_hash=bytes(32), tiles={})


def test_a_place_for_a_tile_is_named_by_its_level_and_index() -> None:
    assert locate(Node(3, 33)) == (TileCoord(0, 1), 3, 1)
    assert locate(Node(17, 5)) == (TileCoord(2, 0), 1, 5)


def _root(log: Log, size: int) -> bytes:
    return fold_right([log.hash(node) for node in decompose(0, size)])


@pytest.mark.parametrize("filler", [b"\0\0", b"\0\2ab"])
def test_a_bundle_of_millions_of_entries_costs_no_more_than_one_that_is_right(
    filler: bytes,
) -> None:
    data = filler * ((1 << 22) // len(filler))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="1 to 256 entries, got more"):
            decode_bundle(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 17
    finally:
        tracemalloc.stop()
