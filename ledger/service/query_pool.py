"""The threads that run searches beside the event loop, and the bounds on how many wait.

A search takes from a tenth of a millisecond to several seconds, and the loop must acknowledge
events meanwhile. An export or a stream uses a thread for each piece, so a slow reader holds none.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from ledger.query.engine import QueryEngine
from ledger.query.executor import QueryLimits
from ledger.query.indexer import IndexFollower
from ledger.service.http.problems import retry_later

T = TypeVar("T")


class QueryPool:
    """The query engine and its threads, one of which follows the log.

    Used on the event loop alone.
    """

    def __init__(
        self,
        engine: QueryEngine,
        *,
        limits: QueryLimits,
        threads: int,
        waiting_max: int,
        streams_max: int,
    ) -> None:
        """`limits` bound one search, the other numbers all of them together."""
        self.engine: Final = engine
        self.limits: Final = limits
        self._pool: Final = ThreadPoolExecutor(threads, thread_name_prefix="ledger-query")
        self._running_max: Final = threads + waiting_max
        self._running = 0
        self._streams_max: Final = streams_max
        self._streams = 0
        self._follower: Final = IndexFollower(engine)
        self._follower.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function on a thread. Raises: ProblemError when too many wait already."""
        if self._running >= self._running_max:
            raise retry_later("too-busy", "too many searches wait", limit=self._running_max)
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._running -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count one open stream. Raises: ProblemError when too many are open already."""
        if self._streams >= self._streams_max:
            raise retry_later("too-busy", "too many streams are open", limit=self._streams_max)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def close(self) -> None:
        """Wait for running searches and end the threads; afterwards none reads the log."""
        self._follower.stop()
        self._pool.shutdown()
