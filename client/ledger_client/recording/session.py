"""Per-process state of a `Recorder`: its instance id, spool, sender and threads.

A recorder creates its session when there is something to record or to send. A forked child creates
its own.

When the spool is full, or its disk refuses to write, `append` acts as `on_full` says. "block" waits
for room, but after one wait in vain it drops at once until there is room again: an application with
a hundred requests a second must not wait a hundred times for a ledger that is down. A dropped event
uses up its number, and `ledger.recorder.dropped` reports it. "raise" uses up no number.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger_client.event_values import new_event_id
from ledger_client.recording.dead_letters import DeadLetters, problem_of
from ledger_client.recording.encoding import EncodedEvent, encode_checked, own_fields
from ledger_client.recording.meta_events import Fields, MetaEvents
from ledger_client.recording.options import RecorderOptions, SpoolClosedError, SpoolFullError
from ledger_client.recording.sender import Sender
from ledger_client.recording.spool import PeriodicSync, Spool
from ledger_client.recording.spool_dir import adopt_orphans, create_instance_dir
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import LEAF_BYTES_MAX, format_time
from ledger_core.event.model import EventError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient

SEGMENT_BYTES_MAX: Final = 8 << 20
SEGMENTS_MIN: Final = 8
"""A small spool gets smaller segments, so that its limit holds at least this many."""

STOP_S: Final = 1.0
"""How long the end of a session waits for a request under way, after the flush."""

_log = logging.getLogger("ledger_client.recorder")


def has_orphans(folder: Path) -> bool:
    """Whether the spool folder has a directory whose recorder is gone."""
    for orphan in adopt_orphans(folder):
        orphan.release_lock()
        return True
    return False


class RecorderSession:
    """Starts when it is made; `end` ends it."""

    def __init__(
        self, folder: Path, options: RecorderOptions, *, connect: "Callable[[], LedgerClient]"
    ) -> None:
        """Create the directory and start the threads. Raises: OSError."""
        bytes_max = options.spool_bytes_max
        self.instance: Final = new_event_id()
        self.spool: Final = Spool(
            create_instance_dir(folder, self.instance),
            bytes_max=bytes_max,
            segment_bytes_max=min(SEGMENT_BYTES_MAX, bytes_max // SEGMENTS_MIN),
            fsync=options.fsync,
        )
        self._options: Final = options
        self._dead_letters: Final = DeadLetters(folder)
        self._meta_events: Final = MetaEvents(self.spool, self._append_meta_event)
        self.sender: Final = Sender(
            self.spool, self._meta_events, self._dead_letters, options=options, connect=connect
        )
        self._is_full = False  # Guarded by the spool's lock.
        self._syncer: Final = PeriodicSync(self.spool, options.fsync_interval_s)
        # Window: at the very end of the interpreter no thread starts. Events of then wait in the
        # spool for the next recorder.
        with suppress(RuntimeError):
            self.sender.start()
            if options.fsync == "interval":
                self._syncer.start()

    @property
    def may_wait(self) -> bool:
        """Whether `append` may wait for room: the largest event would not fit."""
        if self._options.on_full != "block" or self._is_full:
            return False
        return not self.spool.has_room(LEAF_BYTES_MAX)

    def append(self, event: EncodedEvent) -> bool:
        """Spool one event and wake the sender; False when it was dropped.

        Raises: SpoolFullError, SpoolClosedError.
        """
        is_kept = self._append_or_drop(event)
        if self._options.fsync == "each":
            try:
                self.spool.sync()
            except OSError as error:
                _log.error("sync_failed reason=%s", error.strerror)
        if is_kept and self._meta_events.is_pending:
            self._flush_meta_events()
        self.sender.wake()
        return is_kept

    def dead_letter(self, event: dict[str, Any], error: EventError) -> None:
        """Keep a masked event with a mistake as a dead letter, and report it in a meta event."""
        problem = problem_of(error)
        is_kept = False
        try:
            is_kept = self._dead_letters.append(event, problem, by="recorder", at=_now())
        except OSError as failure:
            _log.error("dead_letter_failed reason=%s", failure.strerror)
        _log.warning("event_invalid rule=%s field=%s", problem.slug, problem.field)
        self._meta_events.note_rejected(event, problem, seq_of=None, is_kept=is_kept)
        self._flush_meta_events()
        self.sender.wake()

    def end(self, timeout_s: float) -> bool:
        """Flush and stop; False when events stay in the spool for another session."""
        is_sent = self.sender.flush(timeout_s)
        self._flush_meta_events()
        try:
            self.spool.close()
        except OSError as error:
            _log.error("sync_failed reason=%s", error.strerror)
        self._syncer.stopping.set()
        self.sender.stop(STOP_S)
        return is_sent

    def close_files(self) -> None:
        """Close this process's copies of the files after a fork: they belong to the parent."""
        self.spool.close_files()
        self.sender.close_files()

    def _append_or_drop(self, event: EncodedEvent) -> bool:
        spool, on_full = self.spool, self._options.on_full
        deadline_s: float | None = None
        with spool.lock:
            while True:
                failure: OSError | None = None
                if spool.has_room(event.byte_count):
                    try:
                        spool.append(event)
                    except OSError as error:
                        failure = error
                    else:
                        self._is_full = False
                        return True
                if on_full == "raise":
                    reason = "it is at its limit" if failure is None else failure.strerror
                    raise SpoolFullError(f"the spool takes no more events: {reason}") from failure
                if deadline_s is None:
                    deadline_s = time.monotonic() + self._options.block_s
                left_s = deadline_s - time.monotonic()
                if on_full == "drop" or self._is_full or left_s <= 0:
                    self._is_full = True
                    self._meta_events.note_dropped(spool.skip_number())
                    return False
                spool.room.wait(left_s)

    def _flush_meta_events(self) -> None:
        with suppress(OSError, SpoolClosedError):
            self._meta_events.flush()

    def _append_meta_event(self, fields: Fields) -> None:
        event: dict[str, Any] = {
            "id": new_event_id(),
            "time": _now(),
            "actor": {"type": "recorder", "id": self.instance},
            "outcome": "failure",
            **own_fields(self._options.default_scope()),
            **fields,
        }
        try:
            encoded = encode_checked(event)
        except EventError:
            _log.exception("meta_event_invalid")
            return
        self.spool.append(encoded)


def _now() -> str:
    return format_time(unix_us())
