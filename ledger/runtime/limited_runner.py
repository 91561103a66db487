"""Runs a small HTTP application behind connections within limits: a witness, or a mirror of logs.

The service of a ledger has a server of its own (`ledger.service.http.server`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from ledger.runtime.connections import (
    ConnectionCounts,
    ConnectionWaits,
    HeadTooLargeError,
    LimitedConnection,
)
from ledger.runtime.hangup import reload_at_hangup
from ledger.runtime.listening import open_listening, serve_sockets
from ledger.runtime.loop_turns import LoopTurns
from ledger.runtime.request_head import HEAD_BYTES_MAX, head_fault, is_head_too_large
from ledger.runtime.systemd import notify, notify_ready
from ledger.runtime.text_answer import text_answer
from ledger.runtime.tls import TlsFiles, open_tls, reload_tls, scheme
from ledger_client.runtime.sender_network import sender_network

LINGER_S: Final = 2.0

TURNS: Final = web.AppKey("turns", LoopTurns)
"""The turns of addresses at the loop, for what takes it a millisecond or more."""

HEAD_TOO_LARGE: Final = f"target and headers have together at most {HEAD_BYTES_MAX} bytes"


class ConnectionSettings(Protocol):
    """The limits of connections, which the settings of each service have."""

    @property
    def connections_max(self) -> int: ...

    @property
    def connections_per_address_max(self) -> int: ...

    @property
    def head_wait_s(self) -> float: ...

    @property
    def reader_wait_s(self) -> float: ...

    @property
    def stop_wait_s(self) -> float: ...


class ServiceSettings(ConnectionSettings, TlsFiles, Protocol):
    """The settings of a service that `serving` runs."""

    @property
    def listen(self) -> str: ...


class LimitedRunner(web.AppRunner):
    """Runs an application. `kind` is what the service is, in answers; `log` takes the log lines."""

    def __init__(
        self, app: web.Application, settings: ConnectionSettings, *, kind: str, log: Any
    ) -> None:
        super().__init__(app, shutdown_timeout=settings.stop_wait_s)
        self._settings = settings
        self._kind = kind
        self._log = log

    async def _make_server(self) -> web.Server:
        unlimited = await super()._make_server()
        return _Server(unlimited, self._settings, kind=self._kind, log=self._log)


@asynccontextmanager
async def serving(
    app: web.Application,
    settings: ServiceSettings,
    *,
    kind: str,
    name: str,
    log: Any,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None,
    reloads_at_hangup: bool,
) -> AsyncIterator[None]:
    """Serve an application while the block runs. `on_ready` gets `http://host:port`.

    `kind` and `name`: what serves and its own name, for the log. `reloads_at_hangup`: SIGHUP has
    the certificate read again, until `stop`; on the main thread only.
    Raises: UnavailableError when the address is taken, or a file of TLS can't be read.
    """
    tls = open_tls(settings)
    if reloads_at_hangup:
        reload_at_hangup(lambda: None if tls is None else reload_tls(tls, settings), stop)
    runner = LimitedRunner(app, settings, kind=kind, log=log)
    await runner.setup()
    try:
        (sockets,), address = open_listening(settings.listen, 1, scheme=scheme(tls))
        await serve_sockets(runner, sockets, tls)
        log.info("serving", address=address, **{kind: name})
        notify_ready(f"serving on {address}")
        if on_ready is not None:
            on_ready(address)
        yield
        log.info("stopping")
        notify("STOPPING=1")
    finally:
        await runner.cleanup()


@web.middleware
async def refuse_bad_heads(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 400 to a head that two readers could read in two ways, and 431 to a large one."""
    if fault := head_fault(request):
        answer = text_answer(HTTPStatus.BAD_REQUEST, fault).response()
        answer.force_close()
        return answer
    if is_head_too_large(request):
        answer = text_answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, HEAD_TOO_LARGE).response()
        answer.force_close()
        return answer
    return await handler(request)


async def wait_for_turn(request: web.Request) -> None:
    """Wait until nothing else of this address begins in this turn of the loop."""
    await request.app[TURNS].begin(sender_network(request.remote or ""))


async def read_body(request: web.Request, *, wait_s: float, log: Any) -> bytes:
    """Read a small body, within `wait_s` seconds and the `client_max_size` of the application.

    Then wait for the turn of its address, so what follows is the only such work of that address
    until others had their turn.

    Raises: the answers of aiohttp: 413 as soon as the body is larger, 408 when it is too slow, 400
    when the client has gone.
    """
    try:
        async with asyncio.timeout(wait_s):
            body = await request.read()
    except TimeoutError:
        log.warning("body_too_slow", address=request.remote)
        refusal = web.HTTPRequestTimeout()
        refusal.force_close()
        raise refusal from None
    except ConnectionError:
        raise web.HTTPBadRequest from None  # Nobody reads the answer.
    await wait_for_turn(request)
    return body


class _Connection(LimitedConnection):
    """A connection within limits."""

    __slots__ = ("_kind", "_log")

    def __init__(
        self,
        server: web.Server,
        *,
        counts: ConnectionCounts,
        waits: ConnectionWaits,
        kind: str,
        log: Any,
    ) -> None:
        super().__init__(server, counts=counts, waits=waits)
        self._kind = kind
        self._log = log

    def report(self, event: str, request: web.BaseRequest | None = None) -> None:
        """Log what was cut."""
        path = {} if request is None else {"path": request.path}
        self._log.warning(event, address=self.address, **path)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what was sent
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, and to an error of our own; neither repeats anything."""
        text = "the bytes are not HTTP/1.1"
        if isinstance(exc, HeadTooLargeError):
            status, text = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, HEAD_TOO_LARGE
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            text = f"an error of this {self._kind}"
            self._log.error("request_failed", error=type(exc).__name__)
        answer = text_answer(status, text).response()
        answer.force_close()
        return answer


class _Server(web.Server):
    """Serves a handler of requests to connections within limits."""

    def __init__(
        self, unlimited: web.Server, settings: ConnectionSettings, *, kind: str, log: Any
    ) -> None:
        super().__init__(
            unlimited.request_handler,
            request_factory=unlimited.request_factory,
            loop=asyncio.get_running_loop(),
        )
        self._counts = ConnectionCounts(
            most=settings.connections_max, most_per_address=settings.connections_per_address_max
        )
        self._waits = ConnectionWaits(
            head_s=settings.head_wait_s, reader_s=settings.reader_wait_s, linger_s=LINGER_S
        )
        self._kind = kind
        self._log = log

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(
            self, counts=self._counts, waits=self._waits, kind=self._kind, log=self._log
        )
