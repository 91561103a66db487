"""`ledger sql`: SQL over events, on this machine."""

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
import msgspec

from ledger_client.cli.app import load_server_part
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import counted, json_text, note
from ledger_client.cli.grid import show_grid
from ledger_client.cli.query import explained
from ledger_client.cli.sql_rows import csv_text, csv_texts, is_number, print_csv, row_texts
from ledger_client.cli.sql_sources import (
    CSV_BEGINS,
    ZIP_BEGINS,
    rewrite_csv,
    rewrite_evidence,
)
from ledger_client.cli.verify import check_export_file
from ledger_client.plans.export import proof_path
from ledger_client.sql.checking import find_altered
from ledger_client.sql.database import (
    LINE_BYTES_MAX,
    MEMORY_DEFAULT,
    Answer,
    Database,
    Sources,
    open_database,
)
from ledger_client.sql.parquet import MAGIC, check_parquet
from ledger_client.sql.values import to_json
from ledger_core.event.csv import plain_cell
from ledger_core.tlog.errors import MalformedError, VerificationError

SHOWN_MAX: Final = 200
VERIFIED_MAX: Final = 10_000
_BATCH_ROWS: Final = 1_000
_INDEX: Final = "index"
_OWN_VIEWS: Final = ("events", "targets", "changes")
_is_name: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*").fullmatch

LeafReader = Callable[[int], bytes]
"""Reads the leaf at an index, verified."""

Form = Literal["table", "json", "csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """The sources of the SQL, and the form of its answer."""

    paths: tuple[Path, ...] = ()
    where: str = ""
    tables: Mapping[str, Path] = field(default_factory=dict)
    verify: bool = False
    limit: int | None = None
    memory: str = MEMORY_DEFAULT
    zone: str = "UTC"
    form: Form = "table"


class _Source(click.Path):
    """A file or folder; an address gets a message of its own."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As `click.Path.convert`."""
        if "://" in str(value):
            self.fail(
                f"{value} is an address: SQL reads files and folders of this machine. --url names a"
                " ledger; the folder of `ledger serve --read-only` names an archive.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


@click.command("sql")
@click.argument("sql", metavar="SQL|-")
@click.argument("sources", metavar="[DIR|EXPORT]...", nargs=-1, type=_Source())
@click.option(
    "--where",
    metavar="QUERY",
    help="Without DIR and EXPORT: the events that are fetched, as `ledger query` finds them.",
)
@click.option(
    "--table",
    "tables",
    metavar="NAME=FILE",
    multiple=True,
    help="A view NAME of another file (.csv, .jsonl, .parquet), to join with. May be repeated.",
)
@connection_options
@click.option(
    "--verify",
    is_flag=True,
    help="Prove the event of each row of the answer, which needs the column index, and compare it.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"At most so many rows. Default: {SHOWN_MAX} as a table, otherwise all.",
)
@click.option(
    "--memory",
    default=MEMORY_DEFAULT,
    show_default=True,
    help="What DuckDB may use; the rest is on disk.",
)
@click.option(
    "--zone", default="UTC", show_default=True, help="The time zone of times: Europe/Berlin."
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each row.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def command(
    sql: str,
    sources: tuple[Path, ...],
    where: str | None,
    tables: tuple[str, ...],
    connection: Connection,
    verify: bool,
    limit: int | None,
    memory: str,
    zone: str,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Ask events by SQL, with DuckDB on this machine: ledger sql "SELECT …" DIR.

    DIR is the folder of a ledger, a mirror or a reader of an archive, EXPORT a file of ledger
    export: JSON lines, CSV, Parquet, or a bundle of evidence. Without either the events of the
    ledger at --url are fetched, each verified. The views are events, targets and changes;
    docs/sql.md lists their columns. SQL that is - is read from standard input. It is one SELECT,
    and can read nothing but these files.
    """
    if as_json and as_csv:
        raise click.UsageError("use --json or --csv, not both")
    if where is not None and sources:
        raise click.UsageError("Use --where without DIR and EXPORT: SQL has a WHERE of its own.")
    options = SqlOptions(
        paths=sources,
        where=where or "",
        tables=dict(map(_read_table, tables)),
        verify=verify,
        limit=limit,
        memory=memory,
        zone=zone,
        form="json" if as_json else "csv" if as_csv else "table",
    )
    ask_sql(sys.stdin.read() if sql == "-" else sql, options, connection)


def ask_sql(sql: str, options: SqlOptions, connection: Connection) -> None:
    """Run one SELECT and print its answer.

    Raises: QueryError with DuckDB's message; VerificationError where a row is not what the log has.
    """
    check_parquet()
    zone = _zone(options.zone)
    with ExitStack() as opened:
        scratch = Path(opened.enter_context(TemporaryDirectory(prefix="ledger-sql-")))
        found = _open_sources(options, connection, scratch, opened)
        (scratch / "views").mkdir()
        database = opened.enter_context(
            open_database(
                Sources(
                    parquet=found.parquet,
                    exports=found.exports,
                    lines=found.lines,
                    tables=options.tables,
                    addresses=found.addresses,
                    filesystem=found.filesystem,
                ),
                scratch / "views",
                memory=options.memory,
                zone=options.zone,
            )
        )
        files = [*found.parquet, *found.exports, *found.lines]
        if len(files) > 1 and len(options.paths) > 1:
            _check_disjoint(database)
        answer = database.ask(sql)
        if options.verify:
            answer = _verified(answer, database, found.read_leaf, scratch)
        _show(answer, options, zone)
    for each in found.notes:
        note(each)


def _check_disjoint(database: Database) -> None:
    twice = "SELECT count(*) - count(DISTINCT leaf_hash) FROM events"
    (row,) = database.ask(twice).rows
    if row[0]:
        raise click.UsageError(
            f"{counted(row[0], 'event')} would be counted twice: the files have them in common"
        )


def _read_table(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (equals and _is_name(name)) or name.lower() in _OWN_VIEWS:
        raise click.UsageError(f"--table {text}: want NAME=FILE, with a name of letters and digits")
    if not Path(path).is_file():
        raise click.UsageError(f"--table {text}: there is no such file")
    return name, Path(path)


def _zone(name: str) -> ZoneInfo | None:
    """None for UTC, whose times end with Z. Raises: click.UsageError."""
    try:
        return None if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise click.UsageError(f"--zone {name}: want a time zone, such as Europe/Berlin") from None


@dataclass(slots=True)
class _Found:
    """The files of events, how a leaf of them is verified, and remarks for the reader."""

    parquet: list[Path] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)
    lines: list[Path] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    filesystem: Any = None
    notes: list[str] = field(default_factory=list)
    read_leaf: LeafReader | None = None
    """None where every event was verified already."""


def _is_exported(line: bytes) -> bool:
    """Whether this is the first line of an export: an event with its index, or the trailer."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and ({"index", "event"} <= found.keys() or "trailer" in found)


def _open_sources(
    options: SqlOptions, connection: Connection, scratch: Path, opened: ExitStack
) -> _Found:
    found = _Found()
    if not options.paths:
        _fetch(options, connection, scratch, found)
    unproven = []
    for place, path in enumerate(options.paths):
        if path.is_dir():
            _open_directory(path, connection, scratch / str(place), found, opened, options)
            continue
        if _add_file(path, connection, scratch / f"{place}.jsonl", found):
            continue
        if proof_path(path).exists():
            if options.verify:
                check_export_file(path, proof_path(path), connection.policy())
        else:
            unproven.append(path)
    if options.verify and unproven:
        if found.read_leaf is not None:
            raise click.UsageError("Use --verify with a folder, or with exports, not with both.")
        ledger = opened.enter_context(connection.open())
        found.read_leaf = lambda index: ledger.event(index).leaf
    return found


def _add_file(path: Path, connection: Connection, rewritten: Path, found: _Found) -> bool:
    """Add a file by what it begins with; return whether each event of it was proven already.

    Raises: MalformedError for a file of another kind, VerificationError.
    """
    with path.open("rb") as file:
        begin = file.readline(LINE_BYTES_MAX)
    if begin.startswith(MAGIC):
        found.exports.append(path)
    elif begin.startswith(CSV_BEGINS):
        with rewritten.open("wb") as lines:
            rewrite_csv(path, lines)
        found.lines.append(rewritten)
    elif begin.startswith(ZIP_BEGINS):
        with rewritten.open("wb") as lines:
            evidence = rewrite_evidence(path, connection.policy(), lines)
        found.lines.append(rewritten)
        found.notes.append(
            f"of {counted(evidence.events, 'event')} of {path.name}, each proven to be in the tree"
            f" of size {evidence.head.checkpoint.tree_size:,}"
        )
        return True
    elif _is_exported(begin):
        found.lines.append(path)
    else:
        raise MalformedError(
            f"{path} is no export: want a folder, or what `ledger export` wrote (JSON lines, CSV,"
            " Parquet, evidence)"
        )
    return False


def _fetch(options: SqlOptions, connection: Connection, scratch: Path, found: _Found) -> None:
    """Export the events that the SQL is asked of from the ledger."""
    path = scratch / "events.jsonl"
    with connection.open() as ledger, explained(options.where):
        exported = ledger.export(options.where, path)
    found.lines.append(path)
    found.notes.append(
        f"of {counted(exported.rows, 'event')} of the ledger, each proven to be in its tree of size"
        f" {exported.tree_size:,}"
    )


def _open_directory(
    path: Path,
    connection: Connection,
    scratch: Path,
    found: _Found,
    opened: ExitStack,
    options: SqlOptions,
) -> None:
    scratch.mkdir()
    open_events = load_server_part("parquet-events", needed_by=f"ledger sql … {path}")
    local = opened.enter_context(open_events(path, scratch))
    found.parquet += local.sources.parquet
    found.lines += local.sources.lines
    if local.sources.filesystem is not None:
        if found.filesystem is not None:
            raise click.UsageError("Use one folder of a reader at a time.")
        found.addresses += local.sources.addresses
        found.filesystem = local.sources.filesystem
    found.notes.append(f"of the log in {path} at size {local.tree_size:,}")
    if local.unsealed:
        found.notes.append(
            f"{counted(local.unsealed, 'full segment')} without Parquet: `ledger parquet {path}`"
            " makes the next question quicker"
        )
    if options.verify:
        if found.read_leaf is not None:
            raise click.UsageError("Use --verify with one folder.")
        head = local.head(connection.policy())
        found.read_leaf = lambda index: local.verified_leaf(index, head)


def _verified(
    answer: Answer, database: Database, read_leaf: LeafReader | None, scratch: Path
) -> Answer:
    """The same answer, once each event that it names is proven. Raises: VerificationError."""
    names = [name.lower() for name in answer.columns]
    if _INDEX not in names:
        raise click.UsageError('--verify needs the column "index" in the answer')
    place, rows = names.index(_INDEX), list(answer.rows)
    indices = sorted({row[place] for row in rows if row[place] is not None})
    if not all(type(index) is int and index >= 0 for index in indices):
        raise click.UsageError('--verify needs a column "index" that has indices of events')
    if len(indices) > VERIFIED_MAX:
        raise click.UsageError(f"--verify proves {VERIFIED_MAX:,} events at most: use LIMIT")
    if read_leaf is not None:
        (scratch / "verified").mkdir()
        leaves = [(index, read_leaf(index)) for index in indices]
        faults = find_altered(database, leaves, scratch / "verified")
        for fault in faults:
            note(f"not verified: {fault}")
        if faults:
            raise VerificationError(counted(len(faults), "fault"))
    note(f"verified: {counted(len(indices), 'event')}, each in the log as it is here")
    return Answer(answer.columns, answer.types, iter(rows))


def _show(answer: Answer, options: SqlOptions, zone: ZoneInfo | None) -> None:
    limit = SHOWN_MAX if options.limit is None and options.form == "table" else options.limit
    rows = answer.rows if limit is None else islice(answer.rows, limit)
    shown = 0
    if options.form == "table":
        cells = [row_texts(answer, row, zone) for row in rows]
        shown = len(cells)
        show_grid(answer.columns, cells, are_numbers=[is_number(each) for each in answer.types])
    elif options.form == "csv":
        print_csv(csv_text([[*map(plain_cell, answer.columns)]]))
        while batch := [csv_texts(answer, row, zone) for row in islice(rows, _BATCH_ROWS)]:
            shown += len(batch)
            print_csv(csv_text(batch))
    else:
        for row in rows:
            shown += 1
            values = map(lambda value, kind: to_json(value, kind, zone=zone), row, answer.types)
            click.echo(json_text(dict(zip(answer.columns, values, strict=True))))
    more = next(answer.rows, None) is not None if limit is not None else False
    note(f"{counted(shown, 'row')}{', and more: --limit shows them' if more else ''}")
