"""Printing entries: as a table with colours, as JSON lines, or as CSV with all columns."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

import click

from ledger_client import Entry
from ledger_client.cli.console import json_text
from ledger_client.plans.search import PAGE_EVENTS
from ledger_core.event.csv import format_header, format_rows, table_row
from ledger_core.tlog.text import printable

TARGETS_SHOWN = 2
CELL_CHARS_MAX = 40
BAR_CHARS = 40
VALUE_CHARS: Final = 80
"""The widest column of values; a longer value moves its own count to the right."""
COLOURS = {"success": "green", "failure": "yellow", "denied": "red", "unknown": "magenta"}
HEADINGS = ("index", "time", "actor", "action", "outcome", "target", "source")
FOLLOWED_WIDTHS = (8, 20, 20, 24, 7, 30, 15)
"""Of the columns, where the entries to come are not known yet."""
OUTCOME_COLUMN = HEADINGS.index("outcome")


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
    @functools.wraps(command)
    def rendered(*, as_json: bool, as_csv: bool, **others: Any) -> int | None:
        if as_json and as_csv:
            raise click.UsageError("use --json or --csv, not both")
        return command(renderer=JSON if as_json else CSV if as_csv else table(), **others)

    return rendered


def show_counts(heading: str, counts: Sequence[tuple[str, int]]) -> None:
    """Print a line for each value or time: its count, and a bar."""
    click.secho(heading, bold=True)
    # A ledger may say anything: a count of 0, or a value as long as its answer.
    most = max((count for _, count in counts), default=1) or 1
    width = min(max((len(printable(value)) for value, _ in counts), default=0), VALUE_CHARS)
    for value, count in counts:
        bar = "█" * max(1, count * BAR_CHARS // most)
        click.echo(f"  {printable(value):{width}}  {count:>9,}  {click.style(bar, dim=True)}")


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
    text = format_rows(table_row(entry.index, entry.leaf) for entry in entries)
    if sys.stdout.isatty():
        text = "".join(each if each in "\r\n" else printable(each) for each in text)
    # Bytes, so that no line ending is translated.
    click.echo((("" if shown else format_header()) + text).encode(), nl=False)


class _Table:
    """A line for each entry. A column is as wide as its widest cell so far: it only grows."""

    def __init__(self) -> None:
        self._widths = [0] * (len(HEADINGS) + 1)

    def show_heading(self) -> None:
        """Print the heading before the first entry is known."""
        self._widths = [*FOLLOWED_WIDTHS, 0]
        self._print((*HEADINGS, ""))

    def show(self, entries: Sequence[Entry], shown: int) -> None:
        """Print entries; before the first ones, a heading."""
        headings = (*HEADINGS, "because" if any(entry.because for entry in entries) else "")
        rows = [_cells(entry) for entry in entries]
        if not shown and rows:
            rows.insert(0, headings)
        for column, width in enumerate(self._widths):
            self._widths[column] = max(width, *(len(row[column]) for row in rows), 0)
        for row in rows:
            self._print(row)

    def _print(self, row: tuple[str, ...]) -> None:
        padded = [f"{cell:{width}}" for cell, width in zip(row, self._widths, strict=True)]
        if row[:-1] == HEADINGS:
            click.secho("  ".join(padded).rstrip(), dim=True)
            return
        padded[OUTCOME_COLUMN] = click.style(
            padded[OUTCOME_COLUMN], fg=COLOURS[row[OUTCOME_COLUMN]]
        )
        click.echo("  ".join(padded).rstrip())


def table() -> Renderer:
    """A table for people, whose columns keep their places while it is printed."""
    made = _Table()
    return Renderer("table", made.show, made.show_heading)


def _cells(entry: Entry) -> tuple[str, ...]:
    event = entry.event
    source = event.source or None
    targets = [":".join(filter(None, (each.type or "", each.id))) for each in event.targets or ()]
    more = f" +{len(targets) - TARGETS_SHOWN}" if len(targets) > TARGETS_SHOWN else ""
    time = (event.time or "").partition(".")[0]
    cells = (
        str(entry.index),
        f"{time}Z",
        event.actor.id,
        event.action,
        event.outcome,
        ", ".join(targets[:TARGETS_SHOWN]) + more,
        (source and (source.ip or source.service)) or "",
        ", ".join(entry.because),
    )
    return tuple(_short(printable(cell)) for cell in cells)


def _short(text: str) -> str:
    return text if len(text) <= CELL_CHARS_MAX else f"{text[: CELL_CHARS_MAX - 1]}…"


JSON: Final = Renderer("json", _show_json)
CSV: Final = Renderer("csv", _show_csv, lambda: _show_csv([], 0))
