"""The prover: plan which nodes a proof needs, let the caller read them, assemble the proof.

    plan = plan_inclusion(leaf_index=5, tree_size=7)
    hashes = [read(node) for node in plan.nodes]     # the caller: one batch, from any source
    proof = finish(plan, hashes)

Nothing here does I/O, so LMDB, HTTP tiles and plain folders share one prover. Only complete
subtrees are ever read: their hashes never change. Where a proof needs the hash of an incomplete
one, which happens at the right edge alone, the plan names the complete subtrees it consists of, and
`finish` folds them. For leaf 1 of 7 the proof is three hashes from four nodes:

    Node(0, 0)                the sibling of the leaf
    Node(1, 1)                the sibling one level up
    Node(1, 2), Node(0, 6)    the right half of the tree, leaves 4 to 6, folded into one hash

Five kinds of proof:

* inclusion: from the leaf's sibling up to the root's child.
* consistency: the node where the old tree ends, unless it is the whole old tree, and then that
  node's siblings up to the root's child.
* subtree consistency: the same for the tree of the leaves [start, end) alone, where `start` is a
  multiple of the smallest power of two that is not less than `end - start`.
* range, for the consecutive leaves [start, end): each maximal subtree that holds none of them,
  left to right. For one leaf these are the hashes of its inclusion proof, in left-to-right order.
* multi, for any leaves: likewise each maximal subtree that holds none of them, left to right. For
  consecutive leaves it is their range proof.

Source: RFC 6962 §2.1.1, §2.1.2; draft-ietf-plants-merkle-tree-certs-03 §4.4.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import ge

from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, Hash, node_hash
from ledger_core.tlog.tree import Node, decompose, fold_right, is_subtree


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes to read, and how many consecutive ones of them make each hash of the answer."""

    nodes: tuple[Node, ...]
    groups: tuple[int, ...]


def plan_inclusion(*, leaf_index: int, tree_size: int) -> Plan:
    """Plan the proof that a leaf is in a tree.

    Precondition: 0 <= leaf_index < tree_size. Reads at most 2·log2(tree_size) nodes.
    Raises: ValueError. Source: RFC 6962 §2.1.1.
    """
    if not 0 <= leaf_index < tree_size:
        raise ValueError(f"leaf {leaf_index} is not in a tree of size {tree_size}")
    draft = _Draft(tree_size)
    draft.add_siblings(Node(0, leaf_index))
    return draft.finish()


def plan_consistency(*, old_size: int, new_size: int) -> Plan:
    """Plan the proof that a tree begins with all the leaves of an older one.

    Precondition: 0 <= old_size <= new_size. Equal sizes, and an empty old tree, need no hashes:
    the plan is empty. Reads at most 2·log2(new_size) nodes.
    Raises: ValueError. Source: RFC 6962 §2.1.2.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of size {new_size} does not begin with one of size {old_size}")
    if old_size in (0, new_size):
        return Plan((), ())
    return plan_subtree_consistency(start=0, end=old_size, tree_size=new_size)


def plan_subtree_consistency(*, start: int, end: int, tree_size: int) -> Plan:
    """Plan the proof that the leaves [start, end) of a tree have a root by themselves.

    Precondition: a subtree within the tree. Reads at most 2·log2(tree_size) nodes.
    Raises: ValueError. Source: draft-ietf-plants-merkle-tree-certs-03 §4.4.
    """
    if not is_subtree(start, end) or end > tree_size:
        raise ValueError(f"[{start}, {end}) is not a subtree of a tree of size {tree_size}")
    level = (end - start - 1).bit_length()
    draft = _Draft(tree_size)
    # The node that the subtree is or, at the edge of the tree, begins like. Its hash is known.
    node = Node(level, start >> level)
    if end != min(start + (1 << level), tree_size):
        # The last complete node of the subtree is one of the tree too.
        node = decompose(start, end)[-1]
        draft.add(*node)
    draft.add_siblings(node)
    return draft.finish()


def plan_range(*, start: int, end: int, tree_size: int) -> Plan:
    """Plan the proof that consecutive leaves [start, end) are in a tree.

    Precondition: 0 <= start < end <= tree_size. Reads at most 3·log2(tree_size) nodes.
    Raises: ValueError.
    """
    if not 0 <= start < end <= tree_size:
        raise ValueError(f"[{start}, {end}) is not a range of leaves in a tree of size {tree_size}")
    draft = _Draft(tree_size)
    for node in decompose(0, start):
        draft.add(*node)
    while end < tree_size:
        # The largest subtree that begins here; the last may run into the edge of the tree.
        level = (end & -end).bit_length() - 1
        draft.add(level, end >> level)
        end += 1 << level
    return draft.finish()


def plan_multi(*, indices: Sequence[int], tree_size: int) -> Plan:
    """Plan the proof that the leaves at ascending indices are in a tree.

    Precondition: at least one index, each below tree_size and larger than the one before.
    Reads at most 2·log2(tree_size) nodes a leaf, and far fewer where leaves are near each other.
    Raises: ValueError.
    """
    if not indices or indices[0] < 0 or indices[-1] >= tree_size:
        raise ValueError(f"not the indices of leaves in a tree of size {tree_size}")
    if any(map(ge, indices, islice(indices, 1, None))):
        raise ValueError("the indices do not ascend")
    draft = _Draft(tree_size)
    # Subtrees [start, end) with their share [low, high) of the indices, the leftmost last.
    waiting = [(0, tree_size, 0, len(indices))]
    while waiting:
        start, end, low, high = waiting.pop()
        if low == high:
            draft.add((end - start - 1).bit_length(), start >> (end - start - 1).bit_length())
        elif high - low < end - start:
            middle = start + (1 << ((end - start - 1).bit_length() - 1))
            split = bisect_left(indices, middle, low, high)
            waiting += ((middle, end, split, high), (start, middle, low, split))
    return draft.finish()


def finish(plan: Plan, hashes: Sequence[Hash]) -> tuple[Hash, ...]:
    """The proof, from the hashes of `plan.nodes` in their order.

    Raises: ValueError when their number is not that of the nodes.
    """
    if len(hashes) != len(plan.nodes):
        raise ValueError(f"the plan has {len(plan.nodes)} nodes, got {len(hashes)} hashes")
    rest = iter(hashes)
    return tuple(fold_right(tuple(islice(rest, count))) for count in plan.groups)


def root_of(hashes: Mapping[Node, Hash], tree_size: int) -> Hash:
    """The root hash of a tree, from the hashes of complete subtrees that make up all of it.

    The nodes of a plan and what it proves are such subtrees: with this a prover checks the hashes
    that it read. Where a subtree is given together with parts of it, the parts are not used.
    Cost: one hash for each node. Raises: ValueError when a part of the tree is missing.
    """

    def hash_between(start: int, end: int) -> Hash:
        level = (end - start - 1).bit_length()
        known = hashes.get(Node(level, start >> level)) if end - start == 1 << level else None
        if known is not None:
            return known
        if level == 0:
            raise ValueError(f"no hash covers leaf {start}")
        middle = start + (1 << (level - 1))
        return node_hash(hash_between(start, middle), hash_between(middle, end))

    return hash_between(0, tree_size) if tree_size else EMPTY_ROOT_HASH


class _Draft:
    """A plan for one tree, hash by hash."""

    def __init__(self, tree_size: int) -> None:
        self._tree_size = tree_size
        self._nodes: list[Node] = []
        self._groups: list[int] = []

    def add(self, level: int, index: int) -> None:
        """The hash of the subtree that begins like this node, and ends with the tree if sooner."""
        if (index + 1) << level <= self._tree_size:
            self._nodes.append(Node(level, index))
            self._groups.append(1)
        else:
            parts = decompose(index << level, self._tree_size)
            self._nodes += parts
            self._groups.append(len(parts))

    def add_siblings(self, node: Node) -> None:
        """The hashes that this one is hashed with, level by level, until the root stands."""
        level, index = node
        while (1 << level) < self._tree_size:
            sibling = index ^ 1
            # Past the edge there is no sibling: the node is carried up a level as it is.
            if sibling << level < self._tree_size:
                self.add(level, sibling)
            level, index = level + 1, index >> 1

    def finish(self) -> Plan:
        return Plan(tuple(self._nodes), tuple(self._groups))
