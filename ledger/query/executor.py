"""Runs a plan: finds every entry that matches, newest or oldest first, and counts them.

    sealed segments, open segments ──> must and may ──> rows read ──> page, total

A run covers all entries below one tree size. It evaluates the plan window by window, beginning
where the page begins, within limits of rows and time. If a limit ends it before the page is full,
the page is marked incomplete and names the position to continue at. If a limit ends the counting,
the total is a lower bound and marked inexact. A match is never left out silently.
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
from ledger.query.leaf_cache import LeafCache
from ledger.query.open_segments import OpenSegments
from ledger.query.plan import Node, Span
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexSnapshot
from ledger_core.query.predicate import Matcher

_ROWS_AT_ONCE = 256
_NO_TERMS: Final[Mapping[int, SegmentTerms]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """The most that one query may take: rows read, and seconds."""

    rows_scanned: int = 200_000
    time_s: float = 5.0


class Budget:
    """The rest of the limits of one query."""

    def __init__(self, limits: QueryLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + limits.time_s
        self._rows_max = limits.rows_scanned
        self.scanned = 0

    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._end

    def spend_rows(self, count: int) -> int:
        """Spend up to `count` rows; return how many of them may be read."""
        if self.is_over():
            return 0
        allowed = min(count, self._rows_max - self.scanned)
        self.scanned += allowed
        return allowed


@dataclass(frozen=True, slots=True)
class QueryScope:
    """A plan and the entries to run it on: those of `span`, in a tree of one size."""

    node: Node
    matches: Matcher
    span: Span
    tree_size: int
    segment_entries: int
    window_segments: int
    snapshot: IndexSnapshot | None
    open_segments: OpenSegments
    leaf_cache: LeafCache

    @property
    def sealed_segments(self) -> int:
        """The number of segments that the index holds."""
        return 0 if self.snapshot is None else len(self.snapshot.records)

    def windows(self, order: Order) -> Iterator[range]:
        """The segments of the span by window, in the order of the answer."""
        width = self.window_segments
        first = self.span.start // self.segment_entries
        end = -(-self.span.end // self.segment_entries)
        starts = range(first - first % width, end, width)
        for start in reversed(starts) if order == "newest" else starts:
            yield range(max(start, first), min(start + width, end))

    @contextmanager
    def window(self, segments: range) -> Iterator[Window]:
        """A window of some segments. It locks the open segments while one of them is in it."""
        sealed = self.sealed_segments
        reading = (
            self.open_segments.reading(tree_size=self.tree_size, sealed=sealed)
            if segments.stop > sealed
            else nullcontext(_NO_TERMS)
        )
        with reading as open_terms:
            yield Window(
                segments,
                segment_entries=self.segment_entries,
                snapshot=self.snapshot,
                open_terms=open_terms,
            )


@dataclass(frozen=True, slots=True)
class Found:
    """Matches in a part of a window, and the first member whose row was not read, if any.

    Matches beyond `unread_from`, in the order of the answer, may be missing.
    """

    members: BitMap
    unread_from: int | None


def find_matches(
    scope: QueryScope,
    window: Window,
    bounds: Bounds,
    within: BitMap,
    *,
    order: Order,
    spend_rows: Callable[[int], int],
) -> Found:
    """The matches in a part of a window, reading the rows that the plan left undecided."""
    must = bounds.must & within
    if bounds.is_exact:
        return Found(must, None)
    undecided = (bounds.may & within) - must
    matched = BitMap()
    for members in _in_order(undecided, order):
        allowed = spend_rows(len(members))
        indices = [window.index_of(member) for member in members[:allowed]]
        leaves = scope.leaf_cache.leaves(indices)
        matched.update(
            member
            for member, index, leaf in zip(members[:allowed], indices, leaves, strict=True)
            if scope.matches(index, leaf)
        )
        if allowed < len(members):
            return Found(must | matched, members[allowed])
    return Found(must | matched, None)


def _in_order(members: BitMap, order: Order) -> Iterator[list[int]]:
    """The members in the order of the answer, some at a time."""
    count = len(members)
    for start in range(0, count, _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, count)
        if order == "oldest":
            yield list(members[start:end])
        else:
            yield list(members[count - end : count - start])[::-1]


class PageRun:
    """One run for one page: its rows, the total, and the position of the next page.

    `position` is where the page begins: it holds the entries below it if the order is newest first,
    else the entries from it on. These lie ahead; the others lie behind and are only counted.
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
        self._is_ahead_exact = True
        self._unread_position: int | None = None
        self.indices: list[int] = []
        self.total = 0
        self.total_exact = True

    def run(self, *, is_counted: bool, on_found: Callable[[Window, BitMap], None]) -> None:
        """Run over the windows, and pass the matches of each to `on_found`.

        Unless `is_counted`, the run ends when the page is full, and the total is a lower bound.
        """
        span = self._scope.span
        for segments in self._windows():
            if self._budget.is_over() or (not is_counted and self._is_full):
                self.total_exact = False
                if self._is_ahead(segments):
                    self._stop_before(segments)
                return
            with self._scope.window(segments) as window:
                bounds = window.evaluate(self._scope.node)
            below = window.span(span.start, self._position)
            above = window.span(self._position, span.end)
            ahead, behind = (below, above) if self._is_newest else (above, below)
            found = self._find(window, bounds, ahead)
            self._fill_page(window, found)
            rest = self._find(window, bounds, behind)
            on_found(window, found.members | rest.members)

    @property
    def next_position(self) -> int | None:
        """Where the next page begins; None when nothing is left."""
        if self._unread_position is not None:
            return self._unread_position
        if not self.indices or (self._is_ahead_exact and self._ahead == len(self.indices)):
            return None
        return self.indices[-1] + (not self._is_newest)

    @property
    def is_complete(self) -> bool:
        """Whether no limit ended the page before it was full."""
        return self._unread_position is None

    @property
    def _is_full(self) -> bool:
        return len(self.indices) >= self._limit

    def _windows(self) -> list[range]:
        """The windows that lie ahead, then those behind. `sorted` keeps their order otherwise."""
        return sorted(self._scope.windows(self._order), key=self._is_ahead, reverse=True)

    def _is_ahead(self, segments: range) -> bool:
        size = self._scope.segment_entries
        if self._is_newest:
            return segments.start * size < self._position
        return segments.stop * size > self._position

    def _stop_before(self, segments: range) -> None:
        """Leave these segments and those after them to the next page."""
        self._is_ahead_exact = False
        if self._is_full or self._unread_position is not None:
            return
        size = self._scope.segment_entries
        if self._is_newest:
            self._unread_position = min(segments.stop * size, self._position)
        else:
            self._unread_position = max(segments.start * size, self._position)

    def _find(self, window: Window, bounds: Bounds, within: BitMap) -> Found:
        found = find_matches(
            self._scope,
            window,
            bounds,
            within,
            order=self._order,
            spend_rows=self._budget.spend_rows,
        )
        self.total += len(found.members)
        if found.unread_from is not None:
            self.total_exact = False
        return found

    def _fill_page(self, window: Window, found: Found) -> None:
        """Append matches that lie ahead to the page, up to the first row that was not read."""
        self._ahead += len(found.members)
        self._is_ahead_exact = self._is_ahead_exact and found.unread_from is None
        if self._is_full or self._unread_position is not None:
            return
        members = found.members
        if found.unread_from is not None:
            known = (0, found.unread_from)
            if self._is_newest:
                known = (found.unread_from + 1, window.end)
            members = members & BitMap(range(*known))
        wanted = self._limit - len(self.indices)
        if self._is_newest:
            chosen = list(members[max(0, len(members) - wanted) :])[::-1]
        else:
            chosen = list(members[:wanted])
        self.indices += map(window.index_of, chosen)
        if found.unread_from is not None and not self._is_full:
            self._unread_position = window.index_of(found.unread_from) + self._is_newest
