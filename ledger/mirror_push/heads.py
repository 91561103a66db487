"""The heads of a ledger that can be sent to mirrors, each held against the log here."""

from pathlib import Path
from typing import Final

from ledger.log.hold import is_missing, read_own_head
from ledger.log.mirror_peer import offered_path, read_head
from ledger.store.log import DamagedTreeError, LogStore
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import NoteVerifier, verify_note
from ledger_core.tlog.policy import Policy


class OwnHeads:
    """The heads of a ledger that can be sent: the offered one and the published one."""

    def __init__(self, directory: Path, log: LogStore, policy: Policy) -> None:
        self._offered: Final = offered_path(directory)
        self._log: Final = log
        self._origin: Final = log.origin()
        self._keys: Final[list[NoteVerifier]] = [each.verifier for each in policy.logs]

    def offered(self) -> tuple[int, SignedCheckpoint] | None:
        """The offered head and its number, None without one. Raises: VerificationError."""
        record = read_head(self._offered)
        if record is None:
            return None
        head = read_own_head(record.note.encode(), self._origin, self._keys)
        self._check(head)
        return record.number, head

    def published(self) -> SignedCheckpoint | None:
        """The published head with the log's own signatures. Raises: VerificationError."""
        head = self._log.published()
        if head is None:
            return None
        self._check(head)
        return SignedCheckpoint(head.checkpoint, verify_note(head.as_note(), self._keys))

    def is_lost(self, note: bytes) -> bool:
        """Whether somebody shows a head that this log has signed and does not have."""
        try:
            return is_missing(self._log, read_own_head(note, self._origin, self._keys))
        except (MalformedError, VerificationError, DamagedTreeError):
            return False

    def _check(self, head: SignedCheckpoint) -> None:
        """Nothing is sent under a head that the log does not have. Raises: VerificationError."""
        size = head.head.tree_size
        if size > self._log.head().tree_size or self._log.root_at(size) != head.head.root_hash:
            raise VerificationError(f"the log does not have the head of size {size} that it signed")
