"""Reads the answers of an HTTP/1.1 connection, from whatever gives the bytes.

    HTTP/1.1 200 OK             the version is 1.0, 1.1 or a later one of 1
    Content-Length: 4           or `Transfer-Encoding: chunked`, or the end of the connection

    fine

`http.client` makes five objects for each answer and reads it line by line, which takes as long as
all else that a short append takes. Here a head is found in what has come and cut into lines at
once. A client asks one question at a time, so bytes behind an answer belong to none: the connection
carries no other answer then.

Source: RFC 9112 §4 to §7.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

HEAD_BYTES_MAX: Final = 1 << 18
HEADERS_MAX: Final = 100
LINE_BYTES_MAX: Final = 1 << 16
"""Bytes of a header with its name, and of a chunk's size with what stands behind it."""
LENGTH_DIGITS_MAX: Final = 18
CHUNK_DIGITS_MAX: Final = 15

_match_status = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: .*)?", re.DOTALL).fullmatch
# A line may end without its carriage return, RFC 9112 §2.2.
_find_end = re.compile(rb"\r?\n\r?\n").search
_match_size = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?", re.DOTALL).fullmatch
_NO_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class NotHttpError(Exception):
    """The bytes that came are no HTTP, or half of an answer."""


class NoAnswerError(NotHttpError):
    """Not even the first line of an answer came."""


class Head(NamedTuple):
    """The head of an answer. `headers` by their names in lower case; of a repeated one the first.

    `length`: the bytes of the body, None when its end shows itself.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    is_chunked: bool
    is_last: bool
    """Whether the connection ends with this answer."""


class AnswerReader:
    """Reads one answer after the other. Used by one thread at a time."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        """`receive` waits for more bytes and returns them, none at the end of the connection."""
        self._receive: Final = receive
        self._buffer = b""

    @property
    def has_more(self) -> bool:
        """Whether bytes came that belong to no answer that was read."""
        return bool(self._buffer)

    def read_head(self) -> Head:
        """The head of the next answer; those of interim answers are skipped.

        Raises: NotHttpError, and what `receive` raises.
        """
        while True:
            head = _parse_head(self._take_head())
            if head.status != HTTPStatus.CONTINUE:
                return head

    def pieces(self, head: Head) -> Iterator[bytes]:
        """The body of the answer with this head, as it comes. Raises: as `read_head`."""
        if head.is_chunked:
            yield from self._chunks()
        elif head.length is not None:
            yield from self._exactly(head.length)
        else:
            while piece := self._take_some():
                yield piece

    def _take_head(self) -> bytes:
        """The bytes of a head, without the empty line at its end."""
        first = self._buffer or self._receive()
        end_at = first.find(b"\n\r\n")
        if end_at > 0 and first.find(b"\n\n", 0, end_at) < 0:
            self._buffer = first[end_at + 3 :]
            return first[:end_at]
        if not first:
            raise NoAnswerError("the connection was closed")
        found, start = bytearray(first), 0
        while True:
            end = _find_end(found, start)
            if end is not None:
                self._buffer = bytes(found[end.end() :])
                return bytes(found[: end.start()])
            if len(found) > HEAD_BYTES_MAX:
                raise NotHttpError(f"its headers have more than {HEAD_BYTES_MAX} bytes")
            start = max(0, len(found) - 3)  # The end may begin in what was searched.
            if not (more := self._receive()):
                raise NotHttpError("the connection was closed within a head")
            found += more

    def _take_some(self) -> bytes:
        """What has come, or comes next; nothing at the end."""
        some, self._buffer = self._buffer or self._receive(), b""
        return some

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            some = self._take_some()
            if not some:
                raise NotHttpError(f"the connection was closed {count} bytes before the end")
            if len(some) > count:
                some, self._buffer = some[:count], some[count:]
            count -= len(some)
            yield some

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = _match_size(self._take_line())
            if size is None or len(size[1]) > CHUNK_DIGITS_MAX:
                raise NotHttpError("a chunk has no size")
            count = int(size[1], 16)
            if not count:
                break
            yield from self._exactly(count)
            if self._take_line():
                raise NotHttpError("a chunk is longer than its size")
        for _ in range(HEADERS_MAX):
            if not self._take_line():
                return
        raise NotHttpError(f"more than {HEADERS_MAX} trailers came")

    def _take_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise NotHttpError(f"a line has more than {LINE_BYTES_MAX} bytes")
            if not (more := self._receive()):
                raise NotHttpError("the connection was closed within a line")
            self._buffer += more
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.removesuffix(b"\r")


def _parse_head(data: bytes) -> Head:
    first, *lines = data.decode("latin-1").split("\n")
    found = _match_status(first.removesuffix("\r"))
    if found is None:
        raise NoAnswerError("the first line is no status line")
    version, status = int(found[1]), int(found[2])
    headers = _parse_headers(lines)
    is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    length = _body_length(status, headers, is_chunked=is_chunked)
    connection = headers.get("connection", "").lower()
    is_last = "close" in connection if version else "keep-alive" not in connection
    is_last = is_last or (length is None and not is_chunked)
    return Head(status, headers, length, is_chunked, is_last)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > HEADERS_MAX:
        raise NotHttpError(f"more than {HEADERS_MAX} headers came")
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        if len(line) > LINE_BYTES_MAX:
            raise NotHttpError(f"a header has more than {LINE_BYTES_MAX} bytes")
        if name and line[:1] in (" ", "\t"):  # A folded line.
            headers[name] = f"{headers[name]} {line.strip()}"
            continue
        name, _, value = line.partition(":")
        name = name.lower()
        headers.setdefault(name, value.strip())
    return headers


def _body_length(status: int, headers: Mapping[str, str], *, is_chunked: bool) -> int | None:
    if status < HTTPStatus.OK or status in _NO_BODY:
        return 0
    length = headers.get("content-length", "")
    if is_chunked or not (length.isascii() and length.isdecimal()):
        return None
    if len(length) > LENGTH_DIGITS_MAX:  # `int` refuses thousands with a ValueError.
        raise NotHttpError("got a length that no body has")
    return int(length)
