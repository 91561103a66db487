"""The spool folder: a directory for each recorder that has recorded here and isn't sent yet.

    spool/0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50/1.segment, 2.segment, …, cursor, synced,
                               and suspect: see `probe`
    spool/damaged/…            segments that can't be read, for a person to examine;
                               damaged-… where another user made a `damaged` in an open folder
    spool/dead-letter.jsonl    events that the ledger does not take
    spool/state                the head that the client accepted last

A recorder holds a lock (flock) on its own directory while its process runs, and the kernel releases
it however the process ends. A directory that nobody holds is an orphan: any recorder on the same
folder adopts it, sends its events, and removes it.

The lock belongs to the open directory, which a forked child shares. `fork_hooks` closes the child's
copy, so that a child does not keep its dead parent's directory from being adopted.
"""

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ledger_client.runtime.files import create_file, sync_directory, try_lock
from ledger_core.event.ids import is_uuid

SEGMENT_SUFFIX: Final = ".segment"
NEW_PREFIX: Final = ".new-"
STALE_NEW_S: Final = 3600.0


class InstanceDir(NamedTuple):
    """The directory of one recorder, which this process has locked through `lock_fd`."""

    path: Path
    instance: str
    lock_fd: int

    def segment_numbers(self) -> list[int]:
        """The numbers of the segments, ascending."""
        names = (name.removesuffix(SEGMENT_SUFFIX) for name in _names(self.path))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def segment_path(self, number: int) -> Path:
        """The file of one segment."""
        return self.path / f"{number}{SEGMENT_SUFFIX}"

    @property
    def is_removed(self) -> bool:
        """Whether the directory is no longer where it was made."""
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self.lock_fd))
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def sync(self) -> None:
        """Make the names in the directory durable. Raises: OSError."""
        os.fsync(self.lock_fd)

    def release_lock(self) -> None:
        """Unlock the directory: from here on any recorder may adopt it."""
        os.close(self.lock_fd)

    def remove(self) -> None:
        """Remove the directory with its files, and unlock it."""
        with suppress(OSError):
            # By the open directory: another one may stand in its place.
            for name in os.listdir(self.lock_fd):  # noqa: PTH208 - of a descriptor
                os.unlink(name, dir_fd=self.lock_fd)
            self.path.rmdir()
        self.release_lock()


def create_instance_dir(spool: Path, instance: str) -> InstanceDir:
    """Create and lock the directory of a new recorder. Raises: OSError, and leaves none."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Under this name nobody adopts it in the moment between its creation and its lock.
    new = spool / f"{NEW_PREFIX}{instance}"
    new.mkdir(mode=0o700)
    lock_fd = -1
    try:
        lock_fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        try_lock(lock_fd)  # Nobody else locks a directory of this name.
        new.rename(spool / instance)
        # A power failure after the first event was synced must not take the directory with it.
        sync_directory(spool)
    except BaseException:
        for path in (new, spool / instance):
            with suppress(OSError):
                path.rmdir()
        if lock_fd >= 0:
            os.close(lock_fd)
        raise
    return InstanceDir(spool / instance, instance, lock_fd)


def save_segments(spool: Path, instance: str, segments: Mapping[int, bytes]) -> None:
    """Write the segments of a directory that was removed, for any recorder to adopt.

    Raises: OSError.
    """
    instance_dir = create_instance_dir(spool, instance)
    try:
        for number, data in segments.items():
            create_file(instance_dir.segment_path(number), data)
    finally:
        instance_dir.release_lock()


def adopt_orphans(spool: Path) -> Iterator[InstanceDir]:
    """Lock the directories that nobody holds, the oldest first.

    The caller sends their events and removes them, or releases their locks.
    """
    for name in _names(spool):
        if name.startswith(NEW_PREFIX):
            _remove_stale(spool / name)
        elif is_uuid(name):
            orphan = _try_lock(spool / name, is_shared=is_open_to_all(spool))
            if orphan is not None:
                yield orphan


def bytes_of_other_instances(spool: Path, own: str) -> int:
    """The bytes that the directories of all recorders but `own` hold."""
    total = 0
    for name in _names(spool):
        if name == own or not is_uuid(name):
            continue
        with suppress(OSError), os.scandir(spool / name) as files:
            total += sum(file.stat().st_size for file in files)
    return total


def is_open_to_all(spool: Path) -> bool:
    """Whether any user of the host may make directories in the spool folder, or doubt."""
    try:
        return bool(spool.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True


def _try_lock(path: Path, *, is_shared: bool) -> InstanceDir | None:
    """Lock a directory. A link is none: its files would be sent, and removed.

    `is_shared`: what other users made in the folder is not ours to send.
    """
    try:
        lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = os.fstat(lock_fd)
        is_ours = not is_shared or found.st_uid == os.geteuid()
        # The recorder that held it may have removed it between the two calls.
        if is_ours and try_lock(lock_fd) and os.path.samestat(found, path.lstat()):
            return InstanceDir(path, path.name, lock_fd)
    except OSError:
        pass
    os.close(lock_fd)
    return None


def _remove_stale(path: Path) -> None:
    """Remove the directory of a recorder that was killed before it could rename it."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > STALE_NEW_S:
            path.rmdir()


def _names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names are enough, and cheaper than paths
    except OSError:
        return []
