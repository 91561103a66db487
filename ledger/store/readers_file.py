"""The file of LMDB's readers, `lock.mdb`: all of it is on the disk before it is mapped.

LMDB makes the file by setting its length, and maps it for writing. A slot that is used for the
first time on a full disk would be a write to a page that has no place: no error, but a SIGBUS that
ends the process, in the middle of a search as well as at the start of a copy.
"""

import ctypes
import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.store.commit_errors import StorageFullError
from ledger.store.drafts import READERS_FILE

READERS_MAX: Final = 512
READERS_BYTES: Final = READERS_MAX * 64 + 128
"""A cache line for each reader, and the head. LMDB takes a longer file as it is."""

BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`."""

_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
_lock = threading.Lock()
_unfit: set[int] = set()  # Under _lock: devices whose file systems can't do so.


def allocate_readers(folder: Path) -> None:
    """Give the file of readers in a folder its place on the disk; make it if there is none.

    A file system that can't do so is left as it is, and so is one that is read-only.
    Raises: StorageFullError when the disk has no room for a new file.
    """
    path = folder / READERS_FILE
    with _lock:
        with suppress(OSError):
            status = path.stat()
            # To close a file gives up the locks of the process on it, and LMDB holds one while the
            # environment is open: so nothing is opened here that has its place already.
            if _is_allocated(status) or status.st_dev in _unfit:
                return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # LMDB says why.
        try:
            is_new = not os.fstat(descriptor).st_size
            failure = _allocate(descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if failure == errno.ENOSPC:
            if is_new:
                raise StorageFullError(f"the disk of {folder} is full")
        elif not _is_allocated(status):
            _unfit.add(status.st_dev)


def _is_allocated(status: os.stat_result) -> bool:
    return min(status.st_blocks * BLOCK_BYTES, status.st_size) >= READERS_BYTES


def _allocate(descriptor: int) -> int:
    """Allocate the bytes of the file; 0, or the number of an error. It changes none of them."""
    if not hasattr(_LIBRARY, "fallocate"):
        return errno.ENOSYS
    whole = ctypes.c_int64(READERS_BYTES)
    failed = _LIBRARY.fallocate(descriptor, 0, ctypes.c_int64(0), whole)
    return ctypes.get_errno() if failed else 0
