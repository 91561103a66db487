"""Where searches run: on a few threads beside the event loop, with as many waiting as may.

A search takes a tenth of a millisecond or, at its bound, seconds; the loop must go on acknowledging
events meanwhile. An export and a live stream come here for each piece of theirs, so none of them
holds a thread while its reader is slow.
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


class Searcher:
    """The engine and its threads, one of which follows the log. Belongs to the event loop."""

    def __init__(
        self,
        engine: QueryEngine,
        *,
        limits: QueryLimits,
        threads: int,
        waiting_max: int,
        streams_max: int,
    ) -> None:
        """`limits`: what one search may take."""
        self.engine: Final = engine
        self.limits: Final = limits
        self._pool: Final = ThreadPoolExecutor(threads, thread_name_prefix="ledger-query")
        self._at_once_max: Final = threads + waiting_max
        self._at_once = 0
        self._streams_max: Final = streams_max
        self._streams = 0
        self._follower: Final = IndexFollower(engine)
        self._follower.start()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of some work on a thread. Raises: ProblemError when too much waits already."""
        if self._at_once >= self._at_once_max:
            raise retry_later("too-busy", "too many searches wait", limit=self._at_once_max)
        self._at_once += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._at_once -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The place of one open stream. Raises: ProblemError when all are taken."""
        if self._streams >= self._streams_max:
            raise retry_later("too-busy", "too many streams are open", limit=self._streams_max)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def close(self) -> None:
        """End the threads, each with what it is at; none reads the log when this returns."""
        self._follower.stop()
        self._pool.shutdown()
