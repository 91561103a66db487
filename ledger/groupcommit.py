"""Group commit: what is waiting becomes one commit, and then another.

    event loop      submit() submit() submit()   ···   they return, once a commit
                        \\        |       /                    ^
    writer thread    [ commit in flight ] [ next batch ] ─────┘

There is no timer: while one commit is at the disk the next batch gathers, so the batch grows with
the load and a lone job waits for nothing. Nothing is told before its commit is durable.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from ledger.store.environment import CommitFailedError, StorageFullError
from ledger.tlog.errors import UnavailableError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

_log = structlog.get_logger("ledger.groupcommit")


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
    ) -> None:
        self._commit = commit
        self._name = name
        self._waiting_max = waiting_max
        self._batch_max = batch_max
        self._wake = threading.Condition()
        self._waiting: deque[tuple[Job, asyncio.Future[Outcome]]] = deque()
        self._stopping = False
        self._failure: CommitFailedError | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failure(self) -> CommitFailedError | None:
        """Why nothing is accepted any more, or None."""
        return self._failure

    async def submit(self, job: Job) -> Outcome:
        """Have a job committed, in the order in which this is called.

        A caller that goes away does not take its job back: it is in line already.
        Raises: QueueFullError, StorageFullError (nothing kept); CommitFailedError.
        """
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Outcome] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                raise UnavailableError("this service is stopping")
            if len(self._waiting) >= self._waiting_max:
                raise QueueFullError(
                    f"{len(self._waiting)} jobs are waiting, which is the limit", retry_after_s=1.0
                )
            self._waiting.append((job, future))
            self._wake.notify()
        return await asyncio.shield(future)

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
            count = min(len(self._waiting), self._batch_max)
            return [self._waiting.popleft() for _ in range(count)]

    def _deliver(
        self,
        batch: Sequence[tuple[Job, asyncio.Future[Outcome]]],
        outcomes: Sequence[Outcome] | UnavailableError,
    ) -> None:
        if isinstance(outcomes, CommitFailedError):
            self._failure = outcomes
            with self._wake:
                batch = [*batch, *self._waiting]
                self._waiting.clear()
        for number, (_, future) in enumerate(batch):
            if future.done():
                continue
            if isinstance(outcomes, UnavailableError):
                future.set_exception(outcomes)
            else:
                future.set_result(outcomes[number])
