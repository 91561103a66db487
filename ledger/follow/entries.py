"""Reads the durable entries of a log in order, in batches, for a follower."""

import msgspec

from ledger.store.log import LogStore
from ledger_core.tlog.hashing import Hash, leaf_hash


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log."""

    index: int
    leaf: bytes
    leaf_hash: Hash


def read_batch(store: LogStore, start: int, *, entries_max: int, bytes_max: int) -> list[Entry]:
    """The durable entries from `start` on: at least one, if there is one.

    Raises: MalformedError for a damaged or missing entry; then `start` is before it.
    """
    end = min(store.head().tree_size, start + entries_max)
    batch: list[Entry] = []
    size = 0
    with store.environment.read() as transaction:
        for leaves in store.leaves_between(transaction, start, end):
            for leaf in leaves:
                size += len(leaf)
                if batch and size > bytes_max:
                    return batch
                batch.append(Entry(start + len(batch), leaf, leaf_hash(leaf)))
    return batch
