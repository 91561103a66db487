"""Limits on the chunks of request bodies, which cost time however little data they hold.

aiohttp takes 5 µs for a chunk, and reads 256 KiB at once. A few megabytes of chunks with a byte
each would keep the event loop from all others for seconds, whether the client has a token or not.

Source: RFC 9112 §7.1, which has servers limit the extensions of chunks.
"""

import re
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

CHUNKS_FREE: Final = 256
CHUNK_BYTES_MIN: Final = 64
"""Chunks that one connection may send, and the bytes it has sent for each further one."""

OVERHEAD_MAX: Final = 1 << 20
OVERHEAD_PART: Final = 4
"""Bytes of a chunked body that are no data, such as extensions, beside this part of its data.

What came at once may wait in the parser, and counts as no data meanwhile: 256 KiB.
"""

_find_chunks: Final = re.compile(rb"\r\n[0-9A-Fa-f]{1,16}(?:;[^\r\n]*+)?\r\n").findall


class ChunksTooSmallError(BadHttpMessage, web.RequestPayloadError):
    """A body has too many chunks, or too little data in them, so it is read no further."""

    def __init__(self) -> None:
        super().__init__(
            f"a connection sends {CHUNKS_FREE} chunks, one more for each {CHUNK_BYTES_MIN} bytes, "
            "and little beside their data: send larger chunks"
        )


class ChunkCounter:
    """The chunks of one connection."""

    __slots__ = ("_body_bytes", "_bytes", "_chunks")

    def __init__(self) -> None:
        self._bytes = 0
        self._chunks = 0
        self._body_bytes = 0

    def are_small(self, data: bytes) -> bool:
        """Count what came, of heads and bodies; whether there are too many chunks for it."""
        self._bytes += len(data)
        self._chunks += len(_find_chunks(data))
        return self._chunks > CHUNKS_FREE + self._bytes // CHUNK_BYTES_MIN

    def begin_body(self) -> None:
        """Count the bytes of another body."""
        self._body_bytes = 0

    def are_hollow(self, data: bytes, data_bytes: int) -> bool:
        """Count what came of a body, of which so much was data; whether the rest is too much."""
        self._body_bytes += len(data)
        return self._body_bytes - data_bytes > OVERHEAD_MAX + data_bytes // OVERHEAD_PART
