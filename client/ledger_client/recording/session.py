"""Per-process state of a `Recorder`: its instance id, spool, sender and threads.

A recorder creates its session when there is something to record or to send. A forked child creates
its own.

When the spool is full, `append` acts as `on_full` says. "block" waits for room, but after one wait
in vain it drops at once until there is room again: an application with a hundred requests a second
must not wait a hundred times for a ledger that is down. A dropped event uses up its number, and
`ledger.recorder.dropped` reports it. "raise" uses up no number.

When the disk refuses to write, `append` raises OSError, and the recorder decides. When the disk
takes an event and refuses to sync it with fsync="each", `on_full` decides here: the event is in the
spool, and stays there.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger_client.event_values import new_event_id
from ledger_client.recording.dead_letters import DeadLetters, problem_of
from ledger_client.recording.encoding import EncodedEvent, encode_checked, own_fields
from ledger_client.recording.frames import seqs_of_segment
from ledger_client.recording.meta_events import Fields, Lost, MetaEvents
from ledger_client.recording.options import (
    RecorderOptions,
    RecorderStatus,
    SpoolClosedError,
    SpoolFullError,
)
from ledger_client.recording.sender import Sender
from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_dir import adopt_orphans, create_instance_dir, save_segments
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import LEAF_BYTES_MAX
from ledger_core.event.model import EventError
from ledger_core.event.times import format_time

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient

SEGMENT_BYTES_MAX: Final = 8 << 20
SEGMENTS_MIN: Final = 8
"""A small spool gets smaller segments, so that its limit holds at least this many."""

START_RETRY_S: Final = 5.0
SYNC_RETRY_S: Final = 0.05
NOT_DURABLE: Final = (
    "events_not_durable spool=%s reason=%s: they are lost if the machine fails before they are sent"
)
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
        self,
        folder: Path,
        options: RecorderOptions,
        *,
        connect: "Callable[[], LedgerClient]",
        on_unwritten: Callable[[EncodedEvent, Exception], None],
        on_removed: "Callable[[RecorderSession], None]",
    ) -> None:
        """Create the directory and start the threads. Raises: OSError, and leaves nothing.

        `on_unwritten` is that of `Spool`. `on_removed` is called by a thread of the session when it
        finds that the directory was removed.
        """
        bytes_max = options.spool_bytes_max
        self.instance: Final = new_event_id()
        self._folder: Final = folder
        instance_dir = create_instance_dir(folder, self.instance)
        self.spool: Final = Spool(
            instance_dir,
            bytes_max=bytes_max,
            segment_bytes_max=min(SEGMENT_BYTES_MAX, bytes_max // SEGMENTS_MIN),
            fsync=options.fsync,
            on_unwritten=on_unwritten,
        )
        self._options: Final = options
        self._dead_letters: Final = DeadLetters(folder)
        self._meta_events: Final = MetaEvents(self.spool, self._append_meta_event)
        try:
            self.sender: Final = Sender(
                self.spool,
                self._meta_events,
                self._dead_letters,
                options=options,
                connect=connect,
                on_removed=lambda: on_removed(self),
            )
        except BaseException:
            instance_dir.remove()
            raise
        self._is_full = False  # Guarded by the spool's lock.
        self._is_unsafe = False  # Whether the last sync failed, with fsync="each".
        self._syncer: Final = _PeriodicSync(self.spool, options.fsync_interval_s)
        self._is_started = False
        self._start_due_s = 0.0
        self._start()

    def _start(self) -> None:
        """Start the threads, now or later.

        Python 3.11 waits for ever for a thread that starts while the interpreter ends. Events of
        then wait in the spool for the next recorder.
        """
        if sys.is_finalizing() or time.monotonic() < self._start_due_s:
            return
        self._start_due_s = time.monotonic() + START_RETRY_S
        try:
            self.sender.start()
            if self._options.fsync == "interval":
                self._syncer.start()
        except RuntimeError as error:
            # At the end of the interpreter, and where the system allows no more threads.
            _log.error("sender_not_started reason=%s: the events wait in the spool", error)
        else:
            self._is_started = True

    @property
    def may_wait(self) -> bool:
        """Whether `append` may wait for room: the largest event would not fit."""
        if self._options.on_full != "block" or self._is_full:
            return False
        return not self.spool.has_room(LEAF_BYTES_MAX)

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed the directory, or put another one in its place."""
        return self.spool.instance_dir.is_removed

    def status(self) -> RecorderStatus:
        """Counts of the events so far, and the last failure to send."""
        counts = self.sender.counts
        return RecorderStatus(
            instance=self.instance,
            recorded=self.spool.appended,
            sent=counts.sent,
            rejected=counts.rejected,
            spooled_bytes=self.spool.bytes_held,
            failures=counts.failures,
            last_failure=counts.last_failure,
        )

    def append(self, event: EncodedEvent) -> bool:
        """Spool one event and wake the sender; False when it was dropped, or is not durable.

        Raises: SpoolFullError, SpoolClosedError; OSError when the disk refuses to write.
        """
        place = self._append_or_drop(event)
        is_kept = place is not None
        if place is not None and self._options.fsync == "each":
            is_kept = self._make_durable(place)
        if is_kept and self._meta_events.is_pending:
            self._flush_meta_events()
        if not self._is_started:
            self._start()
        self.sender.wake()
        return is_kept

    def report_lost(self, lost: Lost | int) -> None:
        """Report events of another session that are gone, or so many that no spool ever had.

        Raises: SpoolClosedError.
        """
        if isinstance(lost, Lost):
            self._meta_events.note_lost(lost)
        else:
            for _ in range(lost):
                self._meta_events.note_dropped(self.spool.skip_number())
        self._flush_meta_events()

    def dead_letter(self, event: dict[str, Any], error: EventError) -> bool:
        """Keep a masked event with a mistake as a dead letter, and report it in a meta event.

        False when the file is full or can't be written.
        """
        problem = problem_of(error)
        is_kept = False
        try:
            is_kept = self._dead_letters.append(
                event,
                problem,
                by="recorder",
                at=_now(),
                # A wait for the disk stops an event loop, and each greenlet beside this one.
                is_synced=self._options.fsync == "each",
            )
        except OSError as failure:
            _log.error("dead_letter_failed reason=%s", failure.strerror)
        _log.warning("event_invalid rule=%s field=%s", problem.slug, problem.field)
        self._meta_events.note_rejected(event, problem, seq_of=None, is_kept=is_kept)
        self._flush_meta_events()
        self.sender.wake()
        return is_kept

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up."""
        return self.sender.flush(timeout_s)

    def end(self, timeout_s: float) -> bool:
        """Flush and stop; False when events stay in the spool for another session."""
        if self.is_removed:
            self.abandon()
            return False
        is_sent = self.sender.flush(timeout_s)
        self._flush_meta_events()
        try:
            self.spool.close()
        except OSError as error:
            _log.error("sync_failed reason=%s", error.strerror)
        self._syncer.stopping.set()
        self.sender.stop(STOP_S)
        return is_sent

    def abandon(self) -> Lost | None:
        """End a session whose directory was removed, and save the events whose files are open.

        They are written to the folder again, for the next session to send. Returns the numbers of
        those that are gone.
        """
        self._syncer.stopping.set()
        segments = self.sender.abandon() | self.spool.abandon()
        self.sender.stop(0.0)
        saved: set[int] = set()
        try:
            save_segments(self._folder, self.instance, segments)
            saved = {seq for data in segments.values() for seq in seqs_of_segment(data)}
        except OSError as error:
            _log.error("events_not_saved reason=%s", error.strerror)
        numbers = range(self.sender.acknowledged_seq + 1, self.spool.last_seq + 1)
        lost = [seq for seq in numbers if seq not in saved]
        _log.error(
            "spool_removed spool=%s saved=%d lost=%d: it is made again",
            self._folder,
            len(saved),
            len(lost),
        )
        return Lost(self.instance, lost) if lost else None

    def close_files(self) -> None:
        """Close this process's copies of the files after a fork: they belong to the parent."""
        self.spool.close_files()
        self.sender.close_files()

    def acquire_locks(self) -> None:
        """Take the locks, so that a forked child finds consistent state."""
        self.sender.file_lock.acquire()
        self.spool.lock.acquire()

    def release_locks(self) -> None:
        """Release the locks."""
        self.spool.lock.release()
        self.sender.file_lock.release()

    def _append_or_drop(self, event: EncodedEvent) -> int | None:
        """Append an event; its place, or None when it was dropped for a full spool."""
        spool, on_full = self.spool, self._options.on_full
        deadline_s: float | None = None
        with spool.lock:
            while not spool.has_room(event.byte_count):
                if on_full == "raise":
                    raise SpoolFullError("the spool takes no more events: it is at its limit")
                if deadline_s is None:
                    deadline_s = time.monotonic() + self._options.block_s
                left_s = deadline_s - time.monotonic()
                if on_full == "drop" or self._is_full or left_s <= 0:
                    self._drop()
                    return None
                spool.room.wait(left_s)
            place = spool.append(event)
            if self._is_full:
                self._is_full = False
                _log.warning("spool_has_room spool=%s", self._folder)
            return place

    def _drop(self) -> None:
        if not self._is_full:
            self._is_full = True
            _log.error(
                "events_dropped spool=%s: it has reached spool_bytes_max=%d; see why the ledger"
                " takes nothing (recorder_cannot_send), or raise the limit",
                self._folder,
                self._options.spool_bytes_max,
            )
        self._meta_events.note_dropped(self.spool.skip_number())

    def _make_durable(self, place: int) -> bool:
        """Sync; False when the disk does not, and `on_full` is not "raise"."""
        deadline_s = time.monotonic() + self._options.block_s
        while True:
            try:
                self.spool.sync()
            except OSError as error:
                is_blocking = self._options.on_full == "block" and not self._is_unsafe
                if is_blocking and time.monotonic() < deadline_s:
                    time.sleep(SYNC_RETRY_S)
                    continue
                self.spool.give_up(place)
                if self._options.on_full == "raise":
                    message = f"the spool is not durable: {error.strerror}; the event may be lost"
                    raise SpoolFullError(message) from error
                if not self._is_unsafe:
                    self._is_unsafe = True
                    _log.error(NOT_DURABLE, self._folder, error.strerror)
                return False
            self._is_unsafe = False
            return True

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


class _PeriodicSync(threading.Thread):
    """Syncs the spool once an interval, even while the sender waits, until `stopping` is set."""

    def __init__(self, spool: Spool, interval_s: float) -> None:
        super().__init__(name="ledger-sync", daemon=True)
        self.stopping: Final = threading.Event()
        self._spool: Final = spool
        self._interval_s: Final = interval_s

    def run(self) -> None:
        is_failing = False
        while not self.stopping.wait(self._interval_s):
            try:
                self._spool.sync()
                is_failing = False
            except OSError as error:
                # To write them again each second would fill the disk.
                self._spool.give_up()
                if not is_failing:
                    path = self._spool.instance_dir.path
                    _log.error(NOT_DURABLE, path.parent, error.strerror)
                is_failing = True


def _now() -> str:
    return format_time(unix_us())
