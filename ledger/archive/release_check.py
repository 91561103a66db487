"""Shows that a bucket has what may leave the local disk: it reads all of it back.

A segment passes when

* the checkpoint in the bucket meets the policy, covers the segment, and is of this log's tree;
* each of its bundles is read back, and has its hashes in the tree of that checkpoint;
* nobody can delete them: the bucket locks its newest objects, and a bundle of the segment is locked
  itself, since a lock begins when an object is written. Or the settings say that it needs no lock.

Only then is it written down (`ledger.object_storage.releasable`) that the segment may go.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

import structlog

from ledger.archive.local_tree import local_tree
from ledger.archive.object_lock import read_lock
from ledger.object_storage.config import ArchiveConfig
from ledger.object_storage.object_store import Bucket, all_at_once
from ledger.object_storage.objects import CHECKPOINT, NOTE_BYTES_MAX, packed_bytes_max, unpack
from ledger.object_storage.releasable import (
    Releasable,
    read_releasable,
    wanted_end,
    write_releasable,
)
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hashes
from ledger_core.tlog.policy import POLICY_BYTES_MAX, VerifiedHead, parse_policy
from ledger_core.tlog.tile import TILE_WIDTH, TileRef, decode_bundle
from ledger_core.tlog.tiled_tree import TiledTree

_log = structlog.get_logger("ledger.archive")


class ReleaseCheck:
    """Checks the archive of one log, a segment at a time. Used by one task."""

    def __init__(
        self, directory: Path, name: str, log: LogStore, bucket: Bucket, config: ArchiveConfig
    ) -> None:
        self._directory: Final = directory
        self._name: Final = name
        self._log: Final = log
        self._bucket: Final = bucket
        self._config: Final = config

    def is_due(self) -> bool:
        """Whether the settings let a segment go that was not checked. Raises: MalformedError."""
        published = self._log.published()
        size = 0 if published is None else published.head.tree_size
        return self._start() < wanted_end(self._config, self._log, size)

    async def check_next(self) -> int:
        """Check the next segment, and write down that it may go; the end of what may.

        Raises: VerificationError, MalformedError for a bucket that lacks anything, or has no lock;
        UnavailableError.
        """
        start = self._start()
        head = await self._archived_head()
        size = head.checkpoint.tree_size
        end = min(
            start - start % SEGMENT_ENTRIES_MAX + SEGMENT_ENTRIES_MAX,
            wanted_end(self._config, self._log, size),
        )
        if end <= start:
            return start
        bundles = range(start // TILE_WIDTH, end // TILE_WIDTH)
        await self._check_lock(CHECKPOINT)
        tree = local_tree(self._log, head, bundles)
        requests = asyncio.Semaphore(self._config.requests_max)
        await all_at_once(self._check_bundle(tree, index, requests) for index in bundles)
        # Its lock began when it was written, which may be before the bucket had one.
        await self._check_lock(TileRef(None, bundles[0], TILE_WIDTH).path)
        record = Releasable(
            end=end,
            root_hash=self._log.root_at(end).hex(),
            url=self._bucket.place.url,
            endpoint=self._bucket.place.endpoint,
            tree_size=size,
        )
        write_releasable(self._directory, self._name, record)
        _log.info("segment_read_back", archive=self._name, end=end)
        return end

    def _start(self) -> int:
        """The end of what was checked, in this bucket. Raises: MalformedError, OSError."""
        record = read_releasable(self._directory, self._name, self._log, self._bucket.place)
        return max(0 if record is None else record.end, self._log.minimum_index)

    async def _archived_head(self) -> VerifiedHead:
        """The checkpoint in the bucket, of the tree of this log."""
        found = await self._bucket.get(CHECKPOINT, bytes_max=NOTE_BYTES_MAX)
        if found is None:
            raise UnavailableError(f"{self._bucket.place.url} has no checkpoint yet")
        policy = parse_policy(read_limited(self._directory / "policy", POLICY_BYTES_MAX))
        head = policy.check(found.data)
        there = head.checkpoint.head
        if there.tree_size > self._log.head().tree_size or (
            self._log.root_at(there.tree_size) != there.root_hash
        ):
            raise VerificationError(
                f"the checkpoint of {self._bucket.place.url} is none of this log's: nothing leaves "
                "this disk"
            )
        return head

    async def _check_lock(self, name: str) -> None:
        """Check that nobody can delete an object, unless the settings say that it needs no lock."""
        if self._config.allow_unlocked:
            return
        lock = await asyncio.to_thread(read_lock, self._bucket.place, name)
        if lock.unknown:
            raise UnavailableError(f"the lock of {name} is {lock}")
        if not lock.is_safe or lock.until_unix_s <= time.time():
            raise MalformedError(
                f"retain_local_segments: nothing leaves this disk, since {name} in the bucket can "
                f"be deleted ({lock}); with allow_unlocked = true it may be the only copy all the "
                "same"
            )

    async def _check_bundle(self, tree: TiledTree, index: int, requests: asyncio.Semaphore) -> None:
        ref = TileRef(None, index, TILE_WIDTH)
        name = f"{self._bucket.place.url}/{ref.path}"
        async with requests:
            found = await self._bucket.get(ref.path, bytes_max=packed_bytes_max(ref))
        if found is None:
            raise VerificationError(f"{name} is missing: ledger archive rewind uploads it again")
        try:
            tree.check_bundle(index, leaf_hashes(decode_bundle(unpack(ref, found.data))))
        except (MalformedError, VerificationError) as error:
            raise VerificationError(f"{name} is damaged: {error}") from None
