"""The tree as files: tiles of hashes, bundles of entries.

A tile is 256 consecutive hashes, 8,192 bytes, of one level of the tree: at tile level 0 the leaf
hashes, at tile level L the roots of the full tiles of level L - 1. With the hashes between, which
anybody can compute, a tile stands for a subtree of height 8:

    tile level 1     Node(16, n)         row 8      1 hash
                      …                  …          …
                     Node(8, …)          row 0    256 hashes = 256 roots of tiles of level 0
    tile level 0     Node(8, n)          row 8      1 hash
                      …                  …          …
                     Node(0, …)          row 0    256 leaf hashes

The rightmost tile of a level may be partial, 1 to 255 hashes wide. An entry bundle has the 256
entries under a tile of level 0, each behind its length as a big-endian uint16. Paths spell the
index in groups of three digits, and the width when it is partial:

    tile/0/x001/x234/067           level 0, index 1234067, full
    tile/1/000.p/17                level 1, index 0, 17 hashes
    tile/entries/273.p/112         the last 112 entries of 70,000

Our own store keeps a full tile with all of its rows, from the leaves up: 511 hashes. The first
8,192 bytes are the public tile, and any node in it is read by offset (`locate`). Tiles that come
from elsewhere must not be used before `authenticate_tiles` has checked them by a root hash.

Source: c2sp.org/tlog-tiles.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import HASH_BYTES, SIZE_MAX, Hash
from ledger_core.tlog.text import excerpt
from ledger_core.tlog.tree import Node, decompose, fold_right, subtree_rows

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
FULL_TILE_HASHES = 2 * TILE_WIDTH - 1

LEAF_BYTES_MAX = 0xFFFF
"""The limit of the uint16 before an entry."""

LEVEL_MAX = 63
PATH_CHARS_MAX = 64
"""The longest path there is, of a partial bundle of the largest tree, has 47."""

_LENGTH_BYTES = 2
_FULL_TILE_BYTES = FULL_TILE_HASHES * HASH_BYTES
_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)"
    r"/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class TileCoord(NamedTuple):
    """A place for a tile: its hashes are Node(8 * level, 256 * index) and those to its right."""

    level: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no caller of a place needs


class TileRef(NamedTuple):
    """A tile, or the entry bundle when `level` is None, with its width: 256 when it is full."""

    level: int | None
    index: int  # type: ignore[assignment]  # hides tuple.index, which no caller of a tile needs
    width: int

    @property
    def path(self) -> str:
        """`tile/0/x001/x234/067.p/12`, or `tile/entries/…`. Raises: ValueError for no such tile."""
        if self.level is not None and not 0 <= self.level <= LEVEL_MAX:
            raise ValueError(f"not a tile level: {self.level}")
        if self.index < 0:
            raise ValueError(f"not a tile index: {self.index}")
        if not 1 <= self.width <= TILE_WIDTH:
            raise ValueError(f"a tile is 1 to {TILE_WIDTH} wide, got {self.width}")
        index, last = divmod(self.index, 1000)
        place = f"{last:03}"
        while index:
            index, group = divmod(index, 1000)
            place = f"x{group:03}/{place}"
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.level is None else self.level}/{place}{partial}"


def parse_tile_path(path: str) -> TileRef:
    """Parse the path of a tile or a bundle.

    Raises: MalformedError for another spelling than the one `TileRef.path` gives, and for a
    tile that no tree of a size below 2^63 has.
    """
    match = _PATH.fullmatch(path) if len(path) <= PATH_CHARS_MAX else None
    if match is None:
        raise MalformedError(f"not the path of a tile: {excerpt(path)}")
    level = None if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("/", "").replace("x", ""))
    width = int(match["width"] or TILE_WIDTH)
    leaves = (index * TILE_WIDTH + width) << TILE_HEIGHT * (level or 0)
    if leaves > SIZE_MAX:
        raise MalformedError(f"no tree is large enough for this tile: {excerpt(path)}")
    ref = TileRef(level, index, width)
    # A leading x000, or .p/256, would be a second name for the same bytes.
    if width > TILE_WIDTH or ref.path != path:
        raise MalformedError(f"not the path of a tile: {excerpt(path)}")
    return ref


def tile_width(*, level: int, index: int, tree_size: int) -> int:
    """The number of hashes in the tile in a tree of this size: 256 when full, 0 when absent."""
    return max(0, min((tree_size >> TILE_HEIGHT * level) - index * TILE_WIDTH, TILE_WIDTH))


def tile_rows(leaves: bytes) -> bytes:
    """All 511 hashes of a full tile, row by row from its 256 leaves up to its root.

    Takes 8,192 bytes and gives 16,352, of which they are the first. Cost: 255 node hashes.
    Raises: ValueError for another length.
    """
    if len(leaves) != TILE_WIDTH * HASH_BYTES:
        raise ValueError(f"a full tile has {TILE_WIDTH * HASH_BYTES} bytes, got {len(leaves)}")
    return b"".join(subtree_rows(leaves))


def locate(node: Node) -> tuple[TileCoord, int, int]:
    """The place of a node: its tile, the row in it, and the offset in that row.

    The root of a full tile is found as a leaf of the tile above, where it is public.
    """
    level, row = divmod(node.level, TILE_HEIGHT)
    index, offset = divmod(node.index, TILE_WIDTH >> row)
    return TileCoord(level, index), row, offset


def stored_offset(row: int, offset: int) -> int:
    """The offset of a hash in the bytes of `tile_rows`. Precondition: as `node_hash_in_tile`."""
    return (2 * TILE_WIDTH - (2 * TILE_WIDTH >> row) + offset) * HASH_BYTES


def node_hash_in_tile(tile: bytes, row: int, offset: int) -> Hash:
    """The hash at `offset` of `row`, 0 being the leaves, in a tile of either form.

    Reads by offset from the 511 hashes of `tile_rows`; folds it from the leaves of a public tile,
    full or partial, at a cost of 2^row - 1 hashes. Precondition: 0 <= row < 8. Raises: ValueError
    when the tile does not hold all leaves under it.
    """
    if not (0 <= row < TILE_HEIGHT and 0 <= offset < TILE_WIDTH >> row):
        raise ValueError(f"a tile has no hash {offset} in row {row}")
    if len(tile) == _FULL_TILE_BYTES:
        start = stored_offset(row, offset)
        return tile[start : start + HASH_BYTES]
    leaves = tile[offset * HASH_BYTES << row : (offset + 1) * HASH_BYTES << row]
    if len(leaves) != HASH_BYTES << row:
        raise ValueError(f"a tile of {len(tile)} bytes has no hash {offset} in row {row}")
    return subtree_rows(leaves)[-1]


def encode_bundle(leaves: Sequence[bytes]) -> bytes:
    """1 to 256 entries of at most 65,535 bytes, each behind its length. Raises: ValueError."""
    if not 1 <= len(leaves) <= TILE_WIDTH:
        raise ValueError(f"a bundle has 1 to {TILE_WIDTH} entries, got {len(leaves)}")
    parts: list[bytes] = []
    for leaf in leaves:
        if len(leaf) > LEAF_BYTES_MAX:
            raise ValueError(f"an entry has at most {LEAF_BYTES_MAX} bytes, got {len(leaf)}")
        parts += len(leaf).to_bytes(_LENGTH_BYTES), leaf
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """Decode a bundle. Its entries are not verified: the caller checks their leaf hashes.

    Raises: MalformedError when the lengths don't add up, for no entry and for more than 256.
    Cost: that of 257 entries at most, whatever a stranger sends: 16 MB may hold eight million.
    """
    leaves: list[bytes] = []
    end, size = 0, len(data)
    for _ in range(TILE_WIDTH + 1):
        # The last length needs both its bytes; that of the last leaf is checked after the loop.
        if end >= size - 1:
            break
        begin = end + _LENGTH_BYTES
        # Two bytes, big-endian, in half the time of `int.from_bytes`.
        end = begin + (data[end] << 8 | data[end + 1])
        leaves.append(data[begin:end])
    if len(leaves) > TILE_WIDTH:
        raise MalformedError(f"a bundle has 1 to {TILE_WIDTH} entries, got more")
    if end != size:
        raise MalformedError(f"entry {len(leaves) - (end > size)} of the bundle is cut short")
    if not leaves:
        raise MalformedError(f"a bundle has 1 to {TILE_WIDTH} entries, got none")
    return leaves


def plan_tiles(nodes: Iterable[Node], tree_size: int) -> tuple[TileRef, ...]:
    """The tiles that hold these nodes in a tree of this size, each once, in order of first use.

    Raises: ValueError for a node that such a tree does not have.
    """
    return tuple(dict.fromkeys(_ref(node, tree_size) for node in nodes))


def tiles_for(nodes: Iterable[Node], tree_size: int) -> tuple[TileRef, ...]:
    """The tiles to fetch in order to read these nodes from a source that isn't trusted.

    These are the tiles that hold the nodes, the tiles above them, and those at the right edge: all
    that `authenticate_tiles` needs. At most 8 at the edge and 8 for each node, most of them shared.
    Raises: ValueError for a node that such a tree does not have.
    """
    refs = dict.fromkeys(plan_tiles(decompose(0, tree_size), tree_size))
    for tile in plan_tiles(nodes, tree_size):
        ref = tile
        while ref not in refs:
            refs[ref] = None
            ref = _ref(_root_node(ref), tree_size)
    return tuple(refs)


class TileHashes:
    """The node hashes of authenticated tiles; `authenticate_tiles` makes it."""

    __slots__ = ("_tiles",)

    def __init__(self, tiles: Mapping[TileCoord, bytes]) -> None:
        self._tiles = tiles

    def hash(self, node: Node) -> Hash:
        """The hash of a node. Raises: ValueError when no tile given holds it."""
        coord, row, offset = locate(node)
        tile = self._tiles.get(coord)
        if tile is None:
            raise ValueError(f"{node} is in none of the tiles that were authenticated")
        return node_hash_in_tile(tile, row, offset)


def authenticate_tiles(
    *, tree_size: int, root_hash: Hash, tiles: Mapping[TileRef, bytes]
) -> TileHashes:
    """Check public tiles by the root hash of a tree, before they are read or kept.

    Precondition: `tiles` has what `tiles_for` named for this tree size. (A full tile fetched
    instead of a partial one, which a log may have deleted, is cut to the partial width first.)

    The tiles at the right edge hold, together, the nodes that the root is folded from. Every other
    tile is full, and its root is a leaf of the tile above. Cost: 255 hashes a full tile.

    Raises: VerificationError naming the first tile that isn't of this tree, MalformedError for one
    that isn't as wide as its name says, ValueError when a tile that was needed is missing.
    """
    for ref, data in tiles.items():
        level, index = _coord(ref)
        if ref.width != tile_width(level=level, index=index, tree_size=tree_size):
            raise ValueError(f"a tree of size {tree_size} does not have {ref.path}")
        if len(data) != ref.width * HASH_BYTES:
            raise MalformedError(f"{ref.path} has {len(data)} bytes, want {ref.width * HASH_BYTES}")
    edge = decompose(0, tree_size)
    known: dict[TileCoord, bytes] = {}
    for ref in plan_tiles(edge, tree_size):
        known[_coord(ref)] = _need(tiles, ref)
    hashes = TileHashes(known)
    if fold_right([hashes.hash(node) for node in edge]) != root_hash:
        raise VerificationError(
            f"the tiles at the right edge do not have the root hash of tree size {tree_size}"
        )
    # From the top, so that the tile above each one is known before it.
    for ref in sorted(tiles, key=lambda ref: -_coord(ref).level):
        coord = _coord(ref)
        if coord in known:
            continue
        root = _root_node(ref)
        _need(tiles, _ref(root, tree_size))
        rows = tile_rows(tiles[ref])
        if rows[-HASH_BYTES:] != hashes.hash(root):
            raise VerificationError(f"{ref.path} is not a tile of the tree of size {tree_size}")
        known[coord] = rows
    return hashes


def _ref(node: Node, tree_size: int) -> TileRef:
    (level, index), _, _ = locate(node)
    if not 0 <= node.index < tree_size >> node.level:
        raise ValueError(f"{node} is not in a tree of size {tree_size}")
    return TileRef(level, index, tile_width(level=level, index=index, tree_size=tree_size))


def _coord(ref: TileRef) -> TileCoord:
    if ref.level is None:
        raise ValueError(f"{ref.path} holds entries, not hashes")
    return TileCoord(ref.level, ref.index)


def _root_node(ref: TileRef) -> Node:
    return Node((_coord(ref).level + 1) * TILE_HEIGHT, ref.index)


def _need(tiles: Mapping[TileRef, bytes], ref: TileRef) -> bytes:
    if ref not in tiles:
        raise ValueError(f"{ref.path} is needed, and was not given")
    return tiles[ref]
