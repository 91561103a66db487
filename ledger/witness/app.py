"""The HTTP interface of a witness.

    POST /add-checkpoint              a log asks for cosignatures
    GET  /<origin hash>/checkpoint    the head cosigned last, for monitors
    GET  /                            a page for people
    GET  /healthz                     200, or 503 after a failure that ended cosigning

Source: c2sp.org/tlog-witness.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from ledger.runtime.connections import ConnectionCounts, ConnectionWaits, LimitedConnection
from ledger.runtime.hangup import reload_at_hangup
from ledger.runtime.listening import open_listening, serve_sockets
from ledger.runtime.request_head import head_fault
from ledger.runtime.systemd import notify, notify_ready
from ledger.runtime.tls import open_tls, reload_tls, scheme
from ledger.store.environment import MAP_BYTES_DEFAULT
from ledger.witness.data_dir import WitnessPaths, read_signers
from ledger.witness.log_lists import follow_list
from ledger.witness.page import CONTENT_SECURITY_POLICY, LOGS_SHOWN_MAX, format_page
from ledger.witness.service import Answer, Check, Witness
from ledger.witness.settings import WitnessSettings
from ledger.witness.store import HeadWriter
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog.cosignature import self_test
from ledger_core.tlog.witness import BODY_BYTES_MAX

LINGER_S: Final = 2.0

WITNESS: Final = web.AppKey("witness", Witness)
SETTINGS: Final = web.AppKey("settings", WitnessSettings)

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Server": "witnessed-ledger",
}

_log = structlog.get_logger("ledger.witness")


async def serve(
    directory: Path,
    settings: WitnessSettings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    now: Callable[[], int] = unix_s,
    reloads_at_hangup: bool = False,
) -> None:
    """Serve the witness in a folder until `stop` is set. `on_ready` gets `http://host:port`.

    `reloads_at_hangup`: SIGHUP has the certificate read again; on the main thread only.

    Raises: UnavailableError when another process serves it, a part is missing, the address is
    taken or a commit failed with an unknown outcome; MalformedError when its keys are not its own.
    """
    self_test()
    tls = open_tls(settings)
    if reloads_at_hangup:
        reload_at_hangup(
            lambda: None if tls is None else reload_tls(tls, settings),
            stop,
        )
    async with open_witness(directory, now=now, map_bytes=settings.map_bytes) as witness:
        app = make_app(witness, settings)
        runner = _Runner(app, settings, shutdown_timeout=settings.stop_wait_s)
        await runner.setup()
        try:
            (sockets,), address = open_listening(settings.listen, 1, scheme=scheme(tls))
            await serve_sockets(runner, sockets, tls)
            _log.info("serving", address=address, witness=witness.name)
            notify_ready(f"serving on {address}")
            if on_ready is not None:
                on_ready(address)
            async with _following(witness, settings):
                await witness.until_failed(stop)
            _log.info("stopping")
            notify("STOPPING=1")
        finally:
            await runner.cleanup()
        if witness.failure is not None:
            raise witness.failure


@asynccontextmanager
async def open_witness(
    directory: Path,
    *,
    now: Callable[[], int],
    map_bytes: int = MAP_BYTES_DEFAULT,
    check: Check = lambda _checkpoint: None,
) -> AsyncIterator[Witness]:
    """Open the witness in a folder, without a socket. `check`: as in `Witness`.

    Raises: as `serve`.
    """
    paths = WitnessPaths(directory)
    writer = HeadWriter.open(paths.heads, map_bytes=map_bytes)
    try:
        signers = read_signers(paths, writer.store)
    except BaseException:
        writer.close()
        raise
    witness = Witness(writer, signers, now=now, check=check)
    try:
        yield witness
    finally:
        await witness.stop()


@asynccontextmanager
async def _following(witness: Witness, settings: WitnessSettings) -> AsyncIterator[None]:
    """Add the new logs of a list while the block runs, if there is one."""
    if not settings.log_list:
        yield
        return
    following = asyncio.create_task(
        follow_list(witness.store, settings.log_list, interval_s=settings.log_list_interval_s)
    )
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _Connection(LimitedConnection):
    """A connection within limits."""

    __slots__ = ()

    def report(self, event: str, request: web.BaseRequest | None = None) -> None:
        """Log what was cut."""
        path = {} if request is None else {"path": request.path}
        _log.warning(event, address=self.address, **path)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what was sent
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, and to an error of our own; neither repeats anything."""
        text = "the bytes are not HTTP/1.1"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            text = "an error of this witness"
            _log.error("request_failed", error=type(exc).__name__)
        answer = _response(Answer(status, f"{text}\n"))
        answer.force_close()
        return answer


class _Server(web.Server):
    """Serves a handler of requests to connections within limits."""

    def __init__(self, unlimited: web.Server, settings: WitnessSettings) -> None:
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

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(self, counts=self._counts, waits=self._waits)


class _Runner(web.AppRunner):
    """Runs an application behind connections within limits."""

    def __init__(
        self, app: web.Application, settings: WitnessSettings, *, shutdown_timeout: float
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._settings = settings

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._settings)


def make_app(witness: Witness, settings: WitnessSettings) -> web.Application:
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_check_head])
    app[WITNESS], app[SETTINGS] = witness, settings
    app.router.add_post("/add-checkpoint", _add_checkpoint)
    app.router.add_get("/{origin_hash:[0-9a-f]{64}}/checkpoint", _checkpoint)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/", _page)
    return app


@web.middleware
async def _check_head(request: web.Request, handler: Handler) -> web.StreamResponse:
    if fault := head_fault(request):
        answer = _response(Answer(HTTPStatus.BAD_REQUEST, f"{fault}\n"))
        answer.force_close()
        return answer
    return await handler(request)


async def _add_checkpoint(request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(request.app[SETTINGS].body_wait_s):
            # Refused with 413 as soon as it is larger than any request is.
            body = await request.read()
    except TimeoutError:
        _log.warning("body_too_slow", address=request.remote)
        refusal = web.HTTPRequestTimeout()
        refusal.force_close()
        raise refusal from None
    except ConnectionError:
        # Nobody reads the answer.
        return _response(Answer(HTTPStatus.BAD_REQUEST, "the body was cut short\n"))
    return _response(await request.app[WITNESS].add_checkpoint(body))


async def _checkpoint(request: web.Request) -> web.Response:
    note = request.app[WITNESS].checkpoint(bytes.fromhex(request.match_info["origin_hash"]))
    if note is None:
        return _response(Answer(HTTPStatus.NOT_FOUND, "nothing was cosigned for this origin\n"))
    return _response(Answer(HTTPStatus.OK, note))


async def _healthz(request: web.Request) -> web.Response:
    witness = request.app[WITNESS]
    failure = witness.failure or witness.store.environment.failure
    if failure is not None:
        return _response(Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{failure}\n"))
    return _response(Answer(HTTPStatus.OK, "ok\n"))


async def _page(request: web.Request) -> web.Response:
    witness = request.app[WITNESS]
    page = format_page(
        name=witness.name,
        vkeys=witness.vkeys,
        logs=witness.store.logs(logs_max=LOGS_SHOWN_MAX),
        logs_count=witness.store.count_logs(),
    )
    headers = {**_HEADERS, "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return web.Response(text=page, content_type="text/html", headers=headers)


def _response(answer: Answer) -> web.Response:
    headers = {**_HEADERS, "Content-Type": answer.content_type}
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(answer.retry_after_s)
    return web.Response(status=answer.status, body=answer.body.encode(), headers=headers)
