"""Order, durability, acknowledgement: what is waiting becomes one commit, and then another.

    event loop   append() append() append()   ···   futures resolve, once a commit
                    \\        |       /                      ^
    writer thread    [ commit in flight ] [ next batch ] ────┘

There is no timer: while one commit is at the disk the next batch gathers, so the batch grows with
the load and a lone event waits for nothing. An index is told only after its commit is durable.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from ledger.store.environment import CommitFailedError, StorageFullError
from ledger.store.log import Head
from ledger.store.writer import LogWriter, NewEntry, Placed
from ledger.tlog.errors import UnavailableError

WAITING_EVENTS_MAX: Final = 50_000
WAITING_BYTES_MAX: Final = 64 << 20
COMMIT_EVENTS_MAX: Final = 10_000

_log = structlog.get_logger("ledger.sequencer")


class QueueFullError(UnavailableError):
    """More is waiting than the writer can soon take; nothing of this request was kept."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What became of one request: where each of its entries is, and the head that holds them."""

    placed: Sequence[Placed]
    head: Head


@dataclass(slots=True)
class _Waiting:
    entries: Sequence[NewEntry]
    published: tuple[int, str] | None
    future: asyncio.Future[Commit]
    bytes_: int


class Sequencer:
    """Feeds the writer from an event loop. `append`, `publish` and `head` belong to that loop.

    `_waiting` and `_stopping` are shared with the writer thread under `_wake`; `head` is changed
    on the loop only, in commit order, so that whoever reads it sees heads that never shrink.
    """

    def __init__(
        self,
        writer: LogWriter,
        *,
        waiting_events_max: int = WAITING_EVENTS_MAX,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
    ) -> None:
        self._writer = writer
        self._events_max = waiting_events_max
        self._bytes_max = waiting_bytes_max
        self._wake = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._stopping = False
        self._failure: UnavailableError | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self.head = writer.head
        self._thread.start()

    @property
    def failure(self) -> UnavailableError | None:
        """Why no write is accepted any more, or None."""
        return self._failure

    @property
    def waiting_events(self) -> int:
        """Events that no commit has taken yet."""
        return self._waiting_events

    async def append(self, entries: Sequence[NewEntry]) -> Commit:
        """Make entries durable, the new ones at consecutive indices in the order given.

        Requests are placed in the order in which this is called: it queues before it awaits.
        Raises: QueueFullError, StorageFullError (nothing kept); CommitFailedError (outcome
        unknown until the log is opened again; the id makes a repetition safe).
        """
        size = sum(len(entry.leaf) for entry in entries)
        if self._waiting_events and (
            self._waiting_events + len(entries) > self._events_max
            or self._waiting_bytes + size > self._bytes_max
        ):
            raise QueueFullError(
                f"{self._waiting_events} events are waiting, the limit is {self._events_max}",
                retry_after_s=1.0,
            )
        return await self._submit(entries, None, size)

    async def publish(self, *, tree_size: int, note: str) -> None:
        """Make a signed checkpoint durable. Raises: as `append`."""
        await self._submit((), (tree_size, note), len(note))

    async def stop(self) -> None:
        """Commit what is waiting, then end the writer thread and close the log."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        self._writer.close()

    async def _submit(
        self, entries: Sequence[NewEntry], published: tuple[int, str] | None, size: int
    ) -> Commit:
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Commit] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                raise UnavailableError("the ledger is stopping")
            self._waiting.append(_Waiting(entries, published, future, size))
            self._waiting_events += len(entries)
            self._waiting_bytes += size
            self._wake.notify()
        # A caller that goes away does not take its events back: they are in line already.
        return await asyncio.shield(future)

    def _run(self) -> None:
        while batch := self._take():
            entries = [entry for waiting in batch for entry in waiting.entries]
            published = next((w.published for w in reversed(batch) if w.published), None)
            outcome: tuple[list[Placed], Head] | UnavailableError
            try:
                outcome = self._writer.commit(entries, published=published), self._writer.head
            except (StorageFullError, CommitFailedError) as error:
                outcome = error
                _log.error("commit_failed", events=len(entries), reason=str(error))
            except Exception as error:  # noqa: BLE001 - the thread's top: whoever waits must hear
                outcome = CommitFailedError(f"a commit failed: {type(error).__name__}")
                _log.exception("commit_failed", events=len(entries))
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who waited
                self._loop.call_soon_threadsafe(self._deliver, batch, outcome)
            if isinstance(outcome, CommitFailedError):
                return

    def _take(self) -> list[_Waiting]:
        """All that is waiting, up to one commit's worth; empty when the work is over."""
        with self._wake:
            while not self._waiting and not self._stopping:
                self._wake.wait()
            batch: list[_Waiting] = []
            events = 0
            while self._waiting and (
                not batch or events + len(self._waiting[0].entries) <= COMMIT_EVENTS_MAX
            ):
                waiting = self._waiting.popleft()
                events += len(waiting.entries)
                self._waiting_bytes -= waiting.bytes_
                batch.append(waiting)
            self._waiting_events -= events
            return batch

    def _deliver(
        self, batch: Sequence[_Waiting], outcome: tuple[list[Placed], Head] | UnavailableError
    ) -> None:
        if isinstance(outcome, UnavailableError):
            if isinstance(outcome, CommitFailedError):
                self._fail(outcome)
            for waiting in batch:
                _settle(waiting.future, outcome)
            return
        placed, self.head = outcome
        start = 0
        for waiting in batch:
            end = start + len(waiting.entries)
            _settle(waiting.future, Commit(placed[start:end], self.head))
            start = end

    def _fail(self, failure: CommitFailedError) -> None:
        """Refuse everything from now on, and whoever is in line."""
        self._failure = failure
        with self._wake:
            abandoned = list(self._waiting)
            self._waiting.clear()
            self._waiting_events = self._waiting_bytes = 0
        for waiting in abandoned:
            _settle(waiting.future, failure)


def _settle(future: asyncio.Future[Commit], outcome: Commit | UnavailableError) -> None:
    if future.done():
        return
    if isinstance(outcome, Commit):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
