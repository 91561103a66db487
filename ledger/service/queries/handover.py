"""Large answers, which the query process writes to the client itself.

A front end that passes a large answer on copies all of it, and appends wait meanwhile. So the query
process keeps such an answer and says its number and size. The front end writes the head, connects
with the Unix socket beside that of the frames, and sends

    8 bytes   number of the answer
    8 bytes   seconds that the client has to accept more bytes
    1 byte    whether the answer is one chunk (RFC 9112 §7.1)

together with the client's socket (SCM_RIGHTS). The query process writes the answer to it and then
`WRITTEN` to the front end; when the client is gone or too slow, it closes the connection instead.
A front end that closes the connection before that ends the writing. Nothing else writes to the
client meanwhile, and the front end alone reads from it.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from struct import Struct
from typing import Final

import structlog

from ledger.service.http.problems import query_process_missing
from ledger.service.queries.frames import NUMBER_MAX, Held

HELD_BYTES_MIN: Final = 1 << 17
"""Smaller answers are passed on: a connection for each would cost as much."""

PIECE_BYTES: Final = 1 << 16
"""Bytes that the client has its time to accept."""

HANDOVERS_WAITING_MAX: Final = 1024
ACCEPT_PAUSE_S: Final = 0.5
WRITTEN: Final = b"\1"

_MESSAGE: Final = Struct("!Qd?")
_log = structlog.get_logger("ledger.service")


def handover_path(queries: Path) -> Path:
    """The path of the socket beside that of the frames."""
    return queries.with_name(f"{queries.name}.clients")


class HeldAnswers:
    """The answers that wait, and the socket that takes clients' connections.

    Used on the event loop of the query process alone.
    """

    def __init__(self, path: Path) -> None:
        """Listen. Precondition: the folder of the path is open to our user alone."""
        self._path: Final = path
        # Those of the process before this one must not name another client's answers.
        self._numbers: Final = count(secrets.randbits(NUMBER_MAX.bit_length()))
        self._answers: Final[dict[int, bytes]] = {}
        self._writing: Final[set[asyncio.Task[None]]] = set()
        self._loop: Final = asyncio.get_running_loop()
        path.unlink(missing_ok=True)  # Of the process before this one.
        self._listener: Final = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(0)
        self._listener.bind(str(path))
        self._listener.listen(HANDOVERS_WAITING_MAX)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """End all writing."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._writing:
            task.cancel()

    @property
    def waiting(self) -> int:
        """The number of answers that are kept."""
        return len(self._answers)

    @property
    def writing(self) -> int:
        """The number of answers that are being written."""
        return len(self._writing)

    def keep(self, answer: bytes) -> Held:
        """Keep an answer until it is handed over or dropped."""
        number = next(self._numbers) & NUMBER_MAX
        self._answers[number] = answer
        return Held(number, len(answer), str(self._path))

    def drop(self, number: int) -> None:
        """Keep an answer no longer."""
        self._answers.pop(number, None)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # No descriptor is free: it would fail in each turn of the loop.
            _log.warning("handover_waits", reason=error.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_PAUSE_S, self._listen_again)
            return
        connection.settimeout(0)
        task = self._loop.create_task(self._serve(connection))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _listen_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, TimeoutError):
            message, client = await _receive(self._loop, connection)
            with client:
                number, wait_s, is_chunk = _MESSAGE.unpack(message)
                answer = self._answers.pop(number, None)
                if answer is None:
                    return
                writing = self._loop.create_task(_write(client, answer, wait_s, is_chunk=is_chunk))
                # The front end sends no more: this ends with its connection.
                ending = self._loop.create_task(self._loop.sock_recv(connection, 1))
                try:
                    await asyncio.wait({writing, ending}, return_when=asyncio.FIRST_COMPLETED)
                    if writing.done():
                        writing.result()
                        await self._loop.sock_sendall(connection, WRITTEN)
                finally:
                    writing.cancel()
                    ending.cancel()
                    await asyncio.wait({writing, ending})


class HeldAnswer:
    """A large answer that the query process keeps, for one client of this front end.

    It is dropped there when nothing refers to this any more.
    """

    def __init__(self, held: Held, drop: Callable[[int], None]) -> None:
        self._held: Final = held
        self._drop: Final = drop
        self._loop: Final = asyncio.get_running_loop()
        self._connection: Final = socket.socket(socket.AF_UNIX)

    def __len__(self) -> int:
        return self._held.size

    def __del__(self) -> None:
        self._connection.close()
        # A collection of cycles runs on any thread, and after the end of the loop.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._drop, self._held.number)

    async def connect(self) -> None:
        """Connect with the query process. Raises: ProblemError, 503, when it is gone."""
        self._connection.settimeout(0)
        try:
            await self._loop.sock_connect(self._connection, self._held.socket)
        except OSError:
            raise query_process_missing() from None

    async def write_to(self, client: int, *, wait_s: float, is_chunk: bool) -> None:
        """Have it written to a client's socket.

        Preconditions: it is connected, and all before it is written. Raises: ConnectionError when
        the client, or the query process, is gone or too slow.
        """
        with self._connection as connection:
            message = _MESSAGE.pack(self._held.number, wait_s, is_chunk)
            try:
                socket.send_fds(connection, [message], [client])
            except OSError as error:  # Such as EBADF: the client is gone.
                raise ConnectionError("the client could not be handed over") from error
            if await self._loop.sock_recv(connection, 1) != WRITTEN:
                raise ConnectionError("the answer could not be written to its end")


async def _receive(
    loop: asyncio.AbstractEventLoop, connection: socket.socket
) -> tuple[bytes, socket.socket]:
    """The message of a front end, and the client's socket. Raises: ConnectionError."""
    readable = loop.create_future()
    loop.add_reader(connection, partial(_set, readable))
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    message, descriptors, _, _ = socket.recv_fds(
        connection, _MESSAGE.size, 1, socket.MSG_CMSG_CLOEXEC
    )
    if not descriptors:
        raise ConnectionError("no client's socket came")
    client = socket.socket(fileno=descriptors[0])
    client.settimeout(0)
    return message, client


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _write(client: socket.socket, answer: bytes, wait_s: float, *, is_chunk: bool) -> None:
    """Raises: OSError; TimeoutError for a client that accepts no bytes for a while."""
    loop = asyncio.get_running_loop()
    view = memoryview(answer)
    parts: list[bytes | memoryview] = [
        view[start : start + PIECE_BYTES] for start in range(0, len(answer), PIECE_BYTES)
    ]
    if is_chunk:
        parts = [f"{len(answer):x}\r\n".encode(), *parts, b"\r\n"]
    for part in parts:
        async with asyncio.timeout(wait_s):
            await loop.sock_sendall(client, part)
