"""Sends requests over `http.client`, from many threads, on kept connections.

Each request takes an idle connection or opens one, so there are never more connections than
threads that were in a request at once, and a thread that ends leaves none behind.

* The peer may have closed a kept connection since its last answer. A request that fails on one is
  sent once more on a new connection, at once; that does not count as a retry.
* `timeout_s` bounds the whole attempt: a peer that sends a byte a second does not hold a thread.
* Reads are bounded below `http.client`, which would read a chunk of size -1 to its end.
* Redirects are not followed: the token is sent to the configured host alone.
"""

import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from ledger_client.messages import STREAM_SILENCE_S, Endpoint, Request, Response
from ledger_client.responses import GOOD_STATUSES, check_status, untrusted_certificate
from ledger_core.tlog.errors import MalformedError, UnavailableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

P = ParamSpec("P")
T = TypeVar("T")

Send = Callable[[Request], Response]
Sleep = Callable[[float], None]

sleep: Final[Sleep] = time.sleep

READ_BYTES = 1 << 16
OVERHEAD_BYTES_MAX = 1 << 20
"""Room for a status line, headers and the sizes of chunks, beyond twice the longest body."""

HEADERS_MAX: Final = 100
HEADER_BYTES_MAX: Final = 1 << 16
LENGTH_DIGITS_MAX: Final = 18
HTTP_10: Final = 10
HTTP_11: Final = 11

_STALE_CONNECTION = (
    ConnectionError,
    http.client.BadStatusLine,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


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
        self._pid = os.getpid()  # Guarded by _lock.
        self._closed = False  # Guarded by _lock.

    def send(self, request: Request) -> Response:
        """The answer to one request, whatever its status.

        Raises: UnavailableError when there is none; MalformedError when it is too long;
        VerificationError when the peer's certificate is not trusted; ValueError after `close()`.
        """
        connection = self._take_idle()
        with self._translating_errors(self._endpoint.timeout_s):
            if connection is not None:
                with suppress(*_STALE_CONNECTION):
                    return self._exchange(connection, request)
            return self._exchange(_Connection(self._endpoint, self._tls), request)

    def stream(self, request: Request) -> Generator[bytes, None, None]:
        """The body of a good answer, piece by piece, on a connection of its own.

        There is no bound on the whole, and one of `STREAM_SILENCE_S` on the time between pieces.
        Close it unless it is read to its end.
        Raises: as `send`, and for a bad status as `check_status`.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
        with self._translating_errors(STREAM_SILENCE_S):
            connection = _Connection(self._endpoint, self._tls)
            try:
                yield from connection.stream(request)
            finally:
                connection.close()

    @contextmanager
    def _translating_errors(self, wait_s: float) -> Iterator[None]:
        address = self._endpoint.address
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise untrusted_certificate(address, error.verify_message) from error
        except TimeoutError as error:
            raise UnavailableError(f"no answer from {address} in {wait_s:g} s") from error
        except http.client.HTTPException as error:
            raise UnavailableError(
                f"{address} answered with something that is not HTTP, or half of it:"
                f" {type(error).__name__}"
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"no connection to {address}: {error.strerror or error}"
            ) from error

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
            if self._pid != os.getpid():
                # After a fork these sockets are the parent's: two processes on one connection
                # would read each other's answers.
                self._pid = os.getpid()
                self._idle = []
            return self._idle.pop() if self._idle else None


class _Headers(dict[str, str]):
    """The headers of an answer by their names in lower case; of a repeated one the first."""

    def get_all(self, name: str, default: list[str] | None = None) -> list[str] | None:
        """As of `http.client`'s headers, for its `getheader`."""
        value = self.get(name.lower())
        return default if value is None else [value]


class _Answer(http.client.HTTPResponse):
    """An answer whose headers are read as lines: the parser of e-mail takes ten times as long."""

    def begin(self) -> None:
        """Read the head. Raises: http.client.HTTPException, OSError."""
        while True:
            version, status, reason = self._read_status()  # type: ignore[attr-defined] # of http.client
            headers = self._read_fields()
            if status != http.client.CONTINUE:
                break
        if not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = HTTP_10 if version == "HTTP/1.0" else HTTP_11
        self.code = self.status = status
        self.reason = reason.strip()
        self.headers = self.msg = headers  # type: ignore[assignment] # what `getheader` needs
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined] # of http.client
        self.length = None
        length = headers.get("content-length", "")
        if status < HTTPStatus.OK or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.length = 0
        elif length.isascii() and length.isdecimal() and not self.chunked:
            if len(length) > LENGTH_DIGITS_MAX:  # `int` refuses thousands with a ValueError.
                raise http.client.HTTPException("got a length that no body has")
            self.length = int(length)
        self.will_close = self.will_close or (self.length is None and not self.chunked)

    def _read_fields(self) -> _Headers:
        headers = _Headers()
        name = ""
        for _ in range(HEADERS_MAX):
            line = self.fp.readline(HEADER_BYTES_MAX + 1)
            if len(line) > HEADER_BYTES_MAX:
                raise http.client.LineTooLong("header line")
            if line in (b"\r\n", b"\n", b""):
                return headers
            text = line.decode("latin-1").rstrip("\r\n")
            if name and text.startswith((" ", "\t")):  # A folded line.
                headers[name] += text
                continue
            name, _, value = text.partition(":")
            name = name.lower()
            headers.setdefault(name, value.strip(" \t"))
        raise http.client.HTTPException(f"got more than {HEADERS_MAX} headers")


class _Connection:
    """One connection of `http.client`; each exchange has a deadline and a limit."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        self._endpoint = endpoint
        host, port, timeout_s = endpoint.host, endpoint.port, endpoint.timeout_s
        self._http = (
            http.client.HTTPConnection(host, port, timeout=timeout_s)
            if tls is None
            else http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        )
        self._sock: _BoundedSocket | None = None
        self._answer: _Answer | None = None
        self.is_open = True

    def exchange(self, request: Request) -> Response:
        """The answer; `is_open` says whether the connection may carry another request.

        Raises: OSError, http.client.HTTPException, MalformedError.
        """
        with self._start(request) as answer:
            self.is_open = not answer.will_close
            return _read_response(answer, request)

    def stream(self, request: Request) -> Iterator[bytes]:
        """The body of a good answer; the connection is of no use for anything after it.

        Raises: as `exchange`, and as `check_status`.
        """
        answer = self._start(request)
        if answer.status not in GOOD_STATUSES:
            check_status(request, _read_response(answer, request))
        return self._pieces(answer)

    def _pieces(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        if self._sock is None:
            raise AssertionError("an answer comes from a socket")
        while True:
            self._sock.deadline_s = time.monotonic() + STREAM_SILENCE_S
            self._sock.bytes_left = OVERHEAD_BYTES_MAX
            try:
                piece = answer.read1(READ_BYTES)
            except ValueError as error:
                raise http.client.IncompleteRead(b"") from error
            if not piece:
                if answer.length:
                    raise http.client.IncompleteRead(b"", answer.length)
                return
            yield piece

    def _start(self, request: Request) -> http.client.HTTPResponse:
        deadline_s = time.monotonic() + self._endpoint.timeout_s
        if self._sock is None:
            self._http.connect()
            self._sock = self._http.sock = _BoundedSocket(self._http.sock)
        self._sock.deadline_s = deadline_s
        self._sock.bytes_left = 2 * request.answer_bytes_max + OVERHEAD_BYTES_MAX
        # Head and body in one piece: in two, the peer begins before it has the body.
        # A peer that refuses a long body may answer and close before having read it all.
        with suppress(BrokenPipeError):
            self._sock.sendall(self._format(request))
        # What it reads from only needs `makefile`.
        self._answer = _Answer(self._sock, method=request.method)  # type: ignore[arg-type]
        self._answer.begin()
        return self._answer

    def _format(self, request: Request) -> bytes:
        """A request as it is sent. Raises: ValueError for what can't stand in a head."""
        endpoint, body = self._endpoint, request.body or b""
        fields = {"Host": endpoint.authority, **endpoint.headers(request)}
        if request.body is not None or request.method == "POST":
            fields["Content-Length"] = str(len(body))
        lines = [f"{request.method} {endpoint.path}{request.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        head = "\r\n".join([*lines, "", ""])
        if (
            not all(line.isascii() and line.isprintable() for line in lines)
            or " " in request.target
        ):
            raise ValueError("a request has a space in its target, or a character beyond ASCII")
        return head.encode() + body

    def close(self) -> None:
        """Close the connection, at once."""
        if self._answer is not None:
            self._answer.close()
        self._http.close()


class _BoundedSocket:
    """A socket for `http.client` with a deadline and a limit of bytes to read.

    A socket's own time-out begins anew with each byte that arrives.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.deadline_s = 0.0
        self.bytes_left = 0

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._left_s())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self), READ_BYTES)

    def raw_reader(self) -> socket.SocketIO:
        """A reader of its own, which holds the socket open until it is closed too."""
        return self._sock.makefile("rb", buffering=0)

    def before_read(self) -> None:
        if self.bytes_left <= 0:
            raise MalformedError("answer too long: its headers or chunks exceed every limit")
        self._sock.settimeout(self._left_s())

    def close(self) -> None:
        self._sock.close()

    def _left_s(self) -> float:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _BoundedReader(io.RawIOBase):
    """The bytes of one response."""

    def __init__(self, sock: _BoundedSocket) -> None:
        self._sock = sock
        self._raw = sock.raw_reader()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._sock.before_read()
        count = self._raw.readinto(buffer)
        self._sock.bytes_left -= count or 0
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


def _read_response(answer: http.client.HTTPResponse, request: Request) -> Response:
    body = _read_body(answer, bytes_max=request.answer_bytes_max)
    return Response(status=answer.status, body=body, retry_after=answer.getheader("Retry-After"))


def _read_body(answer: http.client.HTTPResponse, *, bytes_max: int) -> bytes:
    """The whole body. Raises: MalformedError for more than `bytes_max` bytes."""
    if answer.length is not None and answer.length > bytes_max:
        raise MalformedError(
            f"answer too long: got {answer.length} bytes, want {bytes_max} at most"
        )
    parts = []
    bytes_read = 0
    try:
        while part := answer.read(READ_BYTES):
            bytes_read += len(part)
            parts.append(part)
            if bytes_read > bytes_max:
                break
    except MalformedError:
        raise
    except ValueError as error:
        # http.client hands a chunk's negative size to read().
        raise http.client.IncompleteRead(b"") from error
    if bytes_read > bytes_max:
        raise MalformedError(f"answer too long: got more than {bytes_max} bytes")
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)
