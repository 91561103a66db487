"""Reads the released entries of a log from its archive, as `Elsewhere`.

Requests run on an event loop of their own thread, which the first of them starts: so any thread may
wait, and an event loop that serves requests may await them. What is fetched stays in memory for a
while. The process that answers queries has a folder for it, `DIR/archive-cache`, beside that.

Nothing here is verified: `ledger.store.bundles` holds each bundle against its tile.
"""

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.object_storage.config import archives_path, read_archive
from ledger.object_storage.place import Place
from ledger.store.stored_log import MAY_WAIT, DamagedObjectError, FetchFailedError
from ledger_client.runtime.files import FileLock, FileLockedError
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.tile import TILE_WIDTH, TileRef

if TYPE_CHECKING:  # These need the extra `archive`, which few ledgers have.
    from ledger.object_storage.fetching import Objects, Part
    from ledger.object_storage.object_cache import ObjectCache

CACHE: Final = "archive-cache"
"""The folder of the cache, in that of the ledger."""

CLOSE_WAIT_S: Final = 5.0
WAIT_MAX_S: Final = 60.0
"""Seconds for which anybody waits for released entries."""


class ArchivedBundles:
    """The bundles in the archives of one ledger. Safe from any thread."""

    def __init__(
        self, directory: Path, *, waits_on_loop: bool = True, caches: bool = False
    ) -> None:
        """`waits_on_loop`: a thread with an event loop may wait too, as that of a follower.

        `caches`: use the folder of the cache, if no other process does.
        """
        self._directory: Final = directory
        self._waits_on_loop: Final = waits_on_loop
        self._caches: Final = caches
        self._lock: Final = threading.Lock()
        # Under the lock.
        self._opened: dict[str, tuple[Place, Objects]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._cache: ObjectCache | None = None
        self._cache_lock: FileLock | None = None
        self._is_closed = False

    def held(self, archive: str, bundle: int) -> bytes | None:
        """See `Elsewhere`."""
        from ledger.object_storage.objects import unpack

        opened = self._opened.get(archive)
        if opened is None:
            return None
        ref = _ref(bundle)
        data = opened[1].held(_part(ref))
        try:
            return None if data is None else unpack(ref, data)
        except MalformedError as error:
            raise DamagedObjectError(str(error)) from None

    def keep(self, archive: str, bundle: int) -> None:
        """See `Elsewhere`."""
        opened = self._opened.get(archive)
        if opened is not None and self._caches:
            part = _part(_ref(bundle))
            data = opened[1].held(part)
            if data is not None:
                opened[1].keep(part, data)

    def drop(self, archive: str, bundle: int) -> None:
        """See `Elsewhere`."""
        opened = self._opened.get(archive)
        if opened is not None:
            opened[1].drop([_part(_ref(bundle))])

    async def fetch(self, archive: str, bundles: Sequence[int]) -> None:
        """See `Elsewhere`."""
        opening = asyncio.to_thread(self._submit, archive, bundles)
        await self._ended(asyncio.wrap_future(await opening), archive)

    def wait(self, archive: str, bundles: Sequence[int]) -> None:
        """See `Elsewhere`."""
        running = self._submit(archive, bundles)
        try:
            running.result(WAIT_MAX_S)
        except TimeoutError:
            running.cancel()
            raise _late(archive) from None
        except FetchFailedError as error:
            raise _named(archive, error) from None

    def may_wait(self) -> bool:
        """See `Elsewhere`."""
        if not MAY_WAIT.get():
            return False
        if self._waits_on_loop:
            return True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return True
        return False

    def close(self) -> None:
        """See `Elsewhere`."""
        with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, {}
            loop, self._loop = self._loop, None
            lock, self._cache_lock = self._cache_lock, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(
                _end(loop, [each for _, each in opened.values()]), loop
            )
            if self._thread is not None:
                self._thread.join(CLOSE_WAIT_S)
        if lock is not None:
            lock.release()

    async def _ended(self, running: "asyncio.Future[None]", archive: str) -> None:
        try:
            async with asyncio.timeout(WAIT_MAX_S):
                await running
        except TimeoutError:
            raise _late(archive) from None
        except FetchFailedError as error:
            raise _named(archive, error) from None

    def _submit(self, archive: str, bundles: Sequence[int]) -> "Future[None]":
        """Begin to fetch. Raises: FetchFailedError."""
        try:
            objects, loop = self._objects(archive)
        except FetchFailedError:
            raise
        except (UnavailableError, MalformedError, OSError) as error:
            raise _named(archive, error) from None
        parts = [_part(_ref(bundle)) for bundle in bundles]
        return asyncio.run_coroutine_threadsafe(objects.fetch(parts), loop)

    def _objects(self, archive: str) -> "tuple[Objects, asyncio.AbstractEventLoop]":
        """The objects of an archive as `archive.toml` is now, and the loop of its requests."""
        config = read_archive(self._directory, archive)
        if config is None:
            path = archives_path(self._directory)
            raise FetchFailedError(
                f"released entries are in the archive {archive!r}, and {path} has none of this "
                "name: put its table back"
            )
        with self._lock:
            if self._is_closed:
                raise FetchFailedError("the log is closed")
            loop = self._running_loop()
            known = self._opened.get(archive)
            if known is None or known[0] != config.place():
                opening = asyncio.run_coroutine_threadsafe(
                    self._open(config.place(), config.requests_max, config.cache_bytes), loop
                )
                known = self._opened[archive] = config.place(), opening.result()
            return known[1], loop

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the requests. Under the lock."""
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()

            def run() -> None:
                loop.run_forever()
                loop.close()

            self._thread = threading.Thread(target=run, name="ledger-archived", daemon=True)
            self._thread.start()
        return self._loop

    async def _open(self, place: Place, requests_max: int, cache_bytes: int) -> "Objects":
        """The objects of a bucket. Raises: MalformedError, UnavailableError, OSError."""
        from ledger.object_storage.fetching import Objects
        from ledger.object_storage.object_store import Bucket

        if self._cache is None:
            self._cache = self._open_cache(cache_bytes)
        return Objects(Bucket(place), self._cache, requests_max=requests_max)

    def _open_cache(self, bytes_max: int) -> "ObjectCache":
        from ledger.object_storage.object_cache import ObjectCache

        if self._caches:
            folder = self._directory / CACHE
            folder.mkdir(mode=0o700, exist_ok=True)
            try:
                self._cache_lock = FileLock(folder / "lock", holder=f"process {os.getpid()}")
            except FileLockedError:
                pass  # That of a process that ends now.
            else:
                return ObjectCache(folder, bytes_max=bytes_max)
        return ObjectCache(self._directory / CACHE, bytes_max=0)


async def _end(loop: asyncio.AbstractEventLoop, opened: "Sequence[Objects]") -> None:
    """End all requests, tell whoever waits, and stop the loop."""
    for objects in opened:
        objects.close()
    await asyncio.sleep(0.05)
    await loop.shutdown_asyncgens()  # They close the connections.
    loop.stop()


def _ref(bundle: int) -> TileRef:
    return TileRef(None, bundle, TILE_WIDTH)


def _part(ref: TileRef) -> "Part":
    from ledger.object_storage.fetching import Part
    from ledger.object_storage.objects import packed_bytes_max

    return Part(ref.path, packed_bytes_max(ref))


def _named(archive: str, error: Exception) -> FetchFailedError:
    """The error of a request, which names the archive."""
    return FetchFailedError(f"the archive {archive!r} can't be read now: {error}")


def _late(archive: str) -> FetchFailedError:
    return FetchFailedError(
        f"the archive {archive!r} can't be read now: nothing came in {WAIT_MAX_S:g} s"
    )
