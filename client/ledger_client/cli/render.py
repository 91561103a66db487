"""Printing entries: as a table with colours, as JSON lines, or as CSV with all columns."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import islice
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from ledger_client import Entry
from ledger_client.cli.console import json_text, note
from ledger_client.cli.grid import GAP, cut, fitted, terminal_width
from ledger_client.plans.search import PAGE_EVENTS
from ledger_core.event.csv import format_header, format_rows, table_row
from ledger_core.near_names import near_names
from ledger_core.tlog.text import printable, printable_id

TARGETS_SHOWN = 2
CELL_CHARS_MAX = 40
_CONTEXT: Final = "context."
BAR_CHARS = 40
VALUE_CHARS: Final = 80
"""The widest column of values; a longer value moves its own count to the right."""
COLOURS = {"success": "green", "failure": "yellow", "denied": "red", "unknown": "magenta"}
WIDTHS: Final = {
    "index": 8, "time": 20, "local": 0, "actor": 20, "on_behalf_of": 0, "session": 0,
    "credential": 0, "action": 24, "outcome": 7, "target": 30, "source": 15, "because": 0,
}  # fmt: skip
"""The columns of a table, and their widths where the entries to come are not known yet.

A column of width 0 is there from the first entry on that has something in it.
"""
ASKED: Final = ("reason", "user_agent", "service", "tenant", "id", "received")
"""The columns that a table has where --columns names them; so is each `context.KEY`."""
Zone = tzinfo | Literal["machine"] | None
"""The zone of the column `local`: a named one, that of this machine, or none beside UTC."""
DROPPED: Final = ("local", "credential", "session", "because", "source", "target")
"""The columns that a narrow terminal loses, in this order. Nothing that says who it was is lost."""


@dataclass(frozen=True, slots=True)
class Renderer:
    """Prints entries in one form. `show` takes a batch, and how many were printed before."""

    form: Literal["table", "json", "csv"]
    show: Callable[[Sequence[Entry], int], None]
    show_heading: Callable[[], None] = lambda: None

    def follow(self, entries: Iterable[Entry]) -> None:
        """Print the heading at once, and each entry as it comes."""
        self.show_heading()
        for entry in entries:
            self.show([entry], 1)

    def show_all(self, entries: Iterable[Entry], *, batch_entries: int = PAGE_EVENTS) -> int:
        """Print entries in batches, as they come; return their number."""
        source, shown = iter(entries), 0
        while batch := list(islice(source, batch_entries)):
            self.show(batch, shown)
            shown += len(batch)
        if not shown:
            self.show([], 0)  # The header of CSV.
        return shown


def renderer_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --json and --csv; the command gets a Renderer as `renderer`."""

    @click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event.")
    @click.option("--csv", "as_csv", is_flag=True, help="Print CSV with all columns.")
    @click.option(
        "--columns",
        metavar="NAME,…",
        help=f"The columns of the table: {', '.join((*WIDTHS, *ASKED))}, context.KEY. Default: of"
        f" those up to {[*WIDTHS][-1]}, the ones that fit.",
    )
    @click.option(
        "--tz",
        metavar="ZONE",
        help="The time zone beside UTC in the table, as Europe/Berlin; UTC for none. Default: that"
        " of this machine.",
    )
    @functools.wraps(command)
    def rendered(
        *, as_json: bool, as_csv: bool, columns: str | None, tz: str | None, **others: Any
    ) -> int | None:
        if as_json and as_csv:
            raise click.UsageError("use --json or --csv, not both")
        if (columns or tz) and (as_json or as_csv):
            raise click.UsageError("use --columns and --tz with a table")
        shown = table(columns=_columns(columns), zone=_zone(tz))
        return command(renderer=JSON if as_json else CSV if as_csv else shown, **others)

    return rendered


def show_counts(heading: str, counts: Sequence[tuple[str, int]], notes: Sequence[str] = ()) -> None:
    """Print a line for each value or time: its count, and its note or a bar."""
    click.secho(heading, bold=True)
    # A ledger may say anything: a count of 0, or a value as long as its answer.
    most = max((count for _, count in counts), default=1) or 1
    width = min(max((len(printable_id(value)) for value, _ in counts), default=0), VALUE_CHARS)
    for place, (value, count) in enumerate(counts):
        bar = "█" * max(int(count > 0), count * BAR_CHARS // most)
        beside = (notes[place] if notes else "") or click.style(bar, dim=True)
        click.echo(f"  {printable_id(value):{width}}  {count:>9,}  {beside}".rstrip())


def _show_json(entries: Sequence[Entry], _shown: int) -> None:
    for entry in entries:
        line = {
            "index": entry.index,
            "event": entry.event,
            "received": entry.received,
            "verified": entry.head is not None,
        }
        if entry.because:
            line["because"] = entry.because
        click.echo(json_text(line))


def _show_csv(entries: Sequence[Entry], shown: int) -> None:
    rows = (table_row(entry.index, entry.leaf) for entry in entries)
    if sys.stdout.isatty():
        # Line breaks too: one in a cell would overwrite the row, or look like another one.
        text = format_rows([printable(str(cell)) for cell in row] for row in rows)
    else:
        text = format_rows(rows)
    # Bytes, so that no line ending is translated.
    click.echo((("" if shown else format_header()) + text).encode(), nl=False)


def _columns(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    known = (*WIDTHS, *ASKED)
    for name in names:
        if name not in known and not _is_context(name):
            near = near_names(name, known, count=1)
            meant = f" Did you mean {near[0]}?" if near else f" There are {', '.join(known)}."
            raise click.UsageError(f"--columns: there is no column {name!r}.{meant}")
    return names


def _is_context(name: str) -> bool:
    return name.startswith(_CONTEXT) and name != _CONTEXT


def _zone(name: str | None) -> Zone:
    """Raises: click.UsageError."""
    if name is None:
        return "machine"
    try:
        return None if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise click.UsageError(f"--tz {name}: want a time zone, such as Europe/Berlin") from None


class _Table:
    """A line for each entry. A column is as wide as its widest cell so far: it only grows.

    The heading is printed again when another column is needed. On a terminal cells are cut and
    columns left out until a line fits, with a note that names them; in a pipe every cell is whole.
    """

    def __init__(self, columns: Sequence[str] | None, zone: Zone) -> None:
        self._chosen = columns
        self._zone = zone
        self._most = terminal_width()
        names = columns or [name for name, width in WIDTHS.items() if width]
        self._widths = {name: len(name) for name in names}
        self._left_out: set[str] = set()

    def show_heading(self) -> None:
        """Print the heading before the first entry is known."""
        self._widths = {name: max(WIDTHS.get(name, 0), len(name)) for name in self._widths}
        self._print_heading()

    def show(self, entries: Sequence[Entry], shown: int) -> None:
        """Print entries; before the first ones, a heading."""
        rows, known = [self._row(entry) for entry in entries], self._widths
        names = self._chosen or [
            name for name in WIDTHS if name in known or any(row[name] for row in rows)
        ]
        self._widths = {
            name: max(known.get(name, len(name)), *(len(row[name]) for row in rows), 0)
            for name in names
        }
        self._name_left_out(rows)
        if rows and (not shown or len(self._widths) > len(known)):
            self._print_heading()
        for row in rows:
            padded = self._padded(row)
            if "outcome" in padded:
                padded["outcome"] = click.style(padded["outcome"], fg=COLOURS[row["outcome"]])
            click.echo(GAP.join(padded.values()).rstrip())

    def _row(self, entry: Entry) -> dict[str, str]:
        found = _cells(entry, self._zone)
        for name in self._chosen or ():
            if name not in WIDTHS:
                found[name] = _asked_cell(entry, name)
        cells = {name: printable(cell) for name, cell in found.items()}
        if self._most is None:
            return cells
        return {name: cut(cell, CELL_CHARS_MAX) for name, cell in cells.items()}

    def _name_left_out(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Say once which columns with something in them the terminal is too narrow for."""
        left_out = self._widths.keys() - self._fitting().keys() - self._left_out
        if lost := [name for name in WIDTHS if name in left_out and any(row[name] for row in rows)]:
            note(f"too narrow for {', '.join(lost)}: --columns names the columns, --json has all")
            self._left_out.update(lost)

    def _print_heading(self) -> None:
        names = self._padded({name: name for name in self._widths})
        click.secho(GAP.join(names.values()).rstrip(), dim=True)

    def _padded(self, row: Mapping[str, str]) -> dict[str, str]:
        widths = self._fitting()
        return {name: f"{cut(row[name], width):{width}}" for name, width in widths.items()}

    def _fitting(self) -> dict[str, int]:
        """The columns that fit the terminal, and their widths."""
        widths = dict(self._widths)
        if self._most is None:
            return widths
        for name in () if self._chosen else DROPPED:
            if sum(widths.values()) + len(GAP) * (len(widths) - 1) <= self._most:
                break
            widths.pop(name, None)
        return dict(zip(widths, fitted([*widths.values()], self._most), strict=True))


def table(*, columns: Sequence[str] | None = None, zone: Zone = "machine") -> Renderer:
    """A table for people, whose columns keep their places while it is printed."""
    made = _Table(columns, zone)
    return Renderer("table", made.show, made.show_heading)


def _cells(entry: Entry, zone: Zone) -> dict[str, str]:
    event, actor = entry.event, entry.event.actor
    source = event.source or None
    principal = actor.on_behalf_of or None
    targets = [
        ":".join(filter(None, (each.type or "", printable_id(each.id))))
        for each in event.targets or ()
    ]
    more = f" +{len(targets) - TARGETS_SHOWN}" if len(targets) > TARGETS_SHOWN else ""
    time = (event.time or "").partition(".")[0]
    cells = (
        str(entry.index),
        f"{time}Z",
        local_time(event.time or "", zone),
        printable_id(actor.id),
        printable_id(principal.id) if principal else "",
        printable_id(actor.session or ""),
        printable_id(actor.credential or ""),
        event.action,
        event.outcome,
        ", ".join(targets[:TARGETS_SHOWN]) + more,
        (source and (source.ip or source.service)) or "",
        ", ".join(entry.because),
    )
    return dict(zip(WIDTHS, cells, strict=True))


def _asked_cell(entry: Entry, name: str) -> str:
    """The cell of a column that is there on demand."""
    event = entry.event
    if name.startswith(_CONTEXT):
        value: Any = event.context or None
        key = name.removeprefix(_CONTEXT)
        if isinstance(value, dict) and key in value:
            return _text(value[key])
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return _text(value)
    source = event.source or None
    match name:
        case "user_agent":
            return (source and source.user_agent) or ""
        case "service":
            return (source and source.service) or ""
        case "received":
            return entry.received.time
        case "id":
            return event.id or ""
    return (event.reason if name == "reason" else event.tenant) or ""


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json_text(value)


def local_time(time: str, zone: Zone) -> str:
    """A time of the log in a zone, with its offset; empty where that is UTC or no date fits."""
    if zone is None or not time:
        return ""
    try:
        # Without a zone the machine's rules apply to this time: summer and winter differ.
        local = datetime.fromisoformat(time).astimezone(None if zone == "machine" else zone)
    except (ValueError, OverflowError, OSError):
        return ""
    return local.isoformat(" ", "seconds") if zone != "machine" or local.utcoffset() else ""


JSON: Final = Renderer("json", _show_json)
CSV: Final = Renderer("csv", _show_csv, lambda: _show_csv([], 0))
