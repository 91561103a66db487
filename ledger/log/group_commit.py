"""Group commit: what is waiting becomes one commit, and then another.

    event loop      submit() submit() submit()   ···   they return, once a commit
                        \\        |       /                    ^
    writer thread    [ commit in flight ] [ next batch ] ─────┘

There is no timer: while one commit is at the disk the next batch gathers, so the batch grows with
the load and a lone job waits for nothing. Nothing is told before its commit is durable.
"""

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import structlog

from ledger.store.environment import CommitFailedError, StorageFullError
from ledger_core.tlog.errors import UnavailableError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

_log = structlog.get_logger("ledger.log.group_commit")


class Weight(NamedTuple):
    """What a job counts for while it waits, and in a commit."""

    items: int = 1
    bytes_: int = 0


class QueueFullError(UnavailableError):
    """More is waiting than the writer can soon take; nothing of this was kept."""


class GroupCommit(Generic[Job, Outcome]):
    """Feeds one writer thread from one event loop, to which `submit` and `stop` belong.

    `_waiting` and `_stopping` are shared with the thread under `_wake`. After a commit of which the
    outcome is unknown nothing is accepted any more, until the process is started again.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Job]], Sequence[Outcome]],
        *,
        name: str,
        waiting_max: int,
        batch_max: int,
        weigh: Callable[[Job], Weight] = lambda _job: Weight(),
        waiting_bytes_max: int | None = None,
        on_commit: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        """`on_commit` is told the outcomes of each commit, on the loop, before those who wait are.

        `waiting_max` and `batch_max` are in items of `weigh`. A job that is heavier than either is
        taken when nothing else waits.
        """
        self._commit = commit
        self._name = name
        self._waiting_max = Weight(
            waiting_max, sys.maxsize if waiting_bytes_max is None else waiting_bytes_max
        )
        self._batch_max = batch_max
        self._weigh = weigh
        self._on_commit = on_commit
        self._wake = threading.Condition()
        self._waiting: deque[tuple[Job, Weight, asyncio.Future[Outcome]]] = deque()
        self._waiting_weight = Weight(0, 0)
        self._stopping = False
        self._failure: CommitFailedError | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failure(self) -> CommitFailedError | None:
        """Why nothing is accepted any more, or None."""
        return self._failure

    @property
    def waiting(self) -> Weight:
        """What waits for a commit."""
        return self._waiting_weight

    async def submit(self, job: Job) -> Outcome:
        """Have a job committed, in the order in which this is called.

        A caller that goes away does not take its job back: it is in line already.
        Raises: QueueFullError, StorageFullError (nothing kept); CommitFailedError.
        """
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Outcome] = self._loop.create_future()
        weight = self._weigh(job)
        with self._wake:
            if self._stopping:
                raise UnavailableError("this service is stopping")
            count, bytes_ = self._waiting_weight
            grown = Weight(count + weight.items, bytes_ + weight.bytes_)
            if count and (
                grown.items > self._waiting_max.items or grown.bytes_ > self._waiting_max.bytes_
            ):
                raise QueueFullError(
                    f"{count} are waiting, {bytes_} bytes; the limits are "
                    f"{self._waiting_max.items} and {self._waiting_max.bytes_}",
                    retry_after_s=1.0,
                )
            self._waiting.append((job, weight, future))
            self._waiting_weight = grown
            self._wake.notify()
        # Cancelled, the future is passed over when the commit is told; the job stays in line.
        return await future

    async def stop(self) -> None:
        """Commit what is waiting, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._take():
            outcomes: Sequence[Outcome] | UnavailableError
            try:
                outcomes = self._commit([job for job, _ in batch])
            except (StorageFullError, CommitFailedError) as error:
                outcomes = error
                _log.error("commit_failed", writer=self._name, jobs=len(batch), reason=str(error))
            except Exception as error:  # noqa: BLE001 - the thread's top: whoever waits must hear
                outcomes = CommitFailedError(f"a commit failed: {type(error).__name__}")
                _log.exception("commit_failed", writer=self._name, jobs=len(batch))
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who waited
                self._loop.call_soon_threadsafe(self._deliver, batch, outcomes)
            if isinstance(outcomes, CommitFailedError):
                return

    def _take(self) -> list[tuple[Job, asyncio.Future[Outcome]]]:
        """All that is waiting, up to one commit's worth; empty when the work is over."""
        with self._wake:
            while not self._waiting and not self._stopping:
                self._wake.wait()
            batch: list[tuple[Job, asyncio.Future[Outcome]]] = []
            taken = taken_bytes = 0
            while self._waiting and (
                not batch or taken + self._waiting[0][1].items <= self._batch_max
            ):
                job, weight, future = self._waiting.popleft()
                taken += weight.items
                taken_bytes += weight.bytes_
                batch.append((job, future))
            count, bytes_ = self._waiting_weight
            self._waiting_weight = Weight(count - taken, bytes_ - taken_bytes)
            return batch

    def _deliver(
        self,
        batch: Sequence[tuple[Job, asyncio.Future[Outcome]]],
        outcomes: Sequence[Outcome] | UnavailableError,
    ) -> None:
        if isinstance(outcomes, CommitFailedError):
            self._failure = outcomes
            with self._wake:
                batch = [*batch, *((job, future) for job, _, future in self._waiting)]
                self._waiting.clear()
                self._waiting_weight = Weight(0, 0)
        elif not isinstance(outcomes, UnavailableError):
            self._on_commit(outcomes)
        for number, (_, future) in enumerate(batch):
            if future.done():
                continue
            if isinstance(outcomes, UnavailableError):
                future.set_exception(outcomes)
            else:
                future.set_result(outcomes[number])
