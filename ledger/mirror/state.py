"""The state of a mirror: its last answers from the log, for `/readyz`, the metrics and `status`.

It is written to a file, so that `ledger mirror status` shows it whether the mirror runs or not. The
file isn't synced: after a crash an older one does no harm.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ledger.log.hold import write_marker
from ledger.runtime.records import CheckedRecord, encode_record, read_record
from ledger_client.runtime.clock import unix_s as system_unix_s
from ledger_core.tlog.errors import MalformedError

_log = structlog.get_logger("ledger.mirror")


class MirrorStatus(CheckedRecord, frozen=True, kw_only=True):
    """The content of `status.json`. Times are seconds since 1970, 0 for never.

    `log_size`: of the largest head that the log has shown. `untrue`: by what was asked for, `head`,
    `stream` or `entries`, an answer that is not true, until a later one is.
    """

    log_size: int = 0
    contact_at_unix_s: int = 0
    complete_at_unix_s: int = 0
    """When the mirror last held all that the log had published."""
    failing_since_unix_s: int = 0
    error: str = ""
    error_at_unix_s: int = 0
    untrue: dict[str, str] = msgspec.field(default_factory=dict)


class MirrorState:
    """The status in memory, and the file that has it. Used on the event loop alone."""

    def __init__(self, path: Path, *, unix_s: Callable[[], int] = system_unix_s) -> None:
        self._path: Final = path
        self._unix_s: Final = unix_s
        self.status = read_status(path)
        self._saved: MirrorStatus | None = None
        self._unsaved_why = ""

    def heard(self, log_size: int, *, held: int) -> None:
        """The log has answered, and its published head has this size."""
        now = self._unix_s()
        log_size = max(log_size, self.status.log_size)
        if self.status.failing_since_unix_s:
            _log.info("log_answers_again", after_s=now - self.status.failing_since_unix_s)
        self._set(log_size=log_size, contact_at_unix_s=now, failing_since_unix_s=0)
        self.kept(held)

    def kept(self, held: int) -> None:
        """The mirror holds so many entries."""
        if held >= self.status.log_size and not self.status.failing_since_unix_s:
            self._set(complete_at_unix_s=self._unix_s())

    def failed(self, error: str) -> None:
        """The log did not answer, or refused. A log line is written once a state."""
        now = self._unix_s()
        if not self.status.failing_since_unix_s or error != self.status.error:
            _log.warning("log_failed", reason=error)
        since = self.status.failing_since_unix_s or now
        self._set(error=error, error_at_unix_s=now, failing_since_unix_s=since)

    def lied(self, source: str, said: str) -> None:
        """The log gave an answer that is not true."""
        untrue = self.status.untrue
        if said != untrue.get(source):
            _log.critical("log_untrue", asked=source, reason=said)
        now = self._unix_s()
        self._set(untrue={**untrue, source: said}, error=said, error_at_unix_s=now)

    def answered_truly(self, source: str) -> None:
        """Forget an untrue answer: the same question was answered truly."""
        untrue = dict(self.status.untrue)
        if before := untrue.pop(source, None):
            _log.warning("log_true_again", asked=source, before=before)
            self._set(untrue=untrue)

    def lag_s(self, held: int) -> int:
        """Seconds since the mirror last knew that it held all that the log had published."""
        status = self.status
        if held >= status.log_size and not status.failing_since_unix_s:
            return 0
        return max(0, self._unix_s() - status.complete_at_unix_s) if status.log_size else 0

    def save(self) -> None:
        """Write the file if the status has changed. One line says that it can't be written."""
        if self.status == self._saved:
            return
        try:
            write_marker(self._path, encode_record(self.status).decode())
        except OSError as error:
            if str(error) != self._unsaved_why:
                _log.error("status_not_written", reason=str(error))
            self._unsaved_why = str(error)
            return
        if self._unsaved_why:
            _log.info("status_written_again", before=self._unsaved_why)
        self._saved, self._unsaved_why = self.status, ""

    def _set(self, **changes: int | str | dict[str, str]) -> None:
        self.status = msgspec.structs.replace(self.status, **changes)


def read_status(path: Path) -> MirrorStatus:
    """The status in a file; an empty one when there is none.

    One that can't be read, as after a crash, has nothing but an error that says so.
    """
    try:
        return read_record(path, MirrorStatus) or MirrorStatus()
    except (MalformedError, OSError) as error:
        return MirrorStatus(error=f"what the mirror knew before is lost: {error}")
