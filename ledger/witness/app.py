"""The HTTP interface of a witness.

    POST /add-checkpoint              a log asks for cosignatures
    GET  /<origin hash>/checkpoint    the head cosigned last, for monitors
    GET  /                            a page for people
    GET  /healthz                     200, or 503 after a failure that ended cosigning

Source: c2sp.org/tlog-witness.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from ledger.runtime.limited_runner import refuse_bad_heads, serving
from ledger.store.environment import MAP_BYTES_DEFAULT
from ledger.witness.answers import checkpoint_answer, headers_of, health_answer, page_answer
from ledger.witness.data_dir import WitnessPaths, read_signers
from ledger.witness.log_lists import follow_list
from ledger.witness.service import Answer, Check, Witness
from ledger.witness.settings import WitnessSettings
from ledger.witness.store import HeadWriter
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog.cosignature import self_test
from ledger_core.tlog.witness import BODY_BYTES_MAX

if TYPE_CHECKING:
    from ledger.witness.bastion import Bastion  # It needs an extra.

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
        bastions = _open_bastions(directory, witness, settings)
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
            _following(witness, settings, bastions),
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
async def _following(
    witness: Witness, settings: WitnessSettings, bastions: "Sequence[Bastion]"
) -> AsyncIterator[None]:
    """Add the new logs of a list, and serve bastions, while the block runs, if there are any."""
    work: list[Coroutine[None, None, None]] = [bastion.run() for bastion in bastions]
    if settings.log_list:
        work.append(
            follow_list(witness.store, settings.log_list, interval_s=settings.log_list_interval_s)
        )
    tasks = list(map(asyncio.create_task, work))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _open_bastions(
    directory: Path, witness: Witness, settings: WitnessSettings
) -> "Sequence[Bastion]":
    """The bastions of the settings. Raises: MalformedError, UnavailableError."""
    if not settings.bastion:
        return ()
    from ledger.witness.bastion import Bastion, client_tls, key_hash, parse_bastions

    addresses = parse_bastions(settings.bastion)
    tls = client_tls(directory, ca_file=settings.bastion_ca_file)
    _log.info("bastion_key", key_hash=key_hash(directory))
    return [
        Bastion(address, tls, witness, body_wait_s=settings.body_wait_s) for address in addresses
    ]


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
    origin_hash = bytes.fromhex(request.match_info["origin_hash"])
    return _response(checkpoint_answer(request.app[WITNESS], origin_hash))


async def _healthz(request: web.Request) -> web.Response:
    return _response(health_answer(request.app[WITNESS]))


async def _page(request: web.Request) -> web.Response:
    return _response(page_answer(request.app[WITNESS]))


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body.encode(), headers=headers_of(answer))
