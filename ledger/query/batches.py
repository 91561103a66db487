"""Every match of a query in batches, without limits and in constant memory: for exports.

A batch is what one piece of work finds, so it may be empty: a part of the plan, or the rows of one
bundle. One that waits for its reader holds `leaf_cache.PART_BYTES` of them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

from ledger.query.answer import Row
from ledger.query.cursor import IndexOrder, Position, first_position
from ledger.query.evaluator import Bounds, Window
from ledger.query.event_times import EventTimes
from ledger.query.executor import QueryScope, by_bundle
from ledger.query.leaf_cache import LeafCache
from ledger.query.time_run import TimeOrder
from ledger.store.index.segment_file import DamagedSegmentError
from ledger.store.stored_log import StoredLog
from ledger_core.query.order import Order

T = TypeVar("T")
MakeScope: TypeAlias = Callable[[], AbstractContextManager[QueryScope]]

_SEGMENTS_AT_ONCE = 16


class ReadingIndex(Protocol):
    """Runs work, and again after each damaged segment, which is set aside."""

    def __call__(self, work: Callable[[], T]) -> T: ...


def batches_by_index(
    log: StoredLog, make_scope: MakeScope, reading_index: ReadingIndex, *, order: IndexOrder
) -> Iterator[list[Row]]:
    """The matches by index. No read transaction lasts longer than a piece."""
    leaf_cache = LeafCache(log, bytes_max=0)
    with make_scope() as scope:
        segments, budget = scope.segments, scope.budget

    def evaluate(part: range) -> tuple[QueryScope, Window, Bounds]:
        with make_scope() as scope:
            window = scope.window(part)
            return scope, window, window.evaluate(scope.node)

    for part in budget.split(segments, order, most=_SEGMENTS_AT_ONCE):
        scope, window, bounds = reading_index(partial(evaluate, part))
        within = window.span(scope.span.start, scope.span.end)
        yield []
        for members, indices in by_bundle(window, bounds.may & within, order):
            budget.check()
            for start, leaves in leaf_cache.in_parts(indices):
                yield [
                    Row(index, leaf)
                    for member, index, leaf in zip(
                        members[start:], indices[start:], leaves, strict=False
                    )
                    if member in bounds.must or scope.matches(index, leaf)
                ]


def batches_by_time(
    leaf_cache: LeafCache,
    make_scope: MakeScope,
    event_times: Callable[[QueryScope], EventTimes],
    set_aside: Callable[[DamagedSegmentError], None],
    *,
    order: Order,
) -> Iterator[list[Row]]:
    """The matches by time. Behind a damaged segment it begins again after the last row.

    Entries that are near in time lie in a few bundles, each of which is needed several times, so
    `leaf_cache` caches; all exports share one.
    """
    position: Position | None = None
    is_done = False
    while not is_done:
        try:
            with make_scope() as scope:
                first = position or first_position(order, scope.tree_size)
                found = TimeOrder(scope, event_times(scope), order=order, position=first)
                for step in found.steps():
                    if not step:
                        yield []
                    for start, leaves in leaf_cache.in_parts([each.leaf_index for each in step]):
                        some = step[start : start + len(leaves)]
                        yield [
                            Row(each.leaf_index, leaf)
                            for each, leaf in zip(some, leaves, strict=True)
                            if each.is_sure or scope.matches(each.leaf_index, leaf)
                        ]
                        position = found.position_after(some[-1])
                is_done = True
        except DamagedSegmentError as error:
            set_aside(error)
