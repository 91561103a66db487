"""Holds rows of a database against leaves that were proven to be in the log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ledger_client.sql.database import Database, Sources, open_database
from ledger_client.sql.parquet import format_line
from ledger_core.tlog.hashing import leaf_hash

FAULTS_MAX: Final = 10


def find_altered(
    database: Database, leaves: Sequence[tuple[int, bytes]], folder: Path
) -> list[str]:
    """The faults of the events at the indices of verified leaves: a row that is not what it says.

    Every column of `events` is compared. `folder` is empty, of this process alone.
    """
    if not leaves:
        return []
    lines = folder / "verified.jsonl"
    lines.write_bytes(b"".join(format_line(i, leaf, leaf_hash(leaf)) for i, leaf in leaves))
    places = ", ".join(str(index) for index, _ in leaves)
    sql = f'SELECT * FROM events WHERE "index" IN ({places}) ORDER BY "index"'
    with open_database(Sources(lines=[lines]), folder) as verified:
        expected: dict[int, tuple[Any, ...]] = {row[0]: row for row in verified.ask(sql).rows}
    faults, seen = [], set()
    for row in database.ask(sql).rows:
        if row[0] in seen:
            faults.append(f"entry {row[0]} is there more than once")
        elif row != expected[row[0]]:
            faults.append(f"entry {row[0]} is not what the log has")
        seen.add(row[0])
    return faults[:FAULTS_MAX]
