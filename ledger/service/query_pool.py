"""The front end's side of queries: asks the query process, and waits for its answers.

Searches compute for up to seconds, and threads of one Python process compute in turns. So they run
in a process of their own (`ledger.service.queries`), and a front end does nothing but wait. When
that process ends, the jobs in work are answered with 503 and Retry-After. New ones wait a while for
the next process. It may also hang, and still have the connection: so it is asked now and then
whether it is there. While it does not answer, searches are refused in the same way.
"""

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

import structlog
from aiohttp import web

from ledger.query.answer import IndexStatus
from ledger.service.auth import caller_name, is_stranger
from ledger.service.http.problems import (
    ProblemError,
    query_process_missing,
    query_process_silent,
)
from ledger.service.queries.frames import (
    ANSWER_ENDS,
    NUMBER_MAX,
    Connect,
    Frame,
    FrameProtocol,
    Held,
    Start,
    decode_value,
)
from ledger.service.queries.handover import HeldAnswer
from ledger.service.queries.job import QueryJob
from ledger.service.queries.server import cancelled

T = TypeVar("T")
S = TypeVar("S")
P = ParamSpec("P")

HANG_UP_POLL_S: Final = 0.2
"""Seconds between two checks whether the client of a search has hung up."""

CONNECT_WAIT_S: Final = 30.0
"""Seconds that a search waits for the query process to start, or to start again."""

CONNECT_POLL_S: Final = 0.05

PING_S: Final = 5.0
"""Seconds from one question whether the query process is there to the next."""

SILENT_TURNS: Final = 6
"""After so many of these times without a sign of the query process, it hangs."""

_log = structlog.get_logger("ledger.service")


class QueryPool:
    """The connection with the query process. Used on the event loop alone."""

    def __init__(
        self,
        connect: Connect,
        *,
        tree_size: Callable[[], int],
        read_status: Callable[[], IndexStatus],
    ) -> None:
        """`tree_size`: the size that callers know; no answer is of a smaller tree."""
        self._connect: Final = connect
        self.tree_size: Final = tree_size
        self._read_status: Final = read_status
        self._start_s: Final = asyncio.get_running_loop().time()
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self.is_cancelled = False
        self.connected()

    def client(self, token: str, request: web.BaseRequest) -> "QueryClient":
        """Runs the searches of one request, of a token with this name."""
        return QueryClient(self, token, request, ())

    def caller_client(self, request: web.BaseRequest) -> "QueryClient":
        """Runs the searches of one request, whose caller may have no token."""
        make_client = self.stranger_client if is_stranger(request) else self.client
        return make_client(caller_name(request), request)

    def stranger_client(self, caller: str, request: web.BaseRequest) -> "QueryClient":
        """As `client`, for a caller without a token."""
        return QueryClient(self, caller, request, (), is_stranger=True)

    def stream_client(
        self, token: str, tenant: str | None, request: web.BaseRequest
    ) -> "QueryClient":
        """As `client`, for a live stream, which counts among those of the token and its tenant."""
        return QueryClient(self, token, request, (tenant,))

    @property
    def is_missing(self) -> bool:
        """Whether the query process has ended, hangs, or did not come up in time."""
        if self._link is None:
            return asyncio.get_running_loop().time() > self._start_s + CONNECT_WAIT_S
        return self._link.is_closed or self._link.is_silent

    def status(self) -> IndexStatus:
        """How far the index is, and which entries proved damaged, here or in the query process."""
        status = self._read_status()
        here = status.unreadable
        there = () if self._link is None else self._link.damaged
        return replace(status, unreadable=(*here, *(each for each in there if each not in here)))

    def cancel(self) -> None:
        """Wait for no search any more."""
        self.is_cancelled = True

    def close(self) -> None:
        """End the connection."""
        self.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.close()

    def connected(self) -> "asyncio.Future[_Link]":
        """The connection, now or when the process is there."""
        if self._link is not None and not self._link.is_closed:
            done: asyncio.Future[_Link] = asyncio.get_running_loop().create_future()
            done.set_result(self._link)
            return done
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect_again())
        return self._connecting

    async def _connect_again(self) -> "_Link":
        link = _Link(self._on_lost)
        while True:
            try:
                await self._connect(lambda: link)
            except OSError:
                await asyncio.sleep(CONNECT_POLL_S)
            else:
                self._link = link
                return link

    def _on_lost(self) -> None:
        if not self.is_cancelled:
            self.connected()


class QueryClient:
    """Runs the searches of one request, until it hangs up."""

    def __init__(
        self,
        pool: QueryPool,
        token: str,
        request: web.BaseRequest,
        stream_tenant: tuple[str | None, ...],
        *,
        is_stranger: bool = False,
    ) -> None:
        self._pool = pool
        self._token = token
        self._request = request
        self._stream_tenant = stream_tenant
        self._is_stranger = is_stranger
        self._may_hold = False

    def holding(self) -> Self:
        """This client, whose large answers of bytes may be `HeldAnswer`s instead."""
        # What TLS encrypts only this process can write.
        self._may_hold = not self._request.secure
        return self

    async def run(
        self,
        work: Callable[Concatenate[QueryJob, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        """The result of a module-level function in the query process, at the token's turn.

        Raises: ProblemError of the work, when too many wait already, when the query process is not
        there, when the client hangs up or the service stops.
        """
        link, number = await self._link()
        try:
            _, value = await self._ask(link, Frame.START, number, self._start(work, args, named))
        except BaseException:
            link.close_job(number)
            raise
        result: T = value
        return result

    async def pieces(
        self,
        work: Callable[Concatenate[QueryJob, P], Generator[T, S, None]],
        *args: P.args,
        **named: P.kwargs,
    ) -> AsyncGenerator[T, S]:
        """The values of a generator function, piece by piece. Raises: as `run`.

        Close it, so that the query process lets go of the generator.
        """
        link, number = await self._link()
        try:
            kind, payload = Frame.START, self._start(work, args, named)
            while True:
                answered, value = await self._ask(link, kind, number, payload)
                if answered in ANSWER_ENDS:
                    return
                sent = yield value
                kind, payload = Frame.NEXT, b"" if sent is None else pickle.dumps(sent)
        finally:
            link.close_job(number)

    def _start(self, work: Callable[..., Any], args: object, named: object) -> bytes:
        start = Start(
            token=self._token,
            is_stranger=self._is_stranger,
            tree_size_min=self._pool.tree_size(),
            stream_tenant=self._stream_tenant,
            may_hold=self._may_hold,
            work=pickle.dumps((work, args, named)),
        )
        return pickle.dumps(start)

    async def _link(self) -> "tuple[_Link, int]":
        try:
            async with asyncio.timeout(CONNECT_WAIT_S):
                link = await self._wait(self._pool.connected())
        except TimeoutError:
            raise query_process_missing() from None
        if link.is_silent:
            raise query_process_silent()
        return link, link.new_number()

    async def _ask(
        self, link: "_Link", kind: Frame, number: int, payload: bytes
    ) -> tuple[Frame, Any]:
        answer = await self._wait(link.ask(kind, number, payload))
        if isinstance(answer[1], HeldAnswer):
            await answer[1].connect()
        return answer

    async def _wait(self, future: asyncio.Future[T]) -> T:
        """Wait until the work is done or nobody waits for it any more."""
        while not future.done():
            await asyncio.wait({future}, timeout=HANG_UP_POLL_S)
            is_over = self._request.transport is None or self._pool.is_cancelled
            if is_over and not future.done():
                raise cancelled()
        return future.result()


class _Link(FrameProtocol):
    """A connection with the query process, and the jobs whose answers it waits for."""

    def __init__(self, when_lost: Callable[[], None]) -> None:
        super().__init__()
        self._when_lost = when_lost
        self._numbers = count(1)
        self.damaged: tuple[str, ...] = ()
        self._waiting: dict[int, asyncio.Future[tuple[Frame, Any]]] = {}
        self._silent_turns = 0
        self._is_asked = False
        self._watching: asyncio.Task[None] | None = None

    @property
    def is_silent(self) -> bool:
        """Whether the query process hangs: nothing came from it for long."""
        return self._silent_turns >= SILENT_TURNS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Ask whether the query process is there, until cancelled; refuse searches if it isn't.

        Turns of this loop are counted, so that a pause of this process is one turn however long.
        """
        while True:
            if not self._is_asked:
                self._is_asked = True
                self.send(Frame.PING, 0)
            await asyncio.sleep(PING_S)
            self._silent_turns += 1
            if self._silent_turns == SILENT_TURNS:
                _log.error("query_process_silent", seconds=round(SILENT_TURNS * PING_S))
                self._refuse_waiting(query_process_silent)

    def new_number(self) -> int:
        """The number of a new job."""
        return next(self._numbers) & NUMBER_MAX

    def ask(
        self, kind: Frame, number: int, payload: bytes = b""
    ) -> asyncio.Future[tuple[Frame, Any]]:
        """Send a frame; the kind and value of the one that answers it. It may be cancelled."""
        future: asyncio.Future[tuple[Frame, Any]] = asyncio.get_running_loop().create_future()
        if self.is_closed:
            future.set_exception(query_process_missing())
            return future
        self._waiting[number] = future
        self.send(kind, number, payload)
        return future

    def close_job(self, number: int) -> None:
        """Wait for a job no more; it isn't answered then."""
        self._waiting.pop(number, None)
        self.send(Frame.CLOSE, number)

    def on_frame(self, kind: Frame, number: int, payload: bytes) -> None:
        if self.is_silent:
            _log.info("query_process_answers_again")
        self._silent_turns, self._is_asked = 0, False
        if kind is Frame.PONG:
            return
        if kind is Frame.DAMAGED:
            self.damaged = decode_value(kind, payload)
            return
        value = decode_value(kind, payload)
        if isinstance(value, Held):
            value = HeldAnswer(value, partial(self.send, Frame.DROP))
        future = self._waiting.pop(number, None)
        if future is None or future.done():
            return
        if kind is Frame.REFUSED:
            future.set_exception(value)
            future.exception()  # Else asyncio logs an error that nobody waited for.
        else:
            future.set_result((kind, value))

    def on_lost(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._refuse_waiting(query_process_missing)
        self._when_lost()

    def _refuse_waiting(self, make_problem: Callable[[], ProblemError]) -> None:
        """Wait for none of the answers any more."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(make_problem())
                future.exception()
