"""Cuts a syslog stream into frames: bytes in, frames out. No I/O.

There are two framings (RFC 6587), and the first byte of a connection tells which one it is:

    14 <13>1 - - - -        octet counting, the only one of TLS (RFC 5425): a count, a space, so
                            many bytes, and the next count
    <13>1 - - - -\n         non-transparent: one message a line, or up to a NUL

A digit other than 0 begins a count, everything else a line. A connection keeps its framing, so a
continued line that begins with digits is not read as a count.

A message that is too long is cut, and the bytes cut off are counted. A count that is malformed or
above `COUNT_MAX` ends the stream, because the start of the next message is unknown. At most
`frame_bytes_max` bytes are held.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

COUNT_DIGITS_MAX = 9
COUNT_MAX = 16 * 1024 * 1024
"""The largest count that a sender may announce."""

_COUNT_STARTS = frozenset(b"%d" % digit for digit in range(1, 10))
_ENDS = b"\r\n\0"

_find_line_end = re.compile(rb"[\n\0]").search
_is_count = re.compile(rb"[1-9][0-9]{0,%d}" % (COUNT_DIGITS_MAX - 1)).fullmatch


@dataclass(frozen=True, slots=True)
class Frame:
    """One message as received, without its framing."""

    data: bytes
    bytes_cut: int = 0
    """Number of bytes dropped at its end, because it was too long."""
    is_broken_off: bool = False
    """The stream ended inside the message."""
    is_unframed: bool = False
    """The bytes where a frame should have begun; the stream ended there."""


class Deframer:
    """Cuts one stream into frames. Holds at most one unfinished message."""

    def __init__(self, *, frame_bytes_max: int) -> None:
        self._max = frame_bytes_max
        self._buffer = bytearray()
        self._is_counting: bool | None = None  # Not known before the first byte.
        self._line_end: bytes | None = None  # The first one of a stream is that of all its lines.
        self._bytes_left: int | None = None  # Of the announced message; None between frames.
        self._cut = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Feed the next bytes, and yield the frames that they complete.

        After a frame that `is_unframed`, nothing more can be read.
        """
        at = 0
        while at < len(data):
            if self._is_counting is None:
                at = _skip_ends(data, at)
                if at == len(data):
                    return
                self._is_counting = data[at : at + 1] in _COUNT_STARTS
            frame, at = self._counted(data, at) if self._is_counting else self._line(data, at)
            if frame is not None and (frame.data or frame.bytes_cut):
                yield frame
            if frame is not None and frame.is_unframed:
                return

    def end(self) -> Frame | None:
        """Return the unfinished message at the end of the stream, if there is one."""
        data, self._buffer = bytes(self._buffer), bytearray()
        if not data.strip(_ENDS):
            return None
        if self._is_counting and self._bytes_left is None:
            # Only the digits of a count: nothing of a message came.
            return None
        # Many senders omit the last line end; a counted frame that is too short was broken off.
        data = data if self._is_counting else data.lstrip(_ENDS)
        return Frame(_without_end(data), self._cut, is_broken_off=bool(self._is_counting))

    def _line(self, data: bytes, at: int) -> tuple[Frame | None, int]:
        if self._line_end is None and (found := _find_line_end(data, at)):
            self._line_end = found.group()
        end = data.find(self._line_end, at) if self._line_end else -1
        if end < 0:
            self._hold(data[at:])
            return None, len(data)
        self._hold(data[at:end])
        frame = self._finish_frame()
        # Some senders end a message with a line end and a NUL, or a NUL and a line end.
        return Frame(frame.data.lstrip(_ENDS), frame.bytes_cut), end + 1

    def _counted(self, data: bytes, at: int) -> tuple[Frame | None, int]:
        if self._bytes_left is None:
            unframed, at = self._read_count(data, at)
            if self._bytes_left is None:
                return unframed, at
        part = data[at : at + self._bytes_left]
        self._hold(part)
        self._bytes_left -= len(part)
        if self._bytes_left:
            return None, len(data)
        self._bytes_left = None
        return self._finish_frame(), at + len(part)

    def _read_count(self, data: bytes, at: int) -> tuple[Frame | None, int]:
        """Read the digits of a count and the space after them; return where the message begins.

        The frame is what stands in the place of a count.
        """
        if not self._buffer:
            # Some senders end a counted frame with a line end that they don't count.
            at = _skip_ends(data, at)
        held = bytes(self._buffer)
        # A longer count is malformed, so no more bytes are needed.
        digits, space, _ = data[at : at + COUNT_DIGITS_MAX + 1].partition(b" ")
        count = held + digits
        is_count = _is_count(count) or (not count and not space)
        if not is_count or (space and int(count) > COUNT_MAX):
            self._buffer.clear()
            return Frame(held + data[at : at + self._max], is_unframed=True), len(data)
        if space:
            self._bytes_left = int(count)
            self._buffer.clear()
        else:
            self._buffer += digits
        return None, at + len(digits) + len(space)

    def _hold(self, part: bytes) -> None:
        room = self._max - len(self._buffer)
        self._buffer += part[:room]
        self._cut += max(0, len(part) - room)

    def _finish_frame(self) -> Frame:
        frame = Frame(_without_end(bytes(self._buffer)), self._cut)
        self._buffer.clear()
        self._cut = 0
        return frame


def strip_count(datagram: bytes) -> bytes:
    """Return the message of a datagram without the octet count that some senders put before it."""
    count, space, message = datagram.partition(b" ")
    if not (space and _is_count(count) and message.startswith(b"<")):
        return datagram
    return message if len(message.rstrip(_ENDS)) <= int(count) <= len(message) else datagram


def _skip_ends(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in _ENDS:
        at += 1
    return at


def _without_end(data: bytes) -> bytes:
    """Drop line ends, and the NUL that some senders add."""
    return data.rstrip(_ENDS)
