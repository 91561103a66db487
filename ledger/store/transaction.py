"""One transaction of an LMDB environment, whose `put` raises where LMDB only returns False."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import lmdb

from ledger_core.tlog.errors import MalformedError

Value = TypeVar("Value", bound=bytes | memoryview)
Databases = Mapping[bytes, lmdb._Database]  # noqa: SLF001 - the type has no public name


class Transaction(Generic[Value]):
    """A transaction of an environment; its databases are called by their names.

    `Transaction[memoryview]` gives views for slicing at once: they dangle when it ends.
    """

    __slots__ = ("_databases", "_raw")

    def __init__(self, raw: "lmdb.Transaction[Value]", databases: Databases) -> None:
        self._raw = raw
        self._databases = databases

    @property
    def number(self) -> int:
        """The number of the transaction; of one that reads, that of the last write that it sees."""
        return self._raw.id()

    def get(self, database: bytes, key: bytes) -> Value | None:
        return self._raw.get(key, db=self._databases[database])

    def require(self, database: bytes, key: bytes) -> Value:
        """The value of a key that must be there. Raises: MalformedError when it is not."""
        value = self._raw.get(key, db=self._databases[database])
        if value is None:
            raise MalformedError(f"the database {database.decode()} has no {key!r}")
        return value

    def put(self, database: bytes, key: bytes, value: bytes, *, append: bool = False) -> None:
        """Store a row. `append`: its key must be the largest, and LMDB fills its pages whole."""
        if not self._raw.put(key, value, append=append, db=self._databases[database]):
            raise lmdb.CorruptedError(f"a row of {database.decode()} was not stored")

    def put_all(self, database: bytes, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Store rows. Cost: half of a `put` of each."""
        with self.cursor(database) as cursor:
            stored, _ = cursor.putmulti(rows)
        if stored != len(rows):
            raise lmdb.CorruptedError(
                f"{len(rows) - stored} rows of {database.decode()} not stored"
            )

    def claim(self, database: bytes, key: bytes, value: bytes) -> bool:
        """Store a row unless its key is there already; returns whether it was stored."""
        return self._raw.put(key, value, overwrite=False, db=self._databases[database])

    def claim_all(self, database: bytes, rows: Sequence[tuple[bytes, bytes]]) -> bool:
        """Store rows if all of their keys are new, and differ; returns whether they were stored.

        If not, nothing is stored. Precondition: the database has no row with one of the values.
        Cost: half of a `claim` of each, and one look-up and a deletion of each if one is not new.
        """
        with self.cursor(database) as cursor:
            _, added = cursor.putmulti(rows, overwrite=False)
        if added == len(rows):
            return True
        for key, value in rows:
            if self.get(database, key) == value:
                self.delete(database, key)
        return False

    def delete(self, database: bytes, key: bytes) -> bool:
        """Delete a row; returns whether it was there."""
        return self._raw.delete(key, db=self._databases[database])

    def delete_from(self, database: bytes, first_key: bytes, count: int) -> None:
        """Delete consecutive rows. Cost: half of a `delete` of each.

        Raises: MalformedError when there are fewer.
        """
        with self.cursor(database) as cursor:
            found = count > 0 and cursor.set_key(first_key)
            for _ in range(count):
                found = found and cursor.delete()
        if not found and count:
            raise MalformedError(f"the database {database.decode()} has fewer than {count} rows")

    def clear(self, database: bytes) -> None:
        self._raw.drop(self._databases[database], delete=False)

    def count(self, database: bytes) -> int:
        return int(self._raw.stat(self._databases[database])["entries"])

    def cursor(self, database: bytes) -> "lmdb.Cursor[Value]":
        return self._raw.cursor(self._databases[database])

    def rows(self, database: bytes) -> "Iterator[tuple[Value, Value]]":
        """All rows of a database in the order of their keys."""
        with self.cursor(database) as cursor:
            yield from cursor

    def rows_from(self, database: bytes, first: bytes) -> "Iterator[tuple[Value, Value]]":
        """The rows whose keys are `first` or later, in the order of their keys."""
        with self.cursor(database) as cursor:
            if cursor.set_range(first):
                yield from cursor
