"""A segment file of a spool while this process holds it open, and a place in it."""

import os
from typing import Final, NamedTuple

from ledger_client.recording.frames import FrameCodec

NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND


class Position(NamedTuple):
    """A place between two frames."""

    segment: int
    offset: int


class OpenSegment:
    """A file that is open for appending, or is sealed and not synced yet."""

    __slots__ = ("codec", "end", "fd", "is_private", "number", "start")

    def __init__(self, number: int, fd: int, header: bytes) -> None:
        self.number = number
        self.fd = fd
        self.codec = FrameCodec(header)
        self.start = self.end = len(header)
        self.is_private = False


def read_whole(fd: int) -> bytes:
    """The bytes of an open file. Raises: OSError."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def write_whole(fd: int, data: bytes) -> None:
    """Write all bytes to an open file. Raises: OSError, with some of them written."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])
