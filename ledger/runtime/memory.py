"""Memory: what was freed goes back to the system, and files that are in memory alone.

glibc keeps what was freed, for the process that freed it: after a burst of large bodies a service
would hold as much as it ever needed. So large blocks are mapped one by one, which frees each at
once, and the rest is trimmed when the service has a rest. Other C libraries have neither function;
there both do nothing.
"""

import ctypes
import os
import tempfile
from typing import IO, Final

LARGE_BYTES: Final = 64 << 10
"""Blocks of this size are mapped one by one. By default glibc raises this size up to 32 MiB."""

_M_MMAP_THRESHOLD: Final = -3
_LIBRARY: Final = ctypes.CDLL(None)


def map_large_blocks() -> None:
    """Have each large block mapped by itself. Called once, at the start of a process."""
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """Give freed memory back. Takes milliseconds, without the interpreter's lock."""
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(ctypes.c_size_t(0))


def nameless_file() -> IO[bytes]:
    """A file in memory, or on systems without that one on the disk that has no name."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("ledger"), "r+b")
    return tempfile.TemporaryFile()
