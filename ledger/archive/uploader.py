"""Uploads the new entries, tiles and heads of a log to a bucket.

One `upload` is, in this order: the bundles and the tiles that are full under the published head,
those that are partial, the sealed segments of the index and as Parquet, and then the head. So the
tree of a checkpoint in the bucket is there as a whole.

1. Nothing is uploaded before it was compared with the published head, and that head with the one in
   the bucket: a damaged entry, or another history, gets no name there that nobody can change.
2. Each object but the checkpoint is created, never replaced. One that is there already, as after a
   kill or from another uploader of the same log, must have the same content.
3. The checkpoint is replaced only if it still is the one that was read, is a head of the same tree,
   and is not larger. So two uploaders leave the larger one.

The position moves after each part of at most 65,536 entries, all of whose objects were confirmed.
It counts for one bucket, which `place.json` names. In any other one, as after a change of the
address, in one without `archive.json`, and after a rewind, an uploader begins at the head that the
bucket has, whose tree is there as a whole, or at the first entry.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from ledger.archive.edge import LEVELS, edge_tiles
from ledger.archive.local_tree import local_tree
from ledger.archive.sealed_uploader import SealedUploader
from ledger.follow.entries import position_at
from ledger.follow.position import Cursor
from ledger.log.hold import read_own_head
from ledger.object_storage.object_store import Bucket, all_at_once
from ledger.object_storage.objects import (
    CHECKPOINT,
    NOTE_BYTES_MAX,
    OBJECT_HEADERS,
    PROBE,
    RECORD,
    RECORD_BYTES_MAX,
    ArchiveRecord,
    pack,
    packed_bytes_max,
    parse_record,
    unpack,
)
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hashes
from ledger_core.tlog.policy import POLICY_BYTES_MAX, VerifiedHead, parse_policy
from ledger_core.tlog.tile import TILE_HEIGHT, TILE_WIDTH, TileRef, decode_bundle
from ledger_core.tlog.tiled_tree import TiledTree

HEAD_ATTEMPTS: Final = 8
"""Times that another uploader may replace the checkpoint between our read and our write."""

_BUNDLE: Final = {**OBJECT_HEADERS, "Content-Encoding": "gzip"}
_NOTE: Final = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"}
_JSON: Final = {"Content-Type": "application/json"}


class UploadedPlace(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `place.json`: the bucket, by its address and that of its server."""

    v: Literal[1] = 1
    url: str
    endpoint: str


class Uploader:
    """Uploads one log to one bucket. Used by one task."""

    def __init__(
        self,
        directory: Path,
        log: LogStore,
        bucket: Bucket,
        cursor: Cursor,
        *,
        requests_max: int,
    ) -> None:
        """`directory` is that of the ledger or the mirror; its index and Parquet may be missing.

        Raises: MalformedError for its policy, OSError.
        """
        self._log: Final = log
        self._policy: Final = parse_policy(read_limited(directory / "policy", POLICY_BYTES_MAX))
        self._bucket: Final = bucket
        self._cursor: Final = cursor
        self._requests: Final = asyncio.Semaphore(requests_max)
        self._origin: Final = log.origin()
        self._sealed: Final = SealedUploader(
            directory,
            log,
            bucket,
            # From the beginning, as after a rewind, what is there is compared.
            compares=cursor.position.next_index == 0,
        )
        self._uploaded = ""
        self._has_begun = False

    async def prepare(self) -> None:
        """Check that the store overwrites nothing, and that the archive is of this log.

        Raises: MalformedError for a store or an archive that can't be used; UnavailableError.
        """
        found = await self._bucket.get(RECORD, bytes_max=RECORD_BYTES_MAX)
        if found is not None:
            self._check_record(found.data)  # Before anything is written to another log's archive.
        await self._bucket.create(PROBE, b"created once\n")
        if await self._bucket.create(PROBE, b"created again\n") or await self._bucket.replace(
            PROBE, b"replaced\n", tag='"00000000000000000000000000000000"'
        ):
            raise MalformedError(
                f"{self._bucket.place.url}: the store overwrites an object although it is told not "
                "to, so it can't hold an archive: it must honour If-None-Match and If-Match"
            )
        if found is not None:
            return
        # A new bucket, or one that was emptied. First this: a kill must not leave the record in a
        # bucket that seems to be the one with the entries before the position.
        self._cursor.paths.place.unlink(missing_ok=True)
        record = msgspec.json.encode(ArchiveRecord(origin=self._origin)) + b"\n"
        if await self._bucket.create(RECORD, record, headers=_JSON):
            return
        found = await self._bucket.get(RECORD, bytes_max=RECORD_BYTES_MAX)
        if found is None:
            raise UnavailableError(f"{self._bucket.place.url}/{RECORD} came and went")
        self._check_record(found.data)

    def _check_record(self, data: bytes) -> None:
        if (origin := parse_record(data).origin) != self._origin:
            raise MalformedError(
                f"{self._bucket.place.url} is the archive of {origin}, not of {self._origin}: give "
                "each log a prefix of its own"
            )

    async def archived_size(self) -> int | None:
        """The size of the head in the bucket, None without one.

        Raises: VerificationError for a head that this log has not; MalformedError,
        UnavailableError.
        """
        archived = await self._read_archived()
        return None if archived is None else archived.rank[0]

    def is_due(self) -> bool:
        """Whether the newest head is not uploaded yet."""
        published = self._log.published()
        return published is not None and published.note != self._uploaded

    def has_full_segment(self) -> bool:
        """Whether there is a full segment that is not uploaded yet."""
        published = self._log.published()
        size = 0 if published is None else published.head.tree_size
        uploaded = self._cursor.position.next_index
        return size // SEGMENT_ENTRIES_MAX > uploaded // SEGMENT_ENTRIES_MAX

    async def upload(self) -> None:
        """Upload all that the published head covers, and that head.

        Raises: MalformedError, VerificationError for a log or a bucket that holds anything else
        than it should; UnavailableError.
        """
        published = self._log.published()
        if published is None:
            return
        head = self._policy.check(published.note)
        size = head.checkpoint.tree_size
        full_end = size - size % TILE_WIDTH
        archived = await self._read_archived()
        await self._begin(0 if archived is None else archived.rank[0])
        start = self._cursor.position.next_index
        if start < self._log.minimum_index:
            raise MalformedError(
                f"the entries below {self._log.minimum_index:,} were pruned, and "
                f"{self._bucket.place.url} has those below {start:,} alone: an archive needs the "
                "whole log, so it can't go on"
            )
        for first, end in self._parts(start - start % TILE_WIDTH, full_end):
            await self._upload_part(head, first, end)
            self._move(end)
        await self._upload_edge(head)
        await self._sealed.upload(size)
        await self._publish(published)
        self._move(size)
        self._uploaded = published.note

    async def _begin(self, archived_size: int) -> None:
        """Have the position count for this bucket. Before the first upload; later do nothing."""
        if self._has_begun:
            return
        paths, place = self._cursor.paths, self._bucket.place
        here = UploadedPlace(url=place.url, endpoint=place.endpoint)
        if _read_place(paths.place) != here:
            start = min(self._cursor.position.next_index, archived_size)
            await self._check_released(start)
            # A kill between the two writes repeats the first; the other order would leave a gap.
            self._cursor.move(start, position_at(self._log, start).last_leaf_hash)
            write_record(paths.place, here)
        self._has_begun = True

    async def _check_released(self, start: int) -> None:
        """Check that the bucket has what left this disk for it, before it is read from there."""
        release, name = self._log.release(), self._cursor.paths.root.name
        if release is None or release.archive != name or start >= release.end:
            return
        ref = TileRef(None, max(start, self._log.minimum_index) // TILE_WIDTH, TILE_WIDTH)
        if await self._bucket.get(ref.path, bytes_max=packed_bytes_max(ref)) is None:
            raise MalformedError(
                f"{self._bucket.place.url} lacks entries below {release.end:,}, which left this "
                f"disk for the archive {name!r}: if its address was changed, put it back, add the "
                "new one under another name, and run ledger archive move-released"
            )

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges to upload one after another: up to the end of each segment."""
        while start < end:
            stop = min(end, start - start % SEGMENT_ENTRIES_MAX + SEGMENT_ENTRIES_MAX)
            yield start, stop
            start = stop

    async def _upload_part(self, head: VerifiedHead, start: int, end: int) -> None:
        """Upload the bundles of whole tiles, and every tile that they fill."""
        bundles = range(start // TILE_WIDTH, end // TILE_WIDTH)
        inner = [
            TileRef(level, index, TILE_WIDTH)
            for level in range(1, LEVELS)
            for index in range(start >> TILE_HEIGHT * (level + 1), end >> TILE_HEIGHT * (level + 1))
        ]
        tree = local_tree(self._log, head, bundles, inner)
        await asyncio.to_thread(self._log.expect, bundles)
        await all_at_once(
            [
                *(self._upload_bundle(tree, index, TILE_WIDTH) for index in bundles),
                *(self._put(ref, tree.tiles[ref]) for ref in inner),
            ]
        )

    async def _upload_edge(self, head: VerifiedHead) -> None:
        """Upload the tiles and the bundle that are partial in the tree of a head."""
        size = head.checkpoint.tree_size
        partial = edge_tiles(size)
        open_bundles = [ref.index for ref in partial if ref.level == 0]
        tree = local_tree(self._log, head, open_bundles, partial)
        await all_at_once(self._put(ref, tree.tiles[ref]) for ref in partial if ref.level)
        for index in open_bundles:
            await self._upload_bundle(tree, index, size % TILE_WIDTH)

    async def _upload_bundle(self, tree: TiledTree, index: int, width: int) -> None:
        """Upload a bundle and its tile, once the tree is shown to have its entries."""
        async with self._requests:
            data = self._log.bundle(index=index, width=width)
            if data is None:
                raise MalformedError(f"the log has no bundle {index}")
            hashes = leaf_hashes(decode_bundle(data))
            tree.check_bundle(index, hashes)
            await self._create(TileRef(None, index, width), data)
            await self._create(TileRef(0, index, width), b"".join(hashes))

    async def _put(self, ref: TileRef, data: bytes) -> None:
        async with self._requests:
            await self._create(ref, data)

    async def _create(self, ref: TileRef, data: bytes) -> None:
        """Create the object of a tile or a bundle, unless the bucket has the same one."""
        headers = OBJECT_HEADERS if ref.level is not None else _BUNDLE
        if await self._bucket.create(ref.path, pack(ref, data), headers=headers):
            return
        found = await self._bucket.get(ref.path, bytes_max=packed_bytes_max(ref))
        if found is None:
            raise UnavailableError(f"{self._bucket.place.url}/{ref.path} came and went")
        if unpack(ref, found.data) != data:
            raise VerificationError(
                f"{self._bucket.place.url}/{ref.path} is there with another content than this log "
                "has: somebody changed it, or another history of the log was uploaded"
            )

    async def _publish(self, published: SignedCheckpoint) -> None:
        """Upload the head, unless the bucket has a larger one, or one as large and as signed."""
        note = published.note.encode()
        for _ in range(HEAD_ATTEMPTS):
            archived = await self._read_archived()
            if archived is None:
                if await self._bucket.create(CHECKPOINT, note, headers=_NOTE):
                    return
                continue
            if archived.rank >= _rank(published):
                return
            if await self._bucket.replace(CHECKPOINT, note, tag=archived.tag, headers=_NOTE):
                return
        raise UnavailableError(
            f"{self._bucket.place.url}/{CHECKPOINT} was replaced {HEAD_ATTEMPTS} times meanwhile: "
            "how many upload this log?"
        )

    async def _read_archived(self) -> "_Archived | None":
        """The head in the bucket. Raises: VerificationError if the log lacks it."""
        found = await self._bucket.get(CHECKPOINT, bytes_max=NOTE_BYTES_MAX)
        if found is None:
            return None
        keys = [log.verifier for log in self._policy.logs]
        try:
            theirs = read_own_head(found.data, self._origin, keys)
            rank = _rank(theirs)
        except VerificationError:
            # A key that was retired has signed it: then it is a head of this tree without any
            # signature that counts, and ours replaces it.
            theirs = parse_signed_checkpoint(found.data)
            if not self._is_own_tree(theirs):
                raise
            rank = theirs.head.tree_size, 0
        self._check_same_tree(theirs)
        return _Archived(rank, found.tag)

    def _is_own_tree(self, theirs: SignedCheckpoint) -> bool:
        """Whether the log's own tree has a head, signed or not."""
        there, size = theirs.head, self._log.head().tree_size
        return (
            theirs.checkpoint.origin == self._origin
            and there.tree_size <= size
            and self._log.root_at(there.tree_size) == there.root_hash
        )

    def _check_same_tree(self, theirs: SignedCheckpoint) -> None:
        """Check that the log has the head that is in the bucket."""
        there, size = theirs.head, self._log.head().tree_size
        if there.tree_size > size:
            raise VerificationError(
                f"the archive has a head of {there.tree_size:,} entries, and this log has {size:,}:"
                " another uploader is ahead, as that of the log is of a mirror's, or an older copy "
                "of the log was put back: see ledger recover"
            )
        if self._log.root_at(there.tree_size) != there.root_hash:
            raise VerificationError(
                f"the archive has a head of {there.tree_size:,} entries with another root than this"
                " log: they are two histories",
                evidence={"archived.note": theirs.note.encode()},
            )

    def _move(self, end: int) -> None:
        """Move the position forward, and never back."""
        if end >= self._cursor.position.next_index:
            self._cursor.move(end, position_at(self._log, end).last_leaf_hash)


def _read_place(path: Path) -> UploadedPlace | None:
    """The bucket that the position counts for; None where that is not known, or can't be read."""
    try:
        return read_record(path, UploadedPlace)
    except MalformedError:
        return None


class _Archived(NamedTuple):
    """The head in the bucket: its place in the order of heads, and the tag of the object."""

    rank: tuple[int, int]
    tag: str | None


def _rank(signed: SignedCheckpoint) -> tuple[int, int]:
    """The order of heads: by size, then by the number of their signatures."""
    return signed.head.tree_size, len(signed.as_note().signatures)
