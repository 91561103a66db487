"""The sequencer orders events, makes them durable and acknowledges them, by group commit.

An index is told only after its commit is durable, and the new events of one request have
consecutive indices. A checkpoint is stored by the same thread, in the commit that is next.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.log.group_commit import GroupCommit, Weight
from ledger.store.environment import CommitFailedError
from ledger.store.writer import AppendResult, LogWriter, NewEntry
from ledger_core.tlog.tree import TreeHead

WAITING_EVENTS_MAX: Final = 50_000
WAITING_BYTES_MAX: Final = 64 << 20
COMMIT_EVENTS_MAX: Final = 10_000


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
        self,
        writer: LogWriter,
        *,
        waiting_events_max: int = WAITING_EVENTS_MAX,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
    ) -> None:
        self._writer = writer
        self.head = writer.head
        self._grown: asyncio.Event | None = None  # Made by `wait_past`, set by the next commit.
        self._commits: GroupCommit[_Job, Commit] = GroupCommit(
            self._commit,
            name="ledger-writer",
            waiting_max=waiting_events_max,
            waiting_bytes_max=waiting_bytes_max,
            batch_max=COMMIT_EVENTS_MAX,
            weigh=_weigh,
            on_commit=self._advance,
        )

    @property
    def failure(self) -> CommitFailedError | None:
        """Why no write is accepted any more, or None."""
        return self._commits.failure

    async def append(self, entries: Sequence[NewEntry]) -> Commit:
        """Make entries durable, the new ones at consecutive indices in the order given.

        Requests are placed in the order of the calls: a call queues before it awaits.
        Raises: QueueFullError, StorageFullError (nothing stored); CommitFailedError (outcome
        unknown until the log is opened again; the id makes a repetition safe).
        """
        return await self._commits.submit(_Job(entries))

    async def publish(self, *, tree_size: int, note: str) -> None:
        """Make a signed checkpoint durable. Raises: as `append`."""
        await self._commits.submit(_Job((), (tree_size, note)))

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
        """One commit, on the writer thread."""
        entries = [entry for job in jobs for entry in job.entries]
        checkpoints = [job.checkpoint for job in jobs if job.checkpoint is not None]
        placed = self._writer.commit(entries, checkpoints=checkpoints)
        commits: list[Commit] = []
        start = 0
        for job in jobs:
            end = start + len(job.entries)
            commits.append(Commit(placed[start:end], self._writer.head))
            start = end
        return commits

    def _advance(self, commits: Sequence[Commit]) -> None:
        self.head = commits[-1].head
        if self._grown is not None:
            self._grown.set()
            self._grown = None


def _weigh(job: _Job) -> Weight:
    return Weight(len(job.entries), sum(len(entry.leaf) for entry in job.entries))
