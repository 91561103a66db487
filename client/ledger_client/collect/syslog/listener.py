"""The sockets of syslog: reads messages, records them, and only then reads more.

A message is safe once the recorder has it: it survives the process, waits for the ledger, and is
verified there.

Weak: the sender can't know this. TCP acknowledges bytes to the sender's kernel, so bytes in flight
are lost if this process or the network dies. Syslog has no acknowledgement of its own.

While the spool is full, the listener does not read: the sender's window closes, and it queues or
drops by its own settings. For each connection at most one read and one unfinished message are held,
so the number of connections bounds the memory. Datagrams can't be held back: those without room are
counted, and an event records how many were lost.

One address has a part of the connections, so nobody can keep all other senders out with one. A
balancer may have all of them, and each client that it names a part.

Behind a balancer each connection has the balancer's address. A balancer that is named begins each
connection with a PROXY header, which has the sender's. From any other address a header is text.
"""

import asyncio
import hashlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final, NamedTuple, cast

from ledger_client.collect.syslog.events import Peer, map_frame
from ledger_client.collect.syslog.framing import Deframer, Frame, strip_count
from ledger_client.collect.syslog.proxy_protocol import read_header
from ledger_client.recording.options import SpoolFullError
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.line_limit import LineLimit
from ledger_client.runtime.sender_network import sender_network
from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import EventError
from ledger_core.tlog.errors import MalformedError, UnavailableError

FRAME_BYTES_MAX: Final = 16 * 1024
"""RFC 5425 §4.3.1: at least 2,048, and 8,192 should be supported."""
CONNECTIONS_MAX: Final = 512
CONNECTIONS_PER_ADDRESS_MAX: Final = 128
CONNECTIONS_WAITING_MAX: Final = 128
READ_BYTES: Final = 32 * 1024
DATAGRAMS_WAITING_MAX: Final = 1024
DATAGRAM_BATCH: Final = 256
HANDSHAKE_S: Final = 10.0
"""For the PROXY header of a connection, and then for its TLS handshake."""
ACCEPT_RETRY_S: Final = 1.0
"""After a connection could not be accepted, such as for want of file descriptors."""
RETRY_S: Final = 0.25
DRAIN_S: Final = 5.0
THREADS: Final = 4

_log = logging.getLogger("ledger_client.collect.syslog")
_limit: Final = LineLimit()


def _is_admitted(line: logging.LogRecord) -> bool:
    """Whether a line about a connection is within the limit of its address."""
    if not (" ip=%s" in line.msg and isinstance(line.args, tuple)):
        return True
    left_out = _limit.admit(line.msg, sender_network(str(line.args[0])))
    if left_out:
        line.msg = f"{line.msg} left_out={left_out}"
    return left_out is not None


_log.addFilter(_is_admitted)

Record = Callable[[Mapping[str, Any]], object]
"""Records one event. Raises: SpoolFullError."""


class _TooManyError(Exception):
    """An address has as many connections as it may have."""


class _Waiting(NamedTuple):
    """A message that is not recorded yet."""

    frame: Frame
    peer: Peer
    received_unix_us: int


class SyslogListener(asyncio.DatagramProtocol):
    """Receives messages and records them until it is closed. For one event loop."""

    def __init__(
        self,
        record: Record,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        connections_max: int = CONNECTIONS_MAX,
        connections_per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX,
        balancers: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        """Connections from `balancers` begin with a PROXY header."""
        self._record: Final = record
        self._frame_bytes_max: Final = frame_bytes_max
        self._connections_max: Final = connections_max
        self._connections_per_address_max: Final = connections_per_address_max
        self._by_address: Counter[str] = Counter()
        # Recording may wait for the disk.
        self._threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="syslog")
        self._balancers: Final = tuple(balancers)
        self._accepting: dict[asyncio.Task[None], socket.socket] = {}
        self._transports: list[asyncio.DatagramTransport] = []
        # A connection has no writer before its PROXY header and its TLS handshake are done.
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}
        self._datagrams: asyncio.Queue[_Waiting] = asyncio.Queue(DATAGRAMS_WAITING_MAX)
        self._datagrams_lost = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._is_full = False

    async def listen_tcp(
        self, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Accept connections; return the address, with the actual port if `port` is 0.

        Raises: UnavailableError if the address can't be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            servers = [
                socket.create_server(address[:2], family=family, backlog=CONNECTIONS_WAITING_MAX)
                for family, _, _, _, address in dict.fromkeys(found)
            ]
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        for server in servers:
            server.settimeout(0)
            self._accepting[asyncio.create_task(self._accept(server, tls))] = server
        bound = servers[0].getsockname()
        return bound[0], bound[1]

    async def listen_udp(self, host: str, port: int) -> tuple[str, int]:
        """Receive datagrams, a message in each; otherwise as `listen_tcp`."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: self, local_addr=(host, port)
            )
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        self._transports.append(transport)
        self._tasks.append(asyncio.create_task(self._record_datagrams()))
        bound = transport.get_extra_info("sockname")
        return bound[0], bound[1]

    async def close(self) -> None:
        """Stop reading and record the messages read so far, if there is room within 5 s."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for server in self._accepting.values():
            server.close()
        for transport in self._transports:
            transport.close()
        for task, writer in self._connections.items():
            if writer is None:
                task.cancel()
            else:
                # Bytes that were received stay in the reader, and are read to their end.
                writer.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*self._connections, return_exceptions=True)
                await self._datagrams.join()
        left = [*self._connections, *self._tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _accept(self, server: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(server)
            except OSError as error:
                _log.warning("accept_failed error=%s", type(error).__name__)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            peer = Peer(ip=_ip(address[0]), port=address[1])
            if len(self._connections) >= self._connections_max:
                _log.warning("connection_refused ip=%s limit=%d", peer.ip, self._connections_max)
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection, peer, tls))
            self._connections[task] = None
            task.add_done_callback(self._connections.pop)

    async def _serve(
        self, connection: socket.socket, peer: Peer, tls: ssl.SSLContext | None
    ) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            # The kernel detects a sender that vanished.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if is_balancer := self._is_balancer(peer.ip):
                peer = await _read_client(connection, peer)
            # Health checks of a balancer come from its own address.
            with self._count(peer.ip) if peer.balancer or not is_balancer else nullcontext():
                reader, writer = await _open_streams(connection, tls)
                self._connections[cast("asyncio.Task[None]", asyncio.current_task())] = writer
                peer = replace(peer, fingerprint=_fingerprint(writer))
                _log.info("connection_opened ip=%s port=%d", peer.ip, peer.port)
                await self._read(reader, peer)
        except _TooManyError:
            most = self._connections_per_address_max
            _log.warning("connection_refused ip=%s limit_per_address=%d", peer.ip, most)
        except MalformedError as error:
            _log.warning("proxy_header_refused ip=%s reason=%s", peer.ip, error)
        except (OSError, EOFError) as error:
            _log.info("connection_failed ip=%s error=%s", peer.ip, type(error).__name__)
        except Exception:  # noqa: BLE001 - the top of a task
            _log.exception("connection_broken ip=%s", peer.ip)
        finally:
            (connection if writer is None else writer).close()
            _log.info("connection_closed ip=%s port=%d", peer.ip, peer.port)

    @contextmanager
    def _count(self, ip: str) -> Iterator[None]:
        """Count a connection of an address while it is open. Raises: _TooManyError."""
        sender = sender_network(ip)
        if self._by_address[sender] >= self._connections_per_address_max:
            raise _TooManyError
        self._by_address[sender] += 1
        try:
            yield
        finally:
            self._by_address[sender] -= 1
            if not self._by_address[sender]:
                del self._by_address[sender]

    def _is_balancer(self, ip: str) -> bool:
        return bool(ip) and any(ip_address(ip) in network for network in self._balancers)

    async def _read(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        deframer = Deframer(frame_bytes_max=self._frame_bytes_max)
        try:
            while data := await reader.read(READ_BYTES):
                frames = list(deframer.feed(data))
                await self._record_frames(frames, peer)
                if frames and frames[-1].is_unframed:
                    _log.warning("framing_lost ip=%s", peer.ip)
                    return
        finally:
            if last := deframer.end():
                await self._record_frames([last], peer)

    async def _record_frames(self, frames: list[Frame], peer: Peer) -> None:
        now_unix_us = unix_us()
        await self._record_all([_Waiting(frame, peer, now_unix_us) for frame in frames])

    async def _record_all(self, waiting: list[_Waiting]) -> None:
        """Record messages; wait while the spool has no room."""
        loop = asyncio.get_running_loop()
        while waiting:
            recorded = await loop.run_in_executor(self._threads, self._record_some, waiting)
            waiting = waiting[recorded:]
            if bool(waiting) is not self._is_full:
                self._is_full = bool(waiting)
                _log.warning("spool_full reading=%s", "stopped" if waiting else "resumed")
            if waiting:
                await asyncio.sleep(RETRY_S)

    def _record_some(self, waiting: list[_Waiting]) -> int:
        """Record messages until there is no room; return how many."""
        for count, (frame, peer, received_unix_us) in enumerate(waiting):
            try:
                self._record(map_frame(frame, peer=peer, received_unix_us=received_unix_us))
            except SpoolFullError:
                return count
        return len(waiting)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Queue a datagram, or count it as lost; the transport calls this."""
        most = self._frame_bytes_max
        data = strip_count(data)
        frame = Frame(data[:most].rstrip(b"\r\n\0"), bytes_cut=max(0, len(data) - most))
        peer = Peer(ip=_ip(addr[0]), port=addr[1])
        try:
            self._datagrams.put_nowait(_Waiting(frame, peer, unix_us()))
        except asyncio.QueueFull:
            self._datagrams_lost += 1

    async def _record_datagrams(self) -> None:
        while True:
            waiting = [await self._datagrams.get()]
            while len(waiting) < DATAGRAM_BATCH and not self._datagrams.empty():
                waiting.append(self._datagrams.get_nowait())
            try:
                await self._record_all([message for message in waiting if message.frame.data])
                if lost := self._datagrams_lost:
                    self._datagrams_lost = 0
                    _log.warning("datagrams_lost count=%d", lost)
                    await self._record_loss(lost)
            except Exception:  # noqa: BLE001 - the top of a task, which must go on
                _log.exception("datagrams_broken count=%d", len(waiting))
            for _ in waiting:
                self._datagrams.task_done()

    async def _record_loss(self, lost: int) -> None:
        event = {
            "action": "ledger.syslog.datagrams_lost",
            "actor": {"type": "host", "id": socket.gethostname() or "unknown"},
            "outcome": "failure",
            "reason": f"{lost} datagrams came while the spool was full",
            "context": {"count": lost},
        }
        loop = asyncio.get_running_loop()
        while True:
            with suppress(SpoolFullError):
                await loop.run_in_executor(self._threads, self._record, event)
                return
            await asyncio.sleep(RETRY_S)


async def _read_client(connection: socket.socket, peer: Peer) -> Peer:
    """Read the PROXY header of a balancer. Raises: MalformedError; TimeoutError; OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HANDSHAKE_S):
        client = await read_header(partial(loop.sock_recv, connection))
    if client is None:
        return peer
    return Peer(ip=_ip(client.ip), port=client.port, balancer=peer.ip)


async def _open_streams(
    connection: socket.socket, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(READ_BYTES, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol,
        connection,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_S if tls else None,
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _fingerprint(writer: asyncio.StreamWriter) -> str:
    tls = writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    return hashlib.sha256(certificate).hexdigest() if certificate else ""


def _ip(text: str) -> str:
    try:
        # The zone of a link-local address means nothing on another host.
        return canonical_ip(text.partition("%")[0])
    except EventError:
        return ""


def _cannot_listen(host: str, port: int, error: OSError) -> UnavailableError:
    return UnavailableError(f"cannot listen on {host} port {port}: {error.strerror or error}")
