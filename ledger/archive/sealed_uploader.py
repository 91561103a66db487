"""Uploads the objects of full segments: their index, their ids, and their Parquet.

Each is created once, under a name that says what it is. One that is there already must be what its
name says; after a rewind all of them are compared.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final

from ledger.archive.ids import IDS, encode_ids
from ledger.archive.sealed import read_sealed
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import (
    INDEX,
    OBJECT_HEADERS,
    PARQUET,
    SEGMENT_BYTES_MAX,
    index_name,
    is_named_for,
    match_parquet,
)
from ledger.query.open_index import open_index
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import DamagedSegmentError, StaleSegmentError
from ledger.store.log import LogStore
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle


class SealedUploader:
    """Uploads the objects of full segments of one log to one bucket. Used by one task."""

    def __init__(self, directory: Path, log: LogStore, bucket: Bucket, *, compares: bool) -> None:
        """`directory` is that of the ledger or the mirror; its index and Parquet may be missing.

        `compares`: hold what the bucket lists against its names, once.
        """
        self._log: Final = log
        self._bucket: Final = bucket
        self._index_path: Final = directory / "index"
        self._index: Final = open_index(log, self._index_path)
        self._parquet: Final = directory / "parquet"
        self._compares: Final = compares
        self._sealed: set[str] | None = None  # The names that the bucket has.
        self._with_ids: set[int] = set()

    async def upload(self, size: int) -> None:
        """Upload the objects of full segments below a size that the bucket lacks.

        Raises: VerificationError for an object that is there and damaged; UnavailableError.
        """
        if self._sealed is None:
            listed = {name async for name in self._listed()}
            if self._compares:
                for name in sorted(listed):
                    await self._check_there(name)
            self._sealed = listed
        for segment, record in self._index_records().items():
            name = index_name(segment, record.root)
            if (segment + 1) * SEGMENT_ENTRIES_MAX <= size and name not in self._sealed:
                try:
                    self._index.file(segment).check()
                except DamagedSegmentError as error:
                    self._index.set_aside(error)  # The indexer builds it again.
                    continue
                await self._upload_file(name, self._index_path / f"{segment:08d}.segment")
        first = -(-self._log.minimum_index // SEGMENT_ENTRIES_MAX)  # Those before were removed.
        for segment in range(first, size // SEGMENT_ENTRIES_MAX):
            await self._upload_ids(segment)
        for path in self._parquet_files():
            match = match_parquet(f"{PARQUET}/{path.name}")
            if match and (int(match["segment"]) + 1) * SEGMENT_ENTRIES_MAX <= size:
                await self._upload_file(f"{PARQUET}/{path.name}", path)

    async def _upload_ids(self, segment: int) -> None:
        """Upload the table of the ids of a full segment, unless the bucket has it."""
        if self._sealed is None or segment in self._with_ids:
            return
        if not any(name.startswith(f"{IDS}/{segment:08d}.") for name in self._sealed):
            name, data = await asyncio.to_thread(encode_ids, segment, self._bundles(segment))
            await self._create_sealed(name, data)
            self._sealed.add(name)
        self._with_ids.add(segment)

    def _bundles(self, segment: int) -> Iterator[list[bytes]]:
        """The leaves of a full segment, by bundle."""
        first = segment * SEGMENT_ENTRIES_MAX // TILE_WIDTH
        for index in range(first, first + SEGMENT_ENTRIES_MAX // TILE_WIDTH):
            data = self._log.bundle(index=index, width=TILE_WIDTH)
            if data is None:
                raise MalformedError(f"the log has no bundle {index}")
            yield decode_bundle(data)

    def _parquet_files(self) -> list[Path]:
        return sorted(self._parquet.glob("*.parquet"))

    def _index_records(self) -> Mapping[int, SegmentRecord]:
        """The segments of the index, without damaged ones."""
        while True:
            try:
                with self._index.snapshot() as snapshot:
                    return snapshot.records
            except DamagedSegmentError as error:
                self._index.set_aside(error)

    async def _listed(self) -> AsyncIterator[str]:
        for folder in (INDEX, PARQUET, IDS):
            async for name in self._bucket.names(folder):
                yield name

    async def _upload_file(self, name: str, path: Path) -> None:
        if self._sealed is None or name in self._sealed:
            return
        try:
            data = await asyncio.to_thread(read_limited, path, SEGMENT_BYTES_MAX)
        except FileNotFoundError:
            return  # It is being built anew.
        if name.startswith(PARQUET) and not is_named_for(name, hashlib.sha256(data).hexdigest()):
            return  # It is damaged, and made again.
        await self._create_sealed(name, data)
        self._sealed.add(name)

    async def _create_sealed(self, name: str, data: bytes) -> None:
        """Create the object of a full segment, unless the bucket has a sound one of that name."""
        if await self._bucket.create(name, data, headers=OBJECT_HEADERS):
            return
        await self._check_there(name)

    async def _check_there(self, name: str) -> None:
        """Check that an object in the bucket has the content that its name says.

        Raises: VerificationError, UnavailableError.
        """
        try:
            if await read_sealed(self._bucket, name) is None:
                raise UnavailableError(f"{self._bucket.place.url}/{name} came and went")
        except MalformedError as error:
            raise VerificationError(
                f"{self._bucket.place.url}/{name} is there, and damaged: {error}"
            ) from None
        except StaleSegmentError:
            return  # Its name is that of other rules.
