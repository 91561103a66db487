"""What a recorder has in one process: a numbered spool, the threads, and an instance of its own.

A life begins when there is something to record or to send. A forked child gets a new one.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ledger_client.ids import new_event_id
from ledger_client.recording.context import AuditContext
from ledger_client.recording.dead_letters import DeadLetters, problem_of
from ledger_client.recording.encoding import recorder_json, split_event
from ledger_client.recording.meta_events import Fields, Notices
from ledger_client.recording.options import Fsync, OnFull, SpoolClosedError
from ledger_client.recording.overflow import Overflow
from ledger_client.recording.sender import Sender
from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_dir import make_home, take_abandoned
from ledger_client.recording.syncing import Syncer
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import format_time
from ledger_core.event.model import EventError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient

SEGMENT_BYTES_MAX: Final = 8 << 20
SEGMENTS_MIN: Final = 8
"""The limit has room for so many segments: a small one makes them smaller too."""

STOP_S: Final = 1.0
"""How long an ending life waits for a request that is under way, after the flush."""

_log = logging.getLogger("ledger_client.recorder")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a recorder spools and sends."""

    folder: Path
    fsync: Fsync
    fsync_interval_s: float
    on_full: OnFull
    block_s: float
    bytes_max: int
    linger_s: float
    batch_events_max: int


def has_left_overs(folder: Path) -> bool:
    """Tell that something lies in the spool folder and nobody looks after it."""
    for home in take_abandoned(folder):
        home.leave()
        return True
    return False


class RecorderSession:
    """Begins when it is made; `end` ends it."""

    def __init__(
        self, settings: Settings, *, connect: "Callable[[], LedgerClient]", defaults: AuditContext
    ) -> None:
        """Make the directory and start the threads. Raises: OSError."""
        dead_letters = DeadLetters(settings.folder)
        home = make_home(settings.folder, new_event_id())
        self.instance: Final = home.instance
        self.number_head, self.number_tail = recorder_json(home.instance)
        self.spool: Final = Spool(
            home,
            bytes_max=settings.bytes_max,
            segment_bytes_max=min(SEGMENT_BYTES_MAX, settings.bytes_max // SEGMENTS_MIN),
            fsync=settings.fsync,
        )
        self.notices: Final = Notices(self.spool, self._write_notice)
        self.overflow: Final = Overflow(
            self.spool, self.notices, on_full=settings.on_full, block_s=settings.block_s
        )
        self.sender: Final = Sender(
            self.spool,
            self.notices,
            dead_letters,
            folder=settings.folder,
            connect=connect,
            linger_s=settings.linger_s,
            batch_events_max=settings.batch_events_max,
        )
        self._syncer: Final = (
            Syncer(self.spool, settings.fsync_interval_s) if settings.fsync == "interval" else None
        )
        self._defaults: Final = defaults
        self._dead_letters: Final = dead_letters
        # At the very end of the interpreter no thread starts; what is recorded then waits.
        with suppress(RuntimeError):
            self.sender.start()
            if self._syncer is not None:
                self._syncer.start()

    def keep(self, head: bytes, tail: bytes) -> bool:
        """Spool one event, number and all; False when it was dropped.

        Raises: SpoolFullError, SpoolClosedError.
        """
        is_kept = self.overflow.keep(head + self.number_head, self.number_tail + tail)
        try:
            self.spool.sync_each()
        except OSError as error:
            _log.error("sync_failed reason=%s", error.strerror)
        if is_kept and self.notices.is_waiting:
            self.settle()
        self.sender.wake()
        return is_kept

    def bury(self, event: dict[str, Any], error: EventError) -> None:
        """Keep what is no event, and may be shown, with the dead letters; and say so in one."""
        problem = problem_of(error)
        is_kept = False
        try:
            is_kept = self._dead_letters.add(event, problem, by="recorder", at=_now())
        except OSError as failure:
            _log.error("dead_letter_failed reason=%s", failure.strerror)
        _log.warning("event_invalid rule=%s field=%s", problem.slug, problem.field)
        self.notices.rejected(event, problem, number=None, is_kept=is_kept)
        self.settle()
        self.sender.wake()

    def settle(self) -> None:
        """Write down what the recorder itself has to tell, if the disk lets it."""
        with suppress(OSError, SpoolClosedError):
            self.notices.settle()

    def end(self, timeout_s: float) -> bool:
        """Flush and stop; False when something stays in the spool for another time."""
        is_sent = self.sender.flush(timeout_s)
        self.settle()
        try:
            self.spool.close()
        except OSError as error:
            _log.error("sync_failed reason=%s", error.strerror)
        if self._syncer is not None:
            self._syncer.stop()
        self.sender.stop(STOP_S)
        return is_sent

    def abandon(self) -> None:
        """Let go of all files after a fork: they are the parent's."""
        self.spool.abandon()
        self.sender.abandon()

    def _write_notice(self, fields: Fields) -> None:
        event: dict[str, Any] = {
            "id": new_event_id(),
            "time": _now(),
            "actor": {"type": "recorder", "id": self.instance},
            "outcome": "failure",
            **{
                name: self._defaults[name]
                for name in ("source", "tenant")
                if name in self._defaults
            },
            **fields,
        }
        try:
            head, tail = split_event(event)
        except EventError:
            _log.exception("notice_invalid")
            return
        self.spool.append(head + self.number_head, self.number_tail + tail)


def _now() -> str:
    return format_time(unix_us())
