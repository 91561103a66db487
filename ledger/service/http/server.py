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
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import web

from ledger.service.auth import owner_of
from ledger.service.context import ServiceContext
from ledger.service.http.problems import PROBLEMS, ProblemError, answer_error, explain
from ledger.service.http.router import Route, Router, read_parameters
from ledger.service.http.streaming_response import large_body, write_large

KEEPALIVE_S: Final = 75.0
"""How long a connection may be idle, before its first request too."""

LOGGED_REFUSALS: Final = frozenset({"token-unknown", "scope-missing", "wrong-tenant", "too-busy"})
"""Problems that show a wrong or a greedy token, with a log line that names token or address."""

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

    __slots__ = ("_address", "_counts", "_reader_wait_s")

    def __init__(
        self, server: web.Server, *, counts: ConnectionCounts, reader_wait_s: float
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None, its type does not
            # A compressed body is refused, not inflated.
            auto_decompress=False,
        )
        self._counts = counts
        self._reader_wait_s = reader_wait_s
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or close it when there are too many."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        if not self._counts.try_add(address):
            _log.warning("connection_refused", address=address)
            transport.close()
            return
        self._address = address
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up the place of a connection that was served."""
        if self._address is not None:
            self._counts.remove(self._address)
            self._address = None
            super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer; a client that accepts no more of it is disconnected."""
        try:
            async with asyncio.timeout(self._reader_wait_s):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            _log.info("reader_gone", path=request.path)
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
            # aiohttp's text may quote the line that it could not read, and a line may be a header.
            error: Exception = ProblemError("malformed-request", "the bytes are not HTTP/1.1")
        else:
            error = exc if isinstance(exc, Exception) else RuntimeError(message or "no answer")
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
        super().__init__(self.answer, loop=asyncio.get_running_loop())

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        reader_wait_s = self._context.settings.reader_wait_s
        return _Connection(self, counts=self._counts, reader_wait_s=reader_wait_s)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request; an error becomes a problem document.

        A large one is written here, in pieces, and counted until its reader has accepted it.
        """
        context = self._context
        owner = owner_of(context.access, request)
        try:
            match = self._router.find(request.method, request.path)
            arguments = read_parameters(match, request.query_string)
            with context.requests_in_flight.lease(owner) as take_requests:
                take_requests(1)
                answer = await match.route.handler(context, request, **arguments)
                body = large_body(request, answer)
                if body is None:
                    return answer
                # What a POST changed is durable: refusing its answer would have it sent again.
                may_exceed = request.method == "POST"
                with context.bytes_in_flight.lease(owner, may_exceed=may_exceed) as take_bytes:
                    take_bytes(len(body))
                    wait_s = context.settings.reader_wait_s
                    return await write_large(request, answer, body, wait_s)
        except Exception as error:  # noqa: BLE001 - a request's top: answer_error logs what is ours
            slug = explain(error).problem.slug
            if slug in LOGGED_REFUSALS:
                _log.info("request_refused", problem=slug, by=owner, path=request.path)
            return answer_error(error)
