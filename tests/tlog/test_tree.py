"""Hashes, nodes and the frontier, against the RFC."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, SIZE_MAX, leaf_hash, node_hash
from ledger_core.tlog.tree import Frontier, Node, decompose, fold_right
from tests.tlog.oracle import SIZE_MAX as ORACLE_SIZE_MAX
from tests.tlog.oracle import oracle


def test_the_hashes_are_those_of_the_rfc() -> None:
    # The published values: SHA-256 of nothing, of a zero byte, and of a one byte and two hashes.
    assert EMPTY_ROOT_HASH.hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert leaf_hash(b"").hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert node_hash(leaf_hash(b"leaf 0"), leaf_hash(b"leaf 1")) == oracle().root(2)


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_range_is_covered_by_the_fewest_nodes_from_left_to_right(start: int, length: int) -> None:
    end = start + length
    nodes = decompose(start, end)
    leaves = [leaf for node in nodes for leaf in _leaves(node)]
    assert leaves == list(range(start, end))
    for left, right in pairwise(nodes):
        # Two halves of one node would be one node.
        assert left.level != right.level or left.index % 2 == 1


@given(st.integers(0, SIZE_MAX))
def test_a_tree_has_one_node_for_each_bit_of_its_size(size: int) -> None:
    levels = [node.level for node in decompose(0, size)]
    assert sum(1 << level for level in levels) == size
    assert levels == sorted(set(levels), reverse=True)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2)])
def test_what_is_no_range_is_not_decomposed(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        decompose(start, end)


def test_the_frontier_has_the_root_and_the_nodes_of_the_rfc_at_every_size() -> None:
    frontier = Frontier()
    for size in range(ORACLE_SIZE_MAX + 1):
        assert frontier.size == size
        assert frontier.root() == fold_right(frontier.hashes) == oracle().root(size)
        expected = [oracle().mth(*_span(node)) for node in decompose(0, size)]
        assert list(frontier.hashes) == expected
        if size < ORACLE_SIZE_MAX:
            frontier.append(leaf_hash(oracle().leaves[size]))


@given(st.integers(0, ORACLE_SIZE_MAX), st.integers(0, ORACLE_SIZE_MAX))
def test_a_frontier_goes_on_from_where_it_was_kept(first: int, second: int) -> None:
    kept, size = sorted((first, second))
    nodes = decompose(0, kept)
    frontier = Frontier(kept, [oracle().mth(*_span(node)) for node in nodes])
    for leaf in oracle().leaves[kept:size]:
        frontier.append(leaf_hash(leaf))
    assert frontier.root() == oracle().root(size)


def test_a_copy_of_a_frontier_leaves_the_first_as_it_was() -> None:
    frontier = Frontier()
    frontier.append(leaf_hash(b"leaf 0"))
    trial = frontier.copy()
    trial.append(leaf_hash(b"leaf 1"))
    assert (frontier.size, frontier.root()) == (1, oracle().root(1))
    assert (trial.size, trial.root()) == (2, oracle().root(2))


@pytest.mark.parametrize(
    ("size", "hashes"),
    [(-1, []), (0, [bytes(32)]), (1, []), (2, [bytes(32)] * 2), (3, [bytes(32)]), (1, [bytes(31)])],
)
def test_a_frontier_refuses_hashes_that_do_not_fit_its_size(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="hash"):
        Frontier(size, hashes)


def _span(node: Node) -> tuple[int, int]:
    return node.index << node.level, (node.index + 1) << node.level


def _leaves(node: Node) -> range:
    return range(*_span(node))
