"""The minimum index of a log: the entries below it were removed under its retention policy.

    meta "minimum"   u64 minimum index ‖ u64 index of the event that records the pruning

The tree keeps its shape and all of its tiles, so every proof that was ever made still verifies, and
a proof can still be made for a leaf that somebody else kept. Only entries are gone. The minimum
index is a multiple of 256, since a bundle is removed as a whole.

The ids of removed events stay (`id_rows`), so no other event is ever logged under one of them.

A log with a minimum index has a format of its own, `1-pruned`: a version that does not know of
minimum indices refuses it, where it would otherwise take it for damaged.

Source: c2sp.org/tlog-tiles, "Pruning".
"""

from typing import NamedTuple

from ledger.store import keyspace
from ledger.store.transaction import Transaction
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.tile import TILE_WIDTH


class Pruning(NamedTuple):
    """The entries below `minimum_index` are gone, as the event at `event_index` says."""

    minimum_index: int
    event_index: int


class PrunedError(UnavailableError):
    """Entries that were removed under the retention policy. Nothing is damaged.

    Unlike for its siblings, trying again is of no use.
    """

    def __init__(self, pruning: Pruning) -> None:
        super().__init__(
            f"the entries below index {pruning.minimum_index} were pruned under the retention "
            f"policy of this log: the event at index {pruning.event_index} says why"
        )
        self.pruning = pruning

    def __reduce__(self) -> tuple[type["PrunedError"], tuple[Pruning]]:
        """As pickle takes it: the query process sends its errors to the front ends."""
        return PrunedError, (self.pruning,)


def read_pruning(transaction: Transaction[bytes]) -> Pruning | None:
    """The last pruning of a log; None if there was none."""
    row = transaction.get(keyspace.META, keyspace.META_MINIMUM)
    if row is None:
        return None
    return Pruning(
        keyspace.decode_u64(row[: keyspace.U64_BYTES]),
        keyspace.decode_u64(row[keyspace.U64_BYTES :]),
    )


def encode_pruning(pruning: Pruning) -> bytes:
    """The row of a pruning. Raises: ValueError for a minimum index inside a bundle."""
    if pruning.minimum_index % TILE_WIDTH:
        raise ValueError(f"a minimum index is a multiple of {TILE_WIDTH}")
    return keyspace.encode_u64(pruning.minimum_index) + keyspace.encode_u64(pruning.event_index)
