"""A log as rows of hashes, and its tiles."""

from dataclasses import dataclass
from functools import cache

from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.tile import TILE_WIDTH, TileRef
from ledger_core.tlog.tree import Frontier, Node, fold_right

LARGE = 2 * 256**2 + 3 * 256 + 100
"""A tree with full tiles on two levels, and a partial one on each of three."""


@dataclass(frozen=True, slots=True)
class Log:
    """A tree of which each level is kept whole: rows[level] has its complete nodes."""

    size: int
    root: bytes
    rows: tuple[tuple[bytes, ...], ...]

    def hash(self, node: Node) -> bytes:
        return self.rows[node.level][node.index]

    def tile(self, ref: TileRef) -> bytes:
        assert ref.level is not None
        first = ref.index * TILE_WIDTH
        return b"".join(self.rows[8 * ref.level][first : first + ref.width])

    def tiles(self, refs: tuple[TileRef, ...]) -> dict[TileRef, bytes]:
        return {ref: self.tile(ref) for ref in refs}


@cache
def make_log(size: int) -> Log:
    """Append leaf after leaf, and keep what the frontier makes on the way."""
    rows: list[list[bytes]] = [[] for _ in range(32)]
    frontier = Frontier()
    for index in range(size):
        frontier.append(leaf_hash(b"leaf %d" % index))
        rows[0].append(leaf_hash(b"leaf %d" % index))
        for level in range(1, 32):
            if (index + 1) % (1 << level):
                break
            left, right = rows[level - 1][-2:]
            rows[level].append(fold_right([left, right]))
    return Log(size, frontier.root(), tuple(map(tuple, rows)))
