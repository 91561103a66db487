"""The errors of a refused write: undone as a whole, or with an outcome that a restart can tell."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from ledger_core.tlog.errors import UnavailableError

MAP_SETTING_DEFAULT: Final = "map_bytes"
FULL_BYTES: Final = 1 << 20
"""A disk with fewer free bytes is full: a commit writes several pages at once."""


class CommitUndoneError(UnavailableError):
    """The disk refused a write; the transaction was undone as a whole, and the next may succeed."""


class StorageFullError(CommitUndoneError):
    """The map or the disk has no room; the transaction was undone as a whole."""


class CommitFailedError(UnavailableError):
    """A commit may or may not have reached the disk; a restart, which reads it, can tell."""


def is_disk_full(error: BaseException | None, path: Path) -> bool:
    """Whether a write failed for want of space; LMDB reports a short write as EIO."""
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    if code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return True
    return code == errno.EIO and free_bytes(path) < FULL_BYTES


def disk_error(error: OSError, path: Path) -> CommitUndoneError:
    """The error for a write to a file of an environment that the disk refused."""
    if is_disk_full(error, path):
        return StorageFullError(f"the disk of {path} is full")
    return CommitUndoneError(f"a write to {path} failed: {error.strerror}")


def free_bytes(path: Path) -> int:
    """The bytes that are free on the disk of a folder, for other users than root.

    The folder may not be there yet, or not any more.
    """
    while not path.exists() and path != path.parent:
        path = path.parent
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def broken(path: Path) -> CommitFailedError:
    """The error of an environment whose last commit had an unknown outcome."""
    return CommitFailedError(f"a commit to {path} failed before; restart to go on")


def file_identity(path: Path) -> tuple[int, int] | None:
    """The device and the inode of a file; None when no file has this path any more."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def is_displaced(path: Path, identity: tuple[int, int] | None) -> bool:
    """Whether another file than the one with this identity has the path, or none has.

    Not if nobody can tell, as in a folder that was closed to this process: an open file is written
    as before.
    """
    try:
        return file_identity(path) != identity
    except OSError:
        return False


def displaced(path: Path) -> CommitFailedError:
    """The error of an environment whose data file is not the one that was opened."""
    return CommitFailedError(
        f"the data file of {path} was deleted, moved or replaced while it was open: nobody would "
        "find what is written"
    )


@contextmanager
def panics(path: Path) -> Iterator[None]:
    """Raise CommitFailedError for an environment whose last commit had an unknown outcome."""
    try:
        yield
    except lmdb.PanicError as error:
        raise broken(path) from error


@contextmanager
def commit_errors(path: Path, map_setting: str = MAP_SETTING_DEFAULT) -> Iterator[None]:
    """Raise an error of ours for what LMDB says of a commit."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise StorageFullError(
            f"the map of {path} is full: raise {map_setting} and start again"
        ) from error
    except lmdb.ReadonlyError as error:
        raise CommitUndoneError(
            f"{path} is read here alone: its file system is read-only"
        ) from error
    except lmdb.Error as error:
        reason = "the disk is full" if is_disk_full(error, path) else str(error)
        raise CommitFailedError(f"a commit to {path} failed: {reason}") from error
