r"""The shape of a tree: complete subtrees, and the frontier that a log appends to.

A *node* is a complete subtree whose leaves begin at a multiple of their number: `Node(level,
index)` covers the leaves [index·2^level, (index+1)·2^level), and its hash never changes once they
exist. Any tree is a row of nodes, the largest first, one for each bit set in its size. Seven
leaves:

                 root
               /      \
        Node(2, 0)     x            x is not complete yet, so it is not a node: when leaf 7
         /     \      / \           comes, Node(2, 1) stands in its place with another hash.
        .       .    .   \
       / \     / \  / \   \
      0   1   2  3  4  5    6       Node(2, 0), Node(1, 2), Node(0, 6)

The root is H(Node(2, 0), H(Node(1, 2), Node(0, 6))): the row, folded from the right. The row is all
that a log needs to append more leaves: its *frontier*, at most 63 hashes.

Source: RFC 6962 §2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, HASH_BYTES, Hash, node_hash, node_hashes


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree size and the root hash of that tree, without a signature."""

    tree_size: int
    root_hash: Hash


class Node(NamedTuple):
    """The complete subtree over the leaves [index << level, (index + 1) << level)."""

    level: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no caller of a node needs


def decompose(start: int, end: int) -> tuple[Node, ...]:
    """The fewest nodes that cover the leaves [start, end), left to right.

    Precondition: 0 <= start <= end. Levels rise and then fall; from start 0 they only fall.
    Cost: at most 2·log2(end) nodes. Raises: ValueError.
    """
    if not 0 <= start <= end:
        raise ValueError(f"not a range: [{start}, {end})")
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return tuple(nodes)


def is_subtree(start: int, end: int) -> bool:
    """Whether [start, end) is a subtree: some first leaves of a node that begins at `start`.

    Source: draft-ietf-plants-merkle-tree-certs-03 §4.1.
    """
    return 0 <= start < end and start % (1 << (end - start - 1).bit_length()) == 0


def fold_right(hashes: Sequence[Hash]) -> Hash:
    """The root over consecutive nodes whose levels fall, as `decompose(0, size)` names them.

    No hashes are the empty tree. Cost: one hash for each node but the first.
    """
    if not hashes:
        return EMPTY_ROOT_HASH
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def subtree_rows(leaves: bytes) -> list[bytes]:
    """The rows of a complete subtree, from its leaf hashes to its root, each 32 bytes a hash.

    Precondition: the number of leaf hashes is a power of two. Cost: one hash a leaf.
    """
    rows = [leaves]
    row = leaves
    while len(row) > HASH_BYTES:
        row = b"".join(node_hashes(row))
        rows.append(row)
    return rows


class Frontier:
    """The size of a growing tree and the hashes of `decompose(0, size)`.

    Mutable, and owned by the code that appends; `copy()` serves a trial that may be dropped.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Sequence[Hash] = ()) -> None:
        """Precondition: one hash for each bit set in `size`, the largest subtree first.

        Raises: ValueError.
        """
        if size < 0 or len(hashes) != size.bit_count():
            raise ValueError(f"a frontier of size {size} does not have {len(hashes)} hashes")
        if any(len(node) != HASH_BYTES for node in hashes):
            raise ValueError(f"a hash has {HASH_BYTES} bytes")
        self._size = size
        self._hashes = list(hashes)

    @property
    def size(self) -> int:
        """The number of leaves appended so far."""
        return self._size

    @property
    def hashes(self) -> tuple[Hash, ...]:
        """The hashes of `decompose(0, size)`, the largest subtree first."""
        return tuple(self._hashes)

    def append(self, leaf_hash: Hash) -> None:
        """Append one leaf. Cost: one node hash on average, log2(size) at most."""
        self._append(leaf_hash, level=0)

    def extend(self, leaf_hashes: Sequence[Hash]) -> None:
        """Append leaves, in half the time of `append` for each."""
        first = self._size
        for level, index in decompose(first, first + len(leaf_hashes)):
            start = (index << level) - first
            leaves = leaf_hashes[start : start + (1 << level)]
            self._append(subtree_rows(b"".join(leaves))[-1], level=level)

    def _append(self, hash_: Hash, *, level: int) -> None:
        """Append a complete subtree. Precondition: the size is a multiple of its leaves."""
        hashes = self._hashes
        subtrees = self._size >> level
        self._size += 1 << level
        # Each trailing one bit is a complete subtree that now gets a sibling on its right.
        while subtrees & 1:
            hash_ = node_hash(hashes.pop(), hash_)
            subtrees >>= 1
        hashes.append(hash_)

    def root(self) -> Hash:
        """The root hash of the tree so far. Cost: at most 62 node hashes."""
        return fold_right(self._hashes)

    def copy(self) -> Self:
        """A second frontier of the same leaves, which changes on its own."""
        return type(self)(self._size, self._hashes)
