"""Gives memory back to the system: glibc keeps what was freed, for the process that freed it.

After a burst of large bodies a service would hold as much as it ever needed. So large blocks are
mapped one by one, which frees each at once, and the rest is trimmed when the service has a rest.
Other C libraries have neither function; there both do nothing.
"""

import ctypes
from typing import Final

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
