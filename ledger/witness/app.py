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

from ledger.witness.data_dir import WitnessPaths, read_signers
from ledger.witness.page import CONTENT_SECURITY_POLICY, LOGS_SHOWN_MAX, format_page
from ledger.witness.service import Answer, Witness
from ledger.witness.store import HeadWriter
from ledger_client.runtime.clock import unix_s
from ledger_client.runtime.server import listen
from ledger_core.tlog.cosignature import self_test
from ledger_core.tlog.witness import BODY_BYTES_MAX

BODY_WAIT_S: Final = 10.0
"""How long a request may take to arrive. A log sends a few kilobytes."""

STOP_WAIT_S: Final = 10.0
KEEPALIVE_S: Final = 75.0

WITNESS: Final = web.AppKey("witness", Witness)

_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

_log = structlog.get_logger("ledger.witness")


async def serve(
    directory: Path,
    listen_on: str,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    now: Callable[[], int] = unix_s,
) -> None:
    """Serve the witness in a folder until `stop` is set. `on_ready` gets `http://host:port`.

    Raises: UnavailableError when another process serves it, a part is missing or the address is
    taken; MalformedError when its keys are not its own.
    """
    self_test()
    async with open_witness(directory, now=now) as witness:
        runner = web.AppRunner(
            make_app(witness),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=STOP_WAIT_S,
        )
        await runner.setup()
        try:
            address = await listen(runner, listen_on)
            _log.info("serving", address=address, witness=witness.name)
            if on_ready is not None:
                on_ready(address)
            await stop.wait()
            _log.info("stopping")
        finally:
            await runner.cleanup()


@asynccontextmanager
async def open_witness(directory: Path, *, now: Callable[[], int]) -> AsyncIterator[Witness]:
    """Open the witness in a folder, without a socket. Raises: as `serve`."""
    paths = WitnessPaths(directory)
    writer = HeadWriter.open(paths.heads)
    try:
        signers = read_signers(paths, writer.store)
    except BaseException:
        writer.close()
        raise
    witness = Witness(writer, signers, now=now)
    try:
        yield witness
    finally:
        await witness.stop()


def make_app(witness: Witness) -> web.Application:
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app[WITNESS] = witness
    app.router.add_post("/add-checkpoint", _add_checkpoint)
    app.router.add_get("/{origin_hash:[0-9a-f]{64}}/checkpoint", _checkpoint)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/", _page)
    return app


async def _add_checkpoint(request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            # Refused with 413 as soon as it is larger than any request is.
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(headers={"Connection": "close"}) from None
    return _response(await request.app[WITNESS].add_checkpoint(body))


async def _checkpoint(request: web.Request) -> web.Response:
    note = request.app[WITNESS].checkpoint(bytes.fromhex(request.match_info["origin_hash"]))
    if note is None:
        return _response(Answer(HTTPStatus.NOT_FOUND, "nothing was cosigned for this origin\n"))
    return _response(Answer(HTTPStatus.OK, note))


async def _healthz(request: web.Request) -> web.Response:
    failure = request.app[WITNESS].failure
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
    return web.Response(
        status=answer.status,
        body=answer.body.encode(),
        headers={**_HEADERS, "Content-Type": answer.content_type},
    )
