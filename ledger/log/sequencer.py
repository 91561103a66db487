"""The sequencer orders events, makes them durable and acknowledges them, by group commit.

A caller gets an index only after its commit is durable, and the new events of one request have
consecutive indices. The same thread stores checkpoints, each in the next commit.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from ledger.log.group_commit import CommitLimits, GroupCommit, Weight
from ledger.log.hold import Hold
from ledger.store.commit_errors import CommitFailedError
from ledger.store.writer import AppendResult, LogWriter, NewEntry
from ledger_core.tlog.tree import TreeHead

LIMITS: Final = CommitLimits(waiting_max=50_000, waiting_bytes_max=64 << 20, batch_max=10_000)
"""In events, and in bytes of their leaves."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The result of one request: the place of each entry, and a durable head that covers them."""

    placed: Sequence[AppendResult]
    head: TreeHead


@dataclass(frozen=True, slots=True)
class _Job:
    entries: Sequence[NewEntry]
    checkpoint: tuple[int, str] | None = None


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
        self._commits: GroupCommit[_Job, Commit] = GroupCommit(
            self._commit,
            name="ledger-writer",
            limits=limits,
            weigh=lambda job: Weight(len(job.entries), sum(len(e.leaf) for e in job.entries)),
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
        self.hold.check()
        return await self._commits.submit(_Job(entries))

    async def publish(self, *, tree_size: int, note: str) -> None:
        """Make a signed checkpoint durable. Raises: as `append`."""
        await self._commits.submit(_Job((), (tree_size, note)))

    async def probe(self) -> None:
        """After a write that failed, show whether writes succeed. Raises: as `append`."""
        if self.store.environment.failure is not None:
            await self._commits.submit(_Job(()))

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

    def _commit(self, jobs: Sequence[_Job]) -> list[Commit]:
        entries = [entry for job in jobs for entry in job.entries]
        checkpoints = [job.checkpoint for job in jobs if job.checkpoint is not None]
        if not entries and not checkpoints:
            self.store.environment.probe()
        placed = self._writer.commit(entries, checkpoints=checkpoints)
        ends = accumulate((len(job.entries) for job in jobs), initial=0)
        return [Commit(placed[start:end], self._writer.head) for start, end in pairwise(ends)]

    def _advance(self, commits: Sequence[Commit]) -> None:
        self.head = commits[-1].head
        if self._grown is not None:
            self._grown.set()
            self._grown = None
