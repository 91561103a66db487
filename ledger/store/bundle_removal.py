"""Releases entries: their bundles leave this disk, because an archive has them.

`prepare_release` reads what must outlive the bundles here, on any thread. `store_release` removes
them in one transaction, on the writer's. The pages that become free take the next entries: the file
does not shrink, and does not grow either until they are used.

Precondition of both: whoever calls has read these entries back from the archive, and held them
against the tree (`ledger.archive.release_check`).
"""

from typing import NamedTuple

import msgspec

from ledger.store import keyspace
from ledger.store.log import LogStore
from ledger.store.released import Release, encode_head_times, encode_release, read_release
from ledger.store.token_events import TokenEvent, encode_token_events, read_token_event
from ledger.store.transaction import Transaction
from ledger_core.event.times import parse_time
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import MICROSECONDS
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.tile import TILE_WIDTH


class PreparedRelease(NamedTuple):
    """Entries `[start, end)` to release to an archive, and what stays of them.

    `head_times`: tree size and time of receipt of each kept head whose newest entry goes.
    """

    start: int
    end: int
    archive: str
    token_events: list[tuple[int, TokenEvent]]
    head_times: list[tuple[int, int]]


def prepare_release(log: LogStore, *, end: int, archive: str) -> PreparedRelease:
    """Read what stays of the next entries, up to `end`, that are to be released.

    Cost: reads each bundle with an event about a token, or with the newest entry of a head.
    Raises: as `UNREADABLE`; ValueError for an end inside a bundle, or past the last entry.
    """
    start = log.local_start()
    if end % TILE_WIDTH or not start <= end < log.head().tree_size:
        raise ValueError(f"entries up to {end} can't be released: want a multiple of {TILE_WIDTH}")
    with log.environment.read() as transaction:
        row = transaction.get(keyspace.META, keyspace.META_TOKEN_EVENTS) or b""
        sizes = []
        first = keyspace.encode_u64(start + 1)
        for key, _ in transaction.rows_from(keyspace.CHECKPOINTS, first):
            size = keyspace.decode_u64(key)
            if size > end:
                break
            sizes.append(size)
    indices = (
        keyspace.decode_u64(row[at : at + keyspace.U64_BYTES])
        for at in range(0, len(row), keyspace.U64_BYTES)
    )
    token_events = [
        (index, event)
        for index in indices
        if start <= index < end and (event := read_token_event(log.leaf(index) or b"")) is not None
    ]
    times = [(size, _received_unix_s(log.leaf(size - 1), size - 1)) for size in sizes]
    return PreparedRelease(start, end, archive, token_events, times)


def store_release(
    transaction: Transaction[bytes], prepared: PreparedRelease, *, tree_size: int
) -> None:
    """Remove bundles that were released. Raises: ValueError when the log changed meanwhile."""
    before = read_release(transaction)
    minimum = transaction.get(keyspace.META, keyspace.META_MINIMUM)
    pruned = 0 if minimum is None else keyspace.decode_u64(minimum[: keyspace.U64_BYTES])
    start = max(pruned, 0 if before is None else before.end)
    if prepared.start != start or not start <= prepared.end < tree_size:
        raise ValueError(f"entries from {prepared.start} on are not the next to release: {start}")
    if prepared.end > start:
        transaction.delete_from(
            keyspace.ENTRIES,
            keyspace.bundle_key(start // TILE_WIDTH),
            (prepared.end - start) // TILE_WIDTH,
        )
    put = transaction.put
    put(keyspace.META, keyspace.META_FORMAT, keyspace.RELEASED_FORMAT)
    release = Release(prepared.end, prepared.archive)
    put(keyspace.META, keyspace.META_RELEASED, encode_release(release))
    if prepared.token_events:
        row = transaction.get(keyspace.META, keyspace.META_RELEASED_TOKEN_EVENTS) or b"[]"
        known = msgspec.json.decode(row, type=list[tuple[int, TokenEvent]])
        events = encode_token_events([*known, *prepared.token_events])
        put(keyspace.META, keyspace.META_RELEASED_TOKEN_EVENTS, events)
    if prepared.head_times:
        key = keyspace.META_HEAD_TIMES + keyspace.encode_u64(prepared.end)
        put(keyspace.META, key, encode_head_times(prepared.head_times))


def _received_unix_s(leaf: bytes | None, leaf_index: int) -> int:
    if leaf is None:
        raise MalformedError(f"entry {leaf_index} is missing")
    return parse_time(decode_view(leaf).received.time) // MICROSECONDS
