"""The sequencer orders events, makes them durable and acknowledges them, by group commit.

A caller gets an index only after its commit is durable, and the new events of one request have
consecutive indices. The same thread stores checkpoints, each in the next commit.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from ledger.log.group_commit import CommitLimits, GroupCommit, Weight
from ledger.log.hold import Hold
from ledger.store.commit_errors import CommitFailedError
from ledger.store.writer import AppendResult, LogWriter, NewEntry
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.tree import TreeHead

LIMITS: Final = CommitLimits(waiting_max=50_000, waiting_bytes_max=64 << 20, batch_max=10_000)
"""In events, and in bytes of their leaves."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The result of one request: the place of each entry, and a durable head that covers them."""

    entries: Sequence[NewEntry]
    placed: Sequence[AppendResult]
    head: TreeHead


@dataclass(frozen=True, slots=True)
class _Job:
    make_entries: Callable[[], Sequence[NewEntry]]
    weight: Weight
    checkpoint: tuple[int, str] | None = None
    expected: TreeHead | None = None


class Sequencer:
    """Passes entries from one event loop, which calls all methods, to the writer of a log.

    `head` changes in the order of the commits, so its size never shrinks.
    """

    def __init__(
        self, writer: LogWriter, *, limits: CommitLimits = LIMITS, hold: Hold | None = None
    ) -> None:
        self.store = writer.store
        self.hold = hold or Hold()
        self.head = writer.head
        self._writer = writer
        self._grown: asyncio.Event | None = None  # Made by `wait_past`, set by the next commit.
        self._commits: GroupCommit[_Job, Commit | VerificationError] = GroupCommit(
            self._commit,
            name="ledger-writer",
            limits=limits,
            weigh=lambda job: job.weight,
            on_commit=self._advance,
        )

    @property
    def failure(self) -> CommitFailedError | None:
        return self._commits.failure

    async def append(self, entries: Sequence[NewEntry]) -> Commit:
        """Make entries durable, the new ones at consecutive indices in the order given.

        Requests are placed in the order of the calls: a call queues before it awaits.
        Raises: QueueFullError, CommitUndoneError (nothing stored); CommitFailedError (outcome
        unknown until the log is opened again; the id makes a repetition safe); HeldError.
        """
        return await self.append_made(lambda: entries, _weigh(entries))

    async def append_made(
        self, make_entries: Callable[[], Sequence[NewEntry]], weight: Weight
    ) -> Commit:
        """As `append`, with entries that the writer thread makes when their turn has come.

        To make and hash the leaves of a large request takes the time of many small ones.
        Precondition: `make_entries` raises nothing.
        """
        self.hold.check()
        return await self._submit(_Job(make_entries, weight))

    async def append_verified(
        self,
        entries: Sequence[NewEntry],
        *,
        expected: TreeHead,
        published: SignedCheckpoint | None = None,
    ) -> Commit:
        """Make entries of another log durable, if the tree is then the `expected` one.

        `published`: a checkpoint to make durable with them. One call at a time, and no other.
        Raises: as `append`; VerificationError with nothing stored.
        """
        checkpoint = None if published is None else (published.head.tree_size, published.note)
        return await self._submit(_Job(lambda: entries, _weigh(entries), checkpoint, expected))

    async def publish(self, *, tree_size: int, note: str) -> None:
        """Make a signed checkpoint durable. Raises: as `append`."""
        await self._submit(_Job(tuple, Weight(0, 0), (tree_size, note)))

    async def probe(self) -> None:
        """After a write that failed, show whether writes succeed. Raises: as `append`."""
        if self.store.environment.failure is not None:
            await self._submit(_Job(tuple, Weight(0, 0)))

    async def wait_past(self, tree_size: int) -> TreeHead:
        """The durable head, as soon as it is larger than this size."""
        while self.head.tree_size <= tree_size:
            if self._grown is None:
                self._grown = asyncio.Event()
            await self._grown.wait()
        return self.head

    async def stop(self) -> None:
        """Commit what is waiting, then end the writer thread and close the log."""
        await self._commits.stop()
        self._writer.close()

    async def _submit(self, job: _Job) -> Commit:
        outcome = await self._commits.submit(job)
        if isinstance(outcome, VerificationError):
            raise outcome
        return outcome

    def _commit(self, jobs: Sequence[_Job]) -> list[Commit | VerificationError]:
        made = [job.make_entries() for job in jobs]
        entries = list(chain.from_iterable(made))
        checkpoints = [job.checkpoint for job in jobs if job.checkpoint is not None]
        if not entries and not checkpoints:
            self.store.environment.probe()
        try:
            placed = iter(
                self._writer.commit(entries, checkpoints=checkpoints, expected=jobs[-1].expected)
            )
        except VerificationError as error:
            return [error] * len(jobs)
        head = self._writer.head
        return [Commit(some, list(islice(placed, len(some))), head) for some in made]

    def _advance(self, outcomes: Sequence[Commit | VerificationError]) -> None:
        last = outcomes[-1]
        if isinstance(last, VerificationError):
            return
        self.head = last.head
        if self._grown is not None:
            self._grown.set()
            self._grown = None


def _weigh(entries: Sequence[NewEntry]) -> Weight:
    return Weight(len(entries), sum(len(entry.leaf) for entry in entries))
