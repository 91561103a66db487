"""One database in memory, with views of the events in files, for SQL that anybody wrote.

    events    a row for each event: the columns of `columns`
    targets   index, position, type, id and name of each target
    changes   index, path, before and after of each change
    …         a view for each further file of `Sources.tables`

The SQL is one SELECT. It can read the files that were given and no others, nothing of the network,
and can write nothing: DuckDB locks its configuration, other statements are refused, and the views
are all that there is.

Parquet says of its columns which values they have at least and at most, and has Bloom filters:
DuckDB leaves out the rows that a condition can't meet by these. Whoever wrote the file can have
lied, and hidden rows from a question. So Parquet that others may have written is written anew
first, from its rows alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger_client.sql.columns import COLUMNS, select_columns
from ledger_client.sql.parquet import import_duckdb
from ledger_core.tlog.errors import MalformedError, UnavailableError

if TYPE_CHECKING:
    import duckdb

MEMORY_DEFAULT: Final = "1GB"
LINE_BYTES_MAX: Final = 1 << 18
FETCHED_ROWS: Final = 2048

_TRUST_IN_FILES: Final = "filter_pushdown,statistics_propagation"
"""What DuckDB does by what a file says of its columns."""

_READERS: Final = {"csv": "read_csv", "jsonl": "read_ndjson", "parquet": "read_parquet"}
_PRINCIPAL: Final = '[{"type": "VARCHAR", "id": "VARCHAR", "name": "VARCHAR"}]'
_CHANGE: Final = '[{"path": "VARCHAR", "before": "JSON", "after": "JSON"}]'
_VIEWS: Final = (
    "CREATE VIEW targets AS"
    ' SELECT "index", generate_subscripts(list, 1) - 1 AS position, unnest(list, recursive := true)'
    f""" FROM (SELECT "index", from_json(targets, '{_PRINCIPAL}') AS list FROM events)""",
    'CREATE VIEW changes AS SELECT "index", unnest(list, recursive := true)'
    f""" FROM (SELECT "index", from_json(changes, '{_CHANGE}') AS list FROM events)""",
    # The network of an address as people count them: /24 of IPv4, /48 of IPv6.
    "CREATE MACRO network(ip) AS CASE"
    " WHEN ip LIKE '%:%' THEN concat(array_to_string(list_transform(list_resize("
    "string_split(split_part(ip, '::', 1), ':'), 3, '0'),"
    " lambda part: if(part = '', '0', part)), ':'), '::/48')"
    " WHEN ip IS NOT NULL THEN concat(regexp_extract(ip, '^[0-9]+[.][0-9]+[.][0-9]+'), '.0/24')"
    " END",
)


class QueryError(MalformedError):
    """DuckDB refused the SQL, or what it does; the message is DuckDB's."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of events, and further files by the name of their view.

    `parquet` are sealed segments, `exports` is Parquet that others may have written, and `lines`
    are JSON lines. No event may be in two of them.
    `addresses` are Parquet that `filesystem`, one of fsspec, reads from elsewhere.
    """

    parquet: Sequence[Path] = ()
    exports: Sequence[Path] = ()
    lines: Sequence[Path] = ()
    addresses: Sequence[str] = ()
    filesystem: Any = None
    tables: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The columns of an answer, their types as DuckDB names them, and its rows, read once."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


class Database:
    """The views, and the one way to ask them. Made by `open_database`."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", error: type[Exception]) -> None:
        self._connection = connection
        self._error = error

    def ask(self, sql: str) -> Answer:
        """Run one SELECT. Raises: QueryError, UnavailableError where memory or a file fails."""
        with _plainly(self._error):
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type.name != "SELECT":
                raise QueryError("want one SELECT: the events can be read and nothing be changed")
            found = self._connection.execute(statements[0])
        described = found.description or ()
        names, types = (tuple(str(each[place]) for each in described) for place in (0, 1))
        return Answer(names, types, self._rows(found))

    def _rows(self, found: "duckdb.DuckDBPyConnection") -> Iterator[tuple[Any, ...]]:
        while True:
            with _plainly(self._error):
                rows = found.fetchmany(FETCHED_ROWS)
            if not rows:
                return
            yield from rows


@contextmanager
def open_database(
    sources: Sources, folder: Path, *, memory: str = MEMORY_DEFAULT, zone: str = "UTC"
) -> Iterator[Database]:
    """Make the views, then lock everything else.

    `folder` is empty, of this process alone: it gets links to the files, and what exceeds `memory`
    (as `512MB`). `zone` is the time zone in which SQL reads the hour or the day of a time.
    Raises: MissingExtraError without the extra `sql`; MalformedError for a file of another kind.
    """
    duckdb = import_duckdb("SQL")
    files = _Files(folder / "files")
    with (
        _plainly(duckdb.Error),
        duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection,
    ):
        _set(connection, "memory_limit", memory)
        _set(connection, "TimeZone", zone)
        _set(connection, "python_enable_replacements", "false")
        if sources.filesystem is not None:
            connection.register_filesystem(sources.filesystem)
            files.real.extend(sources.addresses)
        connection.execute(f"CREATE VIEW events AS {_events(connection, sources, files)}")
        for view in _VIEWS:
            connection.execute(view)
        for name, path in sources.tables.items():
            _make_table(connection, name, path, files)
        _set(connection, "temp_directory", str(folder / "spill"))
        _set(connection, "allowed_paths", files.real)
        _set(connection, "enable_external_access", "false")
        _set(connection, "lock_configuration", "true")
        yield Database(connection, duckdb.Error)


class _Files:
    """Links to files, whose names have no sign that DuckDB takes as a pattern."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self.real: Final[list[str]] = []

    def rewrite(self, connection: "duckdb.DuckDBPyConnection", paths: Sequence[Path]) -> str:
        """Write Parquet anew, from its rows alone; the result is SQL for the list of the files."""
        made = []
        _set(connection, "disabled_optimizers", _TRUST_IN_FILES)
        for path in paths:
            target = self._folder / f"{len(self.real)}.parquet"
            rows = f"SELECT * FROM read_parquet({self.link([path])})"
            quoted = _quoted(str(target))
            connection.execute(f"COPY ({rows}) TO {quoted} (FORMAT parquet, COMPRESSION zstd)")
            self.real.append(os.path.realpath(target))
            made.append(quoted)
        connection.execute("RESET disabled_optimizers")
        return f"[{', '.join(made)}]"

    def link(self, paths: Sequence[Path]) -> str:
        """Link to files; the result is SQL for the list of the links."""
        links = []
        for path in paths:
            link = self._folder / str(len(self.real))
            real = os.path.realpath(path)
            link.symlink_to(real)
            self.real.append(real)
            links.append(_quoted(str(link)))
        return f"[{', '.join(links)}]"


def _events(connection: "duckdb.DuckDBPyConnection", sources: Sources, files: _Files) -> str:
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    parts = []
    if sources.parquet:
        rows = f"read_parquet({files.link(sources.parquet)})"
        _check_columns(connection, rows, sources.parquet)
        parts.append(f"SELECT {names} FROM {rows}")
    if sources.exports:
        _check_columns(connection, f"read_parquet({files.link(sources.exports)})", sources.exports)
        rows = f"read_parquet({files.rewrite(connection, sources.exports)})"
        parts.append(f"SELECT {names} FROM {rows}")
    if sources.addresses:
        rows = f"read_parquet([{', '.join(map(_quoted, sources.addresses))}])"
        _check_columns(connection, rows, sources.addresses)
        parts.append(f"SELECT {names} FROM {rows}")
    if sources.lines:
        rows = (
            f"read_ndjson_objects({files.link(sources.lines)},"
            f" maximum_object_size = {LINE_BYTES_MAX})"
        )
        # The last line of an export is its trailer.
        found = f"SELECT {select_columns('json')} FROM {rows}"
        parts.append(f"{found} WHERE json_exists(json, '$.event')")
    if not parts:
        raise MalformedError("there is no file of events")
    return " UNION ALL ".join(parts)


def _check_columns(
    connection: "duckdb.DuckDBPyConnection", rows: str, paths: Sequence[Path | str]
) -> None:
    """Refuse other Parquet; DuckDB itself refuses files that differ from the first."""
    found = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
    if not {name for name, *_ in found}.issuperset(COLUMNS):
        raise MalformedError(f"{paths[0]}: the columns are not those of an export as Parquet")


def _make_table(
    connection: "duckdb.DuckDBPyConnection", name: str, path: Path, files: _Files
) -> None:
    reader = _READERS.get(path.suffix.lower().removeprefix("."))
    if reader is None:
        raise MalformedError(f"{path}: want a name that ends in .csv, .jsonl or .parquet")
    quoted = name.replace('"', '""')
    is_parquet = path.suffix.lower() == ".parquet"
    found = files.rewrite(connection, [path]) if is_parquet else files.link([path])
    connection.execute(f'CREATE VIEW "{quoted}" AS SELECT * FROM {reader}({found})')


def _set(connection: "duckdb.DuckDBPyConnection", name: str, value: str | list[str]) -> None:
    connection.execute(f"SET {name} = ?", [value])


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


@contextmanager
def _plainly(error_type: type[Exception]) -> Iterator[None]:
    """Turn DuckDB's errors into ours, which keep its message. Other errors pass."""
    try:
        yield
    except error_type as error:
        text = str(error).strip()
        kind = type(error).__name__
        if kind == "OutOfMemoryException":
            raise UnavailableError(f"{text}\n--memory gives it more") from None
        if kind == "IOException":
            raise UnavailableError(text) from None
        raise QueryError(text) from None
