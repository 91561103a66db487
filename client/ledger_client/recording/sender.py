"""The background thread: sends batches from the spool, and frees what the ledger acknowledged.

Nothing is freed before the client has verified the acknowledgement. After any failure (no
connection, a 503, a revoked token, an answer that is garbage, an expired certificate, a ledger that
lies) the batch is sent again, at growing intervals, as long as the process lives, and the spool
grows meanwhile. An event becomes a dead letter only if it is refused itself: a request that fails
is repeated with fewer events of its directory, down to one, and then `probe` finds out.

The thread also adopts the directories that other recorders left in the same folder.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import msgspec

from ledger_client.errors import UnsettledError
from ledger_client.recording.dead_letters import NO_ANSWER, DeadLetters, redact
from ledger_client.recording.delivery import Delivery, masked_by_ledger
from ledger_client.recording.frames import Frame
from ledger_client.recording.meta_events import PREFIX, MetaEvents
from ledger_client.recording.open_segment import Position
from ledger_client.recording.options import RecorderOptions, SpoolClosedError
from ledger_client.recording.probe import REFUSALS, Failure, Probe, is_perhaps_of_event
from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_dir import (
    InstanceDir,
    adopt_orphans,
    bytes_of_other_instances,
)
from ledger_client.recording.spool_reader import Batch, SpoolReader
from ledger_client.results import Receipt, Rejected
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_client.runtime.clock import unix_us
from ledger_core.api import Problem
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import UnavailableError, VerificationError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient

SCAN_S: Final = 5.0
"""How often the folder is searched for orphans."""

META_EVENTS_S: Final = 10.0
"""How often drops are reported while they continue."""

DELAY_BASE_S: Final = 0.2
DELAY_MAX_S: Final = 30.0
HALVING_DELAY_MAX_S: Final = 1.0  # A search for one event among 500 has nine of these.
RETRY_AFTER_MAX_S: Final = 120.0
HURRIED_DELAY_S: Final = 0.1
"""The longest delay between attempts while a flush waits."""
ADOPTED_MAX: Final = 16

_log = logging.getLogger("ledger_client.recorder")

_FAILURES: Final = (UnavailableError, VerificationError, *REFUSALS)


class Counts(msgspec.Struct):
    """Counts of sent and rejected events, and failures. The sender writes, any thread reads."""

    sent: int = 0
    rejected: int = 0
    failures: int = 0
    """Consecutive ones, 0 while all is well."""
    last_failure: str | None = None


class Sender:
    """Sends the events of a spool. Its thread owns every attribute that names no other owner."""

    def __init__(
        self,
        spool: Spool,
        meta_events: MetaEvents,
        dead_letters: DeadLetters,
        *,
        options: RecorderOptions,
        connect: "Callable[[], LedgerClient]",
        on_removed: Callable[[], None],
    ) -> None:
        """`on_removed` is called when somebody has removed the directory. Raises: OSError."""
        self.counts: Final = Counts()
        self.file_lock: Final = threading.RLock()
        """Held while files are opened or closed; a fork takes it, to find them consistent."""
        self.acknowledged_seq = 0
        """The number of the last event of the recorder's own spool that the ledger has taken."""
        self._on_removed: Final = on_removed
        self._is_abandoned = False
        self._spool: Final = spool
        self._meta_events: Final = meta_events
        self._dead_letters: Final = dead_letters
        self._folder: Final[Path] = spool.instance_dir.path.parent
        self._delivery: Final = Delivery(connect)
        self._probe: Final = Probe(self._delivery)
        self._linger_s: Final = options.linger_s
        self._batch_events_max: Final = options.batch_events_max
        self._adopted: list[SpoolReader] = []
        self._is_own_turn = False
        self._scan_due_s = 0.0
        self._meta_events_due_s = 0.0
        self._own: Final = self._reader(spool.instance_dir, adopted=False)
        # The one kind of queue that a signal handler may put into while its thread does.
        self._wake: Final[SimpleQueue[None]] = SimpleQueue()
        self._hurry: Final = threading.Event()  # Set while a flush waits.
        self._stop: Final = threading.Event()
        self._progress: Final = threading.Condition()
        self._flushes_waiting = 0  # Guarded by _progress.
        self._thread: Final = threading.Thread(
            target=self._run, name="ledger-recorder", daemon=True
        )

    def start(self) -> None:
        """Start the thread. Raises: RuntimeError when the interpreter is about to end."""
        self._thread.start()

    def wake(self) -> None:
        """Wake the thread because there is something to send. Cheap; from any thread."""
        if self._wake.empty():
            self._wake.put(None)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up.

        From any thread.
        """
        with suppress(OSError, SpoolClosedError):
            self._meta_events.flush()
        target = self._spool.end_position

        def has_freed() -> bool:
            freed = self._own.freed_position
            return self._spool.appended == 0 or (freed is not None and freed >= target)

        with self._progress:
            self._flushes_waiting += 1
            self._hurry.set()
            self.wake()
            try:
                return self._progress.wait_for(has_freed, timeout_s)
            finally:
                self._flushes_waiting -= 1
                if not self._flushes_waiting and not self._stop.is_set():
                    self._hurry.clear()

    def stop(self, timeout_s: float) -> None:
        """End the thread, waiting so long for its request under way. From any thread."""
        self._stop.set()
        self._hurry.set()
        self.wake()
        if self._thread.ident is None:
            self._close()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def abandon(self) -> dict[int, bytes]:
        """Touch the directory no more, which was removed; the segment that is open, by its number.

        The thread ends after its request under way. From any thread.
        """
        with self.file_lock:
            self._is_abandoned = True
            self._stop.set()
            return self._own.open_segment()

    def close_files(self) -> None:
        """Close this process's copies of the files after a fork: they belong to the parent."""
        for reader in (self._own, *self._adopted):
            reader.close(remove=False)

    def _reader(self, instance_dir: InstanceDir, *, adopted: bool) -> SpoolReader:
        return SpoolReader(
            instance_dir,
            batch_events=self._batch_events_max,
            end_position=lambda: None if adopted else self._spool.end_position,
            on_freed=(lambda _: None) if adopted else self._spool.note_freed,
            on_damage=self._meta_events.note_damaged,
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._run_once()
            except SpoolClosedError:
                break  # Its session ends. What a meta event could not report is not freed.
            except Exception:  # noqa: BLE001 - the thread's top
                _log.exception("recorder_fault")
                self._stop.wait(DELAY_MAX_S)
        self._close()

    def _run_once(self) -> None:
        while not self._wake.empty():
            self._wake.get()
        now_s = time.monotonic()
        if now_s >= self._scan_due_s:
            self._scan_due_s = now_s + SCAN_S
            if self._spool.instance_dir.is_removed:
                self._on_removed()
                return
            self._scan_folder()
        if now_s >= self._meta_events_due_s and self._meta_events.is_pending:
            self._meta_events_due_s = now_s + META_EVENTS_S
            self._flush_meta_events()
        try:
            with self.file_lock:
                found = None if self._is_abandoned else self._next_batch()
        except OSError as error:
            self._back_off(self._own, error)
            return
        if found is None:
            self._notify_progress()
            with suppress(Empty):
                self._wake.get(timeout=SCAN_S)
            return
        reader, batch = found
        if self._send(reader, batch) and len(batch.frames) < reader.batch_events:
            # A request for each event would cost too much: wait for some more.
            self._hurry.wait(self._linger_s)

    def _next_batch(self) -> tuple[SpoolReader, Batch] | None:
        """The next batch, alternating between the recorder's own spool and adopted ones."""
        self._is_own_turn = not self._is_own_turn
        self._spool.rotate(self._own.freed_position)
        own = [self._own]
        for reader in own + self._adopted if self._is_own_turn else self._adopted + own:
            if reader is not self._own:
                # Each has its turn, also while one can't be read or sent.
                self._adopted.remove(reader)
                self._adopted.append(reader)
            batch = reader.read(reader.batch_events)
            if batch is not None:
                return reader, batch
            if reader is not self._own:
                self._adopted.remove(reader)
                reader.close(remove=True)
                self._scan_due_s = 0.0
        return None

    def _scan_folder(self) -> None:
        instance = self._spool.instance_dir.instance
        with self.file_lock, suppress(OSError):
            self._spool.others_bytes = bytes_of_other_instances(self._folder, instance)
            orphans = adopt_orphans(self._folder)
            for orphan in islice(orphans, ADOPTED_MAX - len(self._adopted)):
                try:
                    self._adopted.append(self._reader(orphan, adopted=True))
                except OSError:
                    orphan.release_lock()  # Or nobody could adopt it, the next search neither.

    def _send(self, reader: SpoolReader, batch: Batch) -> bool:
        """Send one batch and acknowledge it; False after a failure."""
        try:
            outcomes = self._delivery.append(batch.frames)
        except (*REFUSALS, UnavailableError) as error:
            if len(batch.frames) == 1 and is_perhaps_of_event(error):
                return self._decide(reader, error)
            self._back_off(reader, error)
            return False
        except VerificationError as error:
            problem = masked_by_ledger(error)
            if problem is None:
                self._back_off(reader, error)
                return False
            if len(batch.frames) > 1:
                # Sent one by one, the events show which of them was masked.
                reader.batch_events = 1
                return True
            outcomes = [Rejected(id=None, problem=problem, is_sent=True)]
        self._acknowledge(reader, batch, outcomes)
        return True

    def _decide(self, reader: SpoolReader, error: Failure) -> bool:
        """Find out whether it is the event of a request that fails; False after a failure."""
        others: list[Frame] = []
        try:
            with self.file_lock:
                batch = reader.read(self._batch_events_max)
                if batch is None:
                    return False  # It was removed meanwhile.
                first, *behind = batch.frames
                readers = [self._own, *self._adopted]
                others = self._probe.find_others(error, first, behind, reader, readers)
            outcomes = self._probe.decide(error, reader.instance_dir, first, others)
            sent = Batch([first], Position(batch.end.segment, first.end))
            self._acknowledge(reader, sent, outcomes)
        except (OSError, *_FAILURES) as failure:
            self._back_off(reader, failure)
            if not self._stop.is_set():
                self._probe.try_others(reader.instance_dir, others)
            return False
        return True

    def _acknowledge(
        self, reader: SpoolReader, batch: Batch, outcomes: list[Receipt | Rejected]
    ) -> None:
        """Keep the rejected events of a verified batch as dead letters, and free the batch.

        Window: a crash before `free` sends the batch again. The dead letters may then be in their
        file twice, and are never missing from it.
        """
        taken = []
        for frame, outcome in zip(batch.frames, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                self._dead_letter(reader.instance_dir.instance, frame, outcome.problem)
            else:
                self.counts.sent += 1
                taken.append(frame)
        self._probe.note_taken(reader.instance_dir.instance, taken)
        if self._meta_events.is_pending:
            self._flush_meta_events()
        with self.file_lock:
            reader.free(batch.end)
        if reader is self._own:
            self.acknowledged_seq = batch.frames[-1].seq
        if self.counts.failures:
            _log.warning("recorder_sends_again failures=%d", self.counts.failures)
            self.counts.failures = 0
            self.counts.last_failure = None
        reader.batch_events = min(self._batch_events_max, reader.batch_events * 2)
        self._notify_progress()

    def _dead_letter(self, instance: str, frame: Frame, problem: Problem) -> None:
        """Raises: UnavailableError where no dead letter can be kept and the spool still can."""
        event = redact(frame.event(), problem)
        by = "ledger" if problem.status else "recorder"
        is_kept = False
        try:
            is_kept = self._dead_letters.append(event, problem, by=by, at=format_time(unix_us()))
        except OSError as error:
            _log.error("dead_letter_failed reason=%s", error.strerror)
        if not is_kept and problem.type == NO_ANSWER:
            raise UnavailableError("an event gets no answer, and its dead letter can't be kept")
        self.counts.rejected += 1
        _log.warning(
            "event_rejected instance=%s seq=%d rule=%s field=%s",
            *(instance, frame.seq, problem.slug, problem.field),
        )
        # A rejected meta event makes no other one: that would never end.
        if not str(event.get("action", "")).startswith(PREFIX):
            seq_of = {"instance": instance, "seq": frame.seq}
            self._meta_events.note_rejected(event, problem, seq_of=seq_of, is_kept=is_kept)

    def _back_off(self, reader: SpoolReader, error: Failure | VerificationError | OSError) -> None:
        """Wait before the next attempt. The first failure in a row is logged."""
        if isinstance(error, OSError):
            error = UnavailableError(f"the spool can't be read: {error.strerror or error}")
        counts = self.counts
        counts.failures += 1
        reason = error.cause if isinstance(error, UnsettledError) else error
        counts.last_failure = f"{type(reason).__name__}: {reason}"
        if counts.failures == 1:
            _log.warning(
                "recorder_cannot_send reason=%s kept_in=%s waiting=%d: will retry",
                counts.last_failure,
                self._folder,
                self._spool.appended - counts.sent - counts.rejected,
            )
        most_s = DELAY_MAX_S if reader.batch_events == 1 else HALVING_DELAY_MAX_S
        reader.batch_events = max(1, reader.batch_events // 2)
        limit_s = exponential_s(counts.failures, base_s=DELAY_BASE_S, limit_s=most_s)
        delay_s = spread(limit_s, random.random())  # noqa: S311 - it only spreads load
        if isinstance(error, UnavailableError) and error.retry_after_s is not None:
            delay_s += min(error.retry_after_s, RETRY_AFTER_MAX_S)
        if self._hurry.is_set():
            self._stop.wait(min(delay_s, HURRIED_DELAY_S))
        else:
            self._hurry.wait(delay_s)

    def _flush_meta_events(self) -> None:
        try:
            self._meta_events.flush()
        except OSError as error:
            _log.error("meta_event_failed reason=%s", error.strerror)

    def _notify_progress(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _close(self) -> None:
        """Close every file, and remove the own directory if everything in it was sent."""
        with self.file_lock:
            for reader in self._adopted:
                reader.close(remove=False)
            self._adopted.clear()
            is_empty = False
            with suppress(OSError, SpoolClosedError):
                is_empty = not self._is_abandoned and self._own.read(1) is None
                is_empty = is_empty and not self._meta_events.is_pending
            self._own.close(remove=is_empty)
        self._delivery.close()
