"""The Parquet of an archive for DuckDB, read from the bucket by pieces, as a file system of fsspec.

DuckDB reads the columns and the row groups that a question needs, so a file is never fetched as a
whole, and its SHA-256 can't be compared: `ledger verify-archive` does that, and `ledger sql
--verify` proves the rows of an answer. Which files belong to the log is proven: their names have
the root of their entries.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledger.object_storage.fetching import Objects, read_pieces, wait_for
from ledger.object_storage.objects import PARQUET
from ledger.object_storage.s3_requests import Listed
from ledger.query.parquet_segments import parquet_name
from ledger.reader.archived_log import ArchivedLog
from ledger.reader.data_dir import ReaderPaths, read_config
from ledger.reader.open_archive import OpenArchive, lock_reader, open_archive, running_loop
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.stored_log import StoredLog
from ledger_core.tlog.errors import UnavailableError

try:
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
except ModuleNotFoundError:
    raise UnavailableError(
        "SQL on an archive needs fsspec: pip install 'witnessed-ledger[archive]'"
    ) from None

PROTOCOL: Final = "archive"
_WRITTEN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The time of each file for DuckDB, which drops what it knows of one that has changed."""


class ArchivedFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files of one archive, for threads other than that of its event loop."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, objects: Objects, files: Sequence[Listed]) -> None:
        super().__init__()
        self.objects: Final = objects
        self._lengths: Final = {each.name: each.length for each in files}

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """The name, size and type of a file. Raises: FileNotFoundError."""
        name = self._strip_protocol(path)
        if name not in self._lengths:
            raise FileNotFoundError(name)
        return {"name": name, "size": self._lengths[name], "type": "file"}

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:  # noqa: FBT001, FBT002
        """List one file by its name; folders are not listed."""
        found = self.info(path)
        return [found] if detail else [found["name"]]

    def modified(self, path: str) -> datetime:
        """A constant time: files never change."""
        self.info(path)
        return _WRITTEN

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> "_ArchivedFile":
        found = self.info(path)
        return _ArchivedFile(self, found["name"], mode, cache_type="none", size=found["size"])


class _ArchivedFile(AbstractBufferedFile):  # type: ignore[misc]
    def _fetch_range(self, start: int, end: int) -> bytes:
        listed = Listed(self.path, self.size)
        return read_pieces(self.fs.objects, listed, start, end - start, wait_for)


@dataclass(frozen=True, slots=True)
class ArchivedEvents:
    """The log of an archive, its Parquet, and the full segments without."""

    log: StoredLog
    filesystem: ArchivedFiles
    addresses: Sequence[str]
    missing: Sequence[int]


@contextmanager
def open_archived(directory: Path, scratch: Path) -> Iterator[ArchivedEvents]:
    """The events of the archive that a reader's folder names, whether it is served or not.

    It uses the reader's cache, or while that is served one in `scratch`.
    Raises: UnavailableError, MalformedError, VerificationError.
    """
    paths = ReaderPaths(directory)
    config = read_config(paths)
    with ExitStack() as opened:
        cache = paths.cache
        try:
            opened.enter_context(lock_reader(paths))
        except UnavailableError:
            cache = scratch
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = opened.enter_context(running_loop())

        async def start() -> tuple[OpenArchive, list[Listed]]:
            archive = open_archive(paths, config, cache)
            await archive.follower.read_head()
            listed = [each async for each in archive.objects.bucket.lengths(PARQUET)]
            return archive, listed

        archive, listed = asyncio.run_coroutine_threadsafe(start(), loop).result()
        opened.callback(loop.call_soon_threadsafe, archive.objects.close)
        log = ArchivedLog(archive.state, wait_for)
        found: list[Listed] = []
        missing: list[int] = []
        for segment in range(log.head().tree_size // SEGMENT_ENTRIES_MAX):
            begin = f"{PARQUET}/{parquet_name(log, segment)}."
            file = next((each for each in listed if each.name.startswith(begin)), None)
            if file is None:
                missing.append(segment)
            else:
                found.append(file)
        addresses = [f"{PROTOCOL}://{each.name}" for each in found]
        yield ArchivedEvents(log, ArchivedFiles(archive.objects, found), addresses, missing)
