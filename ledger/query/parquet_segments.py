"""Full segments of the log as Parquet, which `ledger sql` reads. Made from the log alone.

    DIR/parquet/00000012.5f1a0c77d20b9e41.v1.93b885adfe0da089.parquet

The name says which segment of 65,536 entries it is, the beginning of the root hash of these
entries, the version of the columns (`ledger_client.sql.columns`), and the beginning of the SHA-256
of the file. A file of other entries, as after `ledger recover`, or of another version has another
name, so it is never read by mistake, and a damaged one is noticed before it is read; the next file
of its segment replaces it. The first files lacked the hash, and are made anew.

The setting `parquet` starts a follower, a process of its own as that of the index, and `ledger
parquet` makes what is missing. Either may be killed at any time: a file has its name only when it
is complete and durable. One at a time holds the lock.
"""

import gc
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, NamedTuple

from ledger.follow.process import is_orphaned, lower_priority
from ledger.object_storage.open_log import open_log
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_builder import first_whole
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import DamagedBundleError, LogStore
from ledger.store.stored_log import StoredLog
from ledger_client.runtime.files import FileLock, FileLockedError, sync_directory
from ledger_client.runtime.process_end import end_process
from ledger_client.sql.columns import VERSION
from ledger_client.sql.parquet import format_line, write_parquet
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.tree import Node

POLL_S: Final = 5.0
"""Seconds between two checks for a full segment."""

DAMAGED_FILE: Final = "is damaged, so it is not read: delete it, and it is made again"
_SCRATCH: Final = ".making-"


class SealedFiles(NamedTuple):
    """The files of a log as Parquet, and the full segments that have none, or a damaged one."""

    files: list[Path]
    missing: list[int]
    damaged: list[Path]


def sealed_files(
    log: LogStore, folder: Path, tree_size: int, *, segment_entries: int = SEGMENT_ENTRIES_MAX
) -> SealedFiles:
    """The files that exist for the full segments below `tree_size`. Cost: a read of all files."""
    found = SealedFiles([], [], [])
    for segment in range(first_whole(log, segment_entries), tree_size // segment_entries):
        path = _find(log, folder, segment, segment_entries)
        if path is not None and _is_whole(path):
            found.files.append(path)
            continue
        found.missing.append(segment)
        if path is not None:
            found.damaged.append(path)
    return found


def write_lines(log: StoredLog, start: int, end: int, file: BinaryIO) -> None:
    """Write the entries [start, end) as an export of JSON lines has them.

    Raises: DamagedBundleError.
    """
    for first, leaves in LeafCache(log, bytes_max=0).bundles(start, end):
        file.writelines(
            format_line(index, leaf, leaf_hash(leaf)) for index, leaf in enumerate(leaves, first)
        )


class ParquetBuilder:
    """Makes the missing files, the newest segment first, while it holds the lock of the folder."""

    def __init__(
        self, log: LogStore, folder: Path, *, segment_entries: int = SEGMENT_ENTRIES_MAX
    ) -> None:
        """Raises: UnavailableError while another process makes files in this folder."""
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._lock: Final = FileLock(folder / "lock", holder=f"process {os.getpid()}")
        except FileLockedError as error:
            raise UnavailableError(f"{folder} is being written by {error.holder}") from None
        self._log: Final = log
        self._folder: Final = folder
        self._entries: Final = segment_entries
        self._unreadable: Final[set[int]] = set()
        for left in folder.glob(f"{_SCRATCH}*/*"):
            left.unlink()
        for left in folder.glob(f"{_SCRATCH}*"):
            left.rmdir()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def missing(self) -> list[int]:
        """The full segments without a file, but for those that can't be read."""
        return [
            segment
            for segment in range(
                first_whole(self._log, self._entries), self._log.head().tree_size // self._entries
            )
            if segment not in self._unreadable
            and _find(self._log, self._folder, segment, self._entries) is None
        ]

    def seal(self, segment: int) -> None:
        """Make the file of one full segment, and remove others of it.

        A segment with a damaged bundle is left out for as long as this builder lives.
        Cost: 70 µs of processor time an entry, and up to 350 MB of memory.
        """
        start = segment * self._entries
        with TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            lines, made = Path(scratch, "lines"), Path(scratch, "parquet")
            try:
                with lines.open("wb") as file:
                    write_lines(self._log, start, start + self._entries, file)
            except DamagedBundleError:  # The log store has logged it.
                self._unreadable.add(segment)
                return
            write_parquet(lines, made, with_leaf=False)
            with made.open("rb") as written:
                os.fsync(written.fileno())
            name = parquet_name(self._log, segment, self._entries)
            path = self._folder / f"{name}.{_file_hash(made)}.parquet"
            made.replace(path)
        sync_directory(self._folder)
        for other in self._folder.glob(f"{segment:08d}.*.parquet"):
            if other != path:
                other.unlink()


def seal_missing(
    log: LogStore, folder: Path, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> int:
    """Make all missing and damaged files; return their number. Raises: as `ParquetBuilder`."""
    with closing(ParquetBuilder(log, folder)) as builder:
        for damaged in sealed_files(log, folder, log.head().tree_size).damaged:
            damaged.unlink()
        segments = builder.missing()
        for done, segment in enumerate(reversed(segments), start=1):
            builder.seal(segment)
            progress(done, len(segments))
    return len(segments)


def main() -> None:
    """Seal the segments of the log and folder that the command line names, until orphaned."""
    lower_priority()
    gc.disable()  # What is made has no cycles.
    log_path, folder = map(Path, sys.argv[1:])
    with closing(open_log(log_path)) as log:
        while True:
            try:
                return _seal_until_orphaned(log, folder)
            except UnavailableError:
                if is_orphaned(POLL_S):
                    return None


def _seal_until_orphaned(log: LogStore, folder: Path) -> None:
    with closing(ParquetBuilder(log, folder)) as builder:
        while not is_orphaned(0.0):
            missing = builder.missing()
            if missing:
                builder.seal(missing[-1])
            elif is_orphaned(POLL_S):
                return


def parquet_name(log: StoredLog, segment: int, segment_entries: int = SEGMENT_ENTRIES_MAX) -> str:
    """The name of a segment's file, without the hash of the file and the ending."""
    (root,) = log.node_hashes([Node(segment_entries.bit_length() - 1, segment)])
    return f"{segment:08d}.{root[:8].hex()}.v{VERSION}"


def _find(log: LogStore, folder: Path, segment: int, segment_entries: int) -> Path | None:
    return next(folder.glob(f"{parquet_name(log, segment, segment_entries)}.*.parquet"), None)


def _is_whole(path: Path) -> bool:
    return path.name.endswith(f".{_file_hash(path)}.parquet")


def _file_hash(path: Path) -> str:
    """The first 8 bytes, in hex, of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


if __name__ == "__main__":
    main()
    end_process(0)
