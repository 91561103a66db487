"""The HTTP interface of a mirror of logs.

    POST /add-checkpoint               a log's checkpoint, for which entries are to come
    POST /add-entries                  entries of a log, for which the mirror cosigns
    POST /sign-subtree                 a part of a tree that was cosigned
    GET  /<origin hash>/checkpoint     the checkpoint cosigned last
    GET  /<origin hash>/tile/…         tiles and bundles of what is kept (c2sp.org/tlog-tiles)
    GET  /healthz                      200, or 503 while writes fail

Source: c2sp.org/tlog-mirror.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

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
from ledger.runtime.tasks import wait_set
from ledger.runtime.text_answer import HEADERS, Answer, health_answer, text_answer
from ledger.service.http.in_flight import InFlight
from ledger.service.http.problems import ProblemError
from ledger.service.http.streaming_response import write_large
from ledger.tlog_mirror.log_copy import LogCopy
from ledger.tlog_mirror.service import TlogMirror
from ledger.tlog_mirror.settings import TlogMirrorSettings
from ledger.tlog_mirror.upload_body import ENCODINGS, CutShortError, inflated
from ledger_client.runtime.clock import unix_s
from ledger_client.runtime.sender_network import sender_network
from ledger_core.tlog.cosignature import self_test
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.mirror import MEDIA
from ledger_core.tlog.tile import parse_tile_path
from ledger_core.tlog.witness import BODY_BYTES_MAX

CHECK_INTERVAL_S: Final = 1.0
"""Seconds between looks at the stores, of writes that failed."""

UNREAD_BYTES_MAX: Final = 1 << 27
UNREAD_BYTES_PER_ADDRESS_MAX: Final = 1 << 26
"""Bytes of bundles, of up to 16 MiB each, that readers have not accepted yet. Anybody may read."""

RETRY_AFTER_S: Final = 1

IMMUTABLE: Final = "public, max-age=31536000, immutable"
ORIGIN_HASH: Final = "{origin_hash:[0-9a-f]{64}}"

MIRROR: Final = web.AppKey("mirror", TlogMirror)
SETTINGS: Final = web.AppKey("settings", TlogMirrorSettings)
UNREAD: Final = web.AppKey("unread", InFlight)
BUNDLE_TURNS: Final = web.AppKey("bundle turns", LoopTurns)
"""Of addresses, at reading bundles: each takes a thread for up to a tenth of a second."""

_log = structlog.get_logger("ledger.tlog_mirror")


async def serve(
    directory: Path,
    settings: TlogMirrorSettings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    now: Callable[[], int] = unix_s,
    reloads_at_hangup: bool = False,
) -> None:
    """Serve the mirror in a folder until `stop` is set. `on_ready` gets `http://host:port`.

    `reloads_at_hangup`: SIGHUP has the certificate read again; on the main thread only.

    Raises: UnavailableError when another process serves it, a part is missing, or the address is
    taken; MalformedError and VerificationError when a store is not as it was left.
    """
    self_test()
    mirror = TlogMirror(directory, settings, now=now)
    try:
        async with serving(
            make_app(mirror, settings),
            settings,
            kind="mirror",
            name=mirror.name,
            log=_log,
            stop=stop,
            on_ready=on_ready,
            reloads_at_hangup=reloads_at_hangup,
        ):
            await _until(stop, mirror)
    finally:
        await asyncio.to_thread(mirror.close)


def make_app(mirror: TlogMirror, settings: TlogMirrorSettings) -> web.Application:
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[refuse_bad_heads])
    app[MIRROR], app[SETTINGS], app[TURNS] = mirror, settings, LoopTurns()
    app[UNREAD] = InFlight(
        "unread bytes", most=UNREAD_BYTES_MAX, most_per_owner=UNREAD_BYTES_PER_ADDRESS_MAX
    )
    app[BUNDLE_TURNS] = LoopTurns()
    app.router.add_post("/add-checkpoint", _add_checkpoint)
    app.router.add_post("/add-entries", _add_entries)
    app.router.add_post("/sign-subtree", _sign_subtree)
    app.router.add_get(f"/{ORIGIN_HASH}/checkpoint", _checkpoint)
    app.router.add_get(f"/{ORIGIN_HASH}/{{path:tile/.+}}", _tile)
    app.router.add_get("/healthz", _healthz)
    return app


async def _until(stop: asyncio.Event, mirror: TlogMirror) -> None:
    while not stop.is_set():
        await wait_set(stop, CHECK_INTERVAL_S)
        if mirror.failure is not None:
            await asyncio.to_thread(mirror.probe)


async def _add_checkpoint(request: web.Request) -> web.Response:
    body = await _read_body(request)
    return (await request.app[MIRROR].add_checkpoint(body)).response()


async def _sign_subtree(request: web.Request) -> web.Response:
    body = await _read_body(request)
    return (await request.app[MIRROR].sign_subtree(body)).response()


async def _add_entries(request: web.Request) -> web.Response:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if request.content_type != MEDIA:
        return _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"want Content-Type: {MEDIA}")
    if encoding not in ENCODINGS:
        answer = _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "want Content-Encoding: gzip, or none")
        answer.headers["Accept-Encoding"] = "gzip"
        return answer
    pieces = inflated(_pieces(request), encoding)
    found = await request.app[MIRROR].add_entries(
        pieces, address=sender_network(request.remote or "")
    )
    answer = found.response()
    answer.headers["Accept-Encoding"] = "gzip"
    return answer


async def _read_body(request: web.Request) -> bytes:
    return await read_body(request, wait_s=request.app[SETTINGS].body_wait_s, log=_log)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body of an upload as it arrives. Raises: CutShortError."""
    try:
        while piece := await request.content.readany():
            yield piece
    except (ConnectionError, web.RequestPayloadError):
        raise CutShortError("the connection ended within the body") from None


async def _checkpoint(request: web.Request) -> web.Response:
    await wait_for_turn(request)
    copy = _copy(request)
    checkpoint = None if copy is None else copy.checkpoint()
    if checkpoint is None:
        return _refuse(HTTPStatus.NOT_FOUND, "nothing was mirrored for this origin")
    return Answer(HTTPStatus.OK, checkpoint.note).response()


async def _tile(request: web.Request) -> web.StreamResponse:
    await wait_for_turn(request)
    copy = _copy(request)
    try:
        ref = parse_tile_path(request.match_info["path"])
        if copy is None:
            return _refuse(HTTPStatus.NOT_FOUND, "nothing was mirrored for this origin")
        address = sender_network(request.remote or "")
        with request.app[UNREAD].lease(address) as take:
            if ref.level is None:
                read = partial(copy.store.bundle, index=ref.index, width=ref.width)
                async with request.app[BUNDLE_TURNS].turn(address):
                    data = await asyncio.to_thread(read)
            else:
                data = copy.store.tile(level=ref.level, index=ref.index, width=ref.width)
            if data is None:
                return _refuse(HTTPStatus.NOT_FOUND, "the copy has no such tile yet")
            take(len(data))
            headers = {**HEADERS, "Cache-Control": IMMUTABLE, "Content-Type": MEDIA}
            whole = web.Response(headers=headers)
            return await write_large(request, whole, data, request.app[SETTINGS].reader_wait_s)
    except MalformedError as error:
        return _refuse(HTTPStatus.NOT_FOUND, str(error))
    except ProblemError as error:
        return text_answer(
            HTTPStatus.SERVICE_UNAVAILABLE, str(error), retry_after_s=RETRY_AFTER_S
        ).response()


async def _healthz(request: web.Request) -> web.Response:
    return health_answer(request.app[MIRROR].failure).response()


def _copy(request: web.Request) -> LogCopy | None:
    try:
        return request.app[MIRROR].find(request.match_info["origin_hash"])
    except (MalformedError, UnavailableError, VerificationError) as error:
        _log.critical("store_damaged", reason=str(error))
        return None


def _refuse(status: int, text: str) -> web.Response:
    return text_answer(status, text).response()
