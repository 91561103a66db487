"""`ledger query`: ask the log, see the answer as a table, each event of it verified."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import click
import msgspec

from ledger.cli.connection import Connection, connection_options
from ledger.cli.output import note, print_json, printable
from ledger.event.table import format_header, format_rows, table_row
from ledger_client import Entry, LedgerClient, Page, RejectedError
from ledger_client.searching import PAGE_EVENTS_MAX, Order

SHOWN_MAX = 50
TARGETS_SHOWN = 2
CELL_CHARS_MAX = 40
BAR_CHARS = 40
Unit = Literal["hour", "day"]
COLOURS = {"success": "green", "failure": "yellow", "denied": "red", "unknown": "magenta"}
HEADINGS = ("index", "time", "actor", "action", "outcome", "target", "source")
OUTCOME_COLUMN = HEADINGS.index("outcome")

order_option = click.option(
    "--order",
    type=click.Choice(("newest", "oldest")),
    default="newest",
    show_default=True,
    help="Which come first.",
)


@click.command("query")
@click.argument("words", metavar="[QUERY]...", nargs=-1)
@connection_options
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"At most so many; as a table {SHOWN_MAX} when left out, otherwise all.",
)
@order_option
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each event.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with all columns.")
@click.option("--follow", is_flag=True, help="Show what comes in from now on, until Ctrl-C.")
@click.option("--explain", is_flag=True, help="Say how the query is answered, and don't.")
@click.option("--count", "fields", multiple=True, metavar="FIELD", help="Count a field's values.")
@click.option(
    "--histogram", type=click.Choice(("hour", "day")), help="Count by when it happened, in UTC."
)
def command(
    words: tuple[str, ...],
    connection: Connection,
    limit: int | None,
    order: Order,
    as_json: bool,
    as_csv: bool,
    follow: bool,
    explain: bool,
    fields: tuple[str, ...],
    histogram: Unit | None,
) -> None:
    """Find events, such as actor:u_5 action:login.* outcome:failure since:-24h.

    Each event shown was proven to be in the log. docs/search.md has the whole language.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are one too many")
    query = " ".join(words)
    show = _show_json if as_json else _show_csv if as_csv else _show_table
    with connection.open() as ledger, explained(query):
        if explain:
            page = ledger.search(query, limit=0, explain=True)
            click.echo(page.explanation)
        elif fields or histogram:
            _count(ledger, query, fields, histogram, as_json=as_json)
        elif follow:
            _follow(ledger.tail(query), show)
        else:
            wanted = limit
            if limit is None and not (as_json or as_csv):
                wanted = SHOWN_MAX
            _show_pages(_pages(ledger, query, order=order, limit=wanted), show)


class QueryMistakeError(click.ClickException):
    """A query that the ledger does not understand, with the place marked."""

    exit_code = 2

    def __init__(self, query: str, error: RejectedError) -> None:
        problem = error.problem
        lines = [problem.detail]
        if problem.position is not None:
            mark = "^" * max(1, problem.length or 1)
            lines += [f"  {printable(query)}", f"  {' ' * problem.position}{mark}"]
        if problem.nearest:
            lines.append(f"did you mean {problem.nearest}?")
        elif problem.expected:
            lines.append(f"expected: {', '.join(problem.expected)}")
        super().__init__("\n".join(lines))


@contextmanager
def explained(query: str) -> Iterator[None]:
    """Show where a query is wrong, when the ledger says so."""
    try:
        yield
    except RejectedError as error:
        if error.problem.slug == "query":
            raise QueryMistakeError(query, error) from None
        raise


def _pages(ledger: LedgerClient, query: str, *, order: Order, limit: int | None) -> Iterator[Page]:
    cursor, left = None, limit
    while True:
        size = PAGE_EVENTS_MAX if left is None else min(left, PAGE_EVENTS_MAX)
        page = ledger.search(query, limit=size, cursor=cursor, order=order)
        yield page
        cursor = page.cursor
        left = None if left is None else left - len(page.entries)
        if cursor is None or left == 0:
            return


Show = Callable[[Sequence[Entry], bool], None]
"""Prints entries; the flag says whether they are the first."""


def _show_pages(pages: Iterator[Page], show: Show) -> None:
    shown, took_ms, verified = 0, 0.0, None
    page = None
    for number, page in enumerate(pages):
        show(page.entries, number == 0)
        shown += len(page.entries)
        took_ms += page.took_ms
        if page.entries:
            verified = page.entries[-1].head
    if page is None:
        return
    against = f", proven by the head of size {verified.checkpoint.tree_size}" if verified else ""
    note(f"{shown:,} of {_total(page)} events{against}; {took_ms:.1f} ms")


def _follow(entries: Iterator[Entry], show: Show) -> None:
    is_first = True
    for entry in entries:
        show([entry], is_first)
        is_first = False


def _count(
    ledger: LedgerClient,
    query: str,
    fields: Sequence[str],
    histogram: Unit | None,
    *,
    as_json: bool,
) -> None:
    page = ledger.search(query, limit=0, facets=fields, histogram=histogram)
    if as_json:
        print_json({"total": page.total, "facets": page.facets, "histogram": page.histogram})
        return
    for facet in page.facets:
        _show_counts(facet.field, facet.counts)
        if facet.others:
            click.secho(f"  and {facet.others:,} more values", dim=True)
        if not facet.is_exact:
            click.secho(f"  a sample of {facet.counted:,} events", dim=True)
    if page.histogram is not None:
        _show_counts(page.histogram.unit, page.histogram.buckets)
    note(
        f"{'' if page.is_total_exact else 'at least '}{page.total:,} events; {page.took_ms:.1f} ms"
    )


def _total(page: Page) -> str:
    return f"{'' if page.is_total_exact else 'at least '}{page.total:,}"


def _show_counts(heading: str, counts: Sequence[tuple[str, int]]) -> None:
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
        click.echo(msgspec.json.encode(line))


def _show_csv(entries: Sequence[Entry], is_first: bool) -> None:
    text = format_rows(table_row(entry.index, entry.leaf) for entry in entries)
    # Bytes, so that no line ending is made another.
    click.echo(((format_header() if is_first else "") + text).encode(), nl=False)


def _show_table(entries: Sequence[Entry], is_first: bool) -> None:
    rows = [_cells(entry) for entry in entries]
    if is_first and rows:
        rows.insert(0, HEADINGS)
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(HEADINGS))]
    for row in rows:
        padded = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        if row is HEADINGS:
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
    )
    return tuple(_short(printable(cell)) for cell in cells)


def _short(text: str) -> str:
    return text if len(text) <= CELL_CHARS_MAX else f"{text[: CELL_CHARS_MAX - 1]}…"
