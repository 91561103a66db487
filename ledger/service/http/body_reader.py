"""Request bodies are read within limits of bytes and time, and decoded if they are compressed."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from aiohttp import HttpVersion11, web

from ledger.service.http.content_encoding import decode_body, encoding_of
from ledger.service.http.problems import ProblemError

BODY_PROBLEMS: Final = (
    *("body-cut-short", "body-too-slow", "body-too-large"),
    *("unsupported-media-type", "bad-encoding", "expectation-failed", "too-busy"),
)
"""What `read_body` may refuse a body with."""


_EXPECTED: Final = "100-continue"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(
    request: web.BaseRequest,
    *,
    bytes_max: int,
    wait_s: float,
    take: Callable[[int], None],
    turn: AbstractAsyncContextManager[None],
) -> bytes:
    """The body of a request, decoded, never holding more than `bytes_max` of it.

    Every byte is counted by `take`, which raises ProblemError when too many are in memory. A
    compressed body is decoded within `turn`: kilobytes of it may take tens of milliseconds.
    Raises: ProblemError for one that is too large, too slow, cut short, or not in its encoding.
    """
    encoding = encoding_of(request.headers.get("Content-Encoding"))
    body = await _read_encoded(request, bytes_max=bytes_max, wait_s=wait_s, take=take)
    if encoding is None:
        return body
    async with turn:
        return await decode_body(body, encoding, bytes_max=bytes_max, take=take)


async def _read_encoded(
    request: web.BaseRequest, *, bytes_max: int, wait_s: float, take: Callable[[int], None]
) -> bytes:
    headers = request.headers
    length = request.content_length
    if length is not None and length > bytes_max:
        raise _too_large(bytes_max, length)
    expect = headers.get("Expect")
    if expect is not None and request.version >= HttpVersion11:
        await _continue(request, expect)
    content = request.content
    if content.is_eof():
        # The whole body came with the head. A chunked body had no length to check before.
        whole = content.read_nowait()
        if len(whole) > bytes_max:
            raise _too_large(bytes_max, len(whole))
        take(len(whole))
        return whole
    body = bytearray()
    try:
        async with asyncio.timeout(wait_s):
            while chunk := await content.readany():
                if len(body) + len(chunk) > bytes_max:
                    raise _too_large(bytes_max, len(body) + len(chunk))
                take(len(chunk))
                body += chunk
    except TimeoutError:
        raise ProblemError(
            "body-too-slow",
            f"the body did not arrive in {wait_s:g} s",
            headers={"Connection": "close"},
        ) from None
    return bytes(body)


async def _continue(request: web.BaseRequest, expect: str) -> None:
    """Ask for the body, as curl expects for a large one. Source: RFC 9110 §10.1.1.

    Precondition: HTTP/1.1. A proxy that speaks HTTP/1.0 would take this for the answer.
    """
    if expect.lower() != _EXPECTED:
        raise ProblemError("expectation-failed", f"the only expectation met is {_EXPECTED}")
    await request.writer.write(_CONTINUE)
    # An interim answer does not count as the beginning of the answer.
    request.writer.output_size = 0


def _too_large(bytes_max: int, got: int) -> ProblemError:
    return ProblemError(
        "body-too-large", f"a body has at most {bytes_max} bytes", limit=bytes_max, got=got
    )
