"""Datagrams of syslog: a message in each, which can't be held back.

Those that find no room are counted, by us while the spool is full or slow, and by the system while
its buffer is. An event records how many were lost.

All datagrams take turns as one sender: anybody can write any address into one.
"""

import asyncio
import logging
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Final

from ledger_client.collect.syslog.events import Peer
from ledger_client.collect.syslog.framing import Frame, strip_count
from ledger_client.collect.syslog.proxy_protocol import plain_ip
from ledger_client.collect.syslog.turns import TURN_MESSAGES, EndedError, Turns, Waiting
from ledger_client.runtime.clock import unix_us

DATAGRAMS_WAITING_MAX: Final = 1024

_SENDER: Final = "datagrams"
_MEMORY_INFO: Final = 55
"""SO_MEMINFO of Linux: nine numbers, the last of which counts the datagrams that were dropped."""
_MEMORY_NUMBERS: Final = struct.Struct("9I")

_log = logging.getLogger("ledger_client.collect.syslog")


class Datagrams(asyncio.DatagramProtocol):
    """Receives datagrams on one socket, and records them until it is cancelled."""

    def __init__(self, turns: Turns, *, frame_bytes_max: int) -> None:
        self._turns: Final = turns
        self._frame_bytes_max: Final = frame_bytes_max
        self._waiting: Final[asyncio.Queue[Waiting]] = asyncio.Queue(DATAGRAMS_WAITING_MAX)
        self._socket: Any = None
        self._dropped = 0
        """By the system, as far as they are counted in `lost`."""
        self.lost = 0
        """Since the last event about them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket; the transport calls this."""
        self._socket = transport.get_extra_info("socket")

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Queue a datagram, or count it as lost; the transport calls this."""
        most = self._frame_bytes_max
        data = strip_count(data)
        frame = Frame(data[:most].rstrip(b"\r\n\0"), bytes_cut=max(0, len(data) - most))
        try:
            peer = Peer(ip=plain_ip(addr[0]), port=addr[1])
            self._waiting.put_nowait(Waiting(frame, peer, unix_us()))
        except asyncio.QueueFull:
            self.lost += 1

    async def drain(self) -> None:
        """Wait until all that was received is recorded, or given up."""
        await self._waiting.join()

    async def record(self) -> None:
        """Record what is received, for ever."""
        while True:
            waiting = [await self._waiting.get()]
            while len(waiting) < TURN_MESSAGES and not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            try:
                some = [message for message in waiting if message.frame.data]
                try:
                    await self._turns.record(some, _SENDER)
                except EndedError as error:
                    self.lost += error.left
                await self._record_loss()
            except Exception:  # noqa: BLE001 - the top of a task, which must go on
                _log.exception("datagrams_broken count=%d", len(waiting))
            for _ in waiting:
                self._waiting.task_done()

    async def _record_loss(self) -> None:
        self._count_dropped()
        lost, self.lost = self.lost, 0
        if not lost:
            return
        _log.warning("datagrams_lost count=%d", lost)
        await self._turns.record_event(
            {
                "action": "ledger.syslog.datagrams_lost",
                "actor": {"type": "host", "id": socket.gethostname() or "unknown"},
                "outcome": "failure",
                "reason": f"{lost} datagrams came faster than they could be recorded",
                "context": {"count": lost},
            }
        )

    def _count_dropped(self) -> None:
        """Count what the system dropped: its buffer was full then, so a datagram is read after it.

        Other systems than Linux don't say it.
        """
        if sys.platform != "linux":
            return
        with suppress(OSError):  # The socket may be closed.
            answer = self._socket.getsockopt(socket.SOL_SOCKET, _MEMORY_INFO, _MEMORY_NUMBERS.size)
            dropped = _MEMORY_NUMBERS.unpack(answer)[-1]
            self.lost += dropped - self._dropped
            self._dropped = dropped
