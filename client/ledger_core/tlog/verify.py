"""The verifier of inclusion, consistency, range, multi- and subtree proofs.

Each check takes a tree size and a root hash that are trusted already (from one signed checkpoint),
a claim, and its proof. It returns nothing, or raises VerificationError. No size or index is ever
taken from a proof. A wrong number, length or count is a VerificationError too, because it came from
a server and is no mistake of the caller.

Each check walks from a node up to the root. The nodes of each level are numbered from the
left. An odd node is hashed with its sibling on the left, an even one with its sibling on the right;
only the last node of a level may be even and have none, and then it stands in for its parent:

    leaf 4 of 7      index 4, last 6     even: sibling 5 on the right
                     index 2, last 3     even: sibling 3 on the right, which is leaf 6 carried up
                     index 1, last 1     odd:  sibling 0 on the left
                     index 0, last 0     the root: the proof must be used up now, and not before

The verifier shares only the node hash with the prover, so that neither hides a mistake of the
other.

A *subtree* [start, end) is the tree of the leaves from `start` to `end` alone. `start` must be a
multiple of the smallest power of two that is not less than `end - start`: so a subtree is a node of
the tree, or it is to that node what an old tree is to a newer one.

Source: RFC 9162 §2.1.3.2 and §2.1.4.2, for the proofs of RFC 6962 §2.1.1 and §2.1.2;
draft-ietf-plants-merkle-tree-certs-03 §4, for subtrees.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import ge

from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import (
    EMPTY_ROOT_HASH,
    HASH_BYTES,
    SIZE_MAX,
    Hash,
    node_hash,
    node_hashes,
)


def check_inclusion(
    *, leaf_hash: Hash, leaf_index: int, tree_size: int, proof: Sequence[Hash], root_hash: Hash
) -> None:
    """Check that the tree has this leaf at this index.

    Cost: one hash for each hash of the proof. Raises: VerificationError. Source: RFC 9162 §2.1.3.2.
    """
    if not 0 <= leaf_index < tree_size <= SIZE_MAX:
        raise VerificationError(f"leaf {leaf_index} is not in a tree of size {tree_size}")
    _check_lengths(leaf_hash, root_hash, *proof)
    computed = leaf_hash
    for sibling, height in _walk(leaf_index, tree_size - 1, proof):
        is_left = leaf_index >> height & 1
        computed = node_hash(sibling, computed) if is_left else node_hash(computed, sibling)
    if computed != root_hash:
        raise VerificationError(
            f"leaf {leaf_index} is not in the tree of size {tree_size}: "
            f"the proof gives the root {computed.hex()}, want {root_hash.hex()}"
        )


def check_consistency(
    *, old_size: int, new_size: int, proof: Sequence[Hash], old_root: Hash, new_root: Hash
) -> None:
    """Check that the new tree begins with all the leaves of the old one.

    Every tree begins with the empty one, and with itself: those proofs are empty.
    Cost: at most two hashes for each hash of the proof. Raises: VerificationError.
    Source: RFC 9162 §2.1.4.2.
    """
    if not 0 <= old_size <= new_size <= SIZE_MAX:
        raise VerificationError(
            f"a tree of size {new_size} does not begin with a tree of size {old_size}"
        )
    if old_size == 0 and old_root != EMPTY_ROOT_HASH:
        raise VerificationError(f"{old_root.hex()} is not the root of the empty tree")
    if old_size in (0, new_size) and proof:
        raise VerificationError(f"want an empty consistency proof, got {len(proof)} hashes")
    if old_size == new_size:
        # The same tree must have the same root. Nothing is hashed, so roots of any length do.
        if old_root != new_root:
            raise VerificationError(
                f"two trees of size {new_size}: "
                f"their roots are {old_root.hex()} and {new_root.hex()}"
            )
        return
    _check_lengths(old_root, new_root, *proof)
    if old_size == 0:
        return
    old, new = _roots(0, old_size, new_size, proof, old_root)
    for size, computed, root in ((old_size, old, old_root), (new_size, new, new_root)):
        if computed != root:
            raise VerificationError(
                f"the tree of size {new_size} does not begin with the tree of size {old_size}: "
                f"the proof gives the root {computed.hex()} at {size}, want {root.hex()}"
            )


def check_subtree_inclusion(
    *,
    leaf_hash: Hash,
    leaf_index: int,
    start: int,
    end: int,
    proof: Sequence[Hash],
    subtree_root: Hash,
) -> None:
    """Check that the subtree [start, end) has this leaf at this index of the log.

    Cost: one hash for each hash of the proof. Raises: VerificationError.
    Source: draft-ietf-plants-merkle-tree-certs-03 §4.3.
    """
    _check_subtree(start, end)
    if not 0 <= start <= leaf_index < end:
        raise VerificationError(f"leaf {leaf_index} is not in the subtree [{start}, {end})")
    check_inclusion(
        leaf_hash=leaf_hash,
        leaf_index=leaf_index - start,
        tree_size=end - start,
        proof=proof,
        root_hash=subtree_root,
    )


def check_subtree_consistency(
    *,
    start: int,
    end: int,
    tree_size: int,
    proof: Sequence[Hash],
    subtree_root: Hash,
    root_hash: Hash,
) -> None:
    """Check that the leaves [start, end) of the tree have this root by themselves.

    An empty subtree is one of every tree, and a tree is one of itself: those proofs are empty.
    Cost: at most two hashes for each hash of the proof. Raises: VerificationError.
    Source: draft-ietf-plants-merkle-tree-certs-03 §4.4.
    """
    if not 0 <= start <= end <= tree_size <= SIZE_MAX:
        raise VerificationError(
            f"[{start}, {end}) is not a range of leaves in a tree of size {tree_size}"
        )
    is_whole = (start, end) == (0, tree_size)
    if (is_whole or start == end) and proof:
        raise VerificationError(f"want an empty consistency proof, got {len(proof)} hashes")
    if start == end:
        if subtree_root != EMPTY_ROOT_HASH:
            raise VerificationError(f"{subtree_root.hex()} is not the root of the empty tree")
        return
    if is_whole:
        if subtree_root != root_hash:
            raise VerificationError(
                f"two trees of size {tree_size}: their roots are {subtree_root.hex()} and "
                f"{root_hash.hex()}"
            )
        return
    _check_subtree(start, end)
    _check_lengths(subtree_root, root_hash, *proof)
    old, new = _roots(start, end, tree_size, proof, subtree_root)
    for what, computed, root in (("subtree", old, subtree_root), ("tree", new, root_hash)):
        if computed != root:
            raise VerificationError(
                f"[{start}, {end}) is not a subtree of the tree of size {tree_size}: the proof "
                f"gives the {what} the root {computed.hex()}, want {root.hex()}"
            )


def check_range(
    *,
    leaf_hashes: Sequence[Hash],
    start: int,
    tree_size: int,
    proof: Sequence[Hash],
    root_hash: Hash,
) -> None:
    """Check that the tree has these consecutive leaves from index `start` on.

    The proof has the hash of each maximal subtree without any of them, left to right: those before
    `start` (one for each bit set in it), and then those after the last leaf. An empty range would
    prove nothing, and is refused.

    Cost: one hash a leaf, and one for each hash of the proof. Raises: VerificationError.
    """
    end = start + len(leaf_hashes)
    if not 0 <= start < end <= tree_size <= SIZE_MAX:
        raise VerificationError(
            f"[{start}, {end}) is not a range of leaves in a tree of size {tree_size}"
        )
    _check_lengths(root_hash, *leaf_hashes, *proof)
    left = list(proof[: start.bit_count()])
    right = iter(proof[start.bit_count() :])
    # The nodes [first, end) of a level, and how many the level has.
    row, first, count = list(leaf_hashes), start, tree_size
    try:
        while count > 1:
            if first & 1:
                row.insert(0, left.pop())
            if end & 1 and end < count:
                row.append(next(right))
            parents = list(map(node_hash, row[::2], row[1::2]))
            if len(row) & 1:
                # The last node of its level has no sibling and stands in for its parent.
                parents.append(row[-1])
            row, first, end, count = parents, first >> 1, (end + 1) >> 1, (count + 1) >> 1
    except (IndexError, StopIteration):
        raise VerificationError(f"the range proof is too short: {len(proof)} hashes") from None
    if left or next(right, None) is not None:
        raise VerificationError(f"the range proof is too long: {len(proof)} hashes")
    if row != [root_hash]:
        raise VerificationError(
            f"the leaves from {start} on are not in the tree of size {tree_size}: "
            f"the proof gives the root {row[0].hex()}, want {root_hash.hex()}"
        )


def check_multi(
    *,
    leaf_hashes: Sequence[Hash],
    indices: Sequence[int],
    tree_size: int,
    proof: Sequence[Hash],
    root_hash: Hash,
) -> None:
    """Check that the tree has these leaves at these ascending indices.

    The proof has the hash of each maximal subtree without any of them, left to right.
    Cost: one hash a leaf, and one for each hash of the proof. Raises: VerificationError.
    """
    if not indices or len(indices) != len(leaf_hashes) or not tree_size <= SIZE_MAX:
        raise VerificationError(
            f"{len(indices)} indices are not those of {len(leaf_hashes)} leaves"
        )
    if indices[0] < 0 or indices[-1] >= tree_size or any(map(ge, indices, indices[1:])):
        raise VerificationError(f"not ascending indices of leaves in a tree of size {tree_size}")
    _check_lengths(root_hash, *leaf_hashes, *proof)
    rest = iter(proof)

    def root_of(start: int, end: int, low: int, high: int) -> Hash:
        """The root of the subtree [start, end), which holds the leaves [low, high) of the list."""
        if low == high:
            return next(rest)
        if high - low == end - start:
            return _root_of_row(leaf_hashes[low:high])
        if high - low == 1 and (end - start).bit_count() == 1:
            return _climb(leaf_hashes[low], indices[low] - start, end - start, rest)
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        split = bisect_left(indices, middle, low, high)
        left = root_of(start, middle, low, split)
        return node_hash(left, root_of(middle, end, split, high))

    try:
        computed = root_of(0, tree_size, 0, len(indices))
    except StopIteration:
        raise VerificationError(f"the multi-proof is too short: {len(proof)} hashes") from None
    if next(rest, None) is not None:
        raise VerificationError(f"the multi-proof is too long: {len(proof)} hashes")
    if computed != root_hash:
        raise VerificationError(
            f"the {len(indices)} leaves from {indices[0]} to {indices[-1]} are not in the tree of "
            f"size {tree_size}: the proof gives the root {computed.hex()}, want {root_hash.hex()}"
        )


def _climb(node: Hash, index: int, width: int, rest: Iterator[Hash]) -> Hash:
    """The root of a complete subtree with one given leaf, from the hashes beside its path.

    Those on the left are next, the largest subtree first, and then those on the right.
    Raises: StopIteration when there are too few.
    """
    left = [next(rest) for _ in range(index.bit_count())]
    while width > 1:
        node = node_hash(left.pop(), node) if index & 1 else node_hash(node, next(rest))
        index, width = index >> 1, width >> 1
    return node


def _root_of_row(row: Sequence[Hash]) -> Hash:
    """The root over consecutive leaves of a subtree, at least one."""
    while len(row) > 1:
        pairs_end = len(row) & ~1
        row = [*node_hashes(b"".join(row[:pairs_end])), *row[pairs_end:]]
    return row[0]


def _check_subtree(start: int, end: int) -> None:
    """Raises: VerificationError when no tree has a subtree [start, end)."""
    if start >= end or start & ((1 << (end - start - 1).bit_length()) - 1):
        raise VerificationError(f"[{start}, {end}) is not a subtree")


def _roots(
    start: int, end: int, tree_size: int, proof: Sequence[Hash], subtree_root: Hash
) -> tuple[Hash, Hash]:
    """The roots of the subtree [start, end) and of the tree, as the proof has them."""
    # The largest node that ends the subtree and is one of the tree too; `first` is the node of its
    # level that begins the subtree.
    first, index, last = start, end - 1, tree_size - 1
    while first != index and (index & 1 or index == last):
        first, index, last = first >> 1, index >> 1, last >> 1
    # If that node is all of the subtree, its hash is known. Else the proof begins with it.
    if first == index:
        proof = (subtree_root, *proof)
    if not proof:
        raise VerificationError(
            f"the consistency proof from [{start}, {end}) to the tree of {tree_size} is empty"
        )
    old = new = proof[0]
    for sibling, height in _walk(index, last, proof[1:]):
        if index >> height & 1:
            if first >> height < index >> height:
                old = node_hash(sibling, old)
            new = node_hash(sibling, new)
        else:
            # A sibling on the right came after the subtree.
            new = node_hash(new, sibling)
    return old, new


def _walk(index: int, last: int, proof: Sequence[Hash]) -> Iterator[tuple[Hash, int]]:
    """Each hash of the proof, from node `index` up to the root, with its height above that node.

    There it is the sibling of node `index >> height`, which is on its right if its number is odd.
    """
    height = 0
    for sibling in proof:
        if last == 0:
            raise VerificationError(f"the proof is too long: {len(proof)} hashes")
        while index == last and not index & 1:
            index, last, height = index >> 1, last >> 1, height + 1
        yield sibling, height
        index, last, height = index >> 1, last >> 1, height + 1
    if last != 0:
        raise VerificationError(f"the proof is too short: {len(proof)} hashes")


def _check_lengths(*hashes: Hash) -> None:
    lengths = set(map(len, hashes))
    if lengths != {HASH_BYTES}:
        raise VerificationError(f"a hash has {HASH_BYTES} bytes, got {min(lengths - {HASH_BYTES})}")
