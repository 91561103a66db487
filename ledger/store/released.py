"""Released entries: they left this disk, and an archive in a bucket has them.

    meta "released"                  u64 end ‖ the name of the archive: of the entries below `end`,
                                     no bundle is here. A multiple of 256
    meta "released_token_events"     what the released events about tokens say, as JSON
    meta "head_times" ‖ u64 end      for each kept head of a part that was released with this end:
                                     u64 tree size ‖ u64 time of receipt of its newest entry, in
                                     seconds since 1970

Tiles, ids and heads stay, so whatever proves, signs and appends needs no bucket. What a start and
a commit read of single entries is in the rows above. A released bundle is held against its tile
each time that it is read, so neither the bucket nor a cache is trusted.

A log with released entries has a format of its own, `1-released`: an earlier version refuses it,
where it would otherwise take it for damaged.
"""

import struct
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from ledger.store import keyspace
from ledger.store.stored_log import NotFetchedError
from ledger.store.transaction import Transaction

_PAIR: Final = struct.Struct(">QQ")


class Release(NamedTuple):
    """The entries below `end` are in an archive, by its name in `archive.toml`."""

    end: int
    archive: str


class Elsewhere(Protocol):
    """Reads released bundles from an archive. Safe from any thread.

    `fetch` and `wait` raise FetchFailedError and DamagedObjectError.
    """

    def held(self, archive: str, bundle: int) -> bytes | None:
        """The bytes of a bundle, unverified, if they are here. Raises: DamagedObjectError."""
        ...

    def keep(self, archive: str, bundle: int) -> None:
        """Keep a bundle that was verified."""
        ...

    def drop(self, archive: str, bundle: int) -> None:
        """Forget a bundle that is wrong."""
        ...

    async def fetch(self, archive: str, bundles: Sequence[int]) -> None:
        """Fetch bundles, on any event loop."""
        ...

    def wait(self, archive: str, bundles: Sequence[int]) -> None:
        """Fetch bundles, and wait for them."""
        ...

    def may_wait(self) -> bool:
        """Whether this thread may wait: it runs no event loop, or one that serves no requests."""
        ...

    def close(self) -> None:
        """End all requests."""
        ...


class ReleasedError(NotFetchedError):
    """A released bundle is not in memory or in the cache."""

    def __init__(
        self, bundle: int, fetch: Callable[[], Awaitable[None]], elsewhere: Elsewhere, archive: str
    ) -> None:
        super().__init__(fetch)
        self.bundle: Final = bundle
        self.elsewhere: Final = elsewhere
        self.archive: Final = archive


def read_release(transaction: Transaction[bytes]) -> Release | None:
    """What of a log was released; None if nothing was."""
    row = transaction.get(keyspace.META, keyspace.META_RELEASED)
    if row is None:
        return None
    number, name = row[: keyspace.U64_BYTES], row[keyspace.U64_BYTES :]
    return Release(keyspace.decode_u64(number), name.decode())


def encode_release(release: Release) -> bytes:
    """The row of a release."""
    return keyspace.encode_u64(release.end) + release.archive.encode()


def encode_head_times(times: Sequence[tuple[int, int]]) -> bytes:
    """The row of the times of heads, by ascending tree size."""
    return b"".join(_PAIR.pack(*each) for each in times)


def head_time(transaction: Transaction[bytes], tree_size: int) -> int | None:
    """The time of receipt of the newest entry of a head, if that entry was released."""
    first = keyspace.META_HEAD_TIMES + keyspace.encode_u64(tree_size)
    key, row = next(transaction.rows_from(keyspace.META, first), (b"", b""))
    if not key.startswith(keyspace.META_HEAD_TIMES):
        return None
    pairs = list(_PAIR.iter_unpack(row))
    at = bisect_left(pairs, (tree_size, 0))
    return pairs[at][1] if at < len(pairs) and pairs[at][0] == tree_size else None
