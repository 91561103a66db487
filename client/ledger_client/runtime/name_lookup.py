"""Looks up the names of other hosts, each on a thread of its own.

aiohttp leaves that to the event loop, which has few threads for it: uvloop 4, asyncio some more. A
name server that does not answer holds a thread for a minute, so a few such names would keep every
other name from being found, and the process from ending.

A name is looked up once at a time in a process, so there are no more threads than names.
"""

import asyncio
import socket
import ssl
import threading
from concurrent.futures import Future
from typing import Final

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

CONNECTIONS_MAX: Final = 100
"""Open connections of a session, as many as aiohttp allows."""

_NUMERIC: Final = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV

_Name = tuple[str, int, socket.AddressFamily]

_lock = threading.Lock()
_running: dict[_Name, Future[list[ResolveResult]]] = {}  # Under _lock.


def make_connector(
    *, connections_max: int = CONNECTIONS_MAX, tls: ssl.SSLContext | bool = True
) -> TCPConnector:
    """The connections of a session. Precondition: a running loop."""
    return TCPConnector(limit=connections_max, ssl=tls, resolver=NameLookup())


class NameLookup(AbstractResolver):
    """Finds the addresses of names. It may be cancelled; the lookup then ends by itself."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises: OSError."""
        return await asyncio.wrap_future(_look_up((host, port, family)))

    async def close(self) -> None:
        """End nothing: a lookup can't be ended."""


def _look_up(name: _Name) -> Future[list[ResolveResult]]:
    """The lookup of a name that runs, or a new one."""
    with _lock:
        if (found := _running.get(name)) is not None:
            return found
        future = _running[name] = Future[list[ResolveResult]]()
    # Else one that waits and is cancelled would cancel it for all.
    future.set_running_or_notify_cancel()
    # A daemon: the process may end while it runs.
    thread = threading.Thread(target=_run, args=(name, future), name="name-lookup", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        _end(name)
        future.set_exception(OSError(f"no thread to look up {name[0]!a}: {error}"))
    return future


def _run(name: _Name, future: Future[list[ResolveResult]]) -> None:
    try:
        found = _addresses(name)
    except (OSError, UnicodeError) as error:
        _end(name)
        future.set_exception(error if isinstance(error, OSError) else OSError(str(error)))
    else:
        _end(name)
        future.set_result(found)


def _end(name: _Name) -> None:
    """Have whoever asks from now on begin a new lookup."""
    with _lock:
        _running.pop(name, None)


def _addresses(name: _Name) -> list[ResolveResult]:
    host, port, family = name
    found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
    )
    addresses = []
    for each_family, _, protocol, _, address in found:
        numeric_host, numeric_port = socket.getnameinfo(address, _NUMERIC)
        addresses.append(
            ResolveResult(
                hostname=host,
                host=numeric_host,
                port=int(numeric_port),
                family=each_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
        )
    return addresses
