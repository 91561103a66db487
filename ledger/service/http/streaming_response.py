"""Answers that are written while they are made: none is ever whole in memory.

A reader that takes nothing for a while is hung up on. An error after the first byte can't become a
problem document any more, so the connection is cut where it stands: an answer that isn't whole
must not look whole.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

import structlog
from aiohttp import web

from ledger.service.http.problems import log_failure
from ledger.service.http.responses import make_answer

_log = structlog.get_logger("ledger.service")


async def stream_answer(
    request: web.BaseRequest,
    chunks: AsyncIterator[bytes],
    *,
    media: str,
    reader_wait_s: float,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Write the chunks as the answer; HEAD gets the headers alone.

    Raises: what the first chunk raises. What a later one raises is logged and cuts the connection.
    """
    model = make_answer(b"", media=media, headers=headers)
    if request.method == "HEAD":
        return model
    model.headers.popall("Content-Length", None)
    first = await anext(chunks, None)
    answer = web.StreamResponse(headers=model.headers)
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    try:
        if first is not None:
            await _write(answer, first, reader_wait_s)
        async for chunk in chunks:
            await _write(answer, chunk, reader_wait_s)
        await answer.write_eof()
    except (ConnectionError, TimeoutError):
        _log.info("reader_gone", path=request.path)
        _cut(request)
    except Exception as error:  # noqa: BLE001 - the answer's top: it can't become a problem now
        log_failure("stream_failed", error, path=request.path)
        _cut(request)
    return answer


async def _write(answer: web.StreamResponse, chunk: bytes, reader_wait_s: float) -> None:
    async with asyncio.timeout(reader_wait_s):
        await answer.write(chunk)


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
