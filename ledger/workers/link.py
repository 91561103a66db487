"""One end of the socket between a front end and the sequencer's process.

    u32, big-endian     the length of a message
    bytes               the message (`messages`)

Both ends bound what they have asked for and not been answered, so nothing more is bounded here.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Final, cast

import msgspec
import structlog

from ledger.workers.messages import encode

_LENGTH: Final = struct.Struct(">I")

_log = structlog.get_logger("ledger.workers")


class Link(asyncio.Protocol):
    """Sends and receives messages on one event loop.

    `on_message` gets each message as its bytes, in order, `on_lost` nothing: the other process has
    ended, or sent what is no message.
    """

    def __init__(
        self,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_made: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_made` is called when it is connected."""
        self.is_lost = False
        self._on_made = on_made
        self._on_message = on_message
        self._on_lost = on_lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        self._on_made()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.is_lost = True
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, start)
            end = start + _LENGTH.size + length
            if len(received) < end:
                break
            message = bytes(memoryview(received)[start + _LENGTH.size : end])
            start = end
            try:
                self._on_message(message)
            except msgspec.MsgspecError as error:
                _log.error("message_not_understood", reason=str(error))
                self.close()
                return
        del received[:start]

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; nothing once the link is lost."""
        if self._transport is None or self.is_lost:
            return
        body = encode(message)
        self._transport.write(_LENGTH.pack(len(body)) + body)

    def close(self) -> None:
        """End the link, after what was sent."""
        if self._transport is not None:
            self._transport.close()
