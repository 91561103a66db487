"""Reads the durable entries of a log in order, in batches, for a follower."""

from typing import Final

import msgspec

from ledger.follow.position import Position
from ledger.store.log import LogStore
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.tree import Node

AHEAD: Final = 16
"""Bundles that a batch fetches at once, if they were released."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log."""

    index: int
    leaf: bytes
    leaf_hash: Hash


def read_batch(store: LogStore, start: int, *, entries_max: int, bytes_max: int) -> list[Entry]:
    """The durable entries from `start` on: at least one, if there is one.

    A follower that begins below the minimum index gets the first entry that is there.
    Raises: MalformedError for a damaged or missing entry; then `start` is before it.
    """
    start = max(start, store.minimum_index)
    end = min(store.head().tree_size, start + entries_max)
    batch: list[Entry] = []
    size = 0
    # Before the transaction, which would keep pages from being used again.
    store.expect(
        range(start // TILE_WIDTH, min(-(-end // TILE_WIDTH), start // TILE_WIDTH + AHEAD))
    )
    with store.environment.read() as transaction:
        for leaves in store.leaves_between(transaction, start, end):
            for leaf in leaves:
                size += len(leaf)
                if batch and size > bytes_max:
                    return batch
                batch.append(Entry(start + len(batch), leaf, leaf_hash(leaf)))
    return batch


def position_at(store: LogStore, next_index: int) -> Position:
    """The position before an entry, or at the end of the log. Raises: as `read_batch`."""
    if not next_index:
        return Position()
    if next_index <= store.local_start():
        # The entry was pruned or released; its hash is in the tree.
        (last_hash,) = store.node_hashes([Node(0, next_index - 1)])
    else:
        (last,) = read_batch(store, next_index - 1, entries_max=1, bytes_max=1)
        last_hash = last.leaf_hash
    return Position(next_index=next_index, last_leaf_hash=last_hash.hex())


def check_position(store: LogStore, position: Position, *, mend: str = "") -> None:
    """Check that the log has the last entry before a position.

    `mend`: the command that sets another position. Raises: MalformedError.
    """
    size, next_index = store.head().tree_size, position.next_index
    if next_index > size:
        what = f"the log has {size} entries, not {next_index}"
    elif position.last_leaf_hash and position != position_at(store, next_index):
        what = f"the log has another entry {next_index - 1} than the position says"
    else:
        return
    then = f"; when that is settled, {mend} sets the position" if mend else ""
    raise MalformedError(
        f"{what}: an older copy of the log was put back, or the position is damaged{then}"
    )
