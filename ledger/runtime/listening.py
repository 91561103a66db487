"""The sockets that a service takes connections from.

Each of several front ends has a socket of its own on the one address (`SO_REUSEPORT`), and the
kernel spreads new connections over them. The sequencer's process opens all of them and keeps them
open: a connection that waits for a front end that has ended is taken by the one that is started in
its place. Where there is no SO_REUSEPORT all front ends have the same socket.
"""

import asyncio
import errno
import socket
from contextlib import ExitStack
from functools import partial
from typing import Final, cast

import structlog
from aiohttp import web

from ledger.runtime.connections import LimitedConnection
from ledger.runtime.systemd import passed_sockets
from ledger.runtime.tls import ServerTls, scheme
from ledger_client.runtime.server import CONNECTIONS_WAITING_MAX, format_address, parse_listen
from ledger_core.tlog.errors import UnavailableError

HAS_REUSEPORT = hasattr(socket, "SO_REUSEPORT")
ACCEPTED_AT_ONCE: Final = 16
"""Connections that are taken in a turn of the loop, in half a millisecond."""

DESCRIPTORS_WAIT_S: Final = 1.0
"""Seconds without a new connection when all open files are used up."""

_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PLAIN_BYTES_MAX: Final = 1 << 16
_PLAIN_BODY: Final = (
    b'{"type":"/v1/problems#malformed-request","title":"Not HTTP","status":400,'
    b'"detail":"this port speaks TLS: ask https:// in place of http://"}'
)
_PLAIN_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_PLAIN_BODY), _PLAIN_BODY)
)

_log = structlog.get_logger("ledger.runtime")

Sockets = list[socket.socket]
Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def open_listening(listen: str, processes: int, *, scheme: str) -> tuple[list[Sockets], str]:
    """The listening sockets of each front end, and the address, with the port that was chosen.

    A host name may have several addresses, and each has a socket. Sockets that systemd opened win
    over `listen`, and all front ends have them. Raises: UnavailableError.
    """
    if passed := passed_sockets():
        return [passed for _ in range(processes)], _address_of(passed[0], scheme)
    host, port = parse_listen(listen)
    with ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys((family, address) for family, *_, address in found))
            groups: list[Sockets] = [[] for _ in range(processes)]
            for family, address in addresses:
                is_shared = processes > 1
                if is_shared:
                    _check_free(family, address)
                first = opened.enter_context(_bind(family, address, shares=is_shared))
                sockets = [first]
                for _ in groups[1:]:
                    another = _bind(family, first.getsockname()) if HAS_REUSEPORT else first
                    sockets.append(opened.enter_context(another))
                for group, each in zip(groups, sockets, strict=True):
                    each.listen(CONNECTIONS_WAITING_MAX)
                    group.append(each)
        except OSError as error:
            raise UnavailableError(f"cannot listen on {listen}: {error.strerror}") from error
        opened.pop_all()
    return groups, _address_of(groups[0][0], scheme)


def _address_of(listening: socket.socket, scheme: str) -> str:
    """The address of a socket: `http://host:port`, or `unix:/path`."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return format_address(host, port, scheme=scheme)


async def serve_sockets(runner: web.BaseRunner, sockets: Sockets, tls: ServerTls | None) -> None:
    """Take connections from listening sockets, which the runner closes at its cleanup."""
    for each in sockets:
        await _Site(runner, each, tls).start()


async def stop_listening(runner: web.BaseRunner) -> None:
    """Take no more connections. Those that are open stay, and handshakes that have begun go on."""
    for site in runner.sites:
        cast("_Site", site).stop_listening()


class _Site(web.BaseSite):
    """Takes connections, over TLS or without, each counted before its handshake.

    All that wait in the kernel are taken in a few turns of the loop. uvloop takes one in each turn,
    so that a client waited for seconds behind 100 connections of another. Of one address one begins
    in each turn. A handshake takes milliseconds, and its client need not: those of 200 connections
    came between two turns of all others.

    Precondition: the runner's server makes `LimitedConnection`s.
    """

    def __init__(
        self, runner: web.BaseRunner, listening: socket.socket, tls: ServerTls | None
    ) -> None:
        super().__init__(runner)
        self._listening: Final = listening
        self._tls: Final = tls
        self._loop: Final = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """The address, as aiohttp shows it."""
        return _address_of(self._listening, scheme(self._tls))

    async def start(self) -> None:
        """Take connections from now on."""
        await super().start()
        self._listening.settimeout(0)
        self._listening.listen(CONNECTIONS_WAITING_MAX)
        self._begin()

    async def stop(self) -> None:
        """Take no more connections; those in their handshake are closed."""
        self.stop_listening()
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        await super().stop()

    def stop_listening(self) -> None:
        """Take no more connections. May be called again."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    def _begin(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                peer, address = self._listening.accept()
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    _log.warning("connection_not_taken", reason=error.strerror)
                    self._loop.remove_reader(self._listening)
                    self._retry = self._loop.call_later(DESCRIPTORS_WAIT_S, self._begin)
                return  # Otherwise no more wait, or the first of them is gone.
            if self._runner.server is None:
                raise AssertionError("a site starts after its runner")
            connection = cast("LimitedConnection", self._runner.server())
            # A client of a Unix socket has no address.
            if not connection.take_place(address[0] if address else ""):
                peer.close()
                continue
            peer.settimeout(0)
            task = self._loop.create_task(self._begin_connection(connection, peer))
            self._beginning.add(task)
            task.add_done_callback(partial(self._end_beginning, connection, peer))

    async def _begin_connection(self, connection: LimitedConnection, peer: socket.socket) -> None:
        try:
            if self._tls is not None:
                await self._shake_hands(connection, peer, self._tls)
                return
            await connection.wait_for_turn()
            await self._loop.connect_accepted_socket(lambda: connection, peer)
        except OSError:
            peer.close()
            connection.free_place()

    def _end_beginning(
        self, connection: LimitedConnection, peer: socket.socket, task: asyncio.Task[None]
    ) -> None:
        self._beginning.discard(task)
        # At a stop, perhaps before its first step.
        if task.cancelled():
            peer.close()
            connection.free_place()

    async def _shake_hands(
        self, connection: LimitedConnection, peer: socket.socket, tls: ServerTls
    ) -> None:
        try:
            async with asyncio.timeout(connection.waits.head_s):
                is_plain = await self._is_plain(peer)
            if is_plain:
                _answer_plain(peer)
                connection.give_up()
                return
            await connection.wait_for_turn()
            await self._loop.connect_accepted_socket(
                lambda: connection,
                peer,
                ssl=tls.context,
                ssl_handshake_timeout=connection.waits.head_s,
                ssl_shutdown_timeout=connection.waits.linger_s,
            )
        except OSError:  # ssl.SSLError and TimeoutError too.
            peer.close()
            connection.give_up()

    async def _is_plain(self, peer: socket.socket) -> bool:
        """Whether the first byte of a connection is a letter, as of HTTP without TLS."""
        has_come = asyncio.Event()
        self._loop.add_reader(peer, has_come.set)
        try:
            await has_come.wait()
        finally:
            self._loop.remove_reader(peer)
        return peer.recv(1, socket.MSG_PEEK).isalpha()


def _answer_plain(peer: socket.socket) -> None:
    """Tell a client that speaks HTTP without TLS what to ask, and close. Raises: OSError."""
    with peer:
        # What is left unread would have the answer thrown away.
        peer.recv(PLAIN_BYTES_MAX)
        peer.sendall(_PLAIN_ANSWER)
        peer.shutdown(socket.SHUT_WR)


def _check_free(family: socket.AddressFamily, address: Address) -> None:
    """Fail when another process listens there: SO_REUSEPORT would share its port with it.

    Raises: OSError.
    """
    _bind(family, address, shares=False).close()


def _bind(family: socket.AddressFamily, address: Address, *, shares: bool = True) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shares and HAS_REUSEPORT:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    return opened
