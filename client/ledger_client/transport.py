"""Sends requests over sockets, from many threads, on kept connections.

Each request takes an idle connection or opens one, so there are never more connections than
threads that were in a request at once, and a thread that ends leaves none behind.

* The peer may have closed a kept connection since its last answer. A request that fails on one is
  sent once more on a new connection, at once; that does not count as a retry.
* `timeout_s` bounds the whole attempt: a peer that sends a byte a second does not hold a thread.
* What is read is bounded beside the body too: in headers, chunks and their sizes.
* Redirects are not followed: the token is sent to the configured host alone.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from ledger_client.answer_reader import AnswerReader, Head, NoAnswerError, NotHttpError
from ledger_client.messages import STREAM_SILENCE_S, Endpoint, Request, Response
from ledger_client.responses import GOOD_STATUSES, check_status, untrusted_certificate
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

P = ParamSpec("P")
T = TypeVar("T")

Send = Callable[[Request], Response]
Sleep = Callable[[float], None]

sleep: Final[Sleep] = time.sleep

READ_BYTES = 1 << 16
OVERHEAD_BYTES_MAX = 1 << 20
"""Room for a status line, headers and the sizes of chunks, beyond twice the longest body."""

WAIT_SLACK_S: Final = 0.05
"""A socket may wait so much longer than is left: each change of its time-out is a system call."""

_STALE_CONNECTION = (ConnectionError, NoAnswerError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_FAILURES = (NotHttpError, OSError)


def run_blocking(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that waits for the disk. The asynchronous client uses a thread for it."""
    return function(*args, **kwargs)


class Transport:
    """Sends requests to one endpoint. Safe from many threads; `close()` ends it."""

    def __init__(self, endpoint: Endpoint, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls` replaces the default context, which trusts the system's authorities."""
        self._endpoint: Final = endpoint
        if tls is None and endpoint.scheme == "https":
            tls = ssl.create_default_context()
        self._tls: Final = tls
        self._lock: Final = threading.Lock()
        self._idle: list[_Connection] = []  # Guarded by _lock; the last used is taken first.
        self._process_id = os.getpid()  # Guarded by _lock.
        self._closed = False  # Guarded by _lock.

    def send(self, request: Request) -> Response:
        """The answer to one request, whatever its status.

        Raises: UnavailableError when there is none; MalformedError when it is too long;
        VerificationError when the peer's certificate is not trusted; ValueError after `close()`.
        """
        connection = self._take_idle()
        try:
            if connection is not None:
                try:
                    return self._exchange(connection, request)
                except _STALE_CONNECTION:
                    pass
            return self._exchange(_Connection(self._endpoint, self._tls), request)
        except _FAILURES as error:
            raise self._translated(error, self._endpoint.timeout_s) from error

    def stream(self, request: Request) -> Generator[bytes, None, None]:
        """The body of a good answer, piece by piece, on a connection of its own.

        There is no bound on the whole, and one of `STREAM_SILENCE_S` on the time between pieces.
        Close it unless it is read to its end.
        Raises: as `send`, and for a bad status as `check_status`.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
        connection = _Connection(self._endpoint, self._tls)
        try:
            yield from connection.stream(request)
        except _FAILURES as error:
            raise self._translated(error, STREAM_SILENCE_S) from error
        finally:
            connection.close()

    def _translated(
        self, error: NotHttpError | OSError, wait_s: float
    ) -> UnavailableError | VerificationError:
        address = self._endpoint.address
        if isinstance(error, ssl.SSLCertVerificationError):
            return untrusted_certificate(address, error.verify_message)
        if isinstance(error, TimeoutError):
            return UnavailableError(f"no answer from {address} in {wait_s:g} s")
        if isinstance(error, NotHttpError):
            return UnavailableError(
                f"{address} answered with something that is not HTTP, or half of it: {error}"
            )
        return UnavailableError(f"no connection to {address}: {error.strerror or error}")

    def close(self) -> None:
        """Close every idle connection; those in use are closed when their answer is there."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(self, connection: "_Connection", request: Request) -> Response:
        try:
            response = connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            keep = connection.is_open and not self._closed
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        return response

    def _take_idle(self) -> "_Connection | None":
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            if self._process_id != os.getpid():
                # After a fork these sockets are the parent's: two processes on one connection
                # would read each other's answers.
                self._process_id = os.getpid()
                self._idle = []
            return self._idle.pop() if self._idle else None


_Kind = tuple[str, str, str | None]
"""Method, Accept and Content-Type of a request: a client has a dozen of these."""


class _Connection:
    """One connection; each exchange has a deadline and a limit of bytes."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._sock: _BoundedSocket | None = None
        self._heads: dict[_Kind, bytes] = {}
        self.is_open = True

    def exchange(self, request: Request) -> Response:
        """The answer; `is_open` says whether the connection may carry another request.

        Raises: OSError, NotHttpError, MalformedError.
        """
        reader, head = self._start(request)
        body = _read_body(reader, head, bytes_max=request.answer_bytes_max)
        # Bytes behind an answer would be taken for the next one.
        self.is_open = not (head.is_last or reader.has_more)
        return Response(status=head.status, body=body, retry_after=head.headers.get("retry-after"))

    def stream(self, request: Request) -> Iterator[bytes]:
        """The body of a good answer; the connection is of no use for anything after it.

        Raises: as `exchange`, and as `check_status`.
        """
        reader, head = self._start(request)
        if head.status not in GOOD_STATUSES:
            body = _read_body(reader, head, bytes_max=request.answer_bytes_max)
            check_status(request, Response(status=head.status, body=body))
        if self._sock is None:
            raise AssertionError("an answer comes from a socket")
        self._sock.bound(STREAM_SILENCE_S, OVERHEAD_BYTES_MAX)
        for piece in reader.pieces(head):
            yield piece
            self._sock.bound(STREAM_SILENCE_S, OVERHEAD_BYTES_MAX)

    def _start(self, request: Request) -> tuple[AnswerReader, Head]:
        """Send a request, and read the head of its answer."""
        data = self._format(request)
        timeout_s = self._endpoint.timeout_s
        if self._sock is None:
            self._sock = _BoundedSocket(self._connect(time.monotonic() + timeout_s))
        self._sock.bound(timeout_s, 2 * request.answer_bytes_max + OVERHEAD_BYTES_MAX)
        # Head and body in one piece: in two, the peer begins before it has the body.
        # A peer that refuses a long body may answer and close before having read it all.
        with suppress(BrokenPipeError):
            self._sock.send_all(data)
        reader = AnswerReader(self._sock.receive)
        return reader, reader.read_head()

    def _connect(self, deadline_s: float) -> socket.socket:
        endpoint = self._endpoint
        sock = socket.create_connection((endpoint.host, endpoint.port), _left_s(deadline_s))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock.settimeout(_left_s(deadline_s))
                sock = self._tls.wrap_socket(sock, server_hostname=endpoint.host)
        except BaseException:
            sock.close()
            raise
        return sock

    def _format(self, request: Request) -> bytes:
        """A request as it is sent. Raises: ValueError for what can't stand in a head."""
        target, body = request.target, request.body
        if not (target.isascii() and target.isprintable()) or " " in target:
            raise ValueError("a request has a space in its target, or a character beyond ASCII")
        kind = request.method, request.accept, request.content_type
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = self._format_head(request)
        first = f"{request.method} {self._endpoint.path}{target} HTTP/1.1\r\n".encode()
        if body is None and request.method != "POST":
            return b"%b%b\r\n" % (first, head)
        body = body or b""
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (first, head, len(body), body)

    def _format_head(self, request: Request) -> bytes:
        """The headers of requests of one kind, but for Content-Length. Raises: as `_format`."""
        fields = {"Host": self._endpoint.authority, **self._endpoint.headers(request)}
        lines = [f"{name}: {value}" for name, value in fields.items()]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise ValueError("a header has a character beyond ASCII, or one that isn't printed")
        return "".join([f"{line}\r\n" for line in lines]).encode()

    def close(self) -> None:
        """Close the connection, at once."""
        if self._sock is not None:
            self._sock.close()


class _BoundedSocket:
    """A socket with a deadline, and a limit of bytes to read.

    A socket's own time-out begins anew with each byte that arrives.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline_s = 0.0
        self._bytes_left = 0
        self._wait_s = 0.0
        """The time-out that the socket has."""

    def bound(self, wait_s: float, bytes_max: int) -> None:
        """Wait so long from now on, and read so many bytes."""
        self._deadline_s = time.monotonic() + wait_s
        self._bytes_left = bytes_max

    def send_all(self, data: bytes) -> None:
        self._set_wait()
        self._sock.sendall(data)

    def receive(self) -> bytes:
        """The next bytes, none at the end. Raises: OSError, MalformedError for too many."""
        if self._bytes_left <= 0:
            raise MalformedError("answer too long: its headers or chunks exceed every limit")
        self._set_wait()
        data = self._sock.recv(READ_BYTES)
        self._bytes_left -= len(data)
        return data

    def close(self) -> None:
        self._sock.close()

    def _set_wait(self) -> None:
        """Have the socket wait as long as is left."""
        left_s = _left_s(self._deadline_s)
        if not left_s <= self._wait_s <= left_s + WAIT_SLACK_S:
            self._wait_s = left_s + WAIT_SLACK_S / 2
            self._sock.settimeout(self._wait_s)


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read_body(reader: AnswerReader, head: Head, *, bytes_max: int) -> bytes:
    """The whole body. Raises: MalformedError for more than `bytes_max` bytes."""
    if head.length is not None and head.length > bytes_max:
        raise MalformedError(f"answer too long: got {head.length} bytes, want {bytes_max} at most")
    parts = []
    bytes_read = 0
    for part in reader.pieces(head):
        bytes_read += len(part)
        if bytes_read > bytes_max:
            raise MalformedError(f"answer too long: got more than {bytes_max} bytes")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
