"""Reads the entries whose ids come again, for the commit that compares them.

All appends wait for a commit. A bundle has up to 16 MiB, of which a request may name one entry
10,000 times. So a commit reads each bundle once, and reads and compares so many bytes at most. What
it has no room for is compared by a later one.
"""

from ledger.store.log import UNREADABLE, LogStore
from ledger.store.released import ReleasedError
from ledger.store.stored_log import FetchFailedError
from ledger.store.transaction import Transaction
from ledger_core.tlog.tile import TILE_WIDTH

COMPARED_BYTES_MAX = 1 << 25
"""Bytes of bundles and entries in one commit: two of the largest bundles, a tenth of a second."""

_NOT_READ = (*UNREADABLE, ReleasedError, FetchFailedError)


class NoRoomError(Exception):
    """This commit has read all that it may."""

    def __init__(self, leaf_index: int) -> None:
        super().__init__(f"entry {leaf_index} is compared by a later commit")
        self.leaf_index = leaf_index


class EarlierEntries:
    """The entries that one commit has read. `is_limited`: no more than `COMPARED_BYTES_MAX`."""

    def __init__(self, store: LogStore, *, tree_size: int, is_limited: bool) -> None:
        self._store = store
        self._first_open = tree_size - tree_size % TILE_WIDTH
        self._is_limited = is_limited
        self._left = COMPARED_BYTES_MAX
        self._has_room = True
        self._bundles: dict[int, list[bytes] | Exception | None] = {}

    def begin(self) -> None:
        """Begin with another entry. What one needs may exceed the limit, so that each commit
        compares at least one.
        """
        self._has_room = self._left > 0
        if not self._has_room and not self._is_limited:
            self._bundles.clear()
            self._left = COMPARED_BYTES_MAX
            self._has_room = True

    def spend(self, leaf_index: int, count: int) -> None:
        """Count bytes that are compared. Raises: NoRoomError."""
        if not self._has_room:
            raise NoRoomError(leaf_index)
        self._left -= count

    def leaf(self, transaction: Transaction[bytes], leaf_index: int) -> bytes | None:
        """The leaf of a stored entry; None if there is none.

        Raises: NoRoomError; as `LogStore.leaf_in`.
        """
        self.spend(leaf_index, 0)
        if leaf_index >= self._first_open:
            leaf = self._store.leaf_in(transaction, leaf_index)
        else:
            leaves = self._bundle(transaction, leaf_index // TILE_WIDTH)
            leaf = None if leaves is None else leaves[leaf_index % TILE_WIDTH]
        self._left -= len(leaf or b"")
        return leaf

    def _bundle(self, transaction: Transaction[bytes], bundle: int) -> list[bytes] | None:
        if bundle not in self._bundles:
            try:
                leaves = self._store.bundle_in(transaction, bundle)
                self._bundles[bundle] = leaves
                self._left -= sum(map(len, leaves or ()))
            except _NOT_READ as error:
                self._bundles[bundle] = error
        found = self._bundles[bundle]
        if isinstance(found, Exception):
            raise found
        return found
