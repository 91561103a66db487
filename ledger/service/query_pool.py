"""The threads that run searches beside the event loop, and who may use one next.

A search takes from a tenth of a millisecond to several seconds, and the loop must acknowledge
events meanwhile. An export or a stream uses a thread for each piece, so a slow reader holds none.

Tokens take turns at the threads (`fair_turns`). Where there are several threads, no token runs on
more than half of them, and none has more than half of the places to wait. So a token that asks a
lot keeps no other from its answer. A token has a quarter of the live streams at most, and the
tokens of a tenant have half of them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

from aiohttp import web

from ledger.query.budget import QueryCancelledError, QueryLimits
from ledger.query.engine import QueryEngine
from ledger.query.indexer import IndexFollower
from ledger.service.admission import AppendsInWork
from ledger.service.fair_turns import FairTurns
from ledger.service.http.problems import ProblemError, retry_later

T = TypeVar("T")

HANG_UP_POLL_S: Final = 0.2
"""Seconds between two checks whether the client of a search has hung up."""


GIVE_WAY_S: Final = 0.01
"""Seconds that a search works at least between two pauses for appends, and that a pause takes at
most. So it takes no more than twice as long beside appends that never end."""

GIVE_WAY_STEP_S: Final = 0.001


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
        appends: AppendsInWork,
    ) -> None:
        """`limits` bound one search, the other numbers all of them together."""
        self._appends: Final = appends
        self.engine: Final = engine
        self.limits: Final = limits
        self._pool: Final = ThreadPoolExecutor(threads, thread_name_prefix="ledger-query")
        self._turns: Final = FairTurns(threads, places_each=max(1, threads // 2))
        self._waiting_max: Final = waiting_max
        self._waiting_each: Final = max(1, waiting_max // 2)
        self._streams_max: Final = streams_max
        self._streams: Counter[tuple[str, str]] = Counter()
        self.is_cancelled = False
        self._follower: Final = IndexFollower(engine)
        self._follower.start()

    def client(self, token: str, request: web.BaseRequest) -> "QueryClient":
        """Runs the searches of one request, of a token with this name."""
        return QueryClient(self, token, request)

    @contextmanager
    def stream(self, token: str, tenant: str | None) -> Iterator[None]:
        """Count one open stream, in all, of its token, and of all tokens of its tenant.

        Raises: ProblemError when one of these has as many as it may.
        """
        total = self._streams_max
        counted = [(("the service", ""), total), (("the token", token), max(1, total // 4))]
        if tenant is not None:
            counted.append((("the tenant", tenant), max(1, total // 2)))
        for owner, most in counted:
            if self._streams[owner] >= most:
                what = f"{owner[0]} has {most} live streams open, and may have no more"
                raise retry_later("too-busy", what, limit=most)
        owners = Counter(owner for owner, _ in counted)
        self._streams += owners
        try:
            yield
        finally:
            self._streams -= owners  # Leaves no zeros.

    def cancel(self) -> None:
        """End every search within its present piece of work."""
        self.is_cancelled = True

    def give_way(self) -> None:
        """Let appends in work end first, for `GIVE_WAY_S` at most. For the threads of the pool.

        Threads of one process compute in turns, and each turn that an append waits for one of ours
        takes a millisecond; it needs several.
        """
        end_s = time.monotonic() + GIVE_WAY_S
        while self._appends.count and time.monotonic() < end_s:
            time.sleep(GIVE_WAY_STEP_S)

    def close(self) -> None:
        """End running searches and the threads; afterwards none reads the log."""
        self.cancel()
        self._follower.stop()
        self._pool.shutdown()

    def ask_turn(self, token: str, *, has_begun: bool = False) -> asyncio.Future[None]:
        """A future that is done when the token has a thread, to be given back by `end_turn`.

        A stream or export that `has_begun` waits whatever its length: other limits bound their
        number. Raises: ProblemError when too many wait already, or the service stops.
        """
        turns = self._turns
        if (
            not has_begun
            and not turns.has_place(token)
            and (
                turns.waiting() >= self._waiting_max
                or turns.waiting_of(token) >= self._waiting_each
            )
        ):
            raise retry_later("too-busy", "too many searches wait", limit=self._waiting_max)
        return turns.ask(token)

    def end_turn(self, token: str, turn: asyncio.Future[None]) -> None:
        """Give back the thread, or the place in the queue."""
        self._turns.end(token, turn)

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run a function on a thread. Precondition: it has a turn."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)


class QueryClient:
    """Runs the searches of one request, until it hangs up."""

    def __init__(self, pool: QueryPool, token: str, request: web.BaseRequest) -> None:
        self._pool = pool
        self._token = token
        self._request = request
        self._is_gone = False
        self._has_begun = False
        self._gave_way_s = 0.0

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more. Work on a thread asks between its pieces.

        Gives way to appends first.
        """
        if time.monotonic() - self._gave_way_s >= GIVE_WAY_S:
            self._pool.give_way()
            self._gave_way_s = time.monotonic()
        return self._is_over()

    def _is_over(self) -> bool:
        return self._is_gone or self._pool.is_cancelled

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function, which asks `is_cancelled` now and then, when it is the token's turn.

        Raises: ProblemError when too many wait already, the client hangs up or the service stops.
        """
        turn = self._pool.ask_turn(self._token, has_begun=self._has_begun)
        try:
            await self._wait(turn)
        except BaseException:
            self._pool.end_turn(self._token, turn)
            raise
        self._has_begun = True
        done = self._pool.submit(work)
        done.add_done_callback(partial(self._end_turn, turn))
        try:
            await self._wait(done)
            return done.result()
        except QueryCancelledError:
            raise _cancelled() from None

    def _end_turn(self, turn: asyncio.Future[None], done: asyncio.Future[T]) -> None:
        done.exception()  # Else asyncio logs an error that nobody waited for.
        self._pool.end_turn(self._token, turn)

    async def _wait(self, future: asyncio.Future[T]) -> None:
        """Wait for a turn, or for work on a thread, which ends soon after `is_cancelled`."""
        try:
            while not future.done():
                await asyncio.wait({future}, timeout=HANG_UP_POLL_S)
                self._is_gone = self._request.transport is None
                if self._is_over() and not future.done():
                    raise _cancelled()
        except asyncio.CancelledError:
            self._is_gone = True
            raise


def _cancelled() -> ProblemError:
    return retry_later("too-busy", "the search was cancelled: the client or the service ends")
