"""Durable writes, directory syncs and locks.

A file's content and its name are two things to a file system: `fsync` on the file makes the content
durable, `fsync` on the directory the name. Each function here that writes does both before it
returns, and the file can be read and written by its owner alone.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, Final, Self

from ledger_core.tlog.errors import MalformedError

OWNER_ONLY_MODE: Final = 0o600
TEXT_BYTES_MAX: Final = 16 << 20
_HOLDER_BYTES_MAX: Final = 256


def read_utf8(path: Path) -> str:
    """The text of a file that a person writes: settings, a token, rules.

    Raises: MalformedError naming a file that isn't in UTF-8, or has more than `TEXT_BYTES_MAX`;
    OSError.
    """
    try:
        return read_limited(path, TEXT_BYTES_MAX).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"{path} is not text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None


def read_limited(path: Path, bytes_max: int) -> bytes:
    """The bytes of a file, which a stranger may have made: kilobytes can unpack to any length.

    Raises: MalformedError naming a file with more than `bytes_max`; OSError.
    """
    with path.open("rb") as file:
        # A pipe has no size, and a sparse file may say that it has terabytes.
        is_short = os.fstat(file.fileno()).st_size <= bytes_max
        data = file.read(bytes_max + 1) if is_short else b""
    if not is_short or len(data) > bytes_max:
        raise MalformedError(f"{path} has more than {bytes_max} bytes")
    return data


class FileLockedError(Exception):
    """Another process holds the lock. `holder` is what that process wrote into the lock file."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder: Final = holder


class FileLock:
    """A lock (flock) on one file, which the kernel releases however its process ends.

    The file stays when the lock is released: removing it would let two processes lock two files of
    the same name.
    """

    def __init__(self, path: Path, *, holder: str = "") -> None:
        """Take the lock, and write `holder` into the file for the next one who tries.

        Raises: FileLockedError when another process holds it, OSError.
        """
        # What a link names would be cut to nothing.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, OWNER_ONLY_MODE)
        keep_owner(path)
        if not try_lock(self._descriptor):
            found = os.read(self._descriptor, _HOLDER_BYTES_MAX).decode(errors="replace").strip()
            self.release()
            raise FileLockedError(found or "unknown")
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, holder.encode())

    def release(self) -> None:
        """Release the lock; harmless when that has been done."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory unless another process has. Raises: OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create_file(path: Path, data: bytes) -> None:
    """Write a new file durably. Raises: FileExistsError when there is one, OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _named_in_errors(path), os.fdopen(os.open(path, flags, OWNER_ONLY_MODE), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def create_whole(path: Path, data: bytes) -> None:
    """As `create_file`; after a crash the file is there as a whole or not at all.

    Raises: FileExistsError when there is one, OSError, as where a file can't have two names.
    """
    with (
        _named_in_errors(path),
        NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent) as file,
    ):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        path.hardlink_to(file.name)
    sync_directory(path.parent)


def open_new(path: Path) -> BinaryIO:
    """A new file, open for writing, which only its owner can read; no link is followed.

    Raises: FileExistsError when there is a file or a link of this name, OSError.
    """
    return open(path, "xb", opener=partial(os.open, mode=OWNER_ONLY_MODE))


def write_atomically(path: Path, data: bytes) -> None:
    """Write or replace a file; after a crash it is the old one or the new one. Raises: OSError.

    What root writes, as by sudo, stays its owner's, or is that of the owner of the folder: the
    service of another user could not read it any more.
    """
    write_parts_atomically(path, (data,))


def write_parts_atomically(path: Path, parts: Iterable[bytes]) -> None:
    """As `write_atomically`, part by part: none is held once it is written."""
    with (
        _named_in_errors(path),
        NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file,
    ):
        temporary = Path(file.name)
        try:
            for part in parts:
                file.write(part)
            file.flush()
            keep_owner(temporary, like=path)
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise
    sync_directory(path.parent)


def keep_owner(made: Path, *, like: Path | None = None) -> None:
    """Give a file or folder that root has made the owner that a file has which it is made beside.

    Without that file, or without `like`: the owner of the folder. What anybody else makes stays
    his, and so does what a file system lets nobody give away.
    """
    if os.geteuid() != 0:
        return
    with suppress(OSError):
        there = like if like is not None and os.path.lexists(like) else (like or made).parent
        found, owner = os.lstat(made), there.stat()
        if (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
            os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Have errors name the file: a full disk is said by a write, which knows no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
