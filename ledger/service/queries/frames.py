"""Frames between a front end of the service and the query process, over a Unix socket.

    4 bytes   length of the payload
    4 bytes   number of the job, which the front end chose
    1 byte    kind
    payload   a pickle, or the bytes of an answer

Unpickling runs what the bytes say, so nothing that a client sent is ever unpickled as such. Both
ends are processes of one service, and the socket is in a folder that only their user may enter.
"""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any, Final, NamedTuple, cast

FRAME_BYTES_MAX: Final = 1 << 28
"""The largest payload. A page of 16 MiB of leaves takes 50 MiB as JSON, and 70 MiB with proofs."""

NUMBER_MAX: Final = (1 << 32) - 1

READ_BYTES: Final = 1 << 16
"""Bytes that are read at once. A larger frame is read into its own place, without a copy."""

_HEADER: Final = Struct("!IIB")


class Frame(IntEnum):
    """The kind of a frame."""

    START = 1
    """A `Start`: begin a job."""
    NEXT = 2
    """A value for the work of a job, which goes on with it."""
    CLOSE = 3
    """Nobody waits for the job any more."""
    DAMAGED = 4
    """From the query process, of no job: the messages of the damaged bundles that it found."""
    VALUE = 5
    """A value of the work, which has more."""
    BYTES = 6
    """The same, as bytes that are not pickled."""
    LAST = 7
    """The value of work that has ended."""
    LAST_BYTES = 8
    REFUSED = 9
    """The ProblemError with which the job ended."""
    HELD = 10
    """A `Held` in the place of many BYTES, which the query process writes to the client."""
    LAST_HELD = 11
    DROP = 12
    """Nobody wants the held answer that has this number."""
    PING = 13
    """Are you there? Of no job."""
    PONG = 14
    """From the query process: yes."""


class Start(NamedTuple):
    """The beginning of a job."""

    token: str
    """The name of the token that asks, or of a caller without any."""
    is_stranger: bool
    """Whether it is a caller without a token."""
    tree_size_min: int
    """The size that the log has for the caller already."""
    stream_tenant: tuple[str | None, ...]
    """For a live stream the tenant of its token, otherwise empty."""
    may_hold: bool
    """Whether the answer's large pieces may be held, as `Held`s."""
    work: bytes
    """The pickle of a module-level function, its arguments and its named arguments."""


class Held(NamedTuple):
    """A piece of an answer that waits in the query process (`ledger.service.queries.handover`)."""

    number: int
    size: int
    socket: str


ANSWER_ENDS: Final = frozenset({Frame.LAST, Frame.LAST_BYTES, Frame.LAST_HELD, Frame.REFUSED})
"""The frames after which a job has ended."""


def encode_value(value: object, *, is_last: bool) -> tuple[Frame, bytes]:
    """The frame of a value. Bytes, which may be many, are not copied into a pickle."""
    if isinstance(value, bytes):
        return (Frame.LAST_BYTES if is_last else Frame.BYTES), value
    return (Frame.LAST if is_last else Frame.VALUE), pickle.dumps(value)


def decode_value(kind: Frame, payload: bytes) -> Any:
    """The value of a frame from the other process."""
    return payload if kind in (Frame.BYTES, Frame.LAST_BYTES) else unpickle(payload)


def unpickle(payload: bytes) -> Any:
    """The value that the other process pickled."""
    return pickle.loads(payload)  # noqa: S301 - only our own processes reach the socket


Connect = Callable[[Callable[[], "FrameProtocol"]], Awaitable[object]]
"""Connects a protocol that the function makes with the query process. Raises: OSError."""


@dataclass(slots=True)
class _LargeFrame:
    """A frame whose payload is being read."""

    kind: Frame
    number: int
    payload: bytearray
    received_bytes: int


class FrameProtocol(asyncio.BufferedProtocol):
    """One end of a connection. `on_frame` gets whole frames; `on_lost` is called at its end."""

    def __init__(self) -> None:
        self._received = bytearray(READ_BYTES)
        self._received_bytes = 0
        self._large: _LargeFrame | None = None
        self._transport: asyncio.Transport | None = None
        self._when_writable: list[Callable[[], None]] = []
        self._is_paused = False
        self.is_closed = False

    def on_frame(self, kind: Frame, number: int, payload: bytes) -> None:
        """Take a frame."""
        raise NotImplementedError

    def on_lost(self) -> None:
        """The other end is gone."""
        raise NotImplementedError

    def send(self, kind: Frame, number: int, payload: bytes = b"") -> None:
        """Send a frame, or nothing when the connection has ended."""
        if self._transport is not None and not self.is_closed:
            self._transport.writelines((_HEADER.pack(len(payload), number, kind), payload))

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call a function when the other end has read most of what was sent: at once, or later."""
        if self._is_paused and not self.is_closed:
            self._when_writable.append(callback)
        else:
            callback()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Called by asyncio, as are the methods below."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next bytes go: into the large frame that they are of, if there is one."""
        if self._large is not None:
            return memoryview(self._large.payload)[self._large.received_bytes :]
        return memoryview(self._received)[self._received_bytes :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes, and hand on the frames that are whole."""
        if (large := self._large) is not None:
            large.received_bytes += nbytes
            if large.received_bytes == len(large.payload):
                self._large = None
                self.on_frame(large.kind, large.number, bytes(large.payload))
            return
        self._received_bytes += nbytes
        received = memoryview(self._received)[: self._received_bytes]
        while len(received) >= _HEADER.size:
            size, number, kind = _HEADER.unpack_from(received)
            if size > FRAME_BYTES_MAX:
                self.close()
                return
            payload = received[_HEADER.size : _HEADER.size + size]
            if len(payload) == size:
                received = received[_HEADER.size + size :]
                self.on_frame(Frame(kind), number, bytes(payload))
            elif size + _HEADER.size > READ_BYTES:
                self._large = _LargeFrame(Frame(kind), number, bytearray(size), len(payload))
                self._large.payload[: len(payload)] = payload
                received = received[:0]
            else:
                break
        self._received_bytes = len(received)
        self._received[: len(received)] = bytes(received)

    def pause_writing(self) -> None:
        """Much of what was sent is not read yet."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Most of it is read."""
        self._is_paused = False
        callbacks, self._when_writable = self._when_writable, []
        for callback in callbacks:
            callback()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection has ended, by either end."""
        self.is_closed = True
        self.resume_writing()
        self.on_lost()
