"""The objects of an archive that was copied into a folder, `file:///…`: each is a plain file."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ledger.object_storage.bounded_http import write_piece
from ledger.object_storage.s3_requests import Listed
from ledger_core.tlog.errors import MalformedError

READ_BYTES: Final = 1 << 20


def read_object(
    folder: Path, name: str, *, start: int = 0, bytes_max: int, into: IO[bytes] | None = None
) -> bytes | None:
    """The bytes of an object from `start` on, or b"" if they go `into` a file; None without one.

    Of an object with more than `bytes_max` the first are read, one more than is right.
    Raises: MalformedError for a folder, a pipe, or what else is no file; OSError.
    """
    try:
        # Nothing waits for the other end of a pipe.
        opened = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise MalformedError(f"{name} is no file")
    with os.fdopen(opened, "rb") as file:
        file.seek(start)
        if into is None:
            return file.read(bytes_max + 1)
        left = bytes_max + 1
        while left and (piece := file.read(min(READ_BYTES, left))):
            write_piece(into, piece)
            left -= len(piece)
        return b""


def list_objects(folder: Path, below: str) -> Iterator[Listed]:
    """The files below a folder of the copy, in no order. Raises: OSError."""
    for parent, _, names in os.walk(folder / below):
        for name in names:
            path = Path(parent, name)
            yield Listed(path.relative_to(folder).as_posix(), path.stat().st_size)
