"""The sequencer orders events, makes them durable and acknowledges them, by group commit.

A caller gets an index only after its commit is durable, and the new events of one request have
consecutive indices. The same thread stores checkpoints, each in the next commit.

The time of receipt never runs backwards along the log. So the clock is read and the events are
queued in one step of the event loop: the order of the queue is the order of the times. The thread
of the writer makes and hashes the leaves.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Final

from ledger.log.append_request import (
    Appended,
    AppendRequest,
    later_events,
    outcomes_of,
    part_of,
    stamp,
    with_later,
)
from ledger.log.group_commit import CommitLimits, GroupCommit, StalledError, Weight
from ledger.log.hold import Hold, HoldRecord
from ledger.store.bundle_removal import PreparedRelease
from ledger.store.commit_errors import CommitFailedError, CommitUndoneError
from ledger.store.writer import AppendResult, LogWriter, NewEntry, Placement
from ledger_client.runtime.clock import unix_us
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.tree import TreeHead

LIMITS: Final = CommitLimits(waiting_max=50_000, waiting_bytes_max=64 << 20, batch_max=10_000)
"""In events, and in bytes of their leaves."""

ANSWERED_BYTES_MAX: Final = 1 << 26
"""Bytes of the entries that have the ids of a request already: twice those of a body."""

FETCHED_MAX: Final = 256
"""Released bundles that are fetched at once for ids that came again."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The result of one job: the place of each entry, and a durable head that covers them."""

    placed: Sequence[AppendResult]
    head: TreeHead
    appended: Sequence[Appended] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """Entries, or requests whose entries the writer's thread makes."""

    weight: Weight
    entries: Sequence[NewEntry] = ()
    requests: Sequence[AppendRequest] = ()
    received_time: str = ""
    checkpoint: tuple[int, str] | None = None
    expected: TreeHead | None = None
    release: PreparedRelease | None = None

    def make_entries(self) -> Sequence[NewEntry]:
        """The entries of the job, those of its requests one behind the other."""
        return stamp(self.requests, self.received_time) if self.requests else self.entries

    def outcome(
        self, made: Sequence[NewEntry], placed: Sequence[AppendResult], head: TreeHead
    ) -> Commit:
        """The result of the job from what the writer did with the entries that it `made`."""
        if not self.requests:
            return Commit(placed, head)
        return Commit((), head, outcomes_of(self.requests, made, placed, self.received_time))


class Sequencer:
    """Passes entries from one event loop, which calls all methods, to the writer of a log.

    `head` changes in the order of the commits, so its size never shrinks.
    """

    def __init__(
        self,
        writer: LogWriter,
        *,
        limits: CommitLimits = LIMITS,
        hold: Hold | None = None,
        receive_us: Callable[[], int] = unix_us,
    ) -> None:
        """`receive_us`: the time of receipt, in microseconds since 1970, which never decreases."""
        self.store = writer.store
        self.hold = hold or Hold()
        self.head = writer.head
        self._writer = writer
        self._receive_us = receive_us
        self._fetching: asyncio.Task[None] | None = None
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

    @property
    def stalled(self) -> StalledError | None:
        """Why nothing is queued now: a commit takes long, and may yet end."""
        return self._commits.stalled

    @property
    def held(self) -> HoldRecord | None:
        """Why the log takes no events until a person decides, if it doesn't."""
        return self.hold.record

    async def append(self, entries: Sequence[NewEntry]) -> Commit:
        """Make entries durable, the new ones at consecutive indices in the order given.

        Requests are placed in the order of the calls: a call queues before it awaits.
        Raises: as `Appender.append_events`.
        """
        self.hold.check()
        return await self._submit(_Job(_weigh(entries), entries))

    async def append_events(self, request: AppendRequest) -> Appended:
        """See `Appender`."""
        return (await self._queue((request,), request.weight()))[0]

    async def append_all(self, requests: Sequence[AppendRequest]) -> Sequence[Appended]:
        """As `append_events`, for several requests that come at once: one commit has them all."""
        events, bytes_ = zip(*(request.weight() for request in requests), strict=True)
        return await self._queue(requests, Weight(sum(events), sum(bytes_)))

    async def _queue(self, requests: Sequence[AppendRequest], weight: Weight) -> Sequence[Appended]:
        self.hold.check()
        time = format_time(self._receive_us())
        # From the clock to the queue nothing is awaited.
        outcome = await self._commits.submit(_Job(weight, requests=requests, received_time=time))
        if isinstance(outcome, VerificationError):
            raise outcome
        self._fetch_released(outcome.appended)
        return await self._compare_later(requests, outcome.appended)

    async def _compare_later(
        self, requests: Sequence[AppendRequest], outcomes: Sequence[Appended]
    ) -> Sequence[Appended]:
        """Have later commits compare what the last one had no room for, after those who wait.

        Events stay `LATER` where the answer would be too much. Raises: as `Appender.append_events`;
        what is new is in the log then.
        """
        while later := {
            number: positions
            for number, outcome in enumerate(outcomes)
            if (positions := later_events(outcome)) and not _is_too_much(outcome)
        }:
            parts = [part_of(requests[number], positions) for number, positions in later.items()]
            events, bytes_ = zip(*(part.weight() for part in parts), strict=True)
            time = format_time(self._receive_us())
            weight = Weight(sum(events), sum(bytes_))
            outcome = await self._commits.submit(_Job(weight, requests=parts, received_time=time))
            if isinstance(outcome, VerificationError):
                raise outcome
            merged = [*outcomes]
            for (number, positions), found in zip(later.items(), outcome.appended, strict=True):
                merged[number] = with_later(outcomes[number], positions, found)
            outcomes = merged
        return outcomes

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
        job = _Job(_weigh(entries), entries, checkpoint=checkpoint, expected=expected)
        return await self._submit(job)

    async def publish(self, *, tree_size: int, note: str) -> None:
        """Make a signed checkpoint durable. Raises: as `append`."""
        await self._submit(_Job(Weight(0, 0), checkpoint=(tree_size, note)))

    async def release(self, prepared: PreparedRelease) -> None:
        """Remove entries from this disk that an archive has.

        Raises: as `append`; VerificationError with nothing removed.
        """
        await self._submit(_Job(Weight(0, 0), release=prepared))

    async def probe(self) -> None:
        """After a write that failed, show whether writes succeed. Raises: as `append`."""
        if self.store.environment.failure is not None or self.store.environment.is_displaced():
            await self._submit(_Job(Weight(0, 0)))

    async def wait_past(self, tree_size: int) -> TreeHead:
        """The durable head, as soon as it is larger than this size."""
        while self.head.tree_size <= tree_size:
            if self._grown is None:
                self._grown = asyncio.Event()
            await self._grown.wait()
        return self.head

    async def stop(self) -> None:
        """Commit what is waiting, then end the writer thread and close the log."""
        if self._fetching is not None:
            self._fetching.cancel()
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
            self.store.environment.check_place()
            self.store.environment.probe()
        try:
            placed = self._writer.commit(
                entries,
                checkpoints=checkpoints,
                expected=jobs[-1].expected,
                is_limited=all(job.requests or not job.entries for job in jobs),
            )
        except VerificationError as error:
            return [error] * len(jobs)
        head = self._writer.head
        ends = [*accumulate(map(len, made))]
        starts = (0, *ends)
        return [
            self._release(job.release) or job.outcome(some, placed[start:end], head)
            for job, some, start, end in zip(jobs, made, starts, ends, strict=False)
        ]

    def _release(self, prepared: PreparedRelease | None) -> VerificationError | None:
        """Remove released entries; why they stay, which is no failure of what was appended."""
        if prepared is not None:
            try:
                self._writer.release(prepared)
            except (CommitUndoneError, ValueError) as error:
                return VerificationError(f"no entry left this disk: {error}")
        return None

    def _fetch_released(self, appended: Sequence[Appended]) -> None:
        """Fetch the released events whose ids came again, for the next request with them.

        One fetch at a time: whoever sends old ids can't have more of them.
        """
        bundles = {
            each.leaf_index // TILE_WIDTH
            for some in appended
            for each in some.not_appended
            if each.placement is Placement.RELEASED
        }
        if bundles and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._fetch(sorted(bundles)[:FETCHED_MAX]))

    async def _fetch(self, bundles: Sequence[int]) -> None:
        with suppress(UnavailableError, MalformedError):  # The next request is told.
            await self.store.fetch(bundles)

    def _advance(self, outcomes: Sequence[Commit | VerificationError]) -> None:
        heads = [each.head for each in outcomes if not isinstance(each, VerificationError)]
        if not heads:
            return
        self.head = heads[-1]
        if self._grown is not None:
            self._grown.set()
            self._grown = None


def _is_too_much(outcome: Appended) -> bool:
    """Whether the entries that have the ids of a request are too much to answer with.

    Those of the same events are as large as the request.
    """
    return sum(len(each.leaf) for each in outcome.not_appended) > ANSWERED_BYTES_MAX


def _weigh(entries: Sequence[NewEntry]) -> Weight:
    return Weight(len(entries), sum(len(entry.leaf) for entry in entries))
