"""Reads the durable entries of a log in order, in batches, for a follower."""

import msgspec

from ledger.follow.position import Position
from ledger.store.log import LogStore
from ledger_core.tlog.errors import MalformedError
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


def check_position(store: LogStore, position: Position, *, mend: str) -> None:
    """Check that the log still has the last entry before a position.

    `mend`: the command that sets another position. Raises: MalformedError.
    """
    size = store.head().tree_size
    if position.next_index > size:
        raise MalformedError(
            f"the log has {size} entries, and {position.next_index} were sent: an older copy of it "
            f"was put back; when that is settled, {mend} sets the position"
        )
    if not position.last_leaf_hash:
        return
    (last,) = read_batch(store, position.next_index - 1, entries_max=1, bytes_max=1)
    if last.leaf_hash.hex() != position.last_leaf_hash:
        raise MalformedError(
            f"the log has another entry {last.index} than was sent: an older copy of it was put "
            f"back; when that is settled, {mend} sets the position"
        )
