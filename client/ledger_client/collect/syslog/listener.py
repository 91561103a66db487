"""The sockets of syslog: reads messages, records them, and only then reads more.

A message is safe once the recorder has it: it survives the process, waits for the ledger, and is
verified there.

Weak: the sender can't know this. TCP acknowledges bytes to the sender's kernel, so bytes in flight
are lost if this process or the network dies. Syslog has no acknowledgement of its own.

While the spool is full, the listener does not read: the sender's window closes, and it queues or
drops by its own settings. For each connection at most one read and one unfinished message are held,
so the number of connections bounds the memory.

One address has a part of the connections, so nobody can keep all other senders out with one, or
have them wait: the connections of an address take turns (`turns`). When there are no more, a
connection of the address that has the most makes room for that of an address with fewer, if it
waits for a message: nothing that was sent is lost with it but what is on its way. A balancer may
have all of them, and each client that it names a part.

Behind a balancer each connection has the balancer's address. A balancer that is named begins each
connection with a PROXY header, which has the sender's. From any other address a header is text.
"""

import asyncio
import hashlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import islice
from typing import Final, cast

from ledger_client.collect.syslog.datagrams import Datagrams
from ledger_client.collect.syslog.events import Peer
from ledger_client.collect.syslog.framing import Deframer, Frame
from ledger_client.collect.syslog.proxy_protocol import plain_ip, read_header
from ledger_client.collect.syslog.turns import TURN_MESSAGES, EndedError, Record, Turns, Waiting
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.line_limit import LineLimit
from ledger_client.runtime.sender_network import sender_network
from ledger_core.tlog.errors import MalformedError, UnavailableError

FRAME_BYTES_MAX: Final = 16 * 1024
"""RFC 5425 §4.3.1: at least 2,048, and 8,192 should be supported."""
CONNECTIONS_MAX: Final = 512
CONNECTIONS_PER_ADDRESS_MAX: Final = 128
CONNECTIONS_WAITING_MAX: Final = 128
READ_BYTES: Final = 32 * 1024
HANDSHAKE_S: Final = 10.0
"""For the PROXY header of a connection, and then for its TLS handshake."""
ACCEPT_RETRY_S: Final = 1.0
"""After a connection could not be accepted, such as for want of file descriptors."""
DRAIN_S: Final = 5.0

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


class _TooManyError(Exception):
    """An address has as many connections as it may have."""


class SyslogListener:
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
        self._turns: Final = Turns(record)
        self._frame_bytes_max: Final = frame_bytes_max
        self._connections_max: Final = connections_max
        self._connections_per_address_max: Final = connections_per_address_max
        self._by_address: Counter[str] = Counter()
        # Connections that wait for their sender, of each address the one that waits longest first.
        self._idle: dict[str, dict[asyncio.Task[None], asyncio.StreamWriter]] = {}
        self._balancers: Final = tuple(balancers)
        self._accepting: dict[asyncio.Task[None], socket.socket] = {}
        self._transports: list[asyncio.BaseTransport] = []
        # A connection has no writer before its PROXY header and its TLS handshake are done.
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}
        self._datagrams: dict[asyncio.Task[None], Datagrams] = {}

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
            transport, datagrams = await loop.create_datagram_endpoint(
                lambda: Datagrams(self._turns, frame_bytes_max=self._frame_bytes_max),
                local_addr=(host, port),
            )
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        self._transports.append(transport)
        self._datagrams[asyncio.create_task(datagrams.record())] = datagrams
        bound = transport.get_extra_info("sockname")
        return bound[0], bound[1]

    async def close(self) -> None:
        """Stop reading and record the messages read so far, as far as 5 s and the room allow.

        The others are lost, and the log names their senders.
        """
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
        drains = [asyncio.create_task(each.drain()) for each in self._datagrams.values()]
        if reading := [*self._connections, *drains]:
            await asyncio.wait(reading, timeout=DRAIN_S)
        self._turns.give_up()
        await asyncio.gather(*reading, return_exceptions=True)
        for task in self._datagrams:
            task.cancel()
        await asyncio.gather(*self._datagrams, return_exceptions=True)
        await self._turns.end()

    async def _accept(self, server: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(server)
            except OSError as error:
                _log.warning("accept_failed error=%s", type(error).__name__)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            peer = Peer(ip=plain_ip(address[0]), port=address[1])
            if len(self._connections) >= self._connections_max and not self._make_room(peer.ip):
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
                await self._read(reader, writer, peer)
        except _TooManyError:
            most = self._connections_per_address_max
            _log.warning("connection_refused ip=%s limit_per_address=%d", peer.ip, most)
        except EndedError:
            _log.warning("messages_lost ip=%s: they were not recorded before the end", peer.ip)
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

    def _make_room(self, ip: str) -> bool:
        """Close a connection of the address with the most, if it has two more than this one has.

        It ends at once: a connection whose messages wait to be recorded stays.
        """
        greedy = max(self._idle, key=self._by_address.__getitem__, default="")
        if self._by_address[greedy] < self._by_address[sender_network(ip)] + 2:
            return False
        idle = self._idle[greedy]
        writer = idle.pop(next(iter(idle)))
        if not idle:
            del self._idle[greedy]
        _log.warning("connection_given_up ip=%s: for a sender that has fewer", greedy)
        writer.transport.abort()
        return True

    @contextmanager
    def _waits(self, writer: asyncio.StreamWriter, ip: str) -> Iterator[None]:
        """Note that a connection waits for its sender."""
        sender = sender_network(ip)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        idle = self._idle.setdefault(sender, {})
        idle[task] = writer
        try:
            yield
        finally:
            idle.pop(task, None)
            if not idle and self._idle.get(sender) is idle:
                del self._idle[sender]

    def _is_balancer(self, ip: str) -> bool:
        return bool(ip) and any(ip_address(ip) in network for network in self._balancers)

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer
    ) -> None:
        deframer = Deframer(frame_bytes_max=self._frame_bytes_max)
        try:
            while True:
                with self._waits(writer, peer.ip):
                    data = await reader.read(READ_BYTES)
                if not data:
                    return
                last = await self._record_frames(deframer.feed(data), peer)
                if last is not None and last.is_unframed:
                    _log.warning("framing_lost ip=%s", peer.ip)
                    return
        finally:
            if unfinished := deframer.end():
                await self._record_frames([unfinished], peer)

    async def _record_frames(self, frames: Iterable[Frame], peer: Peer) -> Frame | None:
        """Record the messages of one read, turn by turn; return the last one."""
        now_unix_us = unix_us()
        left = iter(frames)
        last = None
        while part := [Waiting(each, peer, now_unix_us) for each in islice(left, TURN_MESSAGES)]:
            await self._turns.record(part, sender_network(peer.ip))
            last = part[-1].frame
        return last


async def _read_client(connection: socket.socket, peer: Peer) -> Peer:
    """Read the PROXY header of a balancer. Raises: MalformedError; TimeoutError; OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HANDSHAKE_S):
        client = await read_header(partial(loop.sock_recv, connection))
    if client is None:
        return peer
    return Peer(ip=plain_ip(client.ip), port=client.port, balancer=peer.ip)


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


def _cannot_listen(host: str, port: int, error: OSError) -> UnavailableError:
    return UnavailableError(f"cannot listen on {host} port {port}: {error.strerror or error}")
