"""The background thread: batches out of the spool, verified acknowledgements in, then the space is
freed.

Nothing is freed that the client has not verified. Whatever goes wrong (no connection, a 503, a
token that was revoked, an answer that is garbage, a certificate that has expired, a ledger that
lies) is tried again for as long as the process lives, ever more slowly, and the spool grows
meanwhile. Only what the ledger refuses in so many words, event by event, goes to the dead letters.

One request that fails is tried smaller, down to a single event: so an event that something between
here and the ledger won't let pass is found. It counts as rejected only when the event after it goes
through and it is refused again.

It also takes over what other recorders left behind in the same folder.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import msgspec

from ledger_client.errors import RejectedError
from ledger_client.ids import new_event_id
from ledger_client.problem_details import Problem
from ledger_client.recording.dead_letters import DeadLetters, cut_event, problem_of
from ledger_client.recording.frames import Frame
from ledger_client.recording.meta_events import PREFIX, Notices
from ledger_client.recording.options import SpoolClosedError
from ledger_client.recording.spool import Position, Spool
from ledger_client.recording.spool_dir import bytes_of_others, take_abandoned
from ledger_client.recording.spool_reader import Batch, SpoolReader
from ledger_client.results import Receipt, Rejected
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import format_time
from ledger_core.event.commitments import PrivateReader
from ledger_core.event.model import Event, EventError
from ledger_core.event.reader import ReadEvent
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient

SCAN_S: Final = 5.0
"""How often the folder is searched for what others left behind."""

SETTLE_S: Final = 10.0
"""How often drops are told of while they go on."""

DELAY_BASE_S: Final = 0.2
DELAY_MAX_S: Final = 30.0
RETRY_AFTER_MAX_S: Final = 120.0
HURRIED_DELAY_S: Final = 0.1
ADOPTED_MAX: Final = 16

_log = logging.getLogger("ledger_client.recorder")

_Failure = UnavailableError | MalformedError | VerificationError | RejectedError


class Counts(msgspec.Struct):
    """What became of events; the sender's own, read by others."""

    sent: int = 0
    rejected: int = 0
    failures: int = 0
    """Consecutive ones, 0 while all is well."""
    last_failure: str | None = None


class Sender:
    """Sends what is in the spool. Its thread owns all but what is said otherwise."""

    def __init__(
        self,
        spool: Spool,
        notices: Notices,
        dead_letters: DeadLetters,
        *,
        folder: Path,
        connect: "Callable[[], LedgerClient]",
        linger_s: float,
        batch_events_max: int,
    ) -> None:
        self.counts: Final = Counts()
        self.file_lock: Final = threading.Lock()
        """Held while files are opened or closed: who forks takes it, and finds them in order."""
        self._spool: Final = spool
        self._notices: Final = notices
        self._dead_letters: Final = dead_letters
        self._folder: Final = folder
        self._connect: Final = connect
        self._linger_s: Final = linger_s
        self._batch_events_max: Final = batch_events_max
        self._batch_events = batch_events_max
        self._client: LedgerClient | None = None
        self._adopted: list[SpoolReader] = []
        self._is_own_turn = False
        self._scan_due_s = 0.0
        self._settle_due_s = 0.0
        self._own: Final = SpoolReader(
            spool.home,
            tip=lambda: spool.tip,
            on_freed=spool.freed,
            on_damage=notices.damaged,
        )
        # The one kind of queue that a signal handler may put into while its thread does.
        self._wake: Final[SimpleQueue[None]] = SimpleQueue()
        self._hurry: Final = threading.Event()  # Set while somebody waits for a flush.
        self._stop: Final = threading.Event()
        self._progress: Final = threading.Condition()
        self._waiting = 0  # Guarded by _progress: who waits for a flush.
        self._thread: Final = threading.Thread(
            target=self._run, name="ledger-recorder", daemon=True
        )

    def start(self) -> None:
        """Start the thread. Raises: RuntimeError when the interpreter is about to end."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send. From any thread, at no cost when it is known."""
        if self._wake.empty():
            self._wake.put(None)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up.

        From any thread.
        """
        with suppress(OSError, SpoolClosedError):
            self._notices.settle()
        target = self._spool.tip
        with self._progress:
            self._waiting += 1
            self._hurry.set()
            self.wake()
            try:
                return self._progress.wait_for(lambda: self._is_through(target), timeout_s)
            finally:
                self._waiting -= 1
                if not self._waiting and not self._stop.is_set():
                    self._hurry.clear()

    def stop(self, timeout_s: float) -> None:
        """End the thread, waiting so long for the request it may be in. From any thread."""
        self._stop.set()
        self._hurry.set()
        self.wake()
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join(timeout_s)

    def abandon(self) -> None:
        """Close this process's copies of the files after a fork: they are the parent's."""
        for drain in (self._own, *self._adopted):
            drain.close(remove=False)

    def _is_through(self, target: Position) -> bool:
        at = self._own.at
        return self._spool.appended == 0 or (at is not None and at >= target)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - the thread's top
                _log.exception("recorder_fault")
                self._stop.wait(DELAY_MAX_S)
        self._close()

    def _turn(self) -> None:
        while not self._wake.empty():
            self._wake.get()
        now_s = time.monotonic()
        if now_s >= self._scan_due_s:
            self._scan_due_s = now_s + SCAN_S
            self._scan()
        if now_s >= self._settle_due_s and self._notices.is_waiting:
            self._settle_due_s = now_s + SETTLE_S
            self._settle()
        try:
            with self.file_lock:
                found = self._next()
        except OSError as error:
            self._failed(UnavailableError(f"the spool can't be read: {error.strerror or error}"))
            return
        if found is None:
            self._tell_progress()
            with suppress(Empty):
                self._wake.get(timeout=SCAN_S)
            return
        drain, batch = found
        if self._deliver(drain, batch) and len(batch.frames) < self._batch_events:
            # Few events at a time are not worth a request each: some more are let come.
            self._hurry.wait(self._linger_s)

    def _next(self) -> tuple[SpoolReader, Batch] | None:
        """What to send next: by turns our own events and what others left."""
        self._is_own_turn = not self._is_own_turn
        self._spool.retire(self._own.at)
        own = [self._own]
        for drain in own + self._adopted if self._is_own_turn else self._adopted + own:
            batch = drain.read(self._batch_events)
            if batch is not None:
                return drain, batch
            if drain is not self._own:
                self._adopted.remove(drain)
                drain.close(remove=True)
                self._scan_due_s = 0.0
        return None

    def _scan(self) -> None:
        with self.file_lock, suppress(OSError):
            self._spool.others_bytes = bytes_of_others(self._folder, self._spool.home.instance)
            left = take_abandoned(self._folder)
            while len(self._adopted) < ADOPTED_MAX:
                home = next(left, None)
                if home is None:
                    break
                self._adopted.append(
                    SpoolReader(
                        home,
                        tip=lambda: None,
                        on_freed=lambda _: None,
                        on_damage=self._notices.damaged,
                    )
                )

    def _deliver(self, drain: SpoolReader, batch: Batch) -> bool:
        """Send one batch, and free it when it is in the ledger."""
        try:
            outcomes = self._append([frame.sent_json for frame in batch.frames])
        except RejectedError as error:
            if len(batch.frames) > 1:
                self._failed(error)
                return False
            return self._probe(drain, error)
        except VerificationError as error:
            problem = _masked_by_ledger(error)
            if problem is None:
                self._failed(error)
                return False
            if len(batch.frames) > 1:
                # Which one it was shows when they are sent one by one.
                self._batch_events = 1
                return True
            outcomes = [Rejected(id=None, problem=problem, is_sent=True)]
        except (UnavailableError, MalformedError) as error:
            self._failed(error)
            return False
        self._take(drain, batch, outcomes)
        return True

    def _probe(self, drain: SpoolReader, error: RejectedError) -> bool:
        """A request with a single event was refused: is it the event, or any request?"""
        with self.file_lock:
            batch = drain.read(2)
        if batch is None or len(batch.frames) == 1:
            self._failed(error)
            return False
        first, second = batch.frames
        try:
            self._append([second.sent_json])
        except (RejectedError, UnavailableError, MalformedError, VerificationError) as failure:
            self._failed(failure)
            return False
        try:
            outcomes = self._append([first.sent_json])
        except RejectedError as again:
            outcomes = [Rejected(id=None, problem=again.problem, is_sent=True)]
        except (UnavailableError, MalformedError, VerificationError) as failure:
            self._failed(failure)
            return False
        self._take(drain, Batch([first], Position(batch.end.segment, first.end)), outcomes)
        return True

    def _append(self, frames: list[bytes]) -> list[Receipt | Rejected]:
        """One request, verified; an outcome for each event.

        Raises: RejectedError, UnavailableError, MalformedError, VerificationError.
        """
        if self._client is None:
            self._client = self._connect()
        items = [_read(sent_json) for sent_json in frames]
        results = self._client.append_many([i for i in items if isinstance(i, ReadEvent)])
        outcomes = iter(results)
        return [next(outcomes) if isinstance(item, ReadEvent) else item for item in items]

    def _take(self, drain: SpoolReader, batch: Batch, outcomes: list[Receipt | Rejected]) -> None:
        """The ledger's word on a batch is verified: keep what it refused, and free the rest."""
        for frame, outcome in zip(batch.frames, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                self._reject(drain.home.instance, frame, outcome.problem)
            else:
                self.counts.sent += 1
        if self._notices.is_waiting:
            self._settle()
        with self.file_lock:
            drain.free(batch.end)
        if self.counts.failures:
            _log.warning("recorder_sends_again failures=%d", self.counts.failures)
            self.counts.failures = 0
            self.counts.last_failure = None
        self._batch_events = min(self._batch_events_max, self._batch_events * 2)
        self._tell_progress()

    def _reject(self, instance: str, frame: Frame, problem: Problem) -> None:
        self.counts.rejected += 1
        event = cut_event(frame.event(), problem)
        by = "ledger" if problem.status else "recorder"
        is_kept = False
        try:
            is_kept = self._dead_letters.add(event, problem, by=by, at=format_time(unix_us()))
        except OSError as error:
            _log.error("dead_letter_failed reason=%s", error.strerror)
        _log.warning(
            "event_rejected instance=%s seq=%d rule=%s field=%s",
            instance,
            frame.seq,
            problem.slug,
            problem.field,
        )
        # A notice that is refused itself makes no notice: that would never end.
        if not str(event.get("action", "")).startswith(PREFIX):
            number = {"instance": instance, "seq": frame.seq}
            self._notices.rejected(event, problem, number=number, is_kept=is_kept)

    def _failed(self, error: _Failure) -> None:
        """Wait before the next attempt; the first failure in a row is logged."""
        counts = self.counts
        counts.failures += 1
        counts.last_failure = f"{type(error).__name__}: {error}"
        if counts.failures == 1:
            _log.warning("recorder_cannot_send reason=%s", counts.last_failure)
        self._batch_events = max(1, self._batch_events // 2)
        limit_s = exponential_s(counts.failures, base_s=DELAY_BASE_S, limit_s=DELAY_MAX_S)
        delay_s = spread(limit_s, random.random())  # noqa: S311 - it only spreads load
        if isinstance(error, UnavailableError) and error.retry_after_s is not None:
            delay_s += min(error.retry_after_s, RETRY_AFTER_MAX_S)
        if self._hurry.is_set():
            self._stop.wait(min(delay_s, HURRIED_DELAY_S))
        else:
            self._hurry.wait(delay_s)

    def _settle(self) -> None:
        try:
            self._notices.settle()
        except OSError as error:
            _log.error("notice_failed reason=%s", error.strerror)

    def _tell_progress(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _close(self) -> None:
        """Let go of every file; a directory from which all is sent is removed."""
        with self.file_lock:
            for drain in self._adopted:
                drain.close(remove=False)
            self._adopted.clear()
            is_empty = False
            with suppress(OSError, SpoolClosedError):
                is_empty = self._own.read(1) is None and not self._notices.is_waiting
            self._own.close(remove=is_empty)
        if self._client is not None:
            with suppress(OSError):
                self._client.close()


def _read(sent_json: bytes) -> ReadEvent | Rejected:
    """A frame's event. It was checked and made canonical before it was framed, with a checksum."""
    with suppress(msgspec.MsgspecError):
        return ReadEvent(_decode(sent_json), sent_json, b"", ())
    # It has private values beside it, or another version of this program wrote it: the full check
    # reads the one and says what is wrong with the other.
    try:
        return _READER.read(sent_json)
    except EventError as error:
        return Rejected(id=None, problem=problem_of(error), is_sent=False)


def _masked_by_ledger(error: VerificationError) -> Problem | None:
    """What the ledger says that it masked: the event is in the log, and is not what was sent.

    Trying again would give the same answer for ever. It is no lie, since the ledger says it.
    """
    try:
        answer = msgspec.json.decode(error.evidence.get("answer.json", b""), type=_MaskedAnswer)
    except msgspec.MsgspecError:
        return None
    if not answer.masked:
        return None
    first = answer.masked[0]
    problem = Problem(
        type=f"#{first.rule}",
        status=HTTPStatus.OK,
        field=first.path,
        detail="the ledger logged the event without this value",
    )
    return problem.printable(HTTPStatus.OK)


class _MaskedPlace(msgspec.Struct):
    path: str
    rule: str


class _MaskedAnswer(msgspec.Struct):
    masked: tuple[_MaskedPlace, ...] = ()


_decode = msgspec.json.Decoder(Event).decode
_READER: Final = PrivateReader(new_event_id, unix_us)
