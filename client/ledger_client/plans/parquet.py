"""Exports as Parquet, by DuckDB (the extra `sql`): the rows of JSON lines with typed columns.

    index  id  time  received_time  …  context  …  leaf_hash  leaf

The columns are those of CSV, and `leaf`, the exact text that the leaf hash covers. Times are
timestamps, ids UUIDs, `targets`, `changes` and `context` JSON. An absent value is NULL.

Index, leaf and leaf hash are all that a row of JSON lines has. So the proofs beside the file are
those of the JSON lines, and `ledger verify` makes the lines again to check them. The other columns
are computed again from the leaf and compared.

DuckDB reads and writes in parts, with a limit of memory. This module reads and writes files.
"""

import os
import re
from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from ledger_client.extras import missing_extra
from ledger_client.runtime.files import open_new
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.event.csv import COLUMNS
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

if TYPE_CHECKING:
    import duckdb

MAGIC: Final = b"PAR1"
MEMORY_MAX: Final = "512MB"
BATCH_ROWS: Final = 2048
FAULTS_MAX: Final = 10

_LINE_BYTES_MAX: Final = 1 << 18
_MATCH_LINE: Final = r'^\{"index":([0-9]+),(.*),"leaf_hash":"([A-Za-z0-9+/=]{44})"\}$'

# The path of each column in the leaf, and its type if it is no text.
_PATHS: Final = {
    "received_time": "received.time",
    "received_by": "received.by",
    "session": "event.actor.session",
    "credential": "event.actor.credential",
    "source_ip": "event.source.ip",
    "source_port": "event.source.port",
    "source_service": "event.source.service",
    "user_agent": "event.source.user_agent",
    "recorder_instance": "event.recorder.instance",
    "recorder_seq": "event.recorder.seq",
    **{
        f"{prefix}_{name}": f"event.{place}.{name}"
        for prefix, place in (
            ("actor", "actor"),
            ("on_behalf_of", "actor.on_behalf_of"),
            ("target", "targets[0]"),
        )
        for name in ("type", "id", "name")
    },
}
_TYPES: Final = {
    "id": "UUID",
    "time": "TIMESTAMPTZ",
    "received_time": "TIMESTAMPTZ",
    "source_port": "INTEGER",
    "recorder_seq": "BIGINT",
    "targets": "JSON",
    "changes": "JSON",
    "context": "JSON",
}
_DERIVED: Final = tuple(name for name in COLUMNS if name not in ("index", "leaf_hash"))


def write_parquet(lines: Path, to: Path) -> None:
    """Write a complete export of JSON lines as Parquet to a new file. Only its owner can read it.

    Raises: MissingExtraError without the extra `sql`; MalformedError, OSError.
    """
    open_new(to).close()
    with _connect() as connection:
        connection.execute(
            f"COPY ({_SELECT_ROWS}) TO '{_quoted(to)}'"
            " (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)",
            [_literal(lines), _LINE_BYTES_MAX],
        )


def check_parquet() -> None:
    """Raises: MissingExtraError without the extra `sql`."""
    with _connect():
        pass


def altered_columns(path: Path) -> list[str]:
    """The faults of rows in which a column is not what the leaf says. Raises: MalformedError."""
    with _connect() as connection:
        names = [each[0] for each in connection.execute(_DESCRIBE, [_literal(path)]).fetchall()]
        if names != [*COLUMNS, "leaf"]:
            raise MalformedError("the columns are not those of an export")
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
    with _connect() as connection:
        result = connection.execute(
            'SELECT "index", leaf, leaf_hash FROM read_parquet(?)', [_literal(path)]
        )
        while rows := result.fetchmany(BATCH_ROWS):
            piece = b"".join(_line(*row) for row in rows)
            digest.update(piece)
            count, end = count + len(rows), rows[-1][0] + 1
            yield piece
    trailer = ExportTrailer(rows=count, sha256=digest.hexdigest(), tree_size=end)
    yield msgspec.json.encode(TrailerLine(trailer)) + b"\n"


def _line(index: object, leaf: object, leaf_hash: object) -> bytes:
    if not (isinstance(index, int) and isinstance(leaf, str) and isinstance(leaf_hash, str)):
        raise MalformedError("a row has no index, leaf or leaf hash")
    if re.fullmatch("[0-9a-f]{64}", leaf_hash) is None:
        raise MalformedError(f"not a leaf hash in hex: {excerpt(leaf_hash)}")
    hash_ = b2a_base64(bytes.fromhex(leaf_hash), newline=False)
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (index, leaf.encode()[1:-1], hash_)


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
def _connect() -> Iterator["duckdb.DuckDBPyConnection"]:
    """A database in memory that loads nothing from elsewhere. Raises: MissingExtraError."""
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise missing_extra("Parquet", error) from error
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_MAX,
        "threads": "1",
        "autoinstall_known_extensions": "false",
        "allow_community_extensions": "false",
    }
    try:
        with duckdb.connect(config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
    except duckdb.Error as error:
        raise MalformedError(f"Parquet: {excerpt(str(error).partition(chr(10))[0])}") from error


def _value(name: str) -> str:
    """The value of a column, as SQL over the list `texts` of the values in the leaf."""
    text = f"texts[{_DERIVED.index(name) + 1}]"
    return f"{text}::{_TYPES[name]}" if name in _TYPES else text


def _columns() -> str:
    special = {"index": "place::BIGINT", "leaf_hash": "hex(from_base64(hash)).lower()"}
    chosen = [f'{special.get(name) or _value(name)} AS "{name}"' for name in COLUMNS]
    return ", ".join([*chosen, "leaf"])


def _literal(path: Path) -> str:
    """A path as DuckDB reads it: it would take these signs as a pattern for many files."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


# SQL from the constants above alone.
_DESCRIBE: Final = "SELECT column_name FROM (DESCRIBE SELECT * FROM read_parquet(?))"
_VALUES: Final = (
    "json_extract_string(leaf, ["
    + ", ".join(f"'$.{_PATHS.get(name, f'event.{name}')}'" for name in _DERIVED)
    + "]) AS texts"
)
_LEAVES: Final = (
    "SELECT found.place AS place, '{' || found.inside || '}' AS leaf, found.hash AS hash"  # noqa: S608
    f" FROM (SELECT regexp_extract(json::VARCHAR, '{_MATCH_LINE}', ['place', 'inside', 'hash'])"
    " AS found FROM read_ndjson_objects(?, maximum_object_size = ?)) WHERE found.place <> ''"
)
_SELECT_ROWS: Final = f"SELECT {_columns()} FROM (SELECT *, {_VALUES} FROM ({_LEAVES}))"  # noqa: S608
_SELECT_ALTERED: Final = (
    f'SELECT "index" FROM (SELECT *, {_VALUES} FROM read_parquet(?)) WHERE '  # noqa: S608
    + " OR ".join(
        f'"{name}"::VARCHAR IS DISTINCT FROM ({_value(name)})::VARCHAR' for name in _DERIVED
    )
    + f" LIMIT {FAULTS_MAX}"
)
