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

from ledger.runtime.limited_runner import HEADERS, refuse_bad_heads, serving
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

WITNESS: Final = web.AppKey("witness", Witness)
SETTINGS: Final = web.AppKey("settings", WitnessSettings)

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
    async with open_witness(directory, now=now, map_bytes=settings.map_bytes) as witness:
        async with (
            serving(
                make_app(witness, settings),
                settings,
                kind="witness",
                name=witness.name,
                log=_log,
                stop=stop,
                on_ready=on_ready,
                reloads_at_hangup=reloads_at_hangup,
            ),
            _following(witness, settings),
        ):
            await witness.until_failed(stop)
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


def make_app(witness: Witness, settings: WitnessSettings) -> web.Application:
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[refuse_bad_heads])
    app[WITNESS], app[SETTINGS] = witness, settings
    app.router.add_post("/add-checkpoint", _add_checkpoint)
    app.router.add_get("/{origin_hash:[0-9a-f]{64}}/checkpoint", _checkpoint)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/", _page)
    return app


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
    headers = {**HEADERS, "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return web.Response(text=page, content_type="text/html", headers=headers)


def _response(answer: Answer) -> web.Response:
    headers = {**HEADERS, "Content-Type": answer.content_type}
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(answer.retry_after_s)
    return web.Response(status=answer.status, body=answer.body.encode(), headers=headers)
