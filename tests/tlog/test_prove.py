"""The prover makes what the RFC says, and the verifier takes it, in every tree up to 130."""

from functools import cache, partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog import hashing, tree, verify
from ledger_core.tlog import prove as prove_module
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.prove import (
    Plan,
    finish,
    plan_consistency,
    plan_inclusion,
    plan_range,
    plan_subtree_consistency,
)
from ledger_core.tlog.tree import decompose
from ledger_core.tlog.verify import (
    check_consistency,
    check_inclusion,
    check_range,
    check_subtree_consistency,
    check_subtree_inclusion,
)
from tests.tlog.oracle import SIZE_MAX as ORACLE_SIZE_MAX
from tests.tlog.oracle import Oracle, oracle

SIZES = range(1, ORACLE_SIZE_MAX + 1)


@pytest.fixture(autouse=True)
def shared_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember hashes and subtrees: the proofs of all ranges need the same few many times."""
    monkeypatch.setattr(tree, "node_hash", remembered_node_hash)
    monkeypatch.setattr(verify, "node_hash", remembered_node_hash)
    monkeypatch.setattr(prove_module, "decompose", remembered_decompose)


remembered_node_hash = cache(hashing.node_hash)
remembered_decompose = cache(decompose)


def prove(plan: Plan, leaves: Oracle) -> list[bytes]:
    """Read the nodes of a plan from the oracle, and finish it."""
    hashes = [leaves.mth(index << level, (index + 1) << level) for level, index in plan.nodes]
    return list(finish(plan, hashes))


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_of_every_tree_has_the_inclusion_proof_of_the_rfc(size: int) -> None:
    for index in range(size):
        proof = prove(plan_inclusion(leaf_index=index, tree_size=size), oracle())
        assert proof == oracle().inclusion(index, size)
        check_inclusion(
            leaf_hash=oracle().mth(index, index + 1),
            leaf_index=index,
            tree_size=size,
            proof=proof,
            root_hash=oracle().root(size),
        )


@pytest.mark.parametrize("new_size", SIZES)
def test_every_two_trees_have_the_consistency_proof_of_the_rfc(new_size: int) -> None:
    for old_size in range(new_size + 1):
        proof = prove(plan_consistency(old_size=old_size, new_size=new_size), oracle())
        if 0 < old_size < new_size:
            assert proof == oracle().consistency(old_size, new_size)
        else:
            assert proof == []
        check_consistency(
            old_size=old_size,
            new_size=new_size,
            proof=proof,
            old_root=oracle().root(old_size),
            new_root=oracle().root(new_size),
        )


def subtrees(size: int) -> list[tuple[int, int]]:
    """Each [start, end) within a tree that is a subtree, as the draft defines them (§4.1)."""
    found = []
    for start in range(size):
        for end in range(start + 1, size + 1):
            width = 1
            while width < end - start:
                width *= 2
            if start % width == 0:
                found.append((start, end))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_every_subtree_of_every_tree_has_the_consistency_proof_of_the_draft(size: int) -> None:
    for start, end in subtrees(size):
        plan = plan_subtree_consistency(start=start, end=end, tree_size=size)
        proof = prove(plan, oracle())
        assert proof == oracle().subtree_consistency(start, end, size)
        check_subtree_consistency(
            start=start,
            end=end,
            tree_size=size,
            proof=proof,
            subtree_root=oracle().mth(start, end),
            root_hash=oracle().root(size),
        )


def test_every_leaf_of_every_subtree_has_its_inclusion_proof() -> None:
    for start, end in subtrees(70):
        leaves = Oracle(oracle().leaves[start:end])
        for index in range(start, end):
            plan = plan_inclusion(leaf_index=index - start, tree_size=end - start)
            check_subtree_inclusion(
                leaf_hash=oracle().mth(index, index + 1),
                leaf_index=index,
                start=start,
                end=end,
                proof=prove(plan, leaves),
                subtree_root=oracle().mth(start, end),
            )


def test_an_empty_subtree_has_an_empty_proof() -> None:
    empty, root = oracle().root(0), oracle().root(9)
    check = partial(
        check_subtree_consistency, start=3, end=3, tree_size=9, root_hash=root, proof=[]
    )
    check(subtree_root=empty)
    with pytest.raises(VerificationError, match="not the root of the empty tree"):
        check(subtree_root=root)


@pytest.mark.parametrize(
    ("start", "end", "size"),
    [(1, 3, 4), (2, 5, 8), (4, 9, 16), (0, 5, 4), (3, 2, 4), (-4, 0, 4)],
)
def test_what_is_no_subtree_is_neither_proved_nor_verified(start: int, end: int, size: int) -> None:
    with pytest.raises(ValueError, match="not a subtree"):
        plan_subtree_consistency(start=start, end=end, tree_size=size)
    with pytest.raises(VerificationError):
        check_subtree_consistency(
            start=start,
            end=end,
            tree_size=size,
            proof=[],
            subtree_root=oracle().root(1),
            root_hash=oracle().root(1),
        )


@pytest.mark.parametrize("size", SIZES)
def test_every_range_of_every_tree_has_its_range_proof(size: int) -> None:
    leaf_hashes = oracle().leaf_hashes(0, size)
    for start in range(size):
        for end in range(start + 1, size + 1):
            proof = prove(plan_range(start=start, end=end, tree_size=size), oracle())
            assert proof == oracle().range(start, end, size)
            check_range(
                leaf_hashes=leaf_hashes[start:end],
                start=start,
                tree_size=size,
                proof=proof,
                root_hash=oracle().root(size),
            )


@pytest.mark.parametrize("size", SIZES)
def test_the_range_proof_of_one_leaf_has_the_hashes_of_its_inclusion_proof(size: int) -> None:
    for index in range(size):
        of_range = prove(plan_range(start=index, end=index + 1, tree_size=size), oracle())
        assert sorted(of_range) == sorted(oracle().inclusion(index, size))


sizes = st.integers(1, SIZE_MAX)


@given(sizes, st.data())
def test_a_plan_for_the_largest_trees_reads_few_nodes(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(index + 1, size))
    old_size = data.draw(st.integers(0, size))
    height = size.bit_length()
    for plan, count_max in (
        (plan_inclusion(leaf_index=index, tree_size=size), 2 * height),
        (plan_consistency(old_size=old_size, new_size=size), 2 * height),
        (plan_range(start=index, end=end, tree_size=size), 3 * height),
    ):
        assert len(plan.nodes) <= count_max
        assert sum(plan.groups) == len(plan.nodes)
        assert all((node.index + 1) << node.level <= size for node in plan.nodes)


@given(sizes, st.data())
def test_a_range_proof_covers_all_leaves_that_are_not_in_the_range(
    size: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    nodes = plan_range(start=start, end=end, tree_size=size).nodes
    assert nodes[: start.bit_count()] == decompose(0, start)
    assert nodes[start.bit_count() :] == decompose(end, size)


def test_a_plan_outside_of_the_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="not in a tree"):
        plan_inclusion(leaf_index=7, tree_size=7)
    with pytest.raises(ValueError, match="not in a tree"):
        plan_inclusion(leaf_index=-1, tree_size=7)
    with pytest.raises(ValueError, match="does not begin"):
        plan_consistency(old_size=8, new_size=7)
    with pytest.raises(ValueError, match="does not begin"):
        plan_consistency(old_size=-1, new_size=7)
    for start, end in ((-1, 2), (3, 3), (4, 3), (3, 8)):
        with pytest.raises(ValueError, match="not a range"):
            plan_range(start=start, end=end, tree_size=7)


def test_a_plan_is_finished_with_all_of_its_hashes_only() -> None:
    plan = plan_inclusion(leaf_index=0, tree_size=7)
    for count in (len(plan.nodes) - 1, len(plan.nodes) + 1):
        with pytest.raises(ValueError, match="nodes, got"):
            finish(plan, [bytes(32)] * count)
