"""The loops of a mirror: they fetch heads and entries from the log, and keep them when they fit.

    heads     a request that the log answers as soon as it publishes a larger head
    stream    the entries as the log acknowledges them, into a buffer in memory: unverified
    keep      when a head covers entries of the buffer, they are kept under it. A mirror that is far
              behind, or gets no stream, reads tiles and bundles of the published tree instead

Entries of the buffer are dropped with it when the process ends: they are fetched again. An answer
that isn't true is kept as evidence, said, and asked for again after a growing wait. A fork ends the
loops for good (`replica`).
"""

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import Final

from ledger.mirror.catch_up import Pace, catch_up
from ledger.mirror.fetching import LogReader
from ledger.mirror.replica import ForkError, Replica
from ledger.mirror.state import MirrorState
from ledger.runtime.tasks import wait_set
from ledger.store.log import DamagedTreeError
from ledger_client.errors import RejectedError
from ledger_client.runtime.backoff import exponential_s
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tree import TreeHead

NEAR_ENTRIES: Final = 16_384
"""A mirror that lacks more reads bundles: they are smaller than lines of the stream."""

BUFFER_ENTRIES_MAX: Final = 65_536
BUFFER_BYTES_MAX: Final = 64 << 20
"""While a log acknowledges and does not publish, its stream waits."""

STREAM_WAIT_S: Final = 2.0
"""How long entries of a published head may be missing in the stream before bundles are read."""

BACKOFF_BASE_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
SAVE_INTERVAL_S: Final = 1.0


class EntryBuffer:
    """Unverified leaves in order, from index `start` on."""

    def __init__(self) -> None:
        self.start = 0
        self.leaves: list[bytes] = []
        self.bytes_ = 0

    @property
    def end(self) -> int:
        """The index behind the last leaf."""
        return self.start + len(self.leaves)

    @property
    def is_full(self) -> bool:
        """Whether no more are read."""
        return len(self.leaves) >= BUFFER_ENTRIES_MAX or self.bytes_ >= BUFFER_BYTES_MAX

    def add(self, leaf: bytes) -> None:
        """Append a leaf."""
        self.leaves.append(leaf)
        self.bytes_ += len(leaf)

    def trim(self, start: int) -> None:
        """Forget the leaves before an index; all of them when it is not in the buffer."""
        if self.start < start <= self.end:
            gone = start - self.start
            self.bytes_ -= sum(map(len, self.leaves[:gone]))
            del self.leaves[:gone]
        elif start != self.start:
            self.leaves, self.bytes_ = [], 0
        self.start = start


class Follower:
    """Follows one log. Used on one event loop, which calls `run` once."""

    def __init__(self, replica: Replica, reader: LogReader, state: MirrorState) -> None:
        self._replica: Final = replica
        self._reader: Final = reader
        self._state: Final = state
        self._pace: Final = Pace()
        self._buffer: Final = EntryBuffer()
        self._buffer.trim(replica.held.tree_size)
        self._is_streaming = False
        self._published: VerifiedHead | None = None
        self._offered: VerifiedHead | None = None
        self._awaited = (0, 0.0)  # The size of a published head, and since when it is missing.
        self._changed: Final = asyncio.Event()
        self._kept: Final = asyncio.Condition()

    async def run(self) -> None:
        """Follow until cancelled."""
        loops = (self._watch_heads, self._read_stream, self._keep_entries)
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in loops:
                    tasks.create_task(loop())
                tasks.create_task(self._save_status())
        finally:
            self._state.save()
            await self._reader.close()

    async def wait_held(self, head: VerifiedHead, *, timeout_s: float) -> bool:
        """Keep the entries of a head that the log offers; whether they were kept in time.

        Raises: ForkError when the copy has another root there.
        """
        size = head.checkpoint.tree_size
        if self._offered is None or self._offered.checkpoint.tree_size < size:
            self._offered = head
            self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._kept:
                await self._kept.wait_for(lambda: self._replica.held.tree_size >= size)
        return self._replica.held.tree_size >= size

    async def wait_published(self, tree_size: int, *, timeout_s: float) -> bool:
        """Wait for a published head of this size; whether there is one."""

        def is_published() -> bool:
            published = self._replica.published
            return published is not None and published.head.tree_size >= tree_size

        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._kept:
                await self._kept.wait_for(is_published)
        return is_published()

    async def _watch_heads(self) -> None:
        failures = 0
        while self._replica.stopped is None:
            known = self._published
            # At first the log answers at once.
            wanted = 0 if known is None else known.checkpoint.tree_size + 1
            asked_s = asyncio.get_running_loop().time()
            is_ok = await self._guarded("head", self._take_head(wanted))
            failures = 0 if is_ok else failures + 1
            waited_s = asyncio.get_running_loop().time() - asked_s
            if failures:
                await _pause(failures)
            elif self._lacks(wanted) and waited_s < BACKOFF_BASE_S:
                # The log, or a cache before it, does not wait for a new head: it is not asked
                # again and again.
                await asyncio.sleep(BACKOFF_BASE_S)

    def _lacks(self, tree_size: int) -> bool:
        return self._published is None or self._published.checkpoint.tree_size < tree_size

    async def _take_head(self, tree_size: int) -> None:
        """Fetch the published head and accept it."""
        try:
            head = self._replica.check_published(await self._reader.fetch_head(tree_size=tree_size))
            await self._reader.run(self._replica.accept(head))
        except RejectedError as error:
            raise UnavailableError(f"the log refuses a proof: {error}") from error
        size = head.checkpoint.tree_size
        accepted = self._replica.accepted
        if accepted is not None and size < accepted.checkpoint.tree_size:
            published = self._replica.published
            if published is None or size < published.head.tree_size:
                self._state.heard(size, held=self._replica.held.tree_size)
                await self._show_accepted()
                raise self._replica.older_error(head)
        self._state.heard(size, held=self._replica.held.tree_size)
        self._state.answered_truly("head")
        self._published = head
        self._changed.set()

    async def _show_accepted(self) -> None:
        """Show the log the head that it seems to have lost: it takes no events then."""
        accepted = self._replica.accepted
        if accepted is not None:
            with suppress(UnavailableError, RejectedError, MalformedError):
                await self._reader.show_head(accepted.note)

    async def _read_stream(self) -> None:
        failures = 0
        while self._replica.stopped is None:
            if not self._is_near():
                await asyncio.sleep(BACKOFF_BASE_S)
                continue
            is_ok = await self._guarded("stream", self._fill_buffer())
            self._is_streaming = False
            failures = 0 if is_ok else failures + 1
            await _pause(max(1, failures))

    def _is_near(self) -> bool:
        """Whether the mirror lacks few enough entries to get them by the stream."""
        if self._published is None:
            # The log may publish nothing before this mirror has cosigned.
            return self._offered is not None
        return self._published.checkpoint.tree_size - self._replica.held.tree_size <= NEAR_ENTRIES

    async def _fill_buffer(self) -> None:
        """Add the entries of one stream to the buffer until it ends."""
        buffer = self._buffer
        async with aclosing(self._reader.stream(buffer.end)) as pieces:
            async for found in pieces:
                self._is_streaming = True
                for index, leaf in found:
                    if index == buffer.end:
                        buffer.add(leaf)
                    elif index > buffer.end:
                        return  # The buffer was dropped: a new stream begins where it is.
                if found:
                    self._changed.set()
                async with self._kept:
                    await self._kept.wait_for(lambda: not buffer.is_full)
                if not self._is_near():
                    return

    async def _keep_entries(self) -> None:
        failures = 0
        while self._replica.stopped is None:
            self._changed.clear()
            size = self._replica.held.tree_size
            is_ok = await self._guarded("entries", self._keep_next())
            self._state.kept(self._replica.held.tree_size)
            async with self._kept:
                self._kept.notify_all()
            failures = 0 if is_ok else failures + 1
            if failures:
                await _pause(failures)
            elif self._replica.held.tree_size == size:
                await wait_set(self._changed, STREAM_WAIT_S)

    async def _keep_next(self) -> None:
        """Keep entries under the largest head that the buffer covers, or read bundles."""
        replica, buffer, published = self._replica, self._buffer, self._published
        held = replica.held.tree_size
        buffer.trim(held)
        covered = [
            head
            for head in (published, self._offered)
            if head is not None and held < head.checkpoint.tree_size <= buffer.end
        ]
        if covered:
            head = max(covered, key=lambda each: each.checkpoint.tree_size)
            await self._keep_buffered(head, is_published=head is published)
            return
        if published is None:
            return
        if published.checkpoint.tree_size <= held:
            if replica.published is None or replica.published.note != published.note:
                await replica.publish(published)
            return
        missing = published.checkpoint.tree_size - buffer.end
        if self._is_streaming and missing <= NEAR_ENTRIES and not self._is_overdue(published):
            return
        await self._catch_up(published)

    def _is_overdue(self, published: VerifiedHead) -> bool:
        """Whether the entries of a published head have been missing for long."""
        now = asyncio.get_running_loop().time()
        size = published.checkpoint.tree_size
        if self._awaited[0] != size:
            self._awaited = (size, now)
        return now - self._awaited[1] >= STREAM_WAIT_S

    async def _keep_buffered(self, head: VerifiedHead, *, is_published: bool) -> None:
        checkpoint = head.checkpoint
        count = checkpoint.tree_size - self._buffer.start
        if not is_published:
            self._replica.remember(head)
        try:
            await self._replica.append(
                self._buffer.leaves[:count],
                expected=TreeHead(checkpoint.tree_size, checkpoint.root_hash),
                published=head if is_published else None,
            )
        except VerificationError:
            # The stream lied, or the head: tiles under the published head tell.
            self._buffer.trim(0)
            self._buffer.trim(self._replica.held.tree_size)
            if not is_published:
                self._offered = None
                raise
            await self._catch_up(head)
        else:
            # What the log withheld of them is here by another way, and is not asked for again.
            self._state.answered_truly("entries")

    async def _catch_up(self, head: VerifiedHead) -> None:
        """Keep the entries under the next tile of level 1, from its bundles. Raises: `catch_up`."""
        await catch_up(self._replica, self._reader, head, pace=self._pace, on_kept=self._state.kept)
        self._state.answered_truly("entries")

    async def _guarded(self, source: str, work: Awaitable[None]) -> bool:
        """Do one piece of work; whether it succeeded. A failure is kept in the state."""
        try:
            await work
        except ForkError as error:
            self._state.lied(source, str(error))
            self._replica.stop(error)
        except DamagedTreeError as error:
            self._state.failed(f"the store of this mirror: {error}")
        except VerificationError as error:
            self._replica.save_evidence(error)
            self._state.lied(source, str(error))
        except (UnavailableError, MalformedError, OSError) as error:
            self._state.failed(str(error))
        else:
            return True
        return False

    async def _save_status(self) -> None:
        while True:
            self._state.save()
            await asyncio.sleep(SAVE_INTERVAL_S)


async def _pause(failures: int) -> None:
    await asyncio.sleep(exponential_s(failures, base_s=BACKOFF_BASE_S, limit_s=BACKOFF_MAX_S))
