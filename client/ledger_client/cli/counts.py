"""The options of `ledger query` that count, and how the counts are printed."""

import csv
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from functools import partial
from typing import Any, Literal, get_args

import click

from ledger_client import LedgerClient, Page
from ledger_client.cli.console import counted, json_text, note, print_json
from ledger_client.cli.render import VALUE_CHARS, show_counts
from ledger_client.runtime.clock import unix_us
from ledger_core.asking import AskCount, CountAnswer, CountedValue, ValuesTrailer
from ledger_core.event.csv import plain_cell
from ledger_core.query.counting import Unit, parse_count_field, parse_zone, read_since
from ledger_core.query.fields import FACETS
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import printable, printable_id

TOP_DEFAULT = 10
_LONG_CHARS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOptions:
    """The counts to show in place of events."""

    fields: tuple[str, ...]
    top: int
    rarest: bool
    distinct: str | None
    numbers: str | None
    new_since: str | None
    histogram: Unit | None
    zone: str | None
    is_all: bool

    def __bool__(self) -> bool:
        return bool(self.fields or self.histogram)

    def check(self) -> None:
        """Refuse options that need --count. Raises: click.UsageError."""
        alone = self.distinct or self.numbers or self.new_since or self.rarest
        if (alone or self.top != TOP_DEFAULT) and not self.fields:
            raise click.UsageError(
                "Use --top, --rarest, --distinct, --numbers and --new-since with --count."
            )
        if self.zone and not self.histogram:
            raise click.UsageError("Use --zone with --histogram.")
        if self.is_all:
            self._check_all(bool(alone) or self.top != TOP_DEFAULT)
        names = [name.strip() for names in self.fields for name in names.split(",")]
        for name in filter(None, (*names, self.distinct, self.numbers)):
            _checked("--count, --distinct, --numbers", parse_count_field, name)
        if self.zone:
            _checked("--zone", parse_zone, self.zone)
        if self.new_since:
            _checked("--new-since", partial(read_since, now_unix_us=unix_us()), self.new_since)

    def _check_all(self, has_others: bool) -> None:
        if len(self.fields) != 1 or "," in self.fields[0] or has_others or self.histogram:
            raise click.UsageError("Use --all with one --count of one field, and nothing else.")

    def ask(self, ledger: LedgerClient, query: str, *, verify: bool) -> Page:
        """Ask for the counts."""
        options = (self.top != TOP_DEFAULT, self.rarest, self.distinct, self.numbers)
        is_plain = set(self.fields) <= set(FACETS) and not any((*options, self.new_since))
        zone = self.zone
        if zone is None and (self.histogram not in (None, "hour", "day")):
            zone = "UTC"
        if is_plain and zone is None and len(query) < _LONG_CHARS:
            return ledger.search(
                query, limit=0, facets=self.fields, histogram=self.histogram, verify=verify
            )
        return ledger.search(
            query, limit=0, counts=self._counts(), histogram=self.histogram, zone=zone,
            verify=verify,
        )  # fmt: skip

    def _counts(self) -> list[AskCount]:
        return [
            AskCount(
                by=tuple(name.strip() for name in names.split(",")),
                top=self.top,
                rarest=self.rarest,
                distinct=self.distinct,
                numbers=self.numbers,
                new_since=self.new_since,
            )
            for names in self.fields
        ]


def _checked(option: str, parse: Callable[[str], object], text: str) -> None:
    """Raises: click.UsageError."""
    try:
        parse(text)
    except MalformedError as error:
        raise click.UsageError(f"{option}: {error}") from None


COUNT_NAMES = tuple(each.name for each in fields_of(CountOptions))
"""The parameters of the command line that a CountOptions is made of."""


def counting_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options; the command gets a CountOptions as `counting`."""

    @click.option(
        "--count",
        "fields",
        multiple=True,
        metavar="FIELD[,FIELD]",
        help="Count the values of a field, or pairs of two: actor, context.KEY, source/24.",
    )
    @click.option(
        "--top",
        type=click.IntRange(1, 10_000),
        default=TOP_DEFAULT,
        show_default=True,
        help="So many values.",
    )
    @click.option(
        "--all",
        "is_all",
        is_flag=True,
        help="Every value of one --count, as it is found: in no order of counts, without a limit.",
    )
    @click.option("--rarest", is_flag=True, help="The rarest values first.")
    @click.option(
        "--distinct", metavar="FIELD", help="Count the different values of this field in each."
    )
    @click.option("--numbers", metavar="FIELD", help="Sum, least, most and average of this field.")
    @click.option(
        "--new-since", metavar="TIME", help="Only values that no event before this time has."
    )
    @click.option(
        "--histogram",
        type=click.Choice(get_args(Unit)),
        help="Count by time, in UTC unless --zone names another zone.",
    )
    @click.option("--zone", metavar="ZONE", help="The time zone of --histogram: Europe/Berlin.")
    @functools.wraps(command)
    def with_counting(**given: Any) -> int | None:
        counting = CountOptions(**{name: given.pop(name) for name in COUNT_NAMES})
        counting.check()
        return command(counting=counting, **given)

    return with_counting


def show_values(
    ledger: LedgerClient, field: str, query: str, form: Literal["table", "json", "csv"]
) -> None:
    """Print every value of a field, a line each, and how many there are."""
    ends: list[ValuesTrailer] = []
    if form == "csv":
        click.echo(f"{field},count")
    for found in ledger.values(field, query, on_end=ends.append):
        if form == "json":
            click.echo(json_text(found))
        elif form == "csv":
            row = io.StringIO()
            csv.writer(row, lineterminator="").writerow((plain_cell(found.value), found.count))
            click.echo(printable(row.getvalue()))
        else:
            click.echo(f"{found.count:>11,}  {printable_id(found.value)}")
    (end,) = ends
    least = "" if end.exact else "at least "
    note(
        f"{least}{counted(end.values, 'value')} of {counted(end.total, 'event')}, as of size"
        f" {end.tree_size:,}, as the ledger says"
    )


def show_page_counts(page: Page, *, as_json: bool) -> None:
    """Print the counts of a page."""
    if as_json:
        counts = {
            "total": page.total,
            "is_total_exact": page.is_total_exact,
            "is_complete": page.is_complete,
            "facets": page.facets,
            "histogram": page.histogram,
            "counts": page.counts,
        }
        print_json({**counts, "hints": page.hints} if page.hints else counts)
        return
    for facet in page.facets:
        show_counts(facet.field, facet.counts)
        _show_rest(facet.others, facet.is_exact, facet.counted)
    for count in page.counts:
        _show_groups(count)
    if page.histogram is not None:
        zone = "" if page.histogram.zone == "UTC" else f" in {page.histogram.zone}"
        show_counts(f"{page.histogram.unit}{zone}", page.histogram.counts)


def _show_groups(count: CountAnswer) -> None:
    first = [printable(each.values[0]) if each.values else "" for each in count.values]
    width = min(max(map(len, first), default=0), VALUE_CHARS)
    show_counts(
        ", ".join(count.by),
        [
            ("  ".join((f"{name:{width if each.values[1:] else 0}}", *each.values[1:])), each.count)
            for name, each in zip(first, count.values, strict=True)
        ],
        notes=[_note(each) for each in count.values],
    )
    _show_rest(count.others, count.exact, count.counted)


def _note(each: CountedValue) -> str:
    parts: Sequence[str] = () if each.distinct is None else (f"{each.distinct:,} different",)
    if each.sum is not None:
        numbers = (("sum", each.sum), ("least", each.least), ("most", each.most))
        average = f"average {each.average or 0:,.2f}"
        parts = (*parts, *(f"{name} {_number(value or 0)}" for name, value in numbers), average)
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,}"


def _show_rest(others: int, is_exact: bool, counted: int) -> None:
    if others:
        click.secho(f"  and {others:,} more values", dim=True)
    if not is_exact:
        click.secho(f"  not exact: counted in {counted:,} events", dim=True)
