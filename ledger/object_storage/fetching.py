"""The objects of an archive as a reader has them: in memory, in the cache, or fetched.

`held` never waits, so the event loop calls it. `fetch` waits on the event loop, and `wait` on a
thread while the event loop fetches. What is fetched stays in memory for a moment, unverified: its
reader verifies it, and then keeps it in the cache, or drops it. One request at a time is made for
a part, however many wait for it.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from ledger.object_storage.object_cache import ObjectCache
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.s3_requests import Listed
from ledger.store.stored_log import DamagedObjectError, FetchFailedError, NotFetchedError
from ledger_core.tlog.errors import MalformedError, UnavailableError

MEMORY_BYTES_MAX: Final = 64 << 20


PIECE_BYTES: Final = 1 << 17
"""Bytes of one request for a part of a large object."""

ATTEMPTS: Final = 8
"""Times that a part may be evicted before it is used."""


class Part(NamedTuple):
    """An object, or `length` bytes of it from `start` on. `bytes_max`: the most that is right."""

    name: str
    bytes_max: int
    start: int = 0
    length: int = 0

    @property
    def key(self) -> str:
        """The name in the cache."""
        return f"{self.name} {self.start} {self.length}" if self.length else self.name


class Objects:
    """The objects of one archive, used by one event loop and by threads beside it."""

    def __init__(self, bucket: Bucket, cache: ObjectCache, *, requests_max: int) -> None:
        """Precondition: a running loop."""
        self.bucket: Final = bucket
        self.cache: Final = cache
        self._loop: Final = asyncio.get_running_loop()
        self._requests: Final = asyncio.Semaphore(requests_max)
        self._coming: Final[dict[str, asyncio.Task[None]]] = {}
        self._lock: Final = threading.Lock()
        # Under the lock: the parts that came last, unverified.
        self._arrived: Final[OrderedDict[str, bytes]] = OrderedDict()
        self._arrived_bytes = 0
        self._is_closed = False

    def held(self, part: Part) -> bytes | None:
        """The bytes of a part if they are here. Raises nothing."""
        with self._lock:
            data = self._arrived.get(part.key)
            if data is not None:
                self._arrived.move_to_end(part.key)
                return data
        return self.cache.read(part.key)

    def keep(self, part: Part, data: bytes) -> None:
        """Keep a part that was verified."""
        self.cache.keep(part.key, data)

    def drop(self, parts: Iterable[Part]) -> None:
        """Forget parts that are wrong: the next read asks the bucket."""
        for part in parts:
            with self._lock:
                self._arrived_bytes -= len(self._arrived.pop(part.key, b""))
            self.cache.remove(part.key)

    async def fetch(self, parts: Sequence[Part]) -> None:
        """Fetch parts into memory. Only on the event loop.

        Raises: FetchFailedError, DamagedObjectError; both name the object.
        """
        tasks = [self._task(part) for part in parts]
        # A caller that is cancelled leaves the request to the others that wait for it.
        done = await asyncio.gather(*map(asyncio.shield, tasks), return_exceptions=True)
        for each in done:
            if isinstance(each, asyncio.CancelledError):
                raise FetchFailedError("the service stops")
            if each is not None:
                raise each

    def wait(self, parts: Sequence[Part]) -> None:
        """Fetch parts as `fetch`, from another thread than that of the event loop."""
        if self._is_closed:
            raise FetchFailedError("the service stops")
        asyncio.run_coroutine_threadsafe(self.fetch(parts), self._loop).result()

    def close(self) -> None:
        """End all requests; callers that wait get FetchFailedError."""
        self._is_closed = True
        for task in self._coming.values():
            task.cancel()

    def _task(self, part: Part) -> "asyncio.Task[None]":
        task = self._coming.get(part.key)
        if task is None:
            task = self._coming[part.key] = asyncio.create_task(self._fetch(part))
            task.add_done_callback(lambda done: self._forget(part, done))
        return task

    def _forget(self, part: Part, done: "asyncio.Task[None]") -> None:
        del self._coming[part.key]
        if not done.cancelled():
            done.exception()  # Else asyncio logs an error that nobody waited for.

    async def _fetch(self, part: Part) -> None:
        async with self._requests:
            try:
                data = await self._get(part)
            except UnavailableError as error:
                said = str(error).removeprefix(f"{self.bucket.place.url}/")
                raise FetchFailedError(said) from None
            except MalformedError as error:
                raise DamagedObjectError(str(error)) from None
        if data is None:
            raise DamagedObjectError(f"{part.name} is missing")
        with self._lock:
            self._arrived_bytes += len(data) - len(self._arrived.pop(part.key, b""))
            self._arrived[part.key] = data
            while self._arrived_bytes > MEMORY_BYTES_MAX and len(self._arrived) > 1:
                _, old = self._arrived.popitem(last=False)
                self._arrived_bytes -= len(old)

    async def _get(self, part: Part) -> bytes | None:
        if part.length:
            return await self.bucket.get_range(part.name, start=part.start, length=part.length)
        found = await self.bucket.get(part.name, bytes_max=part.bytes_max)
        return None if found is None else found.data


Obtain: TypeAlias = Callable[[Objects, Sequence[Part]], None]
"""Has parts fetched that aren't here: it waits for them, or raises NotFetchedError."""


def wait_for(objects: Objects, parts: Sequence[Part]) -> None:
    """Wait for parts, on a thread. Raises: as `Objects.fetch`."""
    objects.wait(parts)


def refuse_to_wait(objects: Objects, parts: Sequence[Part]) -> None:
    """Raises: NotFetchedError, on the event loop."""
    raise NotFetchedError(partial(objects.fetch, parts))


def read_parts(objects: Objects, parts: Sequence[Part], obtain: Obtain) -> list[bytes]:
    """The bytes of parts, unverified. Raises: what `obtain` does; FetchFailedError."""
    for _ in range(ATTEMPTS):
        found = [objects.held(part) for part in parts]
        whole = [data for data in found if data is not None]
        if len(whole) == len(parts):
            return whole
        obtain(objects, [part for part, data in zip(parts, found, strict=True) if data is None])
    raise FetchFailedError(f"{parts[0].name} is evicted before it is used: raise cache_bytes")


def read_pieces(objects: Objects, listed: Listed, start: int, length: int, obtain: Obtain) -> bytes:
    """Bytes of a large object, unverified, by pieces that are kept. Raises: as `read_parts`.

    Whoever reads them compares a checksum, or says that they are not verified.
    """
    parts = pieces_of(listed, start, length)
    found = read_parts(objects, parts, obtain) if parts else []
    for part, data in zip(parts, found, strict=True):
        objects.keep(part, data)
    at = start % PIECE_BYTES
    return b"".join(found)[at : at + length]


def pieces_of(listed: Listed, start: int, length: int) -> list[Part]:
    """The pieces of an object that have `length` bytes from `start` on."""
    end = min(start + length, listed.length)
    return [
        Part(listed.name, PIECE_BYTES, at, min(PIECE_BYTES, listed.length - at))
        for at in range(start - start % PIECE_BYTES, end, PIECE_BYTES)
    ]
