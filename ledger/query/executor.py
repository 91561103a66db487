"""Running a plan: every entry that matches, newest or oldest first, and how many there are.

    the sealed segments, the tail in memory ──> sure and maybe ──> rows looked at ──> rows, total

A run covers all entries below one tree size. It goes window by window, from where the page begins,
and keeps within limits of rows and of time. Where a limit ends it before the page is full, the page
says that it isn't complete, and where to go on; where it ends the counting, the total is a lower
bound and says so. It never leaves out a match silently.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pyroaring import BitMap

from ledger.query.cursor import Order
from ledger.query.evaluator import Bounds, Window
from ledger.query.leaf_cache import RowReader
from ledger.query.open_segments import OpenSegments
from ledger.query.plan import Node, Span
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexSnapshot
from ledger_core.query.predicate import Matcher

_CHECKED_AT_ONCE = 256
_NO_TERMS: Final[Mapping[int, SegmentTerms]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one query may take: rows looked at, and seconds."""

    rows_scanned: int = 200_000
    time_s: float = 5.0


class Budget:
    """What is left of the limits of one query."""

    def __init__(self, limits: QueryLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + limits.time_s
        self._rows_max = limits.rows_scanned
        self.scanned = 0

    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._end

    def take_rows(self, count: int) -> int:
        """How many of so many rows may still be looked at; they count as looked at."""
        if self.is_over():
            return 0
        allowed = min(count, self._rows_max - self.scanned)
        self.scanned += allowed
        return allowed


@dataclass(frozen=True, slots=True)
class QueryScope:
    """A plan, and the entries to run it on: those of `span`, in a tree of one size."""

    node: Node
    matches: Matcher
    span: Span
    tree_size: int
    segment_entries: int
    snapshot: IndexSnapshot | None
    tail: OpenSegments
    rows: RowReader

    def windows(self, order: Order, width: int) -> Iterator[range]:
        """The segments of the span, so many at a time, in the order of the answer."""
        first = self.span.start // self.segment_entries
        end = -(-self.span.end // self.segment_entries)
        starts = range(first - first % width, end, width)
        for start in reversed(starts) if order == "newest" else starts:
            yield range(max(start, first), min(start + width, end))

    @contextmanager
    def window(self, segments: range) -> Iterator[Window]:
        """Some of the segments; the tail is held for as long as one of them is in it."""

        sealed = 0 if self.snapshot is None else len(self.snapshot.records)
        held = (
            self.tail.reading(tree_size=self.tree_size, sealed=sealed)
            if segments.stop > sealed
            else nullcontext(_NO_TERMS)
        )
        with held as terms:
            yield Window(
                segments,
                segment_entries=self.segment_entries,
                snapshot=self.snapshot,
                tail=terms,
            )


@dataclass(frozen=True, slots=True)
class Found:
    """Matches in a part of a window, and the first member that nobody looked at, if any.

    Matches beyond `open_from`, in the order of the answer, may be missing.
    """

    members: BitMap
    open_from: int | None


def decide(
    scope: QueryScope,
    window: Window,
    decided: Bounds,
    within: BitMap,
    *,
    order: Order,
    take_rows: Callable[[int], int],
) -> Found:
    """The matches in a part of a window, by looking at the rows that its plan left open."""
    sure = decided.sure & within
    if decided.maybe is decided.sure:
        return Found(sure, None)
    undecided = (decided.maybe & within) - sure
    matched: list[int] = []
    for members in _in_order(undecided, order):
        allowed = take_rows(len(members))
        indices = [window.index_of(member) for member in members[:allowed]]
        leaves = scope.rows.leaves(indices)
        # Members left over at the end are those for which there were no rows any more.
        for member, index, leaf in zip(members, indices, leaves, strict=False):
            if scope.matches(index, leaf):
                matched.append(member)
        if allowed < len(members):
            return Found(sure | BitMap(matched), members[allowed])
    return Found(sure | BitMap(matched), None)


def _in_order(members: BitMap, order: Order) -> Iterator[list[int]]:
    """The members in the order of the answer, some at a time."""
    count = len(members)
    for start in range(0, count, _CHECKED_AT_ONCE):
        end = min(start + _CHECKED_AT_ONCE, count)
        if order == "oldest":
            yield list(members[start:end])
        else:
            yield list(members[count - end : count - start])[::-1]


class PageRun:
    """One run for one page: its rows, the total, and where the next page begins.

    `position` is where the page begins: it holds entries below it if newest first, else from it on.
    """

    def __init__(
        self, scope: QueryScope, *, order: Order, position: int, limit: int, budget: Budget
    ) -> None:
        self._scope = scope
        self._is_newest = order == "newest"
        self._order: Order = order
        self._position = position
        self._limit = limit
        self._budget = budget
        self._ahead = 0
        self._ahead_exact = True
        self._open_position: int | None = None
        self.indices: list[int] = []
        self.total = 0
        self.total_exact = True

    def run(
        self, *, width: int, is_counted: bool, on_found: Callable[[Window, BitMap], None]
    ) -> None:
        """Run over the windows, each `width` segments; `on_found` is told the matches of each.

        Unless `is_counted` it ends when the page is full, and the total is of what was seen.
        """
        for segments in self._windows(width):
            if self._budget.is_over() or (not is_counted and self._is_full):
                self.total_exact = False
                if self._is_ahead(segments):
                    self._leave(segments)
                return
            with self._scope.window(segments) as window:
                decided = window.evaluate(self._scope.node)
            span = self._scope.span
            ahead, behind = (
                window.span(span.start, self._position),
                window.span(self._position, span.end),
            )
            if not self._is_newest:
                ahead, behind = behind, ahead
            found = self._decide(window, decided, ahead)
            self._take(window, found)
            rest = self._decide(window, decided, behind)
            on_found(window, found.members | rest.members)

    @property
    def next_position(self) -> int | None:
        """Where the next page begins; None when nothing is left."""
        if self._open_position is not None:
            return self._open_position
        if not self.indices or (self._ahead_exact and self._ahead == len(self.indices)):
            return None
        return self.indices[-1] + (not self._is_newest)

    @property
    def is_complete(self) -> bool:
        """Whether no limit ended the page before it was full."""
        return self._open_position is None

    @property
    def _is_full(self) -> bool:
        return len(self.indices) >= self._limit

    def _windows(self, width: int) -> list[range]:
        """The windows from where the page begins; then those before it, which are only counted."""
        windows = list(self._scope.windows(self._order, width))
        return [w for w in windows if self._is_ahead(w)] + [
            w for w in windows if not self._is_ahead(w)
        ]

    def _is_ahead(self, segments: range) -> bool:
        size = self._scope.segment_entries
        if self._is_newest:
            return segments.start * size < self._position
        return segments.stop * size > self._position

    def _leave(self, segments: range) -> None:
        """Leave these segments, and those behind them, to the next page."""
        self._ahead_exact = False
        if self._is_full or self._open_position is not None:
            return
        size = self._scope.segment_entries
        if self._is_newest:
            self._open_position = min(segments.stop * size, self._position)
        else:
            self._open_position = max(segments.start * size, self._position)

    def _decide(self, window: Window, decided: Bounds, within: BitMap) -> Found:
        found = decide(
            self._scope,
            window,
            decided,
            within,
            order=self._order,
            take_rows=self._budget.take_rows,
        )
        self.total += len(found.members)
        if found.open_from is not None:
            self.total_exact = False
        return found

    def _take(self, window: Window, found: Found) -> None:
        """Fill the page with matches that lie ahead."""
        self._ahead += len(found.members)
        self._ahead_exact = self._ahead_exact and found.open_from is None
        if self._is_full or self._open_position is not None:
            return
        members = found.members
        if found.open_from is not None:
            # Beyond the first row that nobody looked at, there may be a match in between.
            known = (0, found.open_from)
            if self._is_newest:
                known = (found.open_from + 1, window.end)
            members = members & BitMap(range(*known))
        wanted = self._limit - len(self.indices)
        if self._is_newest:
            chosen = list(members[max(0, len(members) - wanted) :])[::-1]
        else:
            chosen = list(members[:wanted])
        self.indices += [window.index_of(member) for member in chosen]
        if found.open_from is not None and not self._is_full:
            self._open_position = window.index_of(found.open_from) + self._is_newest
