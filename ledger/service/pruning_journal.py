"""A pruning from its decision to its end: `DIR/pruning.json`.

    decided    the event waits in the outbox, then is in the log; every entry is still there
    begun      bytes are being removed: the service does not start, and the same command goes on

The event is stored here too, so that the same decision gives the same event however often it is
repeated. The file is deleted when nothing of the entries is left.
"""

import msgspec

from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.service.data_dir import DirectoryPaths
from ledger_client.runtime.files import sync_directory
from ledger_core.tlog.errors import UnavailableError


class PruningRecord(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `pruning.json`. `has_begun`: bytes are being removed."""

    v: int = 1
    event_id: str
    event_json: str
    minimum_index: int
    has_begun: bool = False


def read_decision(paths: DirectoryPaths) -> PruningRecord | None:
    """The pruning that isn't done yet, or None. Raises: MalformedError."""
    return read_record(paths.pruning, PruningRecord)


def write_decision(paths: DirectoryPaths, record: PruningRecord) -> None:
    """Write a decision durably. Raises: OSError."""
    write_record(paths.pruning, record)


def begin_removal(paths: DirectoryPaths, record: PruningRecord) -> None:
    """Note that bytes are removed from now on. Raises: OSError."""
    write_record(paths.pruning, msgspec.structs.replace(record, has_begun=True))


def end_decision(paths: DirectoryPaths) -> None:
    """Delete the file: all is removed, or the decision was taken back before. Raises: OSError."""
    paths.pruning.unlink()
    sync_directory(paths.root)


def check_pruned(paths: DirectoryPaths) -> None:
    """Raises: UnavailableError for a ledger whose pruning was interrupted, with what to do."""
    record = read_decision(paths)
    if record is not None and record.has_begun:
        raise UnavailableError(
            f"the pruning of {paths.root} below index {record.minimum_index} was interrupted: run "
            f"ledger retention remove {paths.root} again, which does the rest"
        )
