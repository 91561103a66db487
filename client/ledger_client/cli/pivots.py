"""`ledger around`, `timeline` and `seen`: the events around an event, an actor or an address."""

from collections import deque

import click

from ledger_client import Page
from ledger_client.cli.client_options import Connection, connection_options, parse_reference
from ledger_client.cli.console import counted, json_option, note, print_json
from ledger_client.cli.query import (
    awaited,
    explained,
    order_option,
    searched_tree,
    show_hints,
)
from ledger_client.cli.render import Renderer, renderer_options, show_counts, table
from ledger_client.plans.search import Order
from ledger_core.query import pivots
from ledger_core.query.ast import format_query

MINUTES_DEFAULT = 15

limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many events. Default: all."
)


@click.command("around")
@click.argument("reference", metavar="ID|INDEX")
@connection_options
@click.option(
    "--minutes",
    type=click.IntRange(min=1),
    default=MINUTES_DEFAULT,
    show_default=True,
    help="Minutes before the event, and after it.",
)
@limit_option
@order_option("time")
@renderer_options
def around(
    reference: str,
    connection: Connection,
    minutes: int,
    limit: int | None,
    order: Order,
    renderer: Renderer,
) -> None:
    """Show what else happened around an event, in the order in which it happened.

    That is: by the same actor or session, from the same address, or to the same target. Each event
    is verified; `because` names what it shares with the first.
    """
    last: deque[Page] = deque(maxlen=1)
    with connection.open() as ledger:
        found = ledger.around(
            parse_reference(reference),
            minutes=minutes,
            order=order,
            limit=limit,
            on_page=last.append,
        )
        shown = renderer.show_all(found)
    within = f"within {counted(minutes, 'minute')} of it"
    note(f"{counted(shown, 'event')} {within}{_limited(shown, limit)}, {_searched(last[0], shown)}")
    show_hints(last[0])


@click.command("timeline")
@click.argument("actor")
@connection_options
@limit_option
@order_option("time-newest")
@renderer_options
def timeline(
    actor: str, connection: Connection, limit: int | None, order: Order, renderer: Renderer
) -> None:
    """Show what an actor did, what was done on its behalf, and what was done to it.

    Each event is verified; `because` says which of the three it is.
    """
    last: deque[Page] = deque(maxlen=1)
    with connection.open() as ledger:
        found = ledger.timeline(actor, order=order, limit=limit, on_page=last.append)
        shown = renderer.show_all(found)
        note(f"{counted(shown, 'event')}{_limited(shown, limit)}, {_searched(last[0], shown)}")
        if shown:
            show_hints(last[0])
        else:
            show_hints(ledger.search(format_query(pivots.timeline(actor)), limit=0))


def _searched(page: Page, shown: int) -> str:
    """The tree of an answer, and what it leaves out but for damage, of which the client warns."""
    return searched_tree(page.tree_size, page.head, has_events=bool(shown)) + awaited(page)


def _limited(shown: int, limit: int | None) -> str:
    return "; there may be more: that is the --limit" if shown == limit else ""


@click.command("seen")
@click.argument("source", metavar="ADDRESS|NETWORK")
@connection_options
@json_option
def seen(source: str, connection: Connection, as_json: bool) -> None:
    """Show the first and the last event from an address or a network, and count its actions.

    First and last by the time at which they happened; the ledger's own clock says beside it when
    they were received.
    """
    with connection.open() as ledger, explained(source):
        found = ledger.seen(source)
        nothing = None
        if not found.total:
            nothing = ledger.search(format_query(pivots.from_source(source)), limit=0)
    if as_json:
        first, last = (
            end and {"index": end.index, "event": end.event, "received": end.received}
            for end in (found.first, found.last)
        )
        actions = dict(found.actions.counts)
        counts = {
            "source": found.source,
            "tree_size": found.tree_size,
            "unpublished": found.unpublished,
            "total": found.total,
            "is_total_exact": found.is_total_exact,
        }
        print_json({**counts, "first": first, "last": last, "actions": actions})
        return
    if found.first and found.last:
        table().show_all({end.index: end for end in (found.first, found.last)}.values())
        for name, end in (("first", found.first), ("last", found.last)):
            click.echo(f"{name:5}  happened {end.event.time}  received {end.received.time}")
        show_counts("actions", found.actions.counts)
    total = counted(found.total, "event")
    tree = searched_tree(found.tree_size, found.head, has_events=False) + awaited(found)
    note(f"{'' if found.is_total_exact else 'at least '}{total} from {source}, {tree}")
    if nothing is not None:
        show_hints(nothing)
