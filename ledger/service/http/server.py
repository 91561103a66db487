"""The path from a connection to a handler: routing, and every error as a problem document.

The server is aiohttp's low-level one. aiohttp's Application has error pages of its own, for bytes
that are not HTTP and for unknown paths, and nothing above a connection can replace them. Here the
connection itself answers those with problem documents, and a request is routed by one look-up.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from ledger.service.context import ServiceContext
from ledger.service.http.problems import PROBLEMS, ProblemError, answer_error
from ledger.service.http.router import Route, Router, read_parameters

KEEPALIVE_S: Final = 75.0
"""How long a connection may be idle, before its first request too."""


class _Connection(web.RequestHandler):
    """A connection that answers malformed requests with problem documents."""

    __slots__ = ()

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
        self._event_loop = asyncio.get_running_loop()
        super().__init__(self.answer, loop=self._event_loop)

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(
            self,
            loop=self._event_loop,
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None, its type does not
            # A compressed body is refused, not inflated.
            auto_decompress=False,
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request; an error becomes a problem document."""
        try:
            match = self._router.find(request.method, request.path)
            arguments = read_parameters(match, request.query_string)
            return await match.route.handler(self._context, request, **arguments)
        except Exception as error:  # noqa: BLE001 - a request's top: answer_error logs what is ours
            return answer_error(error)
