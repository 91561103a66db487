"""The spool folder: a directory for each recorder that has recorded here and isn't sent yet.

    spool/0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50/1.segment, 2.segment, …, cursor
    spool/damaged/…            segments that can't be read, for a person to look at
    spool/dead-letter.jsonl    what the ledger does not take
    spool/state                the head that the client accepted last

A recorder holds a lock (flock) on its own directory as long as its process lives, and the kernel
gives it back however the process ends. A directory that nobody holds was left behind: any recorder
on the same folder takes it over, sends what is in it, and removes it.

The lock belongs to the open directory, which a forked child shares. `process` closes the child's
copy, so that a child does not keep what its dead parent left.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ledger_client.runtime.files import sync_directory, try_lock

SEGMENT_SUFFIX: Final = ".segment"
NEW_PREFIX: Final = ".new-"
STALE_NEW_S: Final = 3600.0

_is_instance = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class InstanceDir(NamedTuple):
    """The directory of one recorder, held by this process through `lock_fd`."""

    path: Path
    instance: str
    lock_fd: int

    def segments(self) -> list[int]:
        """The numbers of the segments, ascending."""
        return segments_of(self.path)

    def segment_path(self, number: int) -> Path:
        """The file of one segment."""
        return self.path / f"{number}{SEGMENT_SUFFIX}"

    def sync(self) -> None:
        """Make the names in the directory durable. Raises: OSError."""
        os.fsync(self.lock_fd)

    def leave(self) -> None:
        """Let go of the directory: from here on any recorder may take it over."""
        os.close(self.lock_fd)

    def remove(self) -> None:
        """Remove the directory with all that is in it, and let go of it."""
        with suppress(OSError):
            for name in os.listdir(self.path):  # noqa: PTH208 - names are all that is wanted
                (self.path / name).unlink()
            self.path.rmdir()
        self.leave()


def make_home(spool: Path, instance: str) -> InstanceDir:
    """Make and lock the directory of a new recorder. Raises: OSError."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Named so that nobody takes it over before it is locked.
    new = spool / f"{NEW_PREFIX}{instance}"
    new.mkdir(mode=0o700)
    lock_fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try_lock(lock_fd)  # Nobody else locks a directory of this name.
        home = spool / instance
        new.rename(home)
        sync_directory(spool)
    except BaseException:
        os.close(lock_fd)
        raise
    return InstanceDir(home, instance, lock_fd)


def take_abandoned(spool: Path) -> Iterator[InstanceDir]:
    """Lock the directories that nobody holds, the oldest first.

    The caller sends what is in them and removes them, or leaves them again.
    """
    for name in _names(spool):
        if name.startswith(NEW_PREFIX):
            _remove_stale(spool / name)
        elif _is_instance(name):
            home = _take(spool / name)
            if home is not None:
                yield home


def bytes_of_others(spool: Path, own: str | None) -> int:
    """The bytes of all segments in the folder but those of the recorder `own`."""
    total = 0
    for name in _names(spool):
        if name == own or not _is_instance(name):
            continue
        with suppress(OSError), os.scandir(spool / name) as files:
            total += sum(file.stat().st_size for file in files)
    return total


def segments_of(path: Path) -> list[int]:
    """The numbers of the segments in a directory, ascending."""
    names = (name.removesuffix(SEGMENT_SUFFIX) for name in _names(path))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _take(path: Path) -> InstanceDir | None:
    try:
        lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        # Whoever held it may have removed it between the two calls.
        if try_lock(lock_fd) and os.fstat(lock_fd).st_ino == path.stat().st_ino:
            return InstanceDir(path, path.name, lock_fd)
    except OSError:
        pass
    os.close(lock_fd)
    return None


def _remove_stale(path: Path) -> None:
    """Remove the directory of a recorder that ended before it could rename it."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > STALE_NEW_S:
            path.rmdir()


def _names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return []
