"""Compressed request bodies: decoded within the limit of bytes, however small they came.

A body is decoded in steps, between which other requests get their turn. Members of gzip and frames
of zstd may follow one another; one that is cut short is refused, since lines of JSON that end early
would look whole.

Source: RFC 9110 §8.4, RFC 1952, RFC 8878.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from ledger.service.http.problems import ProblemError

ENCODINGS: Final = ("gzip", "zstd")

STEP_BYTES: Final = 1 << 18
"""Decoded bytes of gzip between two turns."""

GZIP_INPUT_BYTES: Final = 1 << 16
"""Bytes of gzip handed over at once: zlib copies what is behind the end of a member."""

ZSTD_INPUT_BYTES: Final = 256
"""Bytes of zstd decoded at once: a block takes 4 bytes and may hold 128 KiB, so 8 MiB at most."""

ZSTD_WINDOW_BYTES_MAX: Final = 1 << 23
"""What RFC 8878 asks decoders to support."""

MEMBERS_MAX: Final = 1024
"""Members or frames in a body. Empty ones cost time and hold nothing."""

_GZIP: Final = 16 + zlib.MAX_WBITS


def encoding_of(header: str | None) -> str | None:
    """The encoding of a body, None for none. Raises: ProblemError for one that is not known."""
    encoding = (header or "identity").strip().lower()
    encoding = {"x-gzip": "gzip"}.get(encoding, encoding)
    if encoding == "identity":
        return None
    if encoding not in ENCODINGS:
        raise ProblemError(
            "unsupported-media-type",
            f"a body may have one content encoding, {' or '.join(ENCODINGS)}",
            headers={"Accept-Encoding": ", ".join(ENCODINGS)},
        )
    return encoding


async def decode_body(
    body: bytes, encoding: str, *, bytes_max: int, take: Callable[[int], None]
) -> bytes:
    """The decoded body. Raises: ProblemError for one that is too large, damaged or cut short."""
    decoded = bytearray()
    try:
        for piece in _gzip(body) if encoding == "gzip" else _zstd(body):
            take(len(piece))
            decoded += piece
            if len(decoded) > bytes_max:
                raise ProblemError(
                    "body-too-large",
                    f"a decoded body has at most {bytes_max} bytes",
                    limit=bytes_max,
                    got=len(decoded),
                )
            await asyncio.sleep(0)
    except (zlib.error, zstandard.ZstdError):
        raise ProblemError("bad-encoding", f"the body is not {encoding}") from None
    return bytes(decoded)


def _gzip(body: bytes) -> Iterator[bytes]:
    view, at = memoryview(body), 0
    for _ in range(MEMBERS_MAX):
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            taken = view[at : at + GZIP_INPUT_BYTES]
            piece = member.decompress(taken, STEP_BYTES)
            at += len(taken) - len(member.unused_data if member.eof else member.unconsumed_tail)
            if not (piece or taken or member.eof):
                raise _cut_short()
            yield piece
        if at == len(body):
            return
    raise _too_many_members()


def _zstd(body: bytes) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    view, at = memoryview(body), 0
    for _ in range(MEMBERS_MAX):
        frame = decompressor.decompressobj()
        pieces: list[bytes] = []
        while not frame.eof:
            taken = view[at : at + ZSTD_INPUT_BYTES]
            if not taken:
                raise _cut_short()
            pieces.append(frame.decompress(taken))
            at += len(taken) - len(frame.unused_data)
            if sum(map(len, pieces)) >= STEP_BYTES or len(pieces) == ZSTD_INPUT_BYTES:
                yield b"".join(pieces)
                pieces = []
        yield b"".join(pieces)
        if at == len(body):
            return
    raise _too_many_members()


def _cut_short() -> ProblemError:
    return ProblemError("bad-encoding", "the encoded body ends before its end")


def _too_many_members() -> ProblemError:
    return ProblemError("bad-encoding", f"the body has more than {MEMBERS_MAX} members or frames")
