"""The bytes of an upload as they arrive, inflated in small pieces.

A piece of gzip may inflate to a thousand times its length, so it is inflated step by step: no more
than a step is in memory at once, and other requests have their turn between two. Members that hold
nothing take time and give no step, so they have a limit.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

ENCODINGS: Final = ("identity", "gzip")
STEP_BYTES: Final = 1 << 16
"""Inflated bytes that are handed on at once."""

MEMBERS_MAX: Final = 1024
MEMBER_BYTES_MIN: Final = 1024
"""Members of gzip in an upload: so many, and one more for each so many inflated bytes."""

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
            await asyncio.sleep(0)


class Inflater:
    """Inflates gzip of one or more members. Not usable after an error."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._members = 1
        self._inflated_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Inflate in steps. Raises: CutShortError."""
        rest = data
        while rest:
            if self._member.eof:
                self._begin_member()
            try:
                step = self._member.decompress(rest, STEP_BYTES)
            except zlib.error as error:
                raise CutShortError(f"the body is not gzip: {error}") from None
            rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if step:
                self._inflated_bytes += len(step)
                yield step

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS_MAX + self._inflated_bytes // MEMBER_BYTES_MIN:
            raise CutShortError(f"more than {MEMBERS_MAX} members of gzip hold next to nothing")
        self._member = zlib.decompressobj(_GZIP)
