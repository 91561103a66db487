"""The context of one job: the log, its index, and whether the job is to end.

Work is a module-level function whose first parameter is a `QueryJob`; the others, and what it
returns, are pickled. A generator gives one value after another: between two of them other jobs use
its thread, and what the front end sends is the value of `yield`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ledger.query.budget import QueryCancelledError, QueryLimits
from ledger.query.engine import QueryEngine
from ledger.store.stored_log import StoredLog
from ledger_core.event.commitments import Opening

OpenValues = Callable[[bytes], Sequence[Opening]]
"""The openings of the private values of an event's JSON, except those that were erased."""


class QueryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the query process. `threads` are those that search at once."""

    threads: int
    waiting_max: int
    streams_max: int
    rows_max: int
    time_s: float
    private_map_bytes: int

    @property
    def limits(self) -> QueryLimits:
        """Of one search."""
        return QueryLimits(rows_scanned=self.rows_max, time_s=self.time_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryParts:
    """The context that all jobs share."""

    store: StoredLog
    engine: QueryEngine
    open_values: OpenValues


class QueryJob:
    """One job, for its work. Its thread may ask at any time whether it `is_cancelled`."""

    def __init__(self, parts: QueryParts, limits: QueryLimits, is_cancelled: Callable[[], bool]):
        self.store: Final = parts.store
        self.engine: Final = parts.engine
        self.open_values: Final = parts.open_values
        self.limits: Final = limits
        self.is_cancelled: Final = is_cancelled
        """Whether nobody waits for the answer any more. Work asks between its pieces."""

    def check(self) -> None:
        """Raise QueryCancelledError if nobody waits any more."""
        if self.is_cancelled():
            raise QueryCancelledError
