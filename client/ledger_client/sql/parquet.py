"""Exports as Parquet, by DuckDB (the extra `sql`): the rows of JSON lines with typed columns.

    index  id  time  received_time  …  context  …  leaf_hash  leaf

The columns are those of CSV, and `leaf`, the exact text that the leaf hash covers. Times are
timestamps, ids UUIDs, `targets`, `changes` and `context` JSON. An absent value is NULL.

Index, leaf and leaf hash are all that a row of JSON lines has. So the proofs beside the file are
those of the JSON lines, and `ledger verify` makes the lines again to check them. The other columns
are computed again from the leaf and compared.

DuckDB reads and writes in parts, with a limit of memory. A text that stands many times in a file
may be stored once, so a small file may hold very much: the rows, and the bytes of a leaf, are
bounded before they are read. This module reads and writes files.
"""

import os
import re
from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from ledger_client.extras import missing_extra
from ledger_client.runtime.files import open_new
from ledger_client.sql.columns import COLUMNS, DERIVED, path_of, stored_types, typed
from ledger_core.event.canonical import LEAF_BYTES_MAX
from ledger_core.search_answers import ExportTrailer, TrailerLine
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

if TYPE_CHECKING:
    import duckdb

MAGIC: Final = b"PAR1"
MEMORY_MAX: Final = "512MB"
BATCH_ROWS: Final = 64
ROW_BYTES_MIN: Final = 32
"""Bytes of a file for each of its rows: a leaf hash has so many, and nothing compresses it."""
FAULTS_MAX: Final = 10

_LINE_BYTES_MAX: Final = 1 << 18
_MATCH_LINE: Final = r'^\{"index":([0-9]+),(.*),"leaf_hash":"([A-Za-z0-9+/=]{44})"\}$'


def write_parquet(lines: Path, to: Path, *, with_leaf: bool = True) -> None:
    """Write a complete export of JSON lines as Parquet to a new file. Only its owner can read it.

    Without the column `leaf` it takes half of the room, and can't be verified by itself.
    Cost: 70 µs of processor time an event, and up to 350 MB of memory.
    Raises: MissingExtraError without the extra `sql`; MalformedError, OSError.
    """
    open_new(to).close()
    chosen = "*" if with_leaf else "* EXCLUDE (leaf)"
    with connect() as connection:
        connection.execute(
            f"COPY (SELECT {chosen} FROM ({_SELECT_ROWS})) TO '{_quoted(to)}'"
            " (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)",
            [_literal(lines), _LINE_BYTES_MAX],
        )


def check_parquet() -> None:
    """Raises: MissingExtraError without the extra `sql`."""
    with connect():
        pass


def altered_columns(path: Path) -> list[str]:
    """The faults of rows in which a column is not what the leaf says. Raises: MalformedError."""
    with connect() as connection:
        _check_table(connection, path)
        found = connection.execute(_SELECT_ALTERED, [_literal(path)]).fetchall()
    return [f"entry {index}: a column is not what its leaf says" for (index,) in found]


class ParquetLines:
    """The rows of a file as an export of JSON lines; `read` gives the next ones."""

    def __init__(self, path: Path) -> None:
        self._pieces: Final = _lines(path)

    def read(self, _size: int = -1) -> bytes:
        """The next lines; empty at the end. Raises: MalformedError."""
        return next(self._pieces, b"")


def _lines(path: Path) -> Iterator[bytes]:
    digest, count, end = sha256(), 0, 0
    with connect() as connection:
        _check_table(connection, path)
        result = connection.execute(_SELECT_LEAVES, [_literal(path)])
        while rows := result.fetchmany(BATCH_ROWS):
            piece = b"".join(_line(*row) for row in rows)
            digest.update(piece)
            count, end = count + len(rows), rows[-1][0] + 1
            yield piece
    trailer = ExportTrailer(rows=count, sha256=digest.hexdigest(), tree_size=end)
    yield msgspec.json.encode(TrailerLine(trailer)) + b"\n"


def _check_table(connection: "duckdb.DuckDBPyConnection", path: Path) -> None:
    """Check what a file says of itself, before any row is read. Raises: MalformedError."""
    columns = connection.execute(_DESCRIBE, [_literal(path)]).fetchall()
    if [name for name, _ in columns] != [*COLUMNS, "leaf"]:
        raise MalformedError("the columns are not those of an export")
    for name, type_ in columns:
        if type_ not in stored_types(name):
            raise MalformedError(f"the column {name} is of another type than an export's")
    found = connection.execute(_COUNT_ROWS, [_literal(path)]).fetchone()
    rows, size = found[0] if found else 0, path.stat().st_size
    if rows * ROW_BYTES_MIN > size:
        raise MalformedError(
            f"the file has {size} bytes for {rows} rows, at least {ROW_BYTES_MIN} for each are due"
        )


def _line(index: object, leaf: object, leaf_hash: object) -> bytes:
    if not (isinstance(index, int) and isinstance(leaf, str) and isinstance(leaf_hash, str)):
        raise MalformedError("a row has no index, leaf or leaf hash, or one that is too long")
    if re.fullmatch("[0-9a-f]{64}", leaf_hash) is None:
        raise MalformedError(f"not a leaf hash in hex: {excerpt(leaf_hash)}")
    return format_line(index, leaf.encode(), bytes.fromhex(leaf_hash))


def format_line(index: int, leaf: bytes, leaf_hash: bytes) -> bytes:
    """A row of an export of JSON lines."""
    hash_ = b2a_base64(leaf_hash, newline=False)
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (index, leaf[1:-1], hash_)


def rewrite_as_parquet(file: BinaryIO) -> tuple[str, int]:
    """Replace a complete export of JSON lines that was just written by one of Parquet.

    Returns its SHA-256 and its size in bytes. Raises: as `write_parquet`.
    """
    file.flush()
    lines = Path(file.name)
    made = lines.with_name(f"{lines.name}.parquet")
    made.unlink(missing_ok=True)
    try:
        write_parquet(lines, made)
        with made.open("rb") as written:
            os.fsync(written.fileno())
            digest = file_digest(written, "sha256").hexdigest()
        size = made.stat().st_size
        made.replace(lines)
    finally:
        made.unlink(missing_ok=True)
    return digest, size


@contextmanager
def connect() -> Iterator["duckdb.DuckDBPyConnection"]:
    """A database in memory that loads nothing from elsewhere. Raises: MissingExtraError."""
    duckdb = import_duckdb("Parquet")
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_MAX,
        "threads": "1",
        "autoinstall_known_extensions": "false",
        "allow_community_extensions": "false",
        # Nothing of the events is left in the folder in which the command was started.
        "temp_directory": "",
        # What a file says of its columns decides nothing: whoever wrote it may have lied.
        "disabled_optimizers": "filter_pushdown,statistics_propagation",
    }
    try:
        with duckdb.connect(config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
    except duckdb.Error as error:
        raise MalformedError(f"Parquet: {excerpt(str(error).partition(chr(10))[0])}") from error


def import_duckdb(feature: str) -> ModuleType:
    """The module `duckdb`. Raises: MissingExtraError naming the feature and what to install."""
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise missing_extra(feature, error) from error
    return duckdb


def _columns() -> str:
    special = {"index": "place::BIGINT", "leaf_hash": "hex(from_base64(hash)).lower()"}
    chosen = [f'{special.get(name) or _value(name)} AS "{name}"' for name in COLUMNS]
    return ", ".join([*chosen, "leaf"])


def _value(name: str) -> str:
    """The value of a column, as SQL over the list `texts` of the values in the leaf."""
    return typed(name, f"texts[{DERIVED.index(name) + 1}]")


def _literal(path: Path) -> str:
    """A path as DuckDB reads it: it would take these signs as a pattern for many files."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


# SQL from the constants above alone.
_FILE: Final = "read_parquet(?, hive_partitioning = false)"
_DESCRIBE: Final = f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {_FILE})"
_COUNT_ROWS: Final = "SELECT sum(num_rows) FROM parquet_file_metadata(?)"
# NULL for a leaf, or a leaf hash, that is longer than any.
_BOUNDED_LEAF: Final = f"CASE WHEN strlen(leaf) <= {LEAF_BYTES_MAX} THEN leaf END"
_BOUNDED_HASH: Final = "CASE WHEN strlen(leaf_hash) = 64 THEN leaf_hash END"
_SELECT_LEAVES: Final = f'SELECT "index", {_BOUNDED_LEAF}, {_BOUNDED_HASH} FROM {_FILE}'
_VALUES: Final = (
    f"json_extract_string({_BOUNDED_LEAF}, ["
    + ", ".join(f"'{path_of(name)}'" for name in DERIVED)
    + "]) AS texts"
)
_LEAVES: Final = (
    "SELECT found.place AS place, '{' || found.inside || '}' AS leaf, found.hash AS hash"
    f" FROM (SELECT regexp_extract(json::VARCHAR, '{_MATCH_LINE}', ['place', 'inside', 'hash'])"
    " AS found FROM read_ndjson_objects(?, maximum_object_size = ?)) WHERE found.place <> ''"
)
_SELECT_ROWS: Final = f"SELECT {_columns()} FROM (SELECT *, {_VALUES} FROM ({_LEAVES}))"
_SELECT_ALTERED: Final = (
    f'SELECT "index" FROM (SELECT *, {_VALUES} FROM {_FILE}) WHERE '
    + " OR ".join(
        f'"{name}"::VARCHAR IS DISTINCT FROM ({_value(name)})::VARCHAR' for name in DERIVED
    )
    + f" LIMIT {FAULTS_MAX}"
)
