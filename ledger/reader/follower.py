"""Follows the checkpoint of an archive, and decides which head is served.

A head is served once it meets the policy, the tree of the head before is the beginning of its tree,
and the tiles at its right edge are here. It is written to `DIR/head.json` first, so a reader that
is started again never serves an older one. A smaller head in the bucket is an older copy that was
put back: what is served stays. A head of another history ends the following; both are evidence.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from ledger.archive.ids import IDS
from ledger.log.evidence import save_evidence
from ledger.log.witness_client import WitnessStatus
from ledger.object_storage.fetching import Part, wait_for
from ledger.object_storage.objects import CHECKPOINT, INDEX, NOTE_BYTES_MAX
from ledger.reader.archived_index import ArchivedIndex
from ledger.reader.archived_log import (
    ArchivedHead,
    ArchivedLog,
    ArchiveState,
    part_of,
)
from ledger.service.mirrored import Lag
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import DamagedBundleError
from ledger.store.stored_log import DamagedObjectError, FetchFailedError
from ledger_client.state_file import StateFile
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle
from ledger_core.tlog.tiled_tree import TiledTree
from ledger_core.tlog.trust import check_anchor, fork_error

LIST_AGAIN_S: Final = 60.0
"""Seconds between two lists of the bucket while a segment lacks its index."""

FETCHED_AT_ONCE: Final = 64
BUNDLES_AT_ONCE: Final = 32

_log = structlog.get_logger("ledger.reader")


class ArchiveFollower:
    """The heads of an archive, as `RunningHeads`. Used on the event loop alone."""

    failure: VerificationError | None = None
    quorum_missing: str | None = None

    def __init__(
        self,
        state: ArchiveState,
        index: ArchivedIndex,
        policy: Policy,
        *,
        kept: StateFile,
        evidence: Path,
        poll_s: float,
        unix_s: Callable[[], int],
    ) -> None:
        self._state: Final = state
        self._index: Final = index
        self._policy: Final = policy
        self._kept: Final = kept
        self._evidence: Final = evidence
        self._poll_s: Final = poll_s
        self._unix_s: Final = unix_s
        self._grown: Final = asyncio.Condition()
        self._error = ""
        self._failing_since_unix_s = 0
        self._complete_unix_s = unix_s()
        self._older = ""
        self._fork = ""
        self._listed_segments = -1
        self._listed_s = 0.0
        self._ids_start = 0
        self._is_running = False

    @property
    def published(self) -> SignedCheckpoint | None:
        """The head that is served."""
        return None if self._state.current is None else self._state.current.signed

    @property
    def witnesses(self) -> tuple[WitnessStatus, ...]:
        """No witnesses: the log asks them."""
        return ()

    async def newest(self) -> SignedCheckpoint:
        """Raises: UnavailableError."""
        raise UnavailableError("a reader of an archive signs no head of the log")

    async def shown(self, data: bytes, *, by: str) -> bool:  # noqa: ARG002
        """Whether the served tree has a checkpoint. Raises: VerificationError, MalformedError."""
        offered = self._policy.check(data)
        served = self._state.current
        if served is None or offered.checkpoint.tree_size > served.verified.checkpoint.tree_size:
            return False
        await self._check_extends(offered, served)
        return True

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> SignedCheckpoint | None:
        """The first served head of at least this size; None when time ran out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._grown:
                await self._grown.wait_for(
                    lambda: (
                        self.published is not None and self.published.head.tree_size >= tree_size
                    )
                )
                return self.published
        return None

    async def publish(self) -> None:
        """Do nothing: the log publishes."""

    async def run(self) -> None:
        """Follow until cancelled, or until the archive has another history."""
        self._is_running = True
        await self._noting_errors(self._take_kept)
        while not self._fork:
            await self._noting_errors(self.step)
            await asyncio.sleep(self._poll_s)

    async def read_head(self) -> None:
        """Read the head that is served, once. Raises: as `step`."""
        await self._take_kept()
        await self.step()

    async def step(self) -> None:
        """Read the checkpoint once, and serve it if it is newer.

        Raises: UnavailableError, MalformedError, VerificationError.
        """
        objects = self._state.objects
        found = await objects.bucket.get(CHECKPOINT, bytes_max=NOTE_BYTES_MAX)
        if found is None:
            raise VerificationError(f"{CHECKPOINT} is missing")
        offered = self._policy.check(found.data)
        served = self._state.current
        if served is None:
            await self._serve(offered)
            return
        before, after = served.verified.checkpoint, offered.checkpoint
        self._note_older(before.tree_size, after.tree_size)
        if after.tree_size < before.tree_size:
            return
        if after.head == before.head:
            signatures = len(parse_signed_checkpoint(offered.note).as_note().signatures)
            if signatures >= len(served.signed.as_note().signatures):
                await self._serve(offered)
            return
        await self._serve(offered)

    def lag(self) -> Lag:
        """Seconds since the bucket last answered rightly; the entries behind are unknown."""
        if not self._failing_since_unix_s:
            return Lag()
        return Lag(seconds=float(self._unix_s() - self._complete_unix_s))

    def reasons(self) -> list[str]:
        """The reasons why nothing, or nothing new, can be served."""
        if self._fork:
            return [self._fork]
        if self._state.current is None:
            return [f"no head of the archive was read yet: {self._error or 'it is being read'}"]
        return []

    def warnings(self) -> list[str]:
        """That the bucket doesn't answer rightly, or has an older head than was seen."""
        warnings = [self._older] if self._older else []
        if self._failing_since_unix_s and self._state.current is not None:
            since = format_time(self._failing_since_unix_s * 1_000_000)
            warnings.append(f"no newer head could be read since {since}: {self._error}")
        return warnings

    async def _noting_errors(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (UnavailableError, MalformedError, VerificationError, ValueError, OSError) as error:
            if not self._failing_since_unix_s:
                self._failing_since_unix_s = self._unix_s()
                _log.warning("archive_unreadable", reason=str(error))
            self._error = str(error)
        else:
            if self._failing_since_unix_s:
                _log.info("archive_readable_again")
            self._failing_since_unix_s, self._error = 0, ""
            self._complete_unix_s = self._unix_s()

    async def _take_kept(self) -> None:
        """Serve the head that was served before the start. Raises: as `step`."""
        note = await asyncio.to_thread(self._kept.load)
        if note is not None and self._state.current is None:
            await self._serve(check_anchor(note, self._policy))

    async def _serve(self, offered: VerifiedHead) -> None:
        """Load what a head needs, and serve it. Raises: as `step`."""
        head = await self._load(offered)
        served = self._state.current
        if served is not None:
            await self._check_extends(served.verified, head)
        log = self._view(head)
        await self._take_lists(head.signed.head.tree_size)
        await asyncio.to_thread(self._take_ids, log)
        if served is None or served.verified.note != offered.note:
            await asyncio.to_thread(self._kept.save, offered.note)
        async with self._grown:
            self._state.current = head
            self._grown.notify_all()
        if self._is_running and (served is None or served.signed.head != head.signed.head):
            _log.info("archived_head", tree_size=head.signed.head.tree_size)

    async def _load(self, offered: VerifiedHead) -> ArchivedHead:
        """A head with the tiles at the right edge of its tree. Raises: as `step`."""
        objects = self._state.objects
        tree = TiledTree(offered)
        refs = tree.plan(())
        parts = [part_of(ref) for ref in refs]
        await objects.fetch([part for part in parts if objects.held(part) is None])
        tiles = [objects.held(part) for part in parts]
        found = {ref: data for ref, data in zip(refs, tiles, strict=True) if data is not None}
        try:
            tree.finish((), found)
        except (VerificationError, MalformedError, ValueError) as error:
            objects.drop(parts)
            names = ", ".join(ref.path for ref in refs)
            raise DamagedObjectError(f"{names}: {error}") from None
        for ref, part in zip(refs, parts, strict=True):
            objects.keep(part, found[ref])
        return ArchivedHead(offered, parse_signed_checkpoint(offered.note), dict(tree.tiles))

    async def _check_extends(self, before: VerifiedHead, after: ArchivedHead) -> None:
        """Check that a tree begins with another. Raises: as `step`."""
        size = before.checkpoint.tree_size
        root = await asyncio.to_thread(self._view(after).head_at, size)
        if root == before.checkpoint.head:
            return
        error = fork_error(
            f"the archive's tree has another root at {size:,} entries",
            accepted=before,
            offered=after.verified,
        )
        place = save_evidence(self._evidence, error, time_unix_s=self._unix_s())
        self._fork = f"{error}; what is served stays; the evidence is in {place}"
        _log.error("archive_forked", tree_size=size, evidence=str(place))
        raise error

    def _view(self, head: ArchivedHead) -> ArchivedLog:
        """The log under a head that isn't served yet, for threads."""
        state = ArchiveState(self._state.objects, self._state.origin)
        state.current = head
        return ArchivedLog(state, wait_for)

    async def _take_lists(self, tree_size: int) -> None:
        """Read which segments the bucket has, if that may have changed. Raises: as `step`."""
        full = tree_size // SEGMENT_ENTRIES_MAX
        now_s = time.monotonic()
        is_late = now_s - self._listed_s > LIST_AGAIN_S
        if full == self._listed_segments and not (is_late and self._index.lacks(full)):
            return
        bucket = self._state.objects.bucket
        listed = [each async for each in bucket.lengths(INDEX)]
        names = [name async for name in bucket.names(IDS)]
        await self._fetch_heads(self._index.take(listed, full_segments=full))
        await asyncio.to_thread(self._index.read_records)
        self._ids_start = self._state.ids.take_tables(names, full_segments=full)
        self._listed_segments, self._listed_s = full, now_s

    async def _fetch_heads(self, parts: Sequence[Part]) -> None:
        objects = self._state.objects
        for at in range(0, len(parts), FETCHED_AT_ONCE):
            some = parts[at : at + FETCHED_AT_ONCE]
            # `read_records` sets aside those that can't be read: searches read their entries.
            with suppress(DamagedObjectError, FetchFailedError):
                await objects.fetch([part for part in some if objects.held(part) is None])

    def _take_ids(self, log: ArchivedLog) -> None:
        """Read the ids of the open segment into memory, on a thread. Raises: FetchFailedError."""
        size = log.head().tree_size
        first = self._state.ids.first_unknown(self._ids_start)
        bundles: list[tuple[int, list[bytes]]] = []
        faults: list[str] = []
        numbers = range(first // TILE_WIDTH, -(-size // TILE_WIDTH))
        for at in range(0, len(numbers), BUNDLES_AT_ONCE):
            some = numbers[at : at + BUNDLES_AT_ONCE]
            with suppress(DamagedObjectError):  # Each is read again below.
                log.expect(some)
            for number in some:
                start = number * TILE_WIDTH
                try:
                    data = log.bundle(index=number, width=min(TILE_WIDTH, size - start))
                except DamagedBundleError as error:
                    faults.append(str(error))
                else:
                    bundles.append((start, decode_bundle(data or b"")))
        self._state.ids.extend(self._ids_start, size, bundles, faults)

    def _note_older(self, served: int, offered: int) -> None:
        older = ""
        if offered < served:
            older = (
                f"{CHECKPOINT} in the bucket has {offered:,} entries, and had {served:,} before: "
                "somebody put an older one back; what is served stays"
            )
        if older and not self._older:
            _log.warning("archived_head_older", tree_size=offered, served_size=served)
        self._older = older
