"""The view of one caller on a log: counts and terms within a tenant, in a bounded time.

`hints` and `catalog` ask through it. An answer that the time doesn't allow is None, or empty.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.query.answer import Answer
from ledger.query.budget import IsCancelled, QueryLimits
from ledger.query.engine import QueryEngine
from ledger.query.facets import FacetCounter
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import EVERYTHING, Expression
from ledger_core.query.counting import Unit
from ledger_core.search_answers import Histogram

_ROWS_SCANNED: Final = 2_000


@dataclass(frozen=True)
class EngineView:
    """The log as the engine finds it for one tenant, or for a token that sees all."""

    engine: QueryEngine
    tenant: str | None
    now_unix_us: int
    end_s: float
    """When the time is up, by the monotonic clock."""
    is_cancelled: IsCancelled
    tree_size: int | None = None

    def count(self, query: Expression) -> int | None:
        """The number of events that a query finds; None where it is not known exactly."""
        answer = self.search(query)
        return answer.total if answer and answer.total_exact else None

    def hours(self, query: Expression) -> Histogram | None:
        """The hours in which the events of a query happened."""
        answer = self.search(query, histogram="hour")
        exact = answer and answer.histogram
        return exact if exact and exact.is_exact else None

    def values(self, dimension: str) -> Counter[str]:
        """Terms of a dimension of the newest events, with their numbers."""
        return self.count_terms((dimension,))[0].counts[dimension]

    def count_terms(self, dimensions: Sequence[str]) -> tuple[FacetCounter, bool]:
        """Counts of terms in the newest events, and whether they are of all events.

        They take half of the time that is left, so that something can be done with them.
        """
        return self.engine.count_terms(
            dimensions,
            tenant=self.tenant,
            limits=QueryLimits(_ROWS_SCANNED, max(self._left_s, 0) / 2),
            is_cancelled=self.is_cancelled,
        )

    def last_received(self) -> str | None:
        """When the newest event was received."""
        answer = self.search(EVERYTHING, limit=1)
        rows = answer.rows if answer else ()
        return decode_view(rows[0].leaf).received.time if rows else None

    def search(
        self,
        query: Expression,
        *,
        limit: int = 0,
        histogram: Unit | None = None,
        is_counted: bool = True,
    ) -> Answer | None:
        """A search within the time that is left; None when there is none."""
        if self._left_s <= 0:
            return None
        return self.engine.search(
            query,
            tenant=self.tenant,
            now_unix_us=self.now_unix_us,
            limit=limit,
            histogram=histogram,
            is_counted=is_counted,
            tree_size=self.tree_size,
            limits=QueryLimits(_ROWS_SCANNED, self._left_s),
            is_cancelled=self.is_cancelled,
        )

    @property
    def _left_s(self) -> float:
        return self.end_s - time.monotonic()
