"""A hold: the log takes no events until a person decides, since it lacks what it acknowledged.

After an old copy of a ledger's folder was put back, new events would get indices that were given
before. What shows it is a head that the log signed and the store does not have: from a witness, a
client or a mirror, or in the marker, a file outside the environments with the head that was
published last. The hold is a file too, so that a restart doesn't end it:

    DIR/hold.json    the reason, since when, and the heads that show it
    DIR/published    the marker; the setting `marker_file` puts it elsewhere

`ledger recover` shows both, takes over what is missing, and ends the hold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.store.log import LogStore
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.note import NOTE_BYTES_MAX, NoteVerifier, verify_note

HEADS_MAX: Final = 16
"""The most heads that a hold keeps."""

_log = structlog.get_logger("ledger.log.hold")


class HeldError(UnavailableError):
    """The log takes no events until a person has decided."""


class HeldHead(msgspec.Struct, frozen=True):
    """A head that the store does not have, and the name of the party that has it."""

    by: str
    note: str


class HoldRecord(CheckedRecord, frozen=True):
    """The content of `hold.json`. `since`: as times in events."""

    reason: str
    since: str
    heads: tuple[HeldHead, ...] = ()


class Hold:
    """The hold of one log, if there is one. Used on the event loop."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: None keeps the hold in memory. Raises: MalformedError for a damaged file."""
        self._path = path
        self.record = None if path is None else read_hold(path)

    def check(self) -> None:
        """Raises: HeldError with the reason."""
        if self.record is not None:
            raise HeldError(self.record.reason)

    def place(self, reason: str, *, since: str, by: str, note: str) -> None:
        """Hold the log, or add to an existing hold a head that it doesn't name yet."""
        before = self.record or HoldRecord(reason, since)
        known = {each.note for each in before.heads}
        if note not in known and len(known) < HEADS_MAX:
            before = msgspec.structs.replace(before, heads=(*before.heads, HeldHead(by, note)))
        if before == self.record:
            return
        self.record = before
        _log.critical("log_held", reason=reason, by=by)
        if self._path is not None:
            try:
                write_hold(self._path, before)
            except OSError as error:
                _log.error("hold_not_written", reason=str(error))


def read_hold(path: Path) -> HoldRecord | None:
    """The hold in a file, or None. Raises: MalformedError."""
    return read_record(path, HoldRecord)


def write_hold(path: Path, record: HoldRecord) -> None:
    """Write a hold durably. Raises: OSError."""
    write_record(path, record)


def write_marker(path: Path, note: str) -> None:
    """Replace the marker. It isn't synced: after a crash an older one does no harm.

    Raises: OSError.
    """
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(note, encoding="utf-8")
    draft.replace(path)


def read_marker(path: Path) -> SignedCheckpoint | None:
    """The head in a marker; None when there is none, or a crash left it empty or cut short."""
    try:
        return parse_signed_checkpoint(read_limited(path, NOTE_BYTES_MAX))
    except (OSError, MalformedError):
        return None


def read_own_head(data: bytes, origin: str, log_keys: Sequence[NoteVerifier]) -> SignedCheckpoint:
    """A checkpoint that a log signed itself. Raises: MalformedError, VerificationError."""
    head = parse_signed_checkpoint(data)
    if head.checkpoint.origin != origin:
        raise VerificationError(f"not a head of {origin}")
    verify_note(head.as_note(), log_keys)
    return head


def is_missing(store: LogStore, shown: SignedCheckpoint) -> bool:
    """Whether a store lacks a head: it is larger than the log, or has another root there.

    Raises: DamagedTreeError when a damaged tile leaves it open.
    """
    head = shown.head
    if head.tree_size > store.head().tree_size:
        return True
    return store.root_at(head.tree_size) != head.root_hash
