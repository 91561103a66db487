"""Reads the entries of a log, bundle by bundle: those on this disk, and those that were released.

A released bundle is fetched outside of any transaction, since LMDB can't use pages again that an
open one may read. Only a reader that brought its own transaction waits within that.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import structlog
import zstandard

from ledger.store import keyspace
from ledger.store.damage import DamagedBundleError
from ledger.store.environment import Environment
from ledger.store.minimum_index import PrunedError, Pruning
from ledger.store.released import Elsewhere, Release, ReleasedError, read_release
from ledger.store.stored_log import FETCHES_MAX, DamagedObjectError, FetchFailedError
from ledger.store.transaction import Transaction
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash, leaf_hashes
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle

T = TypeVar("T")

BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (2 + 0xFFFF)
FETCHED_AHEAD: Final = 16
"""Released bundles that a reader of consecutive entries fetches at once."""

UNREADABLE: Final = (DamagedBundleError, PrunedError)
"""Raised for an entry that can't be read: it is damaged, or was removed."""

_log = structlog.get_logger("ledger.store")


class _PerThread(threading.local):
    """One decompressor for each thread: to make one takes half as long as to use it once."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


class BundleReader:
    """Reads bundles in the transactions of a log. Safe from any thread.

    What reads raises UNREADABLE; ReleasedError for a released bundle that isn't held here, and
    FetchFailedError where this process has no `elsewhere`.
    """

    def __init__(
        self, environment: Environment, pruning: Pruning | None, elsewhere: Elsewhere | None
    ) -> None:
        self._environment: Final = environment
        self._pruning: Final = pruning
        self._elsewhere: Final = elsewhere
        self._per_thread: Final = _PerThread()
        self._damaged: Final[dict[int, DamagedBundleError]] = {}

    def read(self, read: Callable[[Transaction[bytes]], T]) -> T:
        """Read in a transaction, and again when what it lacked is fetched.

        Raises: ReleasedError on an event loop that may not wait; FetchFailedError.
        """
        for _ in range(FETCHES_MAX):
            try:
                with self._environment.read() as transaction:
                    return read(transaction)
            except ReleasedError as error:
                self._wait(error, (error.bundle,))
        raise UnavailableError("parts of the log were evicted before they were used: cache_bytes")

    def expect(self, bundles: Sequence[int]) -> None:
        """Fetch at once bundles that are read next. What fails is said when that is read."""
        with self._environment.read() as transaction:
            release = read_release(transaction)
        if release is None or self._elsewhere is None:
            return
        first = 0 if self._pruning is None else self._pruning.minimum_index // TILE_WIDTH
        missing = []
        for bundle in bundles:
            if first <= bundle < release.end // TILE_WIDTH:
                with suppress(DamagedObjectError):
                    if self._elsewhere.held(release.archive, bundle) is None:
                        missing.append(bundle)
        if len(missing) > 1:
            with suppress(DamagedObjectError, FetchFailedError):
                fetch = partial(self._elsewhere.fetch, release.archive, missing)
                error = ReleasedError(missing[0], fetch, self._elsewhere, release.archive)
                self._wait(error, missing)

    def between(
        self, transaction: Transaction[bytes], start: int, end: int
    ) -> Iterator[list[bytes]]:
        """The leaves `[start, end)`, a bundle's at a time. Raises: MalformedError for a hole."""
        waits = 0
        while start < end:
            stop = min(end, start - start % TILE_WIDTH + TILE_WIDTH)
            try:
                leaves = self.leaves(transaction, range(start, stop))
            except ReleasedError as error:
                waits += 1
                if waits > FETCHES_MAX:
                    raise UnavailableError("parts of the log were evicted before use") from None
                last = min((end - 1) // TILE_WIDTH, error.bundle + FETCHED_AHEAD - 1)
                self._wait(error, range(error.bundle, last + 1))
                continue
            if len(leaves) < stop - start:
                raise MalformedError(f"entry {start + len(leaves)} is missing")
            waits = 0
            yield leaves
            start = stop

    def leaves(self, transaction: Transaction[bytes], indices: Iterable[int]) -> list[bytes]:
        """Leaves at ascending indices of one bundle, up to the first that isn't there.

        A full bundle has a checksum; an open entry is held against its hash in the tile.
        """
        leaves: list[bytes] = []
        full: list[bytes] | None = None
        tile: bytes | None = None
        for leaf_index in indices:
            bundle_index, offset = divmod(leaf_index, TILE_WIDTH)
            if full is None:
                row = transaction.get(keyspace.ENTRIES, keyspace.open_entry_key(leaf_index))
                if row is not None:
                    if tile is None:
                        key = keyspace.tile_key(level=0, index=bundle_index)
                        tile = transaction.get(keyspace.TILES, key) or b""
                    # None for a row past the head, which the writer refuses.
                    want = tile[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]
                    if want and leaf_hash(row) != want:
                        raise self.damaged(
                            bundle_index, f"entry {leaf_index} is not the one of its hash"
                        )
                    leaves.append(row)
                    continue
                full = self.full(transaction, bundle_index)
                if full is None:
                    break
            leaves.append(full[offset])
        return leaves

    def full(self, transaction: Transaction[bytes], index: int) -> list[bytes] | None:
        """The leaves of a full bundle, None when there is none. Raises: MalformedError."""
        data = self.bundle(transaction, index)
        leaves = None if data is None else decode_bundle(data)
        if leaves is not None and len(leaves) != TILE_WIDTH:
            raise self.damaged(index, f"it has {len(leaves)} entries, want {TILE_WIDTH}")
        return leaves

    def bundle(self, transaction: Transaction[bytes], index: int) -> bytes | None:
        """The entries of a full bundle, each behind its length; None when there is none."""
        if self._pruning is not None and index * TILE_WIDTH < self._pruning.minimum_index:
            raise PrunedError(self._pruning)
        frame = transaction.get(keyspace.ENTRIES, keyspace.bundle_key(index))
        if frame is None:
            release = read_release(transaction)
            if release is None or index * TILE_WIDTH >= release.end:
                return None
            return self._released(transaction, release, index)
        try:
            return self._per_thread.decompressor.decompress(frame, max_output_size=BUNDLE_BYTES_MAX)
        except zstandard.ZstdError as error:
            raise self.damaged(index, str(error)) from error

    def size(self, index: int) -> int:
        """The bytes of a full bundle on this disk, 0 when there is none. It is not read."""
        with self._environment.view() as transaction:
            frame = transaction.get(keyspace.ENTRIES, keyspace.bundle_key(index))
            try:
                size = 0 if frame is None else zstandard.frame_content_size(frame)
            except zstandard.ZstdError:  # Whoever reads it says that it is damaged.
                size = -1
        return BUNDLE_BYTES_MAX if size < 0 else size

    def damaged_bundles(self) -> Sequence[DamagedBundleError]:
        """The bundles that proved damaged since the log was opened, in order."""
        damaged = self._damaged.copy()
        return [damaged[bundle] for bundle in sorted(damaged)]

    def damaged(self, bundle: int, reason: str) -> DamagedBundleError:
        """The error that a bundle is damaged, which is remembered, and logged the first time."""
        error = DamagedBundleError(bundle, reason)
        if bundle not in self._damaged:
            self._damaged[bundle] = error
            path = str(self._environment.path)
            _log.error("bundle_damaged", path=path, bundle=bundle, reason=reason)
        # Another one each time: an error that is raised keeps a traceback.
        return DamagedBundleError(bundle, reason)

    def _released(self, transaction: Transaction[bytes], release: Release, index: int) -> bytes:
        """A released bundle, once it has the hashes of its tile."""
        elsewhere, archive = self._elsewhere, release.archive
        if elsewhere is None:
            raise FetchFailedError(
                f"the entries below {release.end:,} left this disk for the archive {archive!r} of "
                "archive.toml, which is not read here"
            )
        tile = transaction.get(keyspace.TILES, keyspace.tile_key(level=0, index=index)) or b""
        try:
            data = elsewhere.held(archive, index)
            if data is not None:
                check_released(data, tile)
        except MalformedError as error:
            elsewhere.drop(archive, index)
            raise self.damaged(index, f"in the archive {archive}: {error}") from None
        if data is None:
            fetch = partial(elsewhere.fetch, archive, (index,))
            raise ReleasedError(index, fetch, elsewhere, archive)
        elsewhere.keep(archive, index)
        self._damaged.pop(index, None)  # It may have been put right in the bucket.
        return data

    def _wait(self, error: ReleasedError, bundles: Sequence[int]) -> None:
        """Wait until bundles are fetched. Raises: `error` where that may not be; FetchFailedError,
        DamagedBundleError.
        """
        if not error.elsewhere.may_wait():
            raise error
        try:
            error.elsewhere.wait(error.archive, bundles)
        except DamagedObjectError as damaged:
            if len(bundles) == 1:
                raise self.damaged(
                    error.bundle, f"in the archive {error.archive}: {damaged}"
                ) from None
            # Which of them it is shows when they are fetched one by one.
            self._wait(error, (error.bundle,))


def check_released(bundle: bytes, tile: bytes) -> None:
    """Check that a full bundle has the leaf hashes of its tile. Raises: MalformedError."""
    if b"".join(leaf_hashes(decode_bundle(bundle))) != tile[: TILE_WIDTH * HASH_BYTES]:
        raise MalformedError("its entries are not those of the tree")
