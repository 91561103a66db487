"""RFC 5424 over TLS, framed by RFC 5425: the length of each message, a space, the message.

    <109>1 2026-11-25T02:03:36.123456Z example.com - - login.failed
    [ledger@32473 index="17" leaf_hash="9f…" origin="example.com/audit"] {"index":17,…}

Syslog has no confirmation. A batch counts as sent when the receiver's system has acknowledged all
of its bytes by TCP and has not closed the connection; the batch before is sent once more after a
connection that broke. So what the receiver's program loses of what its system took is not noticed:
an export that is checked (`ledger verify-export`) shows it.

Source: RFC 5424 §6, RFC 5425 §4.3. 32473 is the enterprise number for documentation (RFC 5612).
"""

import asyncio
import fcntl
import re
import struct
import termios
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from ledger.runtime.network_errors import explain_network_error
from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import RetryError, Sent
from ledger.sinks.record import Record
from ledger.sinks.tls import client_context

PORT: Final = 6514
AUDIT: Final = 13
"""The facility "log audit"."""
WARNING: Final = 4
NOTICE: Final = 5
HOST_CHARS_MAX: Final = 255
APP_CHARS_MAX: Final = 48
MESSAGE_ID_CHARS_MAX: Final = 32
CLOSE_WAIT_S: Final = 1.0
ACKNOWLEDGED_POLL_S: Final = 0.002

_not_ascii = re.compile(r"[^\x21-\x7e]")
_special = re.compile(r'(["\\\]])')


class SyslogReceiver:
    """One connection, made anew after a failure."""

    def __init__(self, config: SinkConfig) -> None:
        self._config: Final = config
        parts = urlsplit(config.url)
        self._host: Final = parts.hostname or ""
        self._port: Final = parts.port or PORT
        self._is_tls: Final = parts.scheme == "tls"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._before: bytes = b""  # The batch that was sent last.

    async def send(self, records: Sequence[Record]) -> Sent:
        """Write a batch and wait until the receiver's system has it. Raises: RetryError."""
        batch = b"".join([_frame(format_message(record)) for record in records])
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._write(batch)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            await self.close()
            reason = explain_network_error(error)
            reason = f"{self._host}:{self._port}: {reason}"
            raise RetryError(reason, is_unanswered=True) from None
        self._before = batch
        return Sent()

    async def close(self) -> None:
        """Close the connection."""
        streams, self._streams = self._streams, None
        if streams is None:
            return
        writer = streams[1]
        writer.close()
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await writer.wait_closed()
        except (OSError, TimeoutError):
            writer.transport.abort()

    async def _write(self, batch: bytes) -> None:
        if self._streams is None:
            context = client_context(self._config) if self._is_tls else None
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=context)
            batch = self._before + batch
        reader, writer = self._streams
        self._check_open(reader)
        writer.write(batch)
        await writer.drain()
        while writer.transport.get_write_buffer_size() or _unacknowledged(writer):
            self._check_open(reader)
            await asyncio.sleep(ACKNOWLEDGED_POLL_S)
        self._check_open(reader)

    def _check_open(self, reader: asyncio.StreamReader) -> None:
        if reader.at_eof() or reader.exception() is not None:
            raise ConnectionError("the receiver has closed the connection")


def format_message(record: Record) -> bytes:
    """A message of RFC 5424 with the record's JSON as its text."""
    content = record.content()
    event = content.event
    severity = WARNING if event.outcome in {"failure", "denied"} else NOTICE
    source = event.source or None
    service = (source and source.service) or "witnessed-ledger"
    host = record.origin.partition("/")[0]
    header = " ".join(
        (
            f"<{AUDIT * 8 + severity}>1",
            str(event.time),
            _name(host, HOST_CHARS_MAX),
            _name(str(service), APP_CHARS_MAX),
            "-",
            _name(event.action, MESSAGE_ID_CHARS_MAX),
        )
    )
    origin = _special.sub(r"\\\1", record.origin)
    data = f'[ledger@32473 index="{record.index}" leaf_hash="{record.leaf_hash}" origin="{origin}"]'
    return f"{header} {data} ".encode() + record.json


def _frame(message: bytes) -> bytes:
    return f"{len(message)} ".encode() + message


def _name(text: str, chars_max: int) -> str:
    """Printable ASCII without spaces, as the fields of the header want it."""
    return _not_ascii.sub("_", text)[:chars_max] or "-"


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    """Bytes that the receiver's system has not acknowledged yet."""
    socket = writer.get_extra_info("socket")
    answer = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])
