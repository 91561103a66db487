"""`ledger query`: find, count or follow events, each verified before it is shown."""

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, get_args

import click

from ledger_client import Page, RejectedError
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.completion import complete_query
from ledger_client.cli.console import counted, note, print_fields, print_json, printable_lines
from ledger_client.cli.counts import (
    CountOptions,
    counting_options,
    show_page_counts,
    show_values,
)
from ledger_client.cli.grid import cut
from ledger_client.cli.render import Renderer, renderer_options
from ledger_client.plans.question import is_sent_as_typed
from ledger_client.plans.search import PAGE_EVENTS_MAX, Order
from ledger_client.results import Seen
from ledger_client.runtime.files import read_limited
from ledger_core.query.parser import names_in
from ledger_core.query.saved import is_name
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.text import printable

SHOWN_MAX = 50
ASKED_CHARS = 400
LIST_BYTES_MAX = 64 << 20
_find_lists = re.compile(r'(?<![^\s(])([a-z_]+(?:\.[\w.]+)?):@([^\s()"]+)').sub
FC = TypeVar("FC", bound=Callable[..., object])


def order_option(default: Order) -> Callable[[FC], FC]:
    """Adds --order."""
    return click.option(
        "--order",
        type=click.Choice(get_args(Order)),
        default=default,
        show_default=True,
        help="Which events come first: by index, that is by receipt, or by when they happened, the"
        " earliest (time) or the latest first.",
    )


def _check_saved_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and not is_name(name):
        raise click.BadParameter(
            f"{name!r}: want up to 64 lower-case letters, digits, _, - and dots, as in vpn-1"
        )
    return name


@click.command("query")
@click.argument("words", metavar="[QUERY]...", nargs=-1, shell_complete=complete_query)
@connection_options
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"At most so many events. Default: {SHOWN_MAX} as a table, otherwise all."
    " 0: their number alone.",
)
@order_option("newest")
@renderer_options
@click.option(
    "--unverified",
    is_flag=True,
    help="Verify nothing; shows events that await cosignatures too.",
)
@click.option(
    "--follow", is_flag=True, help="Show new events as they come in, none of before, until Ctrl-C."
)
@click.option("--explain", is_flag=True, help="Show the query plan without running the query.")
@click.option(
    "--save",
    metavar="NAME",
    callback=_check_saved_name,
    help="Save the query in the ledger under this name instead of asking it; @NAME asks it.",
)
@click.option("--saved", is_flag=True, help="List the saved queries.")
@click.option(
    "--delete",
    metavar="NAME",
    callback=_check_saved_name,
    help="Delete the name of a saved query. Whoever may read may; the ledger logs who did.",
)
@counting_options
def command(
    words: tuple[str, ...],
    connection: Connection,
    limit: int | None,
    order: Order,
    renderer: Renderer,
    unverified: bool,
    follow: bool,
    explain: bool,
    save: str | None,
    saved: bool,
    delete: str | None,
    counting: CountOptions,
) -> None:
    """Find events, such as actor:u_5 action:login.* outcome:failure since:-24h.

    Each event shown has been proven to be in the log, and meets the query. docs/searching.md
    describes the language. source:@feed.txt has the values of a file, one a line.
    """
    if save and (follow or explain or counting):
        raise click.UsageError("Use --save alone.")
    if saved or delete:
        is_alone = not (words or save or (saved and delete))
        _manage_saved(connection, delete, is_alone=is_alone, as_json=renderer.form == "json")
        return
    if follow and (explain or counting):
        raise click.UsageError("Use --follow alone, without --count, --histogram and --explain.")
    query = read_lists(" ".join(words))
    with connection.open() as ledger, explained(query):
        if save:
            named = ledger.save_query(save, query)
            if renderer.form == "json":
                print_json(named)
            else:
                note(f"@{save} is {cut(query or 'every event', ASKED_CHARS)}")
        elif explain:
            page = ledger.search(query, limit=0, explain=True)
            click.echo(printable_lines(page.explanation or ""))
        elif counting.is_all:
            show_values(ledger, counting.fields[0].strip(), query, renderer.form)
        elif counting or (limit == 0 and renderer.form != "csv"):
            page = counting.ask(ledger, query, verify=not unverified)
            show_page_counts(page, as_json=renderer.form == "json")
            if renderer.form != "json":
                note_total(page, query)
        elif follow:
            proven = "" if unverified else ", each once a published head proves it"
            note(f"waiting for new events of {query or 'any kind'}{proven}; Ctrl-C ends this")
            renderer.follow(ledger.tail(query, verify=not unverified))
        else:
            if limit is None and renderer.form == "table":
                limit = SHOWN_MAX
            pages = ledger.pages(
                query,
                order=order,
                limit=limit,
                page_events=PAGE_EVENTS_MAX,
                verify=not unverified,
            )
            show_pages(pages, renderer, query)


def _manage_saved(
    connection: Connection, delete: str | None, *, is_alone: bool, as_json: bool
) -> None:
    """Delete the name of a saved query, or list all of them. Raises: click.UsageError."""
    if not is_alone:
        raise click.UsageError(
            "Use --saved and --delete NAME alone, without a query. @NAME asks a saved query."
        )
    with connection.open() as ledger:
        if delete:
            deleted = ledger.delete_query(delete)
            if as_json:
                print_json(deleted)
            else:
                note(f"@{delete} is deleted, by the event at index {deleted.index:,}")
            return
        found = ledger.saved_queries()
    if as_json:
        print_json(found)
        return
    print_fields(
        {f"@{each.name}": f"{each.start}  ({each.saved_by}, {each.time})" for each in found.queries}
    )
    note(f"{len(found.queries)} saved, as the ledger says")


def read_lists(query: str) -> str:
    """The query with `field:@file` replaced by the lines of the file; `#` begins a comment.

    Raises: click.UsageError.
    """

    def values(found: re.Match[str]) -> str:
        path = Path(found[2])
        try:
            lines = read_limited(path, LIST_BYTES_MAX).decode().splitlines()
        except OSError as error:
            raise click.UsageError(f"{found[0]}: {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise click.UsageError(f"{found[0]}: {path} is not text in UTF-8") from None
        some = filter(None, (line.partition("#")[0].strip() for line in lines))
        quoted = ['"{}"'.format(re.sub(r'(["\\\\])', r"\\\1", line)) for line in some]
        if not quoted:
            raise click.UsageError(f"{path} has no value")
        return f"{found[1]}:{','.join(quoted)}"

    return _find_lists(values, query)


def tree_and_head(page: Page) -> str:
    """The tree that the answer is of, the head that proves its events, and what it leaves out."""
    said = searched_tree(page.tree_size, page.head, has_events=bool(page.entries))
    if page.head is not None:
        said += awaited(page)
    if page.damage:
        said += f"; INCOMPLETE: {page.damage}"
    return said


def searched_tree(tree_size: int, head: VerifiedHead | None, *, has_events: bool) -> str:
    """The tree that was searched, as the service says, and the head that proves the events."""
    if head is None:
        return f"as of size {tree_size:,}, NOT VERIFIED"
    size = head.checkpoint.tree_size
    if has_events and size == tree_size:  # A count alone is not proven.
        return f"proven by the head of size {size:,}"
    return f"as of size {tree_size:,}; the head has size {size:,}"


def awaited(found: Page | Seen) -> str:
    """The newest entries that an answer leaves out, since no published head proves them."""
    if not found.unpublished:
        return ""
    return (
        f"; the {found.unpublished:,} newest await cosignatures ({found.quorum_missing}):"
        " `ledger query --unverified` shows them"
    )


class QueryMistakeError(click.ClickException):
    """A query that the ledger does not understand; the message marks the place.

    Of a query with relative times another text was sent, whose places mean nothing here.
    """

    exit_code = 2

    def __init__(self, query: str, error: RejectedError) -> None:
        problem = error.problem
        lines = [problem.detail]
        if problem.position is not None and is_sent_as_typed(query):
            # Both numbers are the ledger's claim: beyond the query they mark nothing.
            position = min(max(problem.position, 0), len(query))
            length = min(max(problem.length or 1, 1), len(query) - position + 1)
            lines += [f"  {printable(query)}", f"  {' ' * position}{'^' * length}"]
        if problem.nearest:
            lines.append(f"did you mean {problem.nearest}?")
        elif problem.expected:
            lines.append(f"expected: {', '.join(problem.expected)}")
        super().__init__("\n".join(lines))


@contextmanager
def explained(query: str) -> Iterator[None]:
    """Turn the ledger's refusal of a query into an error that marks the place."""
    try:
        yield
    except RejectedError as error:
        if error.problem.slug == "query":
            raise QueryMistakeError(query, error) from None
        raise


def show_pages(pages: Iterator[Page], renderer: Renderer, query: str) -> None:
    """Print the events of pages, then how many of how many they are, or why there are none."""
    shown, took_ms = 0, 0.0
    page = None
    for page in pages:
        renderer.show(page.entries, shown)
        shown += len(page.entries)
        took_ms += page.took_ms
    if page is None:
        return
    found = f"{shown:,} of {_total(page)}" if page.total else _nothing(page)
    note(f"{found}, {tree_and_head(page)}; {took_ms:.1f} ms")
    _note_names(page, query)
    show_hints(page)


def _note_names(page: Page, query: str) -> None:
    """Print what the saved queries in a query stand for: whoever may read can save another text."""
    if names_in(query):
        note(f"  asked: {cut(page.query, ASKED_CHARS)}")


def _nothing(page: Page) -> str:
    return "no event found" if page.is_total_exact else "no event found so far"


def show_hints(page: Page) -> None:
    """Print the ledger's reasons why a search found nothing, and what it can't find."""
    if page.minimum_index and page.total:
        note(f"  without the entries below index {page.minimum_index:,}, which were pruned")
    for hint in page.hints:
        note(f"  {hint.text}")
        if hint.nearest:
            note(f"    try: {shlex.quote(printable(hint.nearest))}")


def note_total(page: Page, query: str) -> None:
    """Print how many events were counted, or why there are none."""
    found = _total(page) if page.total else _nothing(page)
    note(f"{found}, {tree_and_head(page)}; {page.took_ms:.1f} ms")
    _note_names(page, query)
    show_hints(page)


def _total(page: Page) -> str:
    return f"{'' if page.is_total_exact else 'at least '}{counted(page.total, 'event')}"
