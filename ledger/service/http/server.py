"""The path from a connection to a handler: limits, routing, and errors as problem documents.

The server is aiohttp's low-level one. aiohttp's Application has error pages of its own, for bytes
that are not HTTP and for unknown paths, and nothing above a connection can replace them. Here the
connection itself answers those with problem documents, and a request is routed by one look-up.

Connections are counted, in all and by address; one too many is closed before anything is read from
it. A client that accepts no bytes of its answer is disconnected too, so neither takes the service
down. An address behind which many clients stand, a reverse proxy, needs the larger limit.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from ledger.service.auth import Caller, identify
from ledger.service.context import ServiceContext
from ledger.service.http.problems import PROBLEMS, ProblemError, answer_error, explain
from ledger.service.http.router import Route, RouteMatch, Router, read_parameters, route_path
from ledger.service.http.streaming_response import large_body, write_large
from ledger.service.http.usage import UsageRecorder
from ledger.service.metrics import Metrics
from ledger.service.settings import Settings

KEEPALIVE_S: Final = 75.0
"""How long a connection may be idle, before its first request too."""

TARGET_BYTES_MAX: Final = 8190
HEADER_BYTES_MAX: Final = 8192
"""Bytes of a path with its query, and of a header with its name.

They differ because aiohttp's error says which of the two was too long by its limit alone.
"""

HEADERS_MAX: Final = 128

_log = structlog.get_logger("ledger.service")


class ConnectionCounts:
    """The open connections, in all and by address. Used on the event loop alone."""

    def __init__(self, *, most: int, most_per_address: int) -> None:
        self._most: Final = most
        self._most_per_address: Final = most_per_address
        self._by_address: Counter[str] = Counter()
        self._open = 0

    def try_add(self, address: str) -> bool:
        """Count a new connection, unless it is one too many."""
        if self._open >= self._most or self._by_address[address] >= self._most_per_address:
            return False
        self._open += 1
        self._by_address[address] += 1
        return True

    def remove(self, address: str) -> None:
        """Count a connection that was added as closed."""
        self._open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class _Connection(web.RequestHandler):
    """A connection within limits that answers malformed requests with problem documents."""

    __slots__ = ("_address", "_body", "_counts", "_head_timer", "_metrics", "_settings")

    def __init__(
        self,
        server: web.Server,
        *,
        counts: ConnectionCounts,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=TARGET_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None, its type does not
            # A compressed body is refused, not inflated.
            auto_decompress=False,
        )
        self._counts = counts
        self._metrics = metrics
        self._settings = settings
        self._address: str | None = None
        self._body: StreamReader | None = None  # Of the request whose head came last.
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or close it when there are too many."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        if not self._counts.try_add(address):
            _log.warning("connection_refused", address=address)
            self._metrics.add("connections_refused_total")
            transport.close()
            return
        self._address = address
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up the place of a connection that was served."""
        self._stop_head_timer()
        if self._address is not None:
            self._counts.remove(self._address)
            self._address = None
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read bytes; the head of a request must be whole `head_wait_s` after its first byte."""
        is_body = self._body is not None and not self._body.is_eof()
        count = self._request_count
        super().data_received(data)
        if self._request_count > count:
            self._body = self._messages[-1][1]
            self._stop_head_timer()
        elif data and not (is_body or self._close or self._head_timer):
            self._head_timer = self._loop.call_later(self._settings.head_wait_s, self._cut_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut_head(self) -> None:
        """Close a connection that has sent half a head, once its request before is answered."""
        self._head_timer = None
        _log.warning("head_too_slow", address=self._address)
        self._metrics.add("heads_too_slow_total")
        if self._waiter is None:
            self.close()
        else:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer; a client that accepts no more of it is disconnected."""
        try:
            async with asyncio.timeout(self._settings.reader_wait_s):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            _log.info("reader_gone", route=route_path(request))
            if request.transport is not None:
                request.transport.abort()
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be parsed; the connection is closed after it."""
        if status == PROBLEMS["malformed-request"].status:
            error: Exception = _explain_head(exc)
        else:
            error = exc if isinstance(exc, Exception) else RuntimeError(message or "no answer")
        self._metrics.add("problems_total", explain(error).problem.slug)
        answer = answer_error(error)
        answer.force_close()
        return answer


class Server(web.Server):
    """Serves the routes of a service to connections."""

    def __init__(self, context: ServiceContext, routes: Sequence[Route]) -> None:
        self._context = context
        self._router = Router(routes)
        settings = context.settings
        self._counts = ConnectionCounts(
            most=settings.connections_max, most_per_address=settings.connections_per_address_max
        )
        self._usage = UsageRecorder(context.metrics, context.quotas)
        super().__init__(self.answer, loop=asyncio.get_running_loop())

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        context = self._context
        return _Connection(
            self, counts=self._counts, metrics=context.metrics, settings=context.settings
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request; an error becomes a problem document."""
        caller = identify(self._context.access, request)
        clock = asyncio.get_running_loop().time
        started_s = clock()
        arguments: dict[str, Any] = {}
        route: Route | None = None
        try:
            match = self._router.match(request)
            route = match.route
            arguments = read_parameters(match, request.query_string)
            answer = await self._answer(caller, request, match, arguments)
        except Exception as error:  # noqa: BLE001 - a request's top: answer_error logs what is ours
            self._usage.refuse(caller, request, error)
            answer = answer_error(error)
        self._usage.end(
            caller,
            request,
            answer,
            route=route,
            arguments=arguments,
            seconds=clock() - started_s,
        )
        return answer

    async def _answer(
        self,
        caller: Caller,
        request: web.BaseRequest,
        match: RouteMatch,
        arguments: Mapping[str, Any],
    ) -> web.StreamResponse:
        """The answer of a route, within the limits of the caller.

        A large one is written here, in pieces, and counted until its reader has accepted it.
        """
        context = self._context
        self._usage.begin(caller, match.route)
        with context.requests_in_flight.lease(caller.name) as take_requests:
            take_requests(1)
            if match.route.is_streamed:
                self._usage.begin_read(caller, request, arguments)
            answer = await match.route.handler(context, request, **arguments)
            body = large_body(request, answer)
            if body is None:
                return answer
            # What a POST changed is durable: refusing its answer would have it sent again.
            may_exceed = request.method == "POST"
            with context.bytes_in_flight.lease(caller.name, may_exceed=may_exceed) as take_bytes:
                take_bytes(len(body))
                wait_s = context.settings.reader_wait_s
                return await write_large(request, answer, body, wait_s)


def _explain_head(error: BaseException | None) -> ProblemError:
    """The problem of a head that aiohttp could not read.

    aiohttp's text may quote the line that it could not read, and a line may be a header.
    """
    if isinstance(error, LineTooLong):
        most = error.args[1]
        slug, what = "header-too-long", "a header with its name"
        if most == TARGET_BYTES_MAX:
            slug, what = "target-too-long", "a path with its query"
        return ProblemError(slug, f"{what} has at most {most} bytes", limit=most)
    if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
        return ProblemError(
            "header-too-long", f"a request has at most {HEADERS_MAX} headers", limit=HEADERS_MAX
        )
    return ProblemError("malformed-request", "the bytes are not HTTP/1.1")
