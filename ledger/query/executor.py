"""Runs a plan: finds every entry that matches, newest or oldest first, and counts them.

    sealed segments, open segments ──> must and may ──> rows read ──> page, total

A run covers all entries below one tree size. It evaluates the plan window by window, beginning
where the page begins, within a budget. If a limit ends it before the page is full, the page is
marked incomplete and names the position to continue at. If a limit ends the counting, the total is
a lower bound and marked inexact. A match is never left out silently.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import inf

from pyroaring import BitMap

from ledger.query.budget import Budget, OverBudgetError
from ledger.query.cursor import IndexOrder
from ledger.query.evaluator import Bounds, Window
from ledger.query.leaf_cache import LeafCache
from ledger.query.open_segments import OpenTerms
from ledger.query.plan_nodes import Node, Span
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.segment import SegmentRecord
from ledger_core.query.predicate import Matcher
from ledger_core.tlog.tile import TILE_WIDTH

_ROWS_AT_ONCE = 256
_SCANNED_MIN = 32
"""From so many rows of a bundle on, all of it is decoded: most of them don't match."""


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
    read_open_terms: Callable[[], OpenTerms]
    """Indexes what is new when it is called first. Raises: as `Budget.check`."""
    leaf_cache: LeafCache
    budget: Budget

    @property
    def sealed(self) -> Mapping[int, SegmentRecord]:
        """The segments that the index holds."""
        return {} if self.snapshot is None else self.snapshot.records

    @property
    def segments(self) -> range:
        """The segments of the span."""
        size = self.segment_entries
        return range(self.span.start // size, -(-self.span.end // size))

    def split(self, segments: range, order: IndexOrder) -> Iterator[range]:
        """Parts of some segments, in the order of the answer; none takes long to evaluate."""
        return self.budget.split(segments, order, most=self.window_segments)

    def window(self, segments: range) -> Window:
        """A window of some segments. Raises: as `Budget.check`, here and when it is evaluated."""
        is_open = not all(map(self.sealed.__contains__, segments))
        return Window(
            segments,
            segment_entries=self.segment_entries,
            snapshot=self.snapshot,
            open_terms=self.read_open_terms() if is_open else {},
            check=self.budget.check,
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
    within: BitMap | None,
    *,
    order: IndexOrder,
    lacking: float = inf,
) -> Found:
    """The matches in a part of a window, reading the rows that the plan left undecided.

    `within`: the members of the part; None for those of the whole window.
    `lacking`: matches that the page still lacks; rows behind them are read for the total alone.
    """
    must = bounds.must if within is None else bounds.must & within
    if bounds.is_exact:
        return Found(must, None)
    undecided = (bounds.may if within is None else bounds.may & within) - must
    matched = BitMap()
    for members, indices in by_bundle(window, undecided, order):
        is_for_total = lacking <= len(matched) + _before(members[0], must, order)
        allowed = scope.budget.spend_rows(len(members), is_for_total=is_for_total)
        is_scan = allowed >= _SCANNED_MIN
        read = scope.leaf_cache.scanned if is_scan else scope.leaf_cache.readable
        leaves = read(indices[:allowed])
        for place, (member, index, leaf) in enumerate(zip(members, indices, leaves, strict=False)):
            # With 100,000 conditions one row takes tenths of a second.
            if place and scope.budget.is_over():
                return Found(must | matched, member)
            if leaf is not None and scope.matches(index, leaf):
                matched.add(member)
        if allowed < len(members):
            return Found(must | matched, members[allowed])
    return Found(must | matched, None)


def _before(member: int, members: BitMap, order: IndexOrder) -> int:
    """How many of the members come before one in the order of the answer."""
    up_to = members.rank(member)
    return up_to if order == "oldest" else len(members) - up_to


def by_bundle(
    window: Window, members: BitMap, order: IndexOrder
) -> Iterator[tuple[list[int], list[int]]]:
    """The members and their indices in the order of the answer, at most a bundle at a time."""
    count = len(members)
    for start in range(0, count, _ROWS_AT_ONCE):
        some = _slice(members, start, min(start + _ROWS_AT_ONCE, count), order)
        pairs = zip(some, window.indices_of(some), strict=True)
        for _, group in groupby(pairs, lambda pair: pair[1] // TILE_WIDTH):
            found = list(group)
            yield [member for member, _ in found], [index for _, index in found]


def _slice(members: BitMap, start: int, end: int, order: IndexOrder) -> list[int]:
    """The members `[start, end)` in the order of the answer."""
    if order == "oldest":
        return list(members[start:end])
    count = len(members)
    return list(members[count - end : count - start])[::-1]


class PageRun:
    """One run for one page: its rows, the total, and the position of the next page.

    `position` is where the page begins: it holds the entries below it if the order is newest first,
    else the entries from it on. These lie ahead; the others lie behind and are only counted.
    """

    def __init__(self, scope: QueryScope, *, order: IndexOrder, position: int, limit: int) -> None:
        self._scope = scope
        self._is_newest = order == "newest"
        self._order: IndexOrder = order
        self._position = position
        self._limit = limit
        self._budget = scope.budget
        self._ahead = 0
        self._is_ahead_exact = True
        self._unread_position: int | None = None
        self._is_estimated = False
        self._page_bytes = 0
        self.passed = 0
        """Matches on the page, and those that can't be read before its end."""
        self._last_passed = -1
        self.indices: list[int] = []
        self.leaves: list[bytes] = []
        self.total = 0
        self.total_exact = True

    def run(
        self,
        *,
        is_counted: bool,
        on_found: Callable[[Window, BitMap], None],
        is_estimated: bool = False,
    ) -> None:
        """Run over the windows, and pass the matches of each to `on_found`.

        Unless `is_counted`, the run ends when the page is full, and the total is a lower bound.
        `is_estimated`: it may be one too where very many rows would have to be read for it alone.
        """
        self._is_estimated = is_estimated
        for segments in self._windows():
            is_wanted = is_counted or not (self._is_full or self._unread_position is not None)
            if not is_wanted or self._budget.is_over() or not self._run_window(segments, on_found):
                self.total_exact = False
                if self._is_ahead(segments):
                    self._stop_before(segments)
                return

    @property
    def span(self) -> Span:
        """The entries that the plan can find."""
        return self._scope.span

    @property
    def next_position(self) -> int | None:
        """The position at which the next page begins; None when nothing is left."""
        if self._unread_position is not None:
            return self._unread_position
        if not self.passed or (self._is_ahead_exact and self._ahead == self.passed):
            return None
        return self._last_passed + (not self._is_newest)

    @property
    def _is_full(self) -> bool:
        return len(self.indices) >= self._limit

    def _run_window(self, segments: range, on_found: Callable[[Window, BitMap], None]) -> bool:
        """Find and count the matches of a window; return whether there was time to evaluate it."""
        scope, span = self._scope, self._scope.span
        try:
            window = scope.window(segments)
            bounds = window.evaluate(scope.node)
        except OverBudgetError:
            return False
        if not bounds.may:
            return True
        if window.is_within(*self._page_span):
            found = self._find(window, bounds, None)
            self._fill_page(window, found)
            on_found(window, found.members)
            return True
        below = window.span(span.start, min(self._position, span.end))
        above = window.span(max(self._position, span.start), span.end)
        ahead, behind = (below, above) if self._is_newest else (above, below)
        found = self._find(window, bounds, ahead)
        self._fill_page(window, found)
        rest = self._find(window, bounds, behind)
        on_found(window, found.members | rest.members)
        return True

    def _windows(self) -> Iterator[range]:
        """The windows that lie ahead, then those behind."""
        segments, size = self._scope.segments, self._scope.segment_entries
        edge = -(-self._position // size) if self._is_newest else self._position // size
        edge = min(max(edge, segments.start), segments.stop)
        below, above = range(segments.start, edge), range(edge, segments.stop)
        for part in (below, above) if self._is_newest else (above, below):
            yield from self._scope.split(part, self._order)

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

    @property
    def _page_span(self) -> tuple[int, int]:
        """The entries of the span that lie ahead."""
        span = self._scope.span
        if self._is_newest:
            return span.start, min(self._position, span.end)
        return max(self._position, span.start), span.end

    def _find(self, window: Window, bounds: Bounds, within: BitMap | None) -> Found:
        lacking = self._limit - len(self.indices) if self._is_estimated else inf
        found = find_matches(
            self._scope, window, bounds, within, order=self._order, lacking=lacking
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
        if self._fill_from_cache(window, members):
            members = BitMap()
        for _, indices in by_bundle(window, members, self._order):
            if len(self.indices) >= self._limit:
                break
            # The first rows are read in any case, so that every page goes on.
            if self.passed and self._has_no_room():
                self._unread_position = indices[0] + self._is_newest
                return
            self._add_rows(indices)
        if found.unread_from is not None and not self._is_full:
            self._unread_position = window.index_of(found.unread_from) + self._is_newest

    def _fill_from_cache(self, window: Window, members: BitMap) -> bool:
        """Append the next rows at once if all of them are cached; return whether it did.

        A query that is asked again, or refined, finds its rows there.
        """
        room = min(self._limit - len(self.indices), len(members))
        indices = window.indices_of(_slice(members, 0, room, self._order))
        leaves = self._scope.leaf_cache.cached(indices)
        page_bytes = self._page_bytes + sum(map(len, leaves or ()))
        if not leaves or page_bytes > self._budget.limits.page_bytes:
            return False
        self.indices += indices
        self.leaves += leaves
        self._page_bytes = page_bytes
        self.passed += len(indices)
        self._last_passed = indices[-1]
        return True

    def _add_rows(self, indices: list[int]) -> None:
        """Append rows until the page is full; those in a damaged bundle are left out."""
        while indices and not self._is_full:
            room = self._limit - len(self.indices)
            some, indices = indices[:room], indices[room:]
            for index, leaf in zip(some, self._scope.leaf_cache.readable(some), strict=True):
                if leaf is not None:
                    self.indices.append(index)
                    self.leaves.append(leaf)
                    self._page_bytes += len(leaf)
            self.passed += len(some)
            self._last_passed = some[-1]

    def _has_no_room(self) -> bool:
        """Whether a limit keeps further rows from the page."""
        if self._page_bytes >= self._budget.limits.page_bytes:
            self._budget.is_spent = True
            return True
        return self._budget.is_over()
