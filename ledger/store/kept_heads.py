"""The published checkpoints that a log keeps, and which of them it drops when they are old.

The first checkpoint with a size has the earliest cosignatures, so it shows how early the entries
below that size existed. It stays; a later one with the same size, which renews the cosignatures, is
stored beside it, and only the latest of these. Cosignatures that come late are added to the first.

Kept are all heads of the last week, then the first of each 10 seconds, and after a year the first
of each minute: 2.3 GB a year at most, for a log that publishes twice a second. The time of a head
is the time of receipt of its newest entry, and a week ends at the newest head: no clock is read.
"""

import struct
from collections.abc import Callable
from typing import Final

from ledger.store import keyspace
from ledger.store.environment import Environment
from ledger.store.transaction import Transaction
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint

DAY_S: Final = 86_400
LEVELS: Final = ((7 * DAY_S, 10), (366 * DAY_S, 60))
"""The age of a head in seconds, and how many seconds then share one head."""

THINNED_AT_ONCE: Final = 4
"""Heads that one commit looks at: more than it adds, so that none piles up."""

_THINNED = struct.Struct(">" + "QQ" * len(LEVELS))
"""For each level the size of the last head that was looked at, and its span of time."""

TimeOf = Callable[[int], int]
"""The time of receipt of the entry at an index, in seconds since 1970."""


def store_head(transaction: Transaction[bytes], tree_size: int, note: str) -> None:
    """Store a checkpoint that is about to be published."""
    key, value = keyspace.encode_u64(tree_size), note.encode()
    first = transaction.get(keyspace.CHECKPOINTS, key)
    if first is None or set(_signatures(first)) <= set(_signatures(value)):
        transaction.put(keyspace.CHECKPOINTS, key, value)
    else:
        transaction.put(keyspace.META, keyspace.META_RENEWED, value)


def latest_head(transaction: Transaction[bytes]) -> SignedCheckpoint | None:
    """The checkpoint that was published last."""
    with transaction.cursor(keyspace.CHECKPOINTS) as cursor:
        if not cursor.last():
            return None
        latest = parse_signed_checkpoint(cursor.value())
    if (note := transaction.get(keyspace.META, keyspace.META_RENEWED)) is not None:
        renewed = parse_signed_checkpoint(note)
        if renewed.head == latest.head:
            return renewed
    return latest


def kept_heads(environment: Environment, *, start: int, most: int) -> list[SignedCheckpoint]:
    """The first `most` kept heads with a size of `start` or more, the smallest first."""
    found: list[SignedCheckpoint] = []
    with environment.read() as transaction, transaction.cursor(keyspace.CHECKPOINTS) as cursor:
        has_more = cursor.set_range(keyspace.encode_u64(start))
        while has_more and len(found) < most:
            found.append(parse_signed_checkpoint(cursor.value()))
            has_more = cursor.next()
    return found


def thin_heads(transaction: Transaction[bytes], time_of: TimeOf, *, minimum_index: int = 0) -> None:
    """Drop old heads that share their span of time with one before.

    Heads whose newest entry is below the minimum index stay as they are.
    Cost: reads at most `THINNED_AT_ONCE + 1` entries for each level.
    """
    with transaction.cursor(keyspace.CHECKPOINTS) as cursor:
        newest = keyspace.decode_u64(cursor.key()) if cursor.last() else 0
    if newest == 0:
        return
    now_s = time_of(newest - 1)
    stored = transaction.get(keyspace.META, keyspace.META_THINNED)
    done = list(_THINNED.unpack(stored)) if stored else [0] * (2 * len(LEVELS))
    before = list(done)
    for level, (age_s, span_s) in enumerate(LEVELS):
        for _ in range(THINNED_AT_ONCE):
            last_size, last_span = done[2 * level : 2 * level + 2]
            with transaction.cursor(keyspace.CHECKPOINTS) as cursor:
                first = max(last_size, minimum_index) + 1
                if not cursor.set_range(keyspace.encode_u64(first)):
                    break
                key = cursor.key()
            size = keyspace.decode_u64(key)
            time_s = time_of(size - 1)
            if now_s - time_s < age_s:
                break
            if time_s // span_s == last_span:
                transaction.delete(keyspace.CHECKPOINTS, key)
            done[2 * level : 2 * level + 2] = size, time_s // span_s
    if done != before:
        transaction.put(keyspace.META, keyspace.META_THINNED, _THINNED.pack(*done))


def _signatures(note: bytes) -> list[str]:
    return [str(signature) for signature in parse_signed_checkpoint(note).signatures]
