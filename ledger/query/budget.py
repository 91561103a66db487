"""The time and the rows that one query may still use, and whether anybody waits for its answer.

The parts of a query ask between two pieces of work. A piece is one term in one segment, the rows of
one bundle, or one field of a facet in one segment: some ten milliseconds at most.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ledger.query.cursor import IndexOrder

INSTANT_S: Final = 0.001
"""A window that took less than this is followed by one 64 times as wide."""

VERY_QUICK_S: Final = 0.005
"""A window that took less than this is followed by one eight times as wide."""

QUICK_S: Final = 0.05
"""A window that took less than this is followed by one twice as wide."""

SLOW_S: Final = 0.2
"""A window that took more than this is followed by one half as wide."""

LEAF_BYTES_INDEXED: Final = 1 << 20
"""Of a query: they take 0.02 s, and 0.1 s if they are nothing but words."""

_GROWTH = ((INSTANT_S, 64), (VERY_QUICK_S, 8), (QUICK_S, 2))

IsCancelled = Callable[[], bool]


class OverBudgetError(Exception):
    """The time of a query was up within a step, which the next page repeats."""


class QueryCancelledError(Exception):
    """Nobody waits for the answer of a query any more."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """The most that one query may take: rows read to decide, seconds, and bytes of a page.

    `rows_counted`: rows read for nothing but the total of a page with rows. `leaf_bytes_indexed`:
    those of entries that are not indexed yet; the rows of the others are read.
    """

    rows_scanned: float = 200_000
    time_s: float = 5.0
    page_bytes: float = 16 << 20
    rows_counted: float = 5_000
    leaf_bytes_indexed: float = LEAF_BYTES_INDEXED


NO_LIMITS: Final = QueryLimits(*[float("inf")] * 5)
ROW_LIMITS: Final = replace(NO_LIMITS, leaf_bytes_indexed=LEAF_BYTES_INDEXED)
"""For rows alone, which are right without an index."""


class Budget:
    """The rest of the limits of one query. Every method raises QueryCancelledError."""

    def __init__(
        self,
        limits: QueryLimits,
        clock: Callable[[], float] = time.monotonic,
        is_cancelled: IsCancelled = lambda: False,
    ) -> None:
        self.limits: Final = limits
        self._clock = clock
        self._is_cancelled = is_cancelled
        self._end_s = clock() + limits.time_s
        self.scanned = 0
        self._counted = 0
        self.is_spent = False
        """Whether a limit left something undone."""

    def for_piece(self, time_s: float) -> "Budget":
        """A budget without other limits for work that goes on in another piece after some time."""
        limits = replace(NO_LIMITS, time_s=time_s)
        return Budget(limits, self._clock, self._is_cancelled)

    def is_over(self) -> bool:
        """Whether the time is up. Call it only before work that is left undone then."""
        if self._is_cancelled():
            raise QueryCancelledError
        is_over = self._clock() >= self._end_s
        self.is_spent |= is_over
        return is_over

    def check(self) -> None:
        """Raise OverBudgetError if the time is up."""
        if self.is_over():
            raise OverBudgetError

    def spend_rows(self, count: int, *, is_for_total: bool = False) -> int:
        """Spend up to `count` rows; return how many of them may be read.

        `is_for_total`: they are read for the total of a page alone, which may stay a lower bound.
        """
        if is_for_total:
            count = int(min(count, self.limits.rows_counted - self._counted))
        allowed = 0 if self.is_over() else int(min(count, self.limits.rows_scanned - self.scanned))
        self.scanned += allowed
        self._counted += allowed if is_for_total else 0
        self.is_spent |= allowed < count
        return allowed

    def split(self, segments: range, order: IndexOrder, *, most: int) -> Iterator[range]:
        """Parts of some segments, in the order of the answer: one segment, then more at a time.

        A part is up to 64 times as wide as the one before if that took an instant, eight times if
        it was very quick, twice if it was quick, half as wide if it was slow. So no part takes
        long, however many terms it reads.
        """
        first, end, width = segments.start, segments.stop, 1
        while first < end:
            started_s = self._clock()
            if order == "oldest":
                yield range(first, min(first + width, end))
                first += width
            else:
                yield range(max(end - width, first), end)
                end -= width
            took_s = self._clock() - started_s
            growth = next((more for limit_s, more in _GROWTH if took_s < limit_s), 1)
            width = max(width // 2, 1) if took_s > SLOW_S else min(growth * width, most)
