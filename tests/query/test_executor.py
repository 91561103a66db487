"""A run at the edges: limits that end it, and windows of 256 segments of 65,536 entries."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Final, Literal, cast

import pytest
from pyroaring import BitMap

from ledger.query.budget import Budget, QueryLimits
from ledger.query.cursor import IndexOrder
from ledger.query.evaluator import WINDOW_SEGMENTS, Window
from ledger.query.executor import PageRun, QueryScope
from ledger.query.leaf_cache import LeafCache
from ledger.query.plan import span_of
from ledger.query.plan_nodes import Complement, Entries, Node, Span, Union, Unknown
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX

WINDOW_ENTRIES: Final = WINDOW_SEGMENTS * SEGMENT_ENTRIES_MAX
TREE_SIZE: Final = 2 * WINDOW_ENTRIES + 5
ORDERS: Final[tuple[IndexOrder, ...]] = ("newest", "oldest")


class EmptyLeaves:
    """The leaves of a log in which nobody reads them."""

    def readable(self, indices: Sequence[int]) -> list[bytes]:
        return [b""] * len(indices)

    scanned = readable

    def cached(self, indices: Sequence[int]) -> list[bytes] | None:
        """Every page takes the way of rows that are read."""


def scope_of(
    node: Node,
    *,
    matches: Callable[[int, bytes], bool] = lambda _index, _leaf: True,
    tree_size: int = TREE_SIZE,
) -> QueryScope:
    return QueryScope(
        node=node,
        matches=matches,
        span=span_of(node, tree_size),
        tree_size=tree_size,
        segment_entries=SEGMENT_ENTRIES_MAX,
        window_segments=WINDOW_SEGMENTS,
        snapshot=None,
        # A log so long that none of it is in memory.
        read_open_terms=dict,
        leaf_cache=cast("LeafCache", EmptyLeaves()),
        budget=Budget(QueryLimits()),
    )


def run_of(
    scope: QueryScope,
    order: Literal["newest", "oldest"],
    *,
    limit: int,
    limits: QueryLimits | None = None,
    position: int | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> PageRun:
    start = scope.tree_size if order == "newest" else 0
    run = PageRun(
        replace(scope, budget=Budget(limits or QueryLimits(), clock)),
        order=order,
        position=start if position is None else position,
        limit=limit,
    )
    run.run(is_counted=True, on_found=lambda _window, _members: None)
    return run


EDGES: Final = tuple(
    edge + step
    for edge in (0, SEGMENT_ENTRIES_MAX, WINDOW_ENTRIES, 2 * WINDOW_ENTRIES)
    for step in (-2, -1, 0, 1, 2)
    if edge + step >= 0
)


@pytest.mark.parametrize("number", [0, 1])
def test_members_and_indices_agree_at_every_edge_of_a_window(number: int) -> None:
    first = number * WINDOW_SEGMENTS
    window = Window(
        range(first, first + WINDOW_SEGMENTS),
        segment_entries=SEGMENT_ENTRIES_MAX,
        snapshot=None,
        open_terms={},
    )
    start, end = number * WINDOW_ENTRIES, (number + 1) * WINDOW_ENTRIES
    assert window.end == WINDOW_ENTRIES
    assert window.universe(window.segments) == BitMap(range(WINDOW_ENTRIES))
    for index in EDGES:
        if start <= index < end:
            assert window.index_of(window.member_of(index)) == index
            assert window.span(index, index + 1) == BitMap([index - start])
        else:
            assert window.member_of(index) == (0 if index < start else WINDOW_ENTRIES)
            assert not window.span(index, index + 1)
    assert window.span(start, end) == BitMap(range(WINDOW_ENTRIES))
    assert window.span(start + 1, end - 1) == BitMap(range(1, WINDOW_ENTRIES - 1))


@pytest.mark.parametrize("order", ORDERS)
def test_a_page_goes_over_the_edges_of_windows_without_a_gap(order: IndexOrder) -> None:
    expected = [index for index in EDGES if index < TREE_SIZE]
    if order == "newest":
        expected.reverse()
    scope = scope_of(Entries(tuple(sorted(expected))))
    run = run_of(scope, order, limit=len(expected))
    assert run.indices == expected
    assert run.total == len(expected)
    assert run.next_position is None
    for size in range(1, len(expected)):
        first = run_of(scope, order, limit=size)
        rest = run_of(scope, order, limit=100, position=first.next_position)
        assert first.indices + rest.indices == expected
        assert first.total == rest.total == len(expected)
        assert first.total_exact


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 6, 255, 256, 257])
def test_a_page_that_runs_out_of_rows_says_where_to_go_on(order: IndexOrder, rows: int) -> None:
    run = run_of(scope_of(Unknown()), order, limit=1000, limits=QueryLimits(rows_scanned=rows))
    last = TREE_SIZE - 1
    expected = [last - n if order == "newest" else n for n in range(rows)]
    assert run.indices == expected
    assert run.next_position == (TREE_SIZE - rows if order == "newest" else rows)
    assert not run.total_exact
    assert run.total == rows


@pytest.mark.parametrize("order", ORDERS)
def test_a_match_beyond_the_first_unread_row_waits_for_the_next_page(order: IndexOrder) -> None:
    edges = (0, 1, WINDOW_ENTRIES - 1)
    # The plan is sure of the edges of the first window, and one row may be read between them.
    node = Union((Entries(edges), Unknown()))
    scope = scope_of(node, tree_size=WINDOW_ENTRIES)
    run = run_of(scope, order, limit=10, limits=QueryLimits(rows_scanned=1))
    newest = [WINDOW_ENTRIES - 1, WINDOW_ENTRIES - 2]
    assert run.indices == (newest if order == "newest" else [0, 1, 2])
    assert run.next_position == (WINDOW_ENTRIES - 2 if order == "newest" else 3)
    assert run.total == len(edges) + 1
    assert not run.total_exact


@pytest.mark.parametrize("order", ORDERS)
def test_the_first_row_that_was_not_read_is_the_first_of_the_next_page(order: IndexOrder) -> None:
    scope = scope_of(Unknown(), matches=lambda index, _leaf: index % 2 == 0, tree_size=600)
    found: list[int] = []
    position: int | None = None
    while True:
        run = run_of(scope, order, limit=7, position=position, limits=QueryLimits(rows_scanned=5))
        found += run.indices
        position = run.next_position
        if position is None:
            break
    expected = list(range(0, 600, 2))
    assert found == (expected[::-1] if order == "newest" else expected)


@pytest.mark.parametrize("order", ORDERS)
def test_no_row_is_read_once_the_time_is_up(order: IndexOrder) -> None:
    # The budget begins, a window begins, the window may be read, its rows may not.
    seconds = iter([0.0, 0.0, 4.9, *[5.0] * 10])
    read: list[int] = []

    def matches(index: int, leaf: bytes) -> bool:
        read.append(index)
        return True

    scope = scope_of(Unknown(), matches=matches, tree_size=600)
    run = run_of(scope, order, limit=10, clock=lambda: next(seconds))
    assert read == []
    assert run.indices == []
    assert run.next_position == (600 if order == "newest" else 0)
    assert not run.total_exact


def test_a_budget_spends_no_row_when_its_time_is_up() -> None:
    ticks = count()
    budget = Budget(QueryLimits(rows_scanned=10, time_s=3.0), lambda: float(next(ticks)))
    assert [budget.spend_rows(4) for _ in range(5)] == [4, 4, 0, 0, 0]
    assert budget.scanned == 8


def test_a_budget_spends_as_many_rows_as_are_left() -> None:
    budget = Budget(QueryLimits(rows_scanned=10), lambda: 0.0)
    assert [budget.spend_rows(4) for _ in range(4)] == [4, 4, 2, 0]
    assert budget.scanned == 10


def test_rows_of_an_answer_do_not_count_as_rows_of_its_total() -> None:
    budget = Budget(QueryLimits(rows_scanned=100, rows_counted=4), lambda: 0.0)
    assert budget.spend_rows(3, is_for_total=True) == 3
    assert budget.spend_rows(5) == 5
    assert [budget.spend_rows(3, is_for_total=True) for _ in range(2)] == [1, 0]
    assert budget.scanned == 9


def test_a_run_that_ends_in_time_between_windows_leaves_the_rest_to_the_next_page() -> None:
    # The first window is one segment, the second two; then the time is up.
    seconds = iter([*[0.0] * 8, *[9.0] * 10])
    last = 3 * SEGMENT_ENTRIES_MAX - 1
    scope = scope_of(Entries((3, SEGMENT_ENTRIES_MAX, last, last + 1, TREE_SIZE - 1)))
    run = run_of(scope, "oldest", limit=10, clock=lambda: next(seconds))
    assert run.indices == [3, SEGMENT_ENTRIES_MAX, last]
    assert run.next_position == last + 1
    assert not run.total_exact


def test_the_complement_of_an_exact_part_reads_no_row() -> None:
    scope = scope_of(Complement(Span(2, TREE_SIZE - 1)))
    run = run_of(scope, "newest", limit=10, limits=QueryLimits(rows_scanned=0))
    assert run.indices == [TREE_SIZE - 1, 1, 0]
    assert run.total_exact
