"""Finds matches in the order in which they happened: by event time, then by index.

The index is ordered by receipt, and an event may be received long after it happened. So segments,
blocks of 1,024 entries within them, and entries wait in one place each, with the earliest time that
they may hold:

    segments, not evaluated ──> segments with matches ──> blocks ──> entries ──> the answer

Whatever comes first by that time is opened next, and an entry is taken once nothing that is closed
may come before it. So a page opens the few blocks around its beginning, and those of entries that
came late, however long the log is. Newest first, all times and indices are negative.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import groupby
from math import inf
from typing import Final, NamedTuple

from pyroaring import BitMap

from ledger.query.budget import OverBudgetError
from ledger.query.cursor import Position
from ledger.query.evaluator import Bounds, Window
from ledger.query.event_times import EventTimes, SegmentTimes, TimesUnknownError
from ledger.query.executor import PageRun, QueryScope, find_matches
from ledger.query.plan_nodes import Span
from ledger_core.query.order import Order

STEP_ENTRIES: Final = 256
_FEW: Final = 64


@dataclass(slots=True)
class _Part:
    """A window that was evaluated, and its members that were decided by reading rows."""

    window: Window
    bounds: Bounds
    within: BitMap
    matched: BitMap = field(default_factory=BitMap)
    rejected: BitMap = field(default_factory=BitMap)


class Candidate(NamedTuple):
    """An entry that may match: time and index, both negative if the newest come first."""

    time: int
    place: int
    part: _Part

    @property
    def leaf_index(self) -> int:
        """The index of the entry."""
        return abs(self.place)

    @property
    def is_sure(self) -> bool:
        """Whether it matches by the index alone."""
        return self.part.window.member_of(self.leaf_index) in self.part.bounds.must


class _Closed(NamedTuple):
    """A segment or a block whose entries are not looked at yet: the first time it may hold."""

    time: int
    number: int
    part: _Part
    times: SegmentTimes
    offsets: BitMap
    place: int = 0


class TimeOrder:
    """The candidates of a query from a position on, in the order of time. Mutable."""

    def __init__(
        self, scope: QueryScope, times: EventTimes, *, order: Order, position: Position
    ) -> None:
        """Raises: as `Budget.check`, DamagedSegmentError."""
        self._scope = scope
        self._times = times
        self._sign = 1 if order == "time" else -1
        # The first key of the page; newest first, the position itself is outside.
        index = position.index if order == "time" else 1 - position.index
        self._start = (self._sign * position.time_us, index)
        self._ahead: list[tuple[int, int]] = []
        self._behind: list[int] = []
        self._split_segments()
        self._evaluated = 0
        self._places = scope.budget.split(
            range(len(self._ahead)), "oldest", most=scope.window_segments
        )
        self._segments: list[_Closed] = []
        self._blocks: list[_Closed] = []
        self._ready: list[Candidate] = []
        self.parts: list[_Part] = []

    def _split_segments(self) -> None:
        """Sort the segments by the first time they hold; apart those that end before the page."""
        for segment in self._scope.segments:
            ends = sorted(self._sign * us for us in self._times.bounds(segment))
            if ends[1] < self._start[0]:
                self._behind.append(segment)
            else:
                self._ahead.append((ends[0], segment))
        self._ahead.sort()

    def steps(self) -> Iterator[list[Candidate]]:
        """The candidates in order; a list is what one piece of work finds, so it may be empty.

        Raises: as `Budget.check`, DamagedSegmentError.
        """
        while True:
            bound = self._next_time()
            found: list[Candidate] = []
            ready = self._ready
            while ready and ready[0].time < bound and len(found) < STEP_ENTRIES:
                found.append(heappop(ready))
            yield found
            if len(found) < STEP_ENTRIES:
                if bound == inf:
                    return
                self._open_next(bound)

    def position_after(self, each: Candidate) -> Position:
        """The position of a page that begins behind a candidate."""
        return Position(each.leaf_index + (self._sign > 0), abs(each.time))

    def _next_time(self) -> float:
        """The first time that anything closed may hold."""
        closed = [some[0].time for some in (self._segments, self._blocks) if some]
        if self._evaluated < len(self._ahead):
            closed.append(self._ahead[self._evaluated][0])
        return min(closed, default=inf)

    def _open_next(self, bound: float) -> None:
        self._scope.budget.check()
        if self._evaluated < len(self._ahead) and self._ahead[self._evaluated][0] == bound:
            places = next(self._places)
            found = self.evaluate(segment for _, segment in self._ahead[places.start : places.stop])
            self._evaluated = places.stop
            for part in found:
                self._add_segments(part)
        elif self._segments and self._segments[0].time == bound:
            self._add_blocks(heappop(self._segments))
        else:
            self._add_entries(heappop(self._blocks))

    def evaluate(self, segments: Iterable[int]) -> list[_Part]:
        """Evaluate the plan in some segments, each run of neighbours by itself."""
        found = []
        for _, run in groupby(enumerate(sorted(segments)), lambda pair: pair[1] - pair[0]):
            numbers = [segment for _, segment in run]
            window = self._scope.window(range(numbers[0], numbers[-1] + 1))
            span = self._scope.span
            bounds = window.evaluate(self._scope.node)
            found.append(_Part(window, bounds, window.span(span.start, span.end)))
        self.parts += found
        return found

    def rest(self) -> Iterator[list[int]]:
        """The segments that were not evaluated, some at a time; those behind the page last."""
        for places in self._places:
            yield [segment for _, segment in self._ahead[places.start : places.stop]]
        for places in self._scope.split(range(len(self._behind)), "oldest"):
            yield self._behind[places.start : places.stop]

    def _add_segments(self, part: _Part) -> None:
        for segment, offsets in part.window.by_segment(part.bounds.may & part.within):
            first = min(self._sign * us for us in self._times.bounds(segment))
            times = self._times.of(segment)
            heappush(self._segments, _Closed(first, segment, part, times, offsets))

    def _add_blocks(self, closed: _Closed) -> None:
        """Open a segment: its blocks that have candidates and do not end before the page."""
        _, number, part, times, offsets, _ = closed
        for place in _places_with(offsets, times.block_entries):
            first, last = sorted(self._sign * us for us in times.bounds(place))
            if last >= self._start[0]:
                heappush(self._blocks, _Closed(first, number, part, times, offsets, place))

    def _add_entries(self, closed: _Closed) -> None:
        """Open a block: its candidates that do not come before the page."""
        _, number, part, times, offsets, place = closed
        start, sign = place * times.block_entries, self._sign
        values = times.read(place)
        some = offsets & BitMap(range(start, start + len(values)))
        base = part.window.start_of(number)
        found = [
            Candidate(sign * values[offset - start], sign * (base + offset), part)
            for offset in some
        ]
        found = [each for each in found if each[:2] >= self._start]
        if self._ready:
            for each in found:
                heappush(self._ready, each)
        else:
            self._ready = found
            heapify(self._ready)


class TimeRun:
    """One run for one page in the order of time: its rows, the total, the next position.

    As `PageRun`, whose attributes it has.
    """

    def __init__(
        self,
        scope: QueryScope,
        times: EventTimes,
        *,
        order: Order,
        position: Position,
        limit: int,
    ) -> None:
        """Precondition: `limit` is at least 1. Raises: as `TimeOrder`."""
        self._scope = scope
        self._budget = scope.budget
        self._found = TimeOrder(scope, times, order=order, position=position)
        self._is_newest = order == "time-newest"
        self._limit = limit
        self._page_bytes = 0
        self._is_at_end = False
        self._lacking = inf
        self._last: Position | None = None
        self._unread: Position | None = None
        self.passed = 0
        self.indices: list[int] = []
        self.leaves: list[bytes] = []
        self.total = 0
        self.total_exact = True

    @property
    def span(self) -> Span:
        """The entries that the plan can find."""
        return self._scope.span

    @property
    def next_position(self) -> Position | None:
        """The position at which the next page begins; None when nothing is left."""
        return self._unread or (None if self._is_at_end else self._last)

    def run(
        self,
        *,
        is_counted: bool,
        on_found: Callable[[Window, BitMap], None],
        is_estimated: bool = False,
    ) -> None:
        """Fill the page; then count the other matches, and pass all of them to `on_found`.

        Unless `is_counted`, the total is a lower bound. `is_estimated`: as for `PageRun`. Raises:
        TimesUnknownError when there was no time for the first row, DamagedSegmentError.
        """
        self._lacking = 0 if is_estimated else inf
        try:
            self._fill_page()
        except OverBudgetError:
            if self._last is None:
                raise TimesUnknownError(
                    "there was no time to put the events found in order; ask for a shorter range of"
                    " time, or by index"
                ) from None
            is_counted = False
        if is_counted:
            self._count(on_found)
        else:
            self.total_exact = False
            self.total = self.passed

    def _fill_page(self) -> None:
        """Take candidates in order until the page is full, or until a row may not be read."""
        for step in self._found.steps():
            rest: Sequence[Candidate] = step
            while rest:
                if len(self.indices) >= self._limit or self._unread is not None:
                    return
                # A page of rows that must match needs no further ones.
                room = self._limit - len(self.indices)
                self._take(rest[:room])
                rest = rest[room:]
            if self._unread is not None:
                return
        self._is_at_end = True

    def _take(self, some: Sequence[Candidate]) -> None:
        """Decide some candidates, and put those that match on the page."""
        unsure = [each for each in some if not each.is_sure]
        allowed = self._budget.spend_rows(len(unsure)) if unsure else 0
        unread = unsure[allowed] if allowed < len(unsure) else None
        if unread is not None:
            some = some[: some.index(unread)]
        indices = [each.leaf_index for each in some]
        leaves = self._scope.leaf_cache.readable(indices)
        for each, index, leaf in zip(some, indices, leaves, strict=True):
            if self.passed and self._page_bytes >= self._budget.limits.page_bytes:
                self._budget.is_spent = True
                self._unread = self._position_of(each)
                return
            if each.is_sure or (leaf is not None and self._decide(each, index, leaf)):
                self._add_row(each, leaf)
        if unread is not None:
            self._unread = self._position_of(unread)

    def _decide(self, each: Candidate, index: int, leaf: bytes) -> bool:
        is_match = self._scope.matches(index, leaf)
        part = each.part
        (part.matched if is_match else part.rejected).add(part.window.member_of(index))
        return is_match

    def _add_row(self, each: Candidate, leaf: bytes | None) -> None:
        """Append a row; one in a damaged bundle is left out."""
        if leaf is not None:
            self.indices.append(each.leaf_index)
            self.leaves.append(leaf)
            self._page_bytes += len(leaf)
        self.passed += 1
        self._last = self._found.position_after(each)

    def _position_of(self, each: Candidate) -> Position:
        return Position(each.leaf_index + self._is_newest, abs(each.time))

    def _count(self, on_found: Callable[[Window, BitMap], None]) -> None:
        """Evaluate what is left, and count the matches of each part."""
        counted = 0
        try:
            for segments in self._found.rest():
                self._budget.check()
                self._found.evaluate(segments)
                counted = self._count_parts(counted, on_found)
        except OverBudgetError:
            self.total_exact = False
        self._count_parts(counted, on_found)

    def _count_parts(self, start: int, on_found: Callable[[Window, BitMap], None]) -> int:
        parts = self._found.parts
        for part in parts[start:]:
            left = part.within - part.matched - part.rejected
            found = find_matches(
                self._scope, part.window, part.bounds, left, order="oldest", lacking=self._lacking
            )
            if found.unread_from is not None:
                self.total_exact = False
            matches = found.members | part.matched
            self.total += len(matches)
            on_found(part.window, matches)
        return len(parts)


def _places_with(offsets: BitMap, size: int) -> list[int]:
    """The blocks of `size` entries that have any of the offsets, ascending."""
    if len(offsets) < _FEW:
        return sorted({offset // size for offset in offsets})
    places = range(offsets.min() // size, offsets.max() // size + 1)
    return [
        place for place in places if offsets.range_cardinality(place * size, (place + 1) * size)
    ]


def make_run(
    scope: QueryScope,
    read_times: Callable[[QueryScope], EventTimes],
    order: Order,
    position: Position,
    limit: int,
) -> PageRun | TimeRun:
    """The run of one page, by index or by time. Raises: TimesUnknownError."""
    if order in ("newest", "oldest"):
        return PageRun(scope, order=order, position=position.index, limit=limit)
    if not limit:  # Counts alone have no order.
        return PageRun(scope, order="newest", position=scope.tree_size, limit=0)
    try:
        return TimeRun(scope, read_times(scope), order=order, position=position, limit=limit)
    except OverBudgetError:
        raise TimesUnknownError(
            "there was no time to read when the events without an index happened; ask again, or"
            " by index"
        ) from None
