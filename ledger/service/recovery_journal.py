"""The journal of a recovery: a file that is there while `ledger recover` changes a ledger.

    DIR/recovering.json    the first entry that is taken over, and from where

A recovery changes the log, then values, tokens and erasures. One that was interrupted leaves the
journal: the service does not start, and the same command again does the rest.
"""

from pathlib import Path
from typing import Final

from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.service.data_dir import DirectoryPaths
from ledger_client.runtime.files import sync_directory
from ledger_core.tlog.errors import UnavailableError

DRAFT: Final = "log.new"
"""The name of a new log until it takes the place of the old one."""


class Unfinished(CheckedRecord, frozen=True):
    """A recovery that has begun. `start`: the index of the first entry that it takes over."""

    start: int
    source: str


def read_unfinished(paths: DirectoryPaths) -> Unfinished | None:
    """The recovery that has not ended, or None. Raises: MalformedError."""
    return read_record(paths.recovering, Unfinished)


def check_finished(paths: DirectoryPaths) -> None:
    """Raises: UnavailableError for a ledger whose recovery was interrupted, with what to do."""
    found = read_unfinished(paths)
    if found is not None:
        raise UnavailableError(
            f"a recovery of {paths.root} from {found.source} was interrupted: run the same `ledger "
            "recover` again, which does the rest"
        )


def begin(paths: DirectoryPaths, start: int, source: Path) -> int:
    """Write the journal before anything is changed; returns where an interrupted one began."""
    before = read_unfinished(paths)
    if before is not None:
        return min(before.start, start)
    write_record(paths.recovering, Unfinished(start, str(source)))
    return start


def finish(paths: DirectoryPaths) -> None:
    """Remove the journal: all is done."""
    paths.recovering.unlink()
    sync_directory(paths.root)


def put_log_in_place(paths: DirectoryPaths) -> None:
    """Do the second of two renames, if a recovery was interrupted between them.

    The new log was whole, and closed, before the old one was renamed.
    """
    draft = paths.log.with_name(DRAFT)
    if draft.exists() and not paths.log.exists() and read_unfinished(paths) is not None:
        draft.rename(paths.log)
        sync_directory(paths.root)
