"""What of a log may leave this disk: the archive's process shows it, and the service removes it.

    DIR/archive/NAME/releasable.json   up to which entry the bucket was shown to have the log

1. The process of the archive reads every bundle back from the bucket, and holds it against the tree
   of the checkpoint that is in the bucket. It writes the file after each segment. A crash before
   that repeats the check.
2. The writer of the log removes the bundles of a segment, and notes up to where they are gone, in
   one transaction. A crash before it has removed nothing, and after it has removed what the file
   still allows. Nothing but that file, with the root of these entries, allows it.

Whoever does step 2 holds `DIR/archive.lock` from the look at `archive.toml` to the commit. So does
whoever removes an archive, from the look at what has left for it: else entries could leave for an
archive whose table goes at the same moment, and nobody would know where they are.
"""

import os
import time
from pathlib import Path
from typing import Final, Literal

from ledger.follow.position import FollowerPaths
from ledger.object_storage.config import KIND, ArchiveConfig
from ledger.object_storage.place import Place
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.runtime.files import FileLock, FileLockedError
from ledger_core.tlog.errors import UnavailableError

FILE: Final = "releasable.json"
LOCK: Final = "archive.lock"
LOCK_POLL_S: Final = 0.05


class Releasable(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of the file: an archive was shown to have the entries below `end`.

    `root_hash`: of the tree of these entries, in hex. `url`, `endpoint`: where the archive was.
    `tree_size`: that of the checkpoint in the bucket.
    """

    v: Literal[1] = 1
    end: int
    root_hash: str
    url: str
    endpoint: str = ""
    tree_size: int


def lock_releases(directory: Path, *, wait_s: float = 0.0) -> FileLock:
    """Keep as they are, until the lock is released, the archives and what has left for them.

    Raises: UnavailableError if another process has the lock for `wait_s` seconds from now on.
    """
    end_s = time.monotonic() + wait_s
    while True:
        try:
            return FileLock(directory / LOCK, holder=f"process {os.getpid()}")
        except FileLockedError as error:
            if time.monotonic() >= end_s:
                raise UnavailableError(
                    f"{error.holder} lets entries leave this disk, or changes the archives: try "
                    "again"
                ) from None
        time.sleep(LOCK_POLL_S)


def releasable_path(directory: Path, name: str) -> Path:
    """The file of an archive."""
    return FollowerPaths(directory, KIND, name).root / FILE


def read_releasable(directory: Path, name: str, log: LogStore, place: Place) -> Releasable | None:
    """What an archive was shown to have of a log; None when that is unknown, or of another log.

    Also None if it was shown in another place: nothing leaves the disk for a bucket that an address
    names which was changed since.

    Raises: MalformedError, OSError.
    """
    record = read_record(releasable_path(directory, name), Releasable)
    if record is None or record.end > log.head().tree_size:
        return None
    if (record.url, record.endpoint) != (place.url, place.endpoint):
        return None
    return record if log.root_at(record.end).hex() == record.root_hash else None


def write_releasable(directory: Path, name: str, record: Releasable) -> None:
    """Replace the file durably. Raises: OSError."""
    FollowerPaths(directory, KIND, name).make()
    write_record(releasable_path(directory, name), record)


def wanted_end(config: ArchiveConfig, log: LogStore, tree_size: int) -> int:
    """The end of what an archive must be shown to have: what may leave the disk, and what has left.

    What has left may be in another archive, whatever the settings keep here since.
    """
    release = log.release()
    return max(allowed_end(config, tree_size), 0 if release is None else release.end)


def allowed_end(config: ArchiveConfig, tree_size: int) -> int:
    """The first entry that the settings keep on this disk: that of a segment.

    The last entry of the log stays in any case: a start reads it.
    """
    if config.retain_local_segments is None or tree_size == 0:
        return 0
    full = (tree_size - 1) // SEGMENT_ENTRIES_MAX
    return max(0, full - config.retain_local_segments) * SEGMENT_ENTRIES_MAX
