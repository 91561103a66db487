"""Answers that are written while they are made, so that none is ever whole in memory.

Three things cut the connection: a reader that accepts no bytes for a while, a token that is revoked
meanwhile, and an error after the first byte. None of them can become a problem document any more,
and an answer that is cut short must not look whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, cast

import structlog
from aiohttp import HttpVersion11, web

from ledger.service.http.problems import log_failure
from ledger.service.http.responses import make_answer, note_transport
from ledger.service.http.router import route_path
from ledger.service.queries.handover import HeldAnswer

AUTHORIZATION_POLL_S = 0.5
"""How often the token of an open answer is looked up again: it ends a second after revocation."""

PIECE_BYTES = 65_536
"""Bytes of a large answer that are written at once."""


HELD: Final = web.ResponseKey("ledger.held", HeldAnswer)

Body = bytes | HeldAnswer
"""Bytes of an answer: here, or in the query process, which writes them to the client."""

_log = structlog.get_logger("ledger.service")


async def stream_answer(
    request: web.BaseRequest,
    chunks: AsyncIterator[Body],
    *,
    media: str,
    reader_wait_s: float,
    is_authorized: Callable[[], bool],
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Write the chunks as the answer, as long as it `is_authorized`; HEAD gets the headers alone.

    An empty chunk says that the work goes on: as the first one it sends the headers, so that no
    client waits for them until something was found.
    Raises: what the first chunk raises. What a later one raises is logged and cuts the connection.
    """
    model = make_answer(b"", media=media, headers=headers)
    note_transport(request, model)
    if request.method == "HEAD":
        return model
    model.headers.popall("Content-Length", None)
    first = await anext(chunks, None)
    # nginx would keep what it gets in files, and pass it on late.
    answer = web.StreamResponse(headers={**model.headers, "X-Accel-Buffering": "no"})
    if request.version >= HttpVersion11:
        answer.enable_chunked_encoding()
    else:
        answer.force_close()  # The end of the connection ends the answer.
    await answer.prepare(request)
    if first is not None and not len(first):
        request.writer.send_headers()
    try:
        async with asyncio.timeout(None) as deadline:
            watch = asyncio.create_task(_expire_unauthorized(deadline, is_authorized))
            try:
                if first is not None:
                    await _write(request, answer, first, reader_wait_s)
                async for chunk in chunks:
                    await _write(request, answer, chunk, reader_wait_s)
                await answer.write_eof()
            finally:
                watch.cancel()
    except (ConnectionError, TimeoutError):
        _log.info(
            "reader_gone" if is_authorized() else "reader_unauthorized", route=route_path(request)
        )
        _cut(request)
    except Exception as error:  # noqa: BLE001 - the answer's top: it can't become a problem now
        if request.transport is None:  # Its search was cancelled for that.
            _log.info("reader_gone", route=route_path(request))
        else:
            log_failure("stream_failed", error, route=route_path(request))
        _cut(request)
    return answer


def answer_of(
    body: Body, *, media: str, cache: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer with this body, wherever it is."""
    if isinstance(body, bytes):
        return make_answer(body, media=media, cache=cache, headers=headers)
    answer = make_answer(b"", media=media, cache=cache, headers=headers)
    answer[HELD] = body
    return answer


def large_body(request: web.BaseRequest, answer: web.StreamResponse) -> Body | None:
    """The body of an answer that `write_large` is to write, or None."""
    if (held := answer.get(HELD)) is not None:
        return cast("HeldAnswer", held)
    if not isinstance(answer, web.Response) or request.method == "HEAD":
        return None
    body = answer.body
    return body if isinstance(body, bytes) and len(body) > PIECE_BYTES else None


async def write_large(
    request: web.BaseRequest, whole: web.StreamResponse, body: Body, reader_wait_s: float
) -> web.StreamResponse:
    """Write an answer piece by piece, so that the connection holds no copy of all of it.

    HEAD gets the headers alone.
    """
    note_transport(request, whole)
    answer = web.StreamResponse(status=whole.status, headers=whole.headers)
    answer.content_length = len(body)
    try:
        await answer.prepare(request)
        if request.method != "HEAD":
            await _write(request, answer, body, reader_wait_s)
        await answer.write_eof()
    except (ConnectionError, TimeoutError):
        _log.info("reader_gone", route=route_path(request))
        _cut(request)
    return answer


async def _expire_unauthorized(
    deadline: asyncio.Timeout, is_authorized: Callable[[], bool]
) -> None:
    """End the answer by its deadline when its token is in use no more."""
    while True:
        await asyncio.sleep(AUTHORIZATION_POLL_S)
        if not is_authorized():
            deadline.reschedule(asyncio.get_running_loop().time())
            return


async def _write(
    request: web.BaseRequest, answer: web.StreamResponse, chunk: Body, reader_wait_s: float
) -> None:
    """Write piece by piece. Between two of them others have their turn on the event loop."""
    if isinstance(chunk, HeldAnswer):
        await _hand_over(request, answer, chunk, reader_wait_s)
        return
    pieces = memoryview(chunk)
    for start in range(0, len(chunk), PIECE_BYTES):
        async with asyncio.timeout(reader_wait_s):
            await answer.write(pieces[start : start + PIECE_BYTES])
        await asyncio.sleep(0)


async def _hand_over(
    request: web.BaseRequest, answer: web.StreamResponse, held: HeldAnswer, reader_wait_s: float
) -> None:
    """Have the query process write an answer, once all that is before it is written here."""
    transport, writer = request.transport, request.writer
    if transport is None:
        raise ConnectionResetError
    writer.send_headers()
    transport.set_write_buffer_limits(high=0)  # From here on `drain` waits for the last byte.
    async with asyncio.timeout(reader_wait_s):
        await writer.drain()
    transport.set_write_buffer_limits()
    client = transport.get_extra_info("socket").fileno()
    # Before it is written: a client that goes away in the middle is charged for it as well.
    writer.output_size += len(held)
    await held.write_to(client, wait_s=reader_wait_s, is_chunk=answer.chunked)


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
