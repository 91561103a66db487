"""How entries are shown: a table with colours, JSON lines, or CSV with all columns."""

from collections.abc import Callable, Iterable, Sequence

import click
import msgspec

from ledger_client import Entry
from ledger_core.event.csv import format_header, format_rows, table_row
from ledger_core.tlog.text import printable

TARGETS_SHOWN = 2
CELL_CHARS_MAX = 40
BAR_CHARS = 40
COLOURS = {"success": "green", "failure": "yellow", "denied": "red", "unknown": "magenta"}
HEADINGS = ("index", "time", "actor", "action", "outcome", "target", "source")
OUTCOME_COLUMN = HEADINGS.index("outcome")

Show = Callable[[Sequence[Entry], bool], None]
"""Prints entries; the flag says whether they are the first."""


def show_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --json and --csv; the command gets `as_json` and `as_csv`, and asks `choose_show`."""
    command = click.option("--csv", "as_csv", is_flag=True, help="CSV with all columns.")(command)
    return click.option("--json", "as_json", is_flag=True, help="A line of JSON for each event.")(
        command
    )


def choose_show(*, as_json: bool, as_csv: bool) -> Show:
    """What prints entries, as the options say. Raises: click.UsageError for both."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are one too many")
    return _show_json if as_json else _show_csv if as_csv else show_table


def show_several(entries: Iterable[Entry], show: Show, *, at_once: int) -> int:
    """Print entries, so many at a time; how many they were."""
    shown = 0
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == at_once:
            show(batch, shown == 0)
            shown += len(batch)
            batch = []
    show(batch, shown == 0)
    return shown + len(batch)


def show_counts(heading: str, counts: Sequence[tuple[str, int]]) -> None:
    """A value or time, its count, and a bar, on a line each."""
    click.secho(heading, bold=True)
    most = max((count for _, count in counts), default=1)
    width = max((len(printable(value)) for value, _ in counts), default=0)
    for value, count in counts:
        bar = "█" * max(1, count * BAR_CHARS // most)
        click.echo(f"  {printable(value):{width}}  {count:>9,}  {click.style(bar, dim=True)}")


def _show_json(entries: Sequence[Entry], _is_first: bool) -> None:
    for entry in entries:
        line = {
            "index": entry.index,
            "event": entry.event,
            "received": entry.received,
            "verified": entry.head is not None,
        }
        if entry.because:
            line["because"] = entry.because
        click.echo(msgspec.json.encode(line))


def _show_csv(entries: Sequence[Entry], is_first: bool) -> None:
    text = format_rows(table_row(entry.index, entry.leaf) for entry in entries)
    # Bytes, so that no line ending is made another.
    click.echo(((format_header() if is_first else "") + text).encode(), nl=False)


def show_table(entries: Sequence[Entry], is_first: bool) -> None:
    """A line an entry, its columns as wide as they must be."""
    headings = (*HEADINGS, "because" if any(entry.because for entry in entries) else "")
    rows = [_cells(entry) for entry in entries]
    if is_first and rows:
        rows.insert(0, headings)
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(headings))]
    for row in rows:
        padded = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        if row is headings:
            click.secho("  ".join(padded).rstrip(), dim=True)
            continue
        padded[OUTCOME_COLUMN] = click.style(
            padded[OUTCOME_COLUMN], fg=COLOURS[row[OUTCOME_COLUMN]]
        )
        click.echo("  ".join(padded).rstrip())


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
