"""The bytes of an upload as they arrive, inflated in small pieces.

A piece of gzip may inflate to a thousand times its length, so it is inflated step by step: no more
than a step is in memory at once.
"""

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

ENCODINGS: Final = ("identity", "gzip")
STEP_BYTES: Final = 1 << 16
"""Inflated bytes that are handed on at once."""

_GZIP: Final = 16 + zlib.MAX_WBITS


class CutShortError(Exception):
    """The rest of a body can't be read; the message says why. The bytes before are valid."""


async def inflated(pieces: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The decoded content of a body. `encoding`: one of `ENCODINGS`.

    Raises: CutShortError for what is not gzip, and what `pieces` raises. A body that ends within
    gzip ends here as well: its client sent a part of it.
    """
    if encoding == "identity":
        async for piece in pieces:
            yield piece
        return
    inflater = Inflater()
    async for piece in pieces:
        for step in inflater.feed(piece):
            yield step


class Inflater:
    """Inflates gzip of one or more members. Not usable after an error."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Inflate in steps. Raises: CutShortError."""
        rest = data
        while rest:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            try:
                step = self._member.decompress(rest, STEP_BYTES)
            except zlib.error as error:
                raise CutShortError(f"the body is not gzip: {error}") from None
            rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if step:
                yield step
