"""A folder for the Unix sockets by which the processes of a service reach each other."""

import os
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Final

from ledger_core.tlog.errors import UnavailableError

SHORT_BASE: Final = "/tmp"  # noqa: S108 - a folder with a random name, for us alone, is made in it
BASE_BYTES_MAX: Final = 64
"""The path of a socket has 107 bytes at most: these, the folder's name and the socket's."""


def make_socket_folder(prefix: str) -> Path:
    """A new folder for our user alone, below TMPDIR, or in /tmp when that path is too long.

    Raises: UnavailableError when it can't be made.
    """
    base = gettempdir()
    if len(os.fsencode(base)) > BASE_BYTES_MAX:
        base = SHORT_BASE
    try:
        return Path(mkdtemp(prefix=prefix, dir=base))
    except OSError as error:
        raise UnavailableError(f"no folder for sockets in {base}: {error.strerror}") from error
