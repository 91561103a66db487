"""Checks a whole archive from the bucket alone: the head, every tile, every bundle, the index.

It goes down from the root. A tile is proven when its hashes have the root that the tile above says,
and a bundle when its entries have the hashes of its tile. What is missing or damaged is named. A
bad tile is computed from what is below it, so that it hides no other fault; where even that does
not give its root, what is below is compared with itself alone.

Memory does not grow with the log: the hashes of one segment, and some bundles. The files of a
segment go through the folder for temporary files.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ledger.archive.edge import choose_edge, edge_tiles
from ledger.archive.ids import IDS, match_ids
from ledger.archive.reader import ArchiveReader
from ledger.archive.sealed import Sealed, read_sealed
from ledger.object_storage.objects import (
    INDEX,
    PARQUET,
    SEGMENT_OBJECTS_MAX,
    match_index,
    match_parquet,
)
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment_file import StaleSegmentError
from ledger_client.runtime.fault_list import FaultList
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hashes
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tile import TILE_WIDTH, TileRef, decode_bundle
from ledger_core.tlog.tree import subtree_rows

FAULTS_MAX: Final = 1000

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class ArchiveReport:
    """What an archive holds, and what is wrong with it.

    `index_segments`, `id_tables` and `parquet_files` are whole, and say that they are of the log's
    entries; their content is no proof. `other_segments` were made by other rules.
    """

    head: VerifiedHead
    bundles: int = 0
    tiles: int = 0
    index_segments: int = 0
    other_segments: int = 0
    parquet_files: int = 0
    id_tables: int = 0
    faults: FaultList = field(default_factory=partial(FaultList, FAULTS_MAX))


class ArchiveCheck:
    """Checks one archive under one head."""

    def __init__(
        self,
        reader: ArchiveReader,
        head: VerifiedHead,
        *,
        progress: Progress = lambda _done, _total: None,
    ) -> None:
        self.report: Final = ArchiveReport(head)
        self._reader: Final = reader
        self._size: Final = head.checkpoint.tree_size
        self._progress: Final = progress
        self._index: Final[defaultdict[int, list[str]]] = defaultdict(list)
        self._parquet: Final[defaultdict[int, list[str]]] = defaultdict(list)
        self._ids: Final[defaultdict[int, list[str]]] = defaultdict(list)

    async def run(self) -> ArchiveReport:
        """Check all of it. Raises: UnavailableError."""
        await self._list_sealed()
        edge = await self._check_edge()
        for ref, data in reversed(edge.items()):
            if ref.level == 0:
                await self._check_bundle(ref, data)
            else:
                await self._check_below(ref, data)
        return self.report

    async def _list_sealed(self) -> None:
        if self._reader.bucket.place.url.startswith("http"):
            return  # A plain web server has no list.
        full = self._size // SEGMENT_ENTRIES_MAX
        for folder, match, found in (
            (INDEX, match_index, self._index),
            (PARQUET, match_parquet, self._parquet),
            (IDS, match_ids, self._ids),
        ):
            try:
                async for name in self._reader.bucket.names(folder):
                    matched = match(name)
                    if matched is None or int(matched[1]) >= full:
                        continue
                    some = found[int(matched[1])]
                    # A list may name objects without an end, and one many times.
                    if name not in some and len(some) <= SEGMENT_OBJECTS_MAX:
                        some.append(name)
            except MalformedError as error:
                self.report.faults.add(f"{error}: the others are not checked")

    async def _check_edge(self) -> dict[TileRef, bytes | None]:
        """The tiles at the right edge, each proven or None."""
        checkpoint = self.report.head.checkpoint
        refs = edge_tiles(self._size)
        stored = {ref: await self._read_tile(ref) for ref in refs}
        candidates = {ref: [] if data is None else [data] for ref, data in stored.items()}
        chosen = choose_edge(self._size, checkpoint.root_hash, candidates)
        for by_entries in (False, True):
            if chosen is not None:
                break
            for ref in refs:
                computed = await self._compute(ref, by_entries=by_entries)
                if computed is not None and computed not in candidates[ref]:
                    candidates[ref].append(computed)
            chosen = choose_edge(self._size, checkpoint.root_hash, candidates)
        if chosen is None:
            self.report.faults.add(
                f"{', '.join(ref.path for ref in refs)}: they do not have the root of the head, and"
                " can't be computed from what is below them"
            )
            return dict.fromkeys(refs)
        for ref, data in stored.items():
            if data is not None and data != chosen[ref]:
                self._damaged(ref)
        return dict(chosen)

    async def _check_below(self, ref: TileRef, hashes: bytes | None) -> None:
        """Check all that is below a tile of a level above 0."""
        level = (ref.level or 0) - 1
        first = ref.index * TILE_WIDTH
        wanted = zip(range(first, first + ref.width), _split(hashes, ref.width), strict=True)
        if level == 0:
            found = await asyncio.gather(
                *(self._check_leaves(index, root) for index, root in wanted)
            )
            if ref.width == TILE_WIDTH:
                await self._check_segment(ref, hashes, found)
            return
        for index, root in wanted:
            child = TileRef(level, index, TILE_WIDTH)
            await self._check_below(child, await self._proven(child, root))

    async def _proven(self, ref: TileRef, root: Hash | None) -> bytes | None:
        """The hashes of a full tile with a root, as stored or as computed; None for neither."""
        stored = await self._read_tile(ref)
        if root is None or (stored is not None and _root(stored) == root):
            return stored
        if stored is not None:
            self._damaged(ref)
        for by_entries in (False, True):
            computed = await self._compute(ref, by_entries=by_entries)
            if computed is not None and _root(computed) == root:
                return computed
        return None

    async def _check_leaves(self, index: int, root: Hash | None) -> bytes | None:
        """Check a full tile of level 0 and its bundle; the leaf hashes that are proven."""
        ref = TileRef(0, index, TILE_WIDTH)
        tile = await self._read_tile(ref)
        bundle = await self._read_bundle(ref)
        self._progress(self.report.bundles, -(-self._size // TILE_WIDTH))
        if root is None:
            if tile is not None and bundle is not None and tile != bundle:
                self.report.faults.add(
                    f"{ref.path} and {_entries(ref).path} contradict each other, and the tile above"
                    " can't say which is right"
                )
            return None
        is_proven = [data is not None and _root(data) == root for data in (tile, bundle)]
        if tile is not None and not is_proven[0]:
            self._damaged(ref)
        if bundle is not None and not is_proven[1]:
            self._damaged(_entries(ref))
        return tile if is_proven[0] else bundle if is_proven[1] else None

    async def _check_bundle(self, ref: TileRef, hashes: bytes | None) -> None:
        """Check the partial bundle against its tile."""
        bundle = await self._read_bundle(ref)
        if bundle is not None and hashes is not None and bundle != hashes:
            self._damaged(_entries(ref))

    async def _check_segment(
        self, ref: TileRef, hashes: bytes | None, found: Sequence[bytes | None]
    ) -> None:
        """Check the index and the Parquet of a full segment."""
        for name in self._listed(self._parquet, PARQUET, ref.index):
            await self._check_parquet(name, hashes)
        digest = hashlib.sha256()
        for data in found:
            if data is None:
                return  # A fault that was named already leaves nothing to compare with.
            digest.update(data)
        for name in self._listed(self._index, INDEX, ref.index):
            await self._check_index(name, digest.hexdigest())
        for name in self._listed(self._ids, IDS, ref.index):
            await self._check_ids(name, digest.hexdigest())

    def _listed(self, found: dict[int, list[str]], folder: str, segment: int) -> list[str]:
        """The names of one kind of object of a segment. More of them than are right are a fault."""
        names = found.pop(segment, [])
        if len(names) > SEGMENT_OBJECTS_MAX:
            self.report.faults.add(
                f"{folder}: more than {SEGMENT_OBJECTS_MAX} objects are of segment {segment}: the "
                "others are not checked"
            )
        return names[:SEGMENT_OBJECTS_MAX]

    async def _check_parquet(self, name: str, hashes: bytes | None) -> None:
        match = match_parquet(name)
        if match is None or hashes is None:
            return
        if _root(hashes)[:8].hex() != match["root"]:
            self.report.faults.add(f"{name} was made of other entries than the log has")
        elif await self._read_sealed(name) is not None:
            self.report.parquet_files += 1

    async def _check_index(self, name: str, entries_hash: str) -> None:
        try:
            sealed = await self._read_sealed(name)
        except StaleSegmentError:
            self.report.other_segments += 1
            return
        if sealed is not None and sealed.entries_hash != entries_hash:
            self.report.faults.add(f"{name} was built from other entries than the log has")
        elif sealed is not None:
            self.report.index_segments += 1

    async def _check_ids(self, name: str, entries_hash: str) -> None:
        sealed = await self._read_sealed(name)
        if sealed is not None and sealed.entries_hash != entries_hash:
            self.report.faults.add(f"{name} was made of other entries than the log has")
        elif sealed is not None:
            self.report.id_tables += 1

    async def _read_sealed(self, name: str) -> Sealed | None:
        """Read a segment of the index, of ids or of Parquet; None, with its fault noted, if bad.

        Raises: StaleSegmentError.
        """
        try:
            sealed = await read_sealed(self._reader.bucket, name)
            if sealed is not None:
                return sealed
            self.report.faults.add(f"{name} is missing")
        except MalformedError as error:
            self.report.faults.add(f"{name} is damaged: {error}")
        return None

    async def _compute(self, ref: TileRef, *, by_entries: bool) -> bytes | None:
        """The hashes of a tile from what is below it; None when some of that is unusable.

        `by_entries`: from the bundles, and from a tile where they give none; otherwise from the
        tiles just below it, and from what is below one that can't be used.
        """
        if ref.level == 0:
            return await self._read_bundle(ref, notes=False)
        hashes = []
        for index in range(ref.index * TILE_WIDTH, ref.index * TILE_WIDTH + ref.width):
            child = TileRef((ref.level or 0) - 1, index, TILE_WIDTH)
            data = None if by_entries else await self._read_tile(child, notes=False)
            data = data or await self._compute(child, by_entries=by_entries)
            data = data or await self._read_tile(child, notes=False)
            if data is None:
                return None
            hashes.append(_root(data))
        return b"".join(hashes)

    async def _read_tile(self, ref: TileRef, *, notes: bool = True) -> bytes | None:
        """A tile of the right length. `notes`: count it, and its absence as a fault."""
        data = await self._read(ref, notes=notes)
        if data is not None and len(data) != ref.width * HASH_BYTES:
            if notes:
                self._damaged(ref)
            return None
        self.report.tiles += notes
        return data

    async def _read_bundle(self, tile: TileRef, *, notes: bool = True) -> bytes | None:
        """The leaf hashes of the bundle of a tile of level 0."""
        ref = _entries(tile)
        data = await self._read(ref, notes=notes)
        self.report.bundles += notes
        if data is None:
            return None
        try:
            leaves = decode_bundle(data)
        except MalformedError:
            leaves = []
        if len(leaves) != ref.width:
            if notes:
                self._damaged(ref)
            return None
        return b"".join(leaf_hashes(leaves))

    async def _read(self, ref: TileRef, *, notes: bool) -> bytes | None:
        try:
            data = await self._reader.read(ref)
        except MalformedError as error:
            if notes:
                self.report.faults.add(f"{ref.path} is damaged: {error}")
            return None
        if data is None and notes:
            self.report.faults.add(f"{ref.path} is missing")
        return data

    def _damaged(self, ref: TileRef) -> None:
        self.report.faults.add(f"{ref.path} is damaged: it is not of the tree of the head")


def _root(hashes: bytes) -> Hash:
    return subtree_rows(hashes)[-1]


def _entries(ref: TileRef) -> TileRef:
    return TileRef(None, ref.index, ref.width)


def _split(hashes: bytes | None, width: int) -> Iterator[Hash | None]:
    for at in range(0, width * HASH_BYTES, HASH_BYTES):
        yield None if hashes is None else hashes[at : at + HASH_BYTES]
