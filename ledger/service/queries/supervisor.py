"""Starts the query process and connects front ends with it, or runs its server in this process."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from socket import socketpair
from typing import Final

import msgspec

from ledger.follow.followers import AWS_VARIABLES
from ledger.follow.process import FollowerProcess
from ledger.runtime.socket_folder import make_socket_folder
from ledger.service.queries.frames import Connect, FrameProtocol
from ledger.service.queries.job import QueryOptions
from ledger.service.queries.server import QueryServer

MODULE: Final = "ledger.service.queries.process"

SILENT_S: Final = 60.0
"""Seconds in which its event loop did not turn once, after which the query process is killed."""


class QueryProcess:
    """The query process of a ledger, which is started again whenever it ends."""

    def __init__(self, root: Path, options: QueryOptions) -> None:
        self._folder: Final = make_socket_folder("ledger-queries-")
        self.socket: Final = self._folder / "socket"
        arguments = [str(root), str(self.socket), msgspec.json.encode(options).decode()]
        self._process: Final = FollowerProcess(
            "query", MODULE, arguments, variables=AWS_VARIABLES, silent_s=SILENT_S
        )

    @property
    def process_id(self) -> int | None:
        """Of the process, None while none runs."""
        return self._process.process_id

    def start(self) -> None:
        """Start the process and its supervision."""
        self._process.start()

    def stop(self) -> None:
        """End it, within seconds."""
        self._process.stop()
        rmtree(self._folder, ignore_errors=True)


def connect_to(socket: Path) -> Connect:
    """Connects with the query process that listens there."""

    async def connect(make_protocol: Callable[[], FrameProtocol]) -> None:
        await asyncio.get_running_loop().create_unix_connection(make_protocol, str(socket))

    return connect


def connect_within(server: QueryServer) -> Connect:
    """Connects with a server of queries in this process, over the same frames."""

    async def connect(make_protocol: Callable[[], FrameProtocol]) -> None:
        loop = asyncio.get_running_loop()
        here, there = socketpair()
        await loop.create_unix_connection(server.connection, sock=there)
        await loop.create_unix_connection(make_protocol, sock=here)

    return connect
