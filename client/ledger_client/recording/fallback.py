"""The fallback for events that the spool does not take: memory first, then standard error.

A spool folder may be removed, belong to another user, or be on a disk that refuses to write. The
application's work is done by then, so `record` does not raise. The event is kept in memory, and a
thread tries again and again to

1. write it to the spool, when that takes events again, and else
2. send it to the ledger directly.

What memory has no room for, and what is left in it when the process ends, is written to standard
error: one line for each event, its JSON, with secrets masked and without private values.
`ledger import --format jsonl` reads such lines.

An event that was sent has a number of the fallback, which is an instance of its own. It keeps that
number and its bytes until the ledger has acknowledged it, since the ledger may have it already.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ledger_client.errors import RejectedError
from ledger_client.event_values import new_event_id
from ledger_client.recording.dead_letters import problem_of, redact
from ledger_client.recording.delivery import Delivery
from ledger_client.recording.frames import Frame
from ledger_client.recording.options import SpoolFullError
from ledger_client.results import Rejected
from ledger_client.runtime.backoff import exponential_s
from ledger_core.event.model import EventError
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient
    from ledger_client.recording.encoding import EncodedEvent

MEMORY_BYTES_MAX: Final = 4 << 20
BATCH_EVENTS_MAX: Final = 500
RETRY_MIN_S: Final = 0.2
RETRY_MAX_S: Final = 30.0
STOP_S: Final = 1.0
STDERR_FD: Final = 2

_log = logging.getLogger("ledger_client.recorder")


class Fallback:
    """The events of one process that its spool did not take. Safe from many threads."""

    def __init__(
        self,
        *,
        spool_event: "Callable[[EncodedEvent], object]",
        report_lost: Callable[[int], None],
        connect: "Callable[[], LedgerClient]",
    ) -> None:
        """`spool_event` spools one event, `report_lost` reports so many events that are gone.

        Both raise OSError while there is no spool. Neither is called under a lock.
        """
        self._spool_event: Final = spool_event
        self._report_lost: Final = report_lost
        self._delivery: Final = Delivery(connect)
        self._instance: Final = new_event_id()
        self._changed: Final = threading.Condition(threading.RLock())
        # Guarded by _changed, up to the blank line.
        self.waiting = 0
        """The number of events in memory."""
        self._events: deque[EncodedEvent] = deque()
        self._bytes = 0
        self._lost = 0
        self._cause: tuple[str, str] | None = None
        self._thread: threading.Thread | None = None
        self._flushes = 0
        self._is_ending = False

        # For the thread alone.
        self._unacknowledged: list[Frame] = []
        self._next_seq = 1

    def store(self, event: "EncodedEvent", *, cause: str) -> None:
        """Keep one event, or write it to standard error. `cause` says why it comes here."""
        with self._changed:
            if self._bytes + event.byte_count <= MEMORY_BYTES_MAX and not self._is_ending:
                self._events.append(event)
                self._bytes += event.byte_count
                self.waiting += 1
                where = "kept in memory"
            else:
                self.write(event)
                self._lost += 1
                where = "written to standard error"
            self._start_thread()
            is_new = (cause, where) != self._cause
            self._cause = (cause, where)
        if is_new:
            _log.error("spool_takes_no_events reason=%s: they are %s; will retry", cause, where)

    def write(self, event: "EncodedEvent") -> None:
        """Write one event as a line of JSON to standard error, past every buffer and lock."""
        _write_json(event.as_event())

    def write_letter(self, letter: dict[str, Any], error: EventError) -> None:
        """Write a dead letter that could not be kept to standard error."""
        _write_json(redact(letter, problem_of(error)))

    def flush(self, timeout_s: float) -> bool:
        """Wait until no event is in memory; False when time is up."""
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self.waiting, timeout_s)
            finally:
                self._flushes -= 1

    def end(self, timeout_s: float) -> bool:
        """Flush, and write the rest to standard error; False if there was any."""
        is_empty = not self.waiting or self.flush(timeout_s)
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(STOP_S)
        with self._changed:
            # Window: the exit of the process ends this again after `close`.
            unacknowledged, self._unacknowledged = self._unacknowledged, []
            for frame in unacknowledged:
                _write_json(frame.event())
            while self._events:
                self.write(self._events.popleft())
            self.waiting = 0
        return is_empty

    def _start_thread(self) -> None:
        if self._thread is None and not self._is_ending:
            thread = threading.Thread(target=self._run, name="ledger-fallback", daemon=True)
            with suppress(RuntimeError):  # No thread may be started: the next event tries again.
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        failures = 0
        while self._wait(exponential_s(failures, base_s=RETRY_MIN_S, limit_s=RETRY_MAX_S)):
            try:
                is_done = self._spool_all() or self._send_some()
            except Exception as error:  # noqa: BLE001 - the thread's top
                if not failures:
                    _log.error("fallback_failed error=%s", type(error).__name__)
                is_done = False
            failures = 0 if is_done else failures + 1

    def _wait(self, wait_s: float) -> bool:
        """Wait for the next attempt; False when there is none. A flush shortens the wait."""
        began_s = time.monotonic()
        with self._changed:
            while not self._is_ending:
                if not (self.waiting or self._lost):
                    break
                limit_s = RETRY_MIN_S if self._flushes else wait_s
                left_s = began_s + limit_s - time.monotonic()
                if left_s <= 0:
                    return True
                self._changed.wait(left_s)
            self._delivery.close()
            self._thread = self._cause = None
        return False

    def _spool_all(self) -> bool:
        """Spool the events that were never sent, and report lost ones; whether that succeeded."""
        try:
            while (event := self._take()) is not None:
                try:
                    self._spool_event(event)
                except BaseException:
                    with self._changed:
                        self._events.appendleft(event)
                    raise
                self._note_done(event.byte_count)
            if self._lost:
                self._report_lost(self._lost)
                self._lost = 0
        except (OSError, SpoolFullError):
            return False
        return not self._unacknowledged

    def _take(self) -> "EncodedEvent | None":
        with self._changed:
            return self._events.popleft() if self._events else None

    def _send_some(self) -> bool:
        """Send events to the ledger; whether that succeeded."""
        instance = self._instance.encode()
        while len(self._unacknowledged) < BATCH_EVENTS_MAX:
            event = self._take()
            if event is None:
                break
            sent_json = event.numbered(instance, self._next_seq)
            self._unacknowledged.append(Frame(self._next_seq, sent_json, event.byte_count))
            self._next_seq += 1
        frames = self._unacknowledged
        if not frames:
            return False
        try:
            outcomes = self._delivery.append(frames)
        except (UnavailableError, MalformedError, VerificationError, RejectedError, OSError):
            return False
        for frame, outcome in zip(frames, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                _write_json(redact(frame.event(), outcome.problem))
                _log.error("event_rejected rule=%s: it is on standard error", outcome.problem.slug)
            self._note_done(frame.end)
        self._unacknowledged = []
        return True

    def _note_done(self, byte_count: int) -> None:
        with self._changed:
            self._bytes -= byte_count
            self.waiting -= 1
            self._changed.notify_all()


def _write_json(event: dict[str, Any]) -> None:
    with suppress(OSError):
        os.write(STDERR_FD, msgspec.json.encode(event) + b"\n")
