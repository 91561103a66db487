"""From a connection to a handler: routing, and every error as a problem document.

This is aiohttp's low-level server. Its Application has error pages of its own, for requests that
are not HTTP and for paths that don't exist, which nothing above a connection can change; here a
connection answers those too with problem documents. And a request is found by one look-up.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiohttp import web

from ledger.service.context import Service
from ledger.service.http.problems import PROBLEMS, ProblemError, answer_error
from ledger.service.http.router import Route, Router, read_parameters

KEEPALIVE_S: Final = 75.0
"""How long an idle connection is kept, and one that has not sent its first request."""

_log = structlog.get_logger("ledger.service")


class _Connection(web.RequestHandler):
    """A connection whose answers to what is no request are problem documents."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed; the connection is closed after it."""
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

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        self._service = service
        self._router = Router(routes)
        self._event_loop = asyncio.get_running_loop()
        super().__init__(self.answer, loop=self._event_loop)

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(
            self,
            loop=self._event_loop,
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # None means none, its type forgot
            # A body that says it is compressed is refused, not inflated.
            auto_decompress=False,
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request, whatever happens."""
        try:
            found = self._router.find(request.method, request.path)
            parameters: dict[str, Any] = read_parameters(
                found.route, found.values, request.query_string
            )
            return await found.route.handler(self._service, request, **parameters)
        except Exception as error:  # noqa: BLE001 - a request's top: answer_error logs what is ours
            return answer_error(error)
