"""The right edge of a tiled tree: the one tile of each level that still grows.

A tree of any size is its full tiles, which never change, and at most one growing tile on each
level. Appending a leaf touches the growing tiles alone, and every inner hash is computed once: the
hash that completes a pair is the hash that the stored tile keeps in its next row.

    level 1   [·········|        ]   one hash for each full tile below
    level 0   [·················| ]   leaf hashes

Source: c2sp.org/tlog-tiles, "Merkle Tree"; RFC 6962 §2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, HASH_BYTES, Hash, node_hash, node_hashes
from ledger_core.tlog.tile import TILE_HEIGHT, TILE_WIDTH, TileCoord, tile_rows


@dataclass(frozen=True, slots=True)
class FilledTile:
    """A tile that the append filled: `rows` are its 511 hashes, row by row from the leaves."""

    coord: TileCoord
    rows: bytes


@dataclass(slots=True)
class GrowingTile:
    """A tile on its way to 256 hashes, and the inner hashes that these already determine.

    `rows[k]` holds the roots of the complete subtrees of height k. They never change as it grows.
    """

    index: int
    rows: list[bytearray] = field(
        default_factory=lambda: [bytearray() for _ in range(TILE_HEIGHT + 1)]
    )

    @property
    def width(self) -> int:
        """Hashes in the tile."""
        return len(self.rows[0]) // HASH_BYTES

    def hash(self, row: int, offset: int) -> Hash | None:
        """The hash at an offset of a row; None while the tile is too small for it."""
        start = offset * HASH_BYTES
        hash_ = bytes(self.rows[row][start : start + HASH_BYTES])
        return hash_ or None

    def extend(self, hashes: bytes) -> None:
        """Append hashes, 32 bytes each, and every inner hash that they complete.

        Cost: at most one node hash for each.
        """
        for row in self.rows:
            unpaired = len(row) - len(row) % (2 * HASH_BYTES)
            row.extend(hashes)
            paired = len(row) - len(row) % (2 * HASH_BYTES)
            hashes = b"".join(node_hashes(bytes(row[unpaired:paired])))
            if not hashes:
                return

    def complete_subtrees(self) -> list[Hash]:
        """Roots of the complete subtrees that make up this tile, largest first."""
        return [
            bytes(row[-HASH_BYTES:]) for row in reversed(self.rows) if len(row) // HASH_BYTES % 2
        ]


class GrowingTiles:
    """The growing tiles of a tree of `size` leaves. Not thread-safe: its owner is the writer."""

    __slots__ = ("_growing", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._growing = [GrowingTile(index=0)]

    @classmethod
    def restore(cls, *, size: int, partial_tiles: Sequence[bytes]) -> "GrowingTiles":
        """The edge of a stored tree, from the leaves of its partial tiles, level 0 first.

        Precondition: `partial_tiles[level]` holds `size // 256**level % 256` hashes.
        Raises: ValueError when the widths do not fit the size.
        Cost: one hash for each two restored.
        """
        edge = cls()
        edge._growing = []
        spanned = 1
        for level, leaves in enumerate(partial_tiles):
            expected = size // spanned % TILE_WIDTH
            if len(leaves) != expected * HASH_BYTES:
                raise ValueError(
                    f"the partial tile of level {level} has {len(leaves)} bytes, "
                    f"want {expected * HASH_BYTES}"
                )
            growing = GrowingTile(index=size // spanned // TILE_WIDTH)
            growing.extend(leaves)
            edge._growing.append(growing)
            spanned *= TILE_WIDTH
        if size // spanned:
            raise ValueError(f"{len(partial_tiles)} levels cannot hold a tree of size {size}")
        if not edge._growing:
            edge._growing.append(GrowingTile(index=0))
        edge._size = size
        return edge

    @property
    def size(self) -> int:
        """Leaves in the tree."""
        return self._size

    def extend(self, leaf_hashes: Sequence[Hash]) -> list[FilledTile]:
        """Append leaves; the tiles that became full, each after those of the level below it.

        Cost: one node hash a leaf.
        """
        filled: list[FilledTile] = []
        position = 0
        while position < len(leaf_hashes):
            growing = self._growing[0]
            chunk = leaf_hashes[position : position + TILE_WIDTH - growing.width]
            if len(chunk) == TILE_WIDTH:
                # A whole tile at once: the same hashes without the bookkeeping between them.
                self._fill(0, tile_rows(b"".join(chunk)), filled)
            else:
                growing.extend(b"".join(chunk))
                if growing.width == TILE_WIDTH:
                    self._fill(0, b"".join(growing.rows), filled)
            position += len(chunk)
        self._size += len(leaf_hashes)
        return filled

    def partial_tile(self, level: int) -> tuple[TileCoord, bytes]:
        """The growing tile of a level and its hashes, fewer than 256 and perhaps none."""
        growing = self._growing[level]
        return TileCoord(level, growing.index), bytes(growing.rows[0])

    @property
    def levels(self) -> int:
        """Levels that have a growing tile; at least one."""
        return len(self._growing)

    def root(self) -> Hash:
        """The root hash of the tree. Cost: at most one node hash for each bit of the size."""
        root: Hash | None = None
        for growing in self._growing:
            for subtree in reversed(growing.complete_subtrees()):
                root = subtree if root is None else node_hash(subtree, root)
        return EMPTY_ROOT_HASH if root is None else root

    def _fill(self, level: int, rows: bytes, filled: list[FilledTile]) -> None:
        growing = self._growing[level]
        filled.append(FilledTile(TileCoord(level, growing.index), rows))
        self._growing[level] = GrowingTile(index=growing.index + 1)
        if level + 1 == len(self._growing):
            self._growing.append(GrowingTile(index=0))
        parent = self._growing[level + 1]
        parent.extend(rows[-HASH_BYTES:])
        if parent.width == TILE_WIDTH:
            self._fill(level + 1, b"".join(parent.rows), filled)
