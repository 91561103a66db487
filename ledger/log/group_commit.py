"""Group commit: jobs that wait are committed together, while the next ones gather.

    event loop      submit() submit() submit()   ···   they return, once a commit
                        \\        |       /                    ^
    writer thread    [ commit in flight ] [ next batch ] ─────┘

There is no timer: while one commit is at the disk the next batch gathers, so batches grow with the
load, and a lone job is committed at once. No caller gets a result before its commit is durable.
A disk that stands still holds those that wait; whoever comes later is refused until it goes on.

The jobs of one turn of the loop are handed to the thread together at its end: to wake it for each
would have both wait for the interpreter's lock.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import structlog

from ledger.store.commit_errors import CommitFailedError, CommitUndoneError
from ledger_core.tlog.errors import UnavailableError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

STALL_S: Final = 20.0
"""Seconds that a commit may take. Once one has taken longer, nothing more is queued behind it."""

STALLED_RETRY_S: Final = 5.0

_log = structlog.get_logger("ledger.log.group_commit")


class Weight(NamedTuple):
    """The size of a job: how many items, how many bytes."""

    items: int = 1
    bytes_: int = 0


class QueueFullError(UnavailableError):
    """Too much is waiting for the writer already; the job was not queued."""


class StalledError(UnavailableError):
    """The disk, or the process that writes, stands still; the job was not queued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitLimits:
    """The limits of a group commit: the work that may wait, and the items that one commit takes.

    A job that is larger than a limit is accepted when nothing else waits.
    """

    waiting_max: int
    batch_max: int
    waiting_bytes_max: int = sys.maxsize


def stalled_since(begun_s: float) -> StalledError | None:
    """The refusal of more work, if what began at this time of the steady clock took too long."""
    taken_s = time.monotonic() - begun_s
    if taken_s <= STALL_S:
        return None
    return StalledError(
        f"nothing was stored for {taken_s:.0f} s: the disk does not finish a write, or the process "
        "that writes stands still",
        retry_after_s=STALLED_RETRY_S,
    )


class GroupCommit(Generic[Job, Outcome]):
    """Passes jobs from one event loop, which calls `submit` and `stop`, to one writer thread.

    `_waiting` and `_stopping` are shared with the thread under `_wake`; the loop alone uses
    `_gathered`, what is not handed over yet. `failure` is why nothing is accepted any more: after a
    commit with an unknown outcome only a new process can go on.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Job]], Sequence[Outcome]],
        *,
        name: str,
        limits: CommitLimits,
        weigh: Callable[[Job], Weight] = lambda _job: Weight(),
        on_commit: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        """`on_commit` gets the outcomes of each commit, on the loop, before the callers do."""
        self.failure: CommitFailedError | None = None
        self._commit = commit
        self._name = name
        self._limits = limits
        self._weigh = weigh
        self._on_commit = on_commit
        self._wake = threading.Condition()
        self._gathered: list[tuple[Job, Weight, asyncio.Future[Outcome]]] = []
        self._gathered_weight = Weight(0, 0)
        self._waiting: deque[tuple[Job, Weight, asyncio.Future[Outcome]]] = deque()
        self._waiting_weight = Weight(0, 0)
        self._stopping = False
        self._begun_s: float | None = None  # Of the commit that runs; the thread sets it.
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def stalled(self) -> StalledError | None:
        """Why nothing is queued now: the commit that runs has taken long, and may yet end."""
        begun_s = self._begun_s
        return None if begun_s is None else stalled_since(begun_s)

    def submit(self, job: Job) -> "asyncio.Future[Outcome]":
        """Have a job committed, in the order of the calls; its outcome.

        A cancelled caller does not take its job back: it is queued already.
        Raises: QueueFullError, StalledError, UnavailableError; the future CommitUndoneError
        (nothing stored). Both raise CommitFailedError.
        """
        if self.failure is not None:
            raise self.failure
        if self._stopping:
            raise UnavailableError("this service is stopping")
        if (stalled := self.stalled) is not None:
            raise stalled
        weight = self._weigh(job)
        gathered, limits = self._gathered_weight, self._limits
        # The thread may take what waits meanwhile, which then counts for nothing more.
        waiting = self._waiting_weight
        count, bytes_ = waiting.items + gathered.items, waiting.bytes_ + gathered.bytes_
        if count and (
            count + weight.items > limits.waiting_max
            or bytes_ + weight.bytes_ > limits.waiting_bytes_max
        ):
            raise QueueFullError(
                f"{count} are waiting, {bytes_} bytes; the limits are {limits.waiting_max} and "
                f"{limits.waiting_bytes_max}",
                retry_after_s=1.0,
            )
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append((job, weight, future))
        self._gathered_weight = Weight(
            gathered.items + weight.items, gathered.bytes_ + weight.bytes_
        )
        return future

    def _hand_over(self) -> None:
        """Give the thread what was gathered."""
        gathered, more = self._gathered, self._gathered_weight
        self._gathered, self._gathered_weight = [], Weight(0, 0)
        if self.failure is not None:  # The thread has ended since they came.
            for _, _, future in gathered:
                if not future.done():
                    future.set_exception(self.failure)
            return
        with self._wake:
            count, bytes_ = self._waiting_weight
            self._waiting.extend(gathered)
            self._waiting_weight = Weight(count + more.items, bytes_ + more.bytes_)
            self._wake.notify()

    async def stop(self) -> None:
        """Commit the waiting jobs, then end the thread."""
        self._hand_over()
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._next_batch():
            outcomes: Sequence[Outcome] | UnavailableError
            self._begun_s = time.monotonic()
            try:
                outcomes = self._commit([job for job, _ in batch])
            except (CommitUndoneError, CommitFailedError) as error:  # The environment logs them.
                outcomes = error
            except Exception as error:  # noqa: BLE001 - the thread's top: callers wait for an outcome
                outcomes = CommitFailedError(f"a commit failed: {type(error).__name__}")
                _log.exception("commit_failed", writer=self._name, jobs=len(batch))
            self._begun_s = None
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._deliver, batch, outcomes)
            if isinstance(outcomes, CommitFailedError):
                return

    def _next_batch(self) -> list[tuple[Job, asyncio.Future[Outcome]]]:
        """The waiting jobs, up to one commit's worth; empty when the thread is to end."""
        with self._wake:
            while not self._waiting and not self._stopping:
                self._wake.wait()
            batch: list[tuple[Job, asyncio.Future[Outcome]]] = []
            taken = taken_bytes = 0
            while self._waiting and (
                not batch or taken + self._waiting[0][1].items <= self._limits.batch_max
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
            self.failure = outcomes
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
