"""The path from a connection to a handler: limits, routing, and errors as problem documents.

The server is aiohttp's low-level one. aiohttp's Application has error pages of its own, for bytes
that are not HTTP and for unknown paths, and nothing above a connection can replace them. Here the
connection itself answers those with problem documents, and a request is routed by one look-up.

What one connection, and one address, may take is bounded by `ledger.runtime.connections`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from ledger.runtime.chunk_limits import ChunksTooSmallError
from ledger.runtime.connections import (
    HEADERS_MAX,
    TARGET_BYTES_MAX,
    ConnectionCounts,
    ConnectionWaits,
    HeadTooLargeError,
    LimitedConnection,
)
from ledger.runtime.request_head import HEAD_BYTES_MAX, head_fault, is_head_too_large
from ledger.service.auth import Caller, authenticate_again, identify_new
from ledger.service.context import ServiceContext
from ledger.service.http.problems import (
    PROBLEMS,
    ProblemError,
    answer_error,
    explain,
)
from ledger.service.http.responses import note_transport
from ledger.service.http.router import Route, RouteMatch, Router, read_parameters, route_path
from ledger.service.http.streaming_response import large_body, write_large
from ledger.service.http.usage import READ_SCOPES, UsageRecorder
from ledger.service.identities.certificates import is_outdated
from ledger.service.settings import Settings

_log = structlog.get_logger("ledger.service")


_COUNTERS: Final = {
    "connection_refused": "connections_refused_total",
    "handshake_failed": "handshakes_failed_total",
    "head_too_slow": "heads_too_slow_total",
}


class _Connection(LimitedConnection):
    """A connection within limits that answers malformed requests with problem documents."""

    __slots__ = ("_metrics",)

    def __init__(
        self,
        server: web.Server,
        *,
        counts: ConnectionCounts,
        waits: ConnectionWaits,
        context: ServiceContext,
    ) -> None:
        super().__init__(server, counts=counts, waits=waits)
        self._metrics = context.metrics

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, unless the authorities have changed during its handshake."""
        if is_outdated(transport):
            transport.close()
            return
        super().connection_made(transport)

    def close_outdated(self) -> None:
        """Close it, after the answer that is under way, when its client is to be verified again."""
        if is_outdated(self.transport):
            self.close_answered()

    def report(self, event: str, request: web.BaseRequest | None = None) -> None:
        """Log what was cut, and count it."""
        if request is not None:
            _log.info(event, route=route_path(request))
            return
        _log.warning(event, address=self.address)
        self._metrics.add(_COUNTERS[event])

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
            most=settings.connections_max,
            most_per_address=settings.connections_per_address_max,
            shared=context.shared,
        )
        self._waits = ConnectionWaits(settings.head_wait_s, settings.reader_wait_s)
        context.live.follow(self._take_settings)
        self.closes_connections = False
        """Whether each connection is closed after its next answer."""
        self._usage = UsageRecorder(context)
        super().__init__(self.answer, loop=asyncio.get_running_loop())

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(self, counts=self._counts, waits=self._waits, context=self._context)

    @property
    def is_idle(self) -> bool:
        """Whether no connection is open, nor in its handshake."""
        return self._counts.are_none and not self.connections

    def _take_settings(self, settings: Settings) -> None:
        """Take the limits and the certificate from settings that were read again."""
        context = self._context
        self._counts.most = settings.connections_max
        self._counts.most_per_address = settings.connections_per_address_max
        self._waits = ConnectionWaits(settings.head_wait_s, settings.reader_wait_s)
        context.bytes_in_flight.most = settings.in_flight_bytes_max
        context.bytes_in_flight.most_per_owner = settings.in_flight_bytes_per_token_max
        context.requests_in_flight.most = settings.connections_max
        context.requests_in_flight.most_per_owner = settings.requests_per_token_max
        context.quotas.take_settings(settings)
        if context.tls is not None and context.files.current.tls is not None:
            context.tls.take(context.files.current.tls)
            for each in self.connections:
                cast("_Connection", each).close_outdated()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request; an error becomes a problem document."""
        if is_head_too_large(request):
            return self._refuse_head(_explain_head(HeadTooLargeError()))
        if fault := head_fault(request):
            return self._refuse_head(ProblemError("malformed-request", fault))
        context = self._context
        begin = partial(context.begin_strange, request)
        caller = await identify_new(context.access, request, context.identities, begin)
        started_s = time.perf_counter()  # The clock of uvloop's loop stands still within a step.
        arguments: dict[str, Any] = {}
        route: Route | None = None
        try:
            match = self._router.match(request)
            route = match.route
            arguments = read_parameters(match, request.rel_url.raw_query_string)
            answer = await self._answer(caller, request, match, arguments)
        except Exception as error:  # noqa: BLE001 - a request's top: answer_error logs what is ours
            self._usage.refuse(caller, request, error)
            answer = answer_error(error)
        if not answer.prepared:
            note_transport(request, answer)
            if self.closes_connections:
                answer.force_close()
        self._usage.end(
            caller,
            request,
            answer,
            route=route,
            arguments=arguments,
            seconds=time.perf_counter() - started_s,
        )
        return answer

    def _refuse_head(self, error: ProblemError) -> web.StreamResponse:
        """The answer to a head that is too large or has two meanings; nothing behind it is read."""
        self._context.metrics.add("problems_total", error.problem.slug)
        answer = answer_error(error)
        answer.force_close()
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
        if match.route.is_write and context.mirrored is not None:
            raise context.mirrored.refusal()
        with context.requests_in_flight.lease(caller.name) as take_requests:
            take_requests(1)
            # Strangers have had theirs. Appends have none, for those that come together are
            # committed together.
            if caller.token is not None and not match.route.is_write:
                await context.begin_quick_work(request)
            if match.route.is_streamed:
                self._usage.begin_read(caller, request, arguments)
                async with self._usage.charging(caller, request):
                    answer = await match.route.handler(context, request, **arguments)
            else:
                answer = await match.route.handler(context, request, **arguments)
                if match.route.scope in READ_SCOPES and not match.route.is_write:
                    authenticate_again(context.access, request)
            body = large_body(request, answer)
            if body is None:
                return answer
            # What was written is durable: refusing the answer would have it sent again.
            may_exceed = match.route.is_write
            with context.bytes_in_flight.lease(
                caller.name, may_exceed=may_exceed, is_stranger=caller.token is None
            ) as take_bytes:
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
    if isinstance(error, ChunksTooSmallError):
        return explain(error)
    if isinstance(error, HeadTooLargeError):
        what = "target and headers have together"
        return ProblemError(
            "header-too-long", f"{what} at most {HEAD_BYTES_MAX} bytes", limit=HEAD_BYTES_MAX
        )
    if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
        return ProblemError(
            "header-too-long", f"a request has at most {HEADERS_MAX} headers", limit=HEADERS_MAX
        )
    return ProblemError("malformed-request", "the bytes are not HTTP/1.1")
