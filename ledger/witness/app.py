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
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from ledger.runtime.limited_runner import (
    TURNS,
    read_body,
    refuse_bad_heads,
    serving,
    wait_for_turn,
)
from ledger.runtime.loop_turns import LoopTurns
from ledger.runtime.tasks import beside
from ledger.runtime.text_answer import health_answer
from ledger.store.environment import MAP_BYTES_DEFAULT
from ledger.witness.answers import checkpoint_answer, page_answer
from ledger.witness.data_dir import WitnessPaths, read_signers
from ledger.witness.log_lists import follow_list
from ledger.witness.service import Check, Witness
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
            beside(*_following(witness, settings, bastions)),
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


def _following(
    witness: Witness, settings: WitnessSettings, bastions: "Sequence[Bastion]"
) -> list[Coroutine[None, None, None]]:
    """The work that adds the new logs of a list, and that serves bastions, if there are any."""
    work: list[Coroutine[None, None, None]] = [bastion.run() for bastion in bastions]
    if settings.log_list:
        work.append(
            follow_list(witness.store, settings.log_list, interval_s=settings.log_list_interval_s)
        )
    return work


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
    app[WITNESS], app[SETTINGS], app[TURNS] = witness, settings, LoopTurns()
    app.router.add_post("/add-checkpoint", _add_checkpoint)
    app.router.add_get("/{origin_hash:[0-9a-f]{64}}/checkpoint", _checkpoint)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/", _page)
    return app


async def _add_checkpoint(request: web.Request) -> web.Response:
    body = await read_body(request, wait_s=request.app[SETTINGS].body_wait_s, log=_log)
    return (await request.app[WITNESS].add_checkpoint(body)).response()


async def _checkpoint(request: web.Request) -> web.Response:
    await wait_for_turn(request)
    origin_hash = bytes.fromhex(request.match_info["origin_hash"])
    return checkpoint_answer(request.app[WITNESS], origin_hash).response()


async def _healthz(request: web.Request) -> web.Response:
    return health_answer(request.app[WITNESS].any_failure).response()


async def _page(request: web.Request) -> web.Response:
    await wait_for_turn(request)
    return page_answer(request.app[WITNESS]).response()
