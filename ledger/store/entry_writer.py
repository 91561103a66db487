"""The writer of a log whose entries may be anything: no ids, no events, and rows of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ledger.store import keyspace
from ledger.store.environment import create_environment
from ledger.store.log import DATABASES
from ledger.store.writer import LogWriter
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, Hash


def create_entries(path: Path, *, origin: str, rows: Mapping[bytes, bytes]) -> None:
    """Make an empty log in the folder `path`, with these rows of `meta` too.

    Raises: as `create_environment`.
    """
    meta = {
        keyspace.META_ORIGIN: origin.encode(),
        keyspace.META_TREE: keyspace.encode_tree(tree_size=0, root_hash=EMPTY_ROOT_HASH),
        keyspace.META_TOKEN_EVENTS: b"",
        **rows,
    }
    create_environment(path, DATABASES, meta=meta)


class EntryWriter(LogWriter):
    """Appends entries by their place alone. `commit` is not for it: it stores no ids."""

    def append(self, leaves: Sequence[bytes], leaf_hashes: Sequence[Hash]) -> None:
        """Append entries; when this returns, they are on the disk. Raises: as `commit`.

        Cost: two node hashes and a point write an entry, and one sync.
        """
        with self._writing() as transaction:
            self._grow(transaction, leaves, leaf_hashes)

    def put_meta(self, rows: Mapping[bytes, bytes]) -> None:
        """Make rows of `meta` durable. Raises: as `commit`."""
        with self._writing() as transaction:
            for key, value in rows.items():
                transaction.put(keyspace.META, key, value)
