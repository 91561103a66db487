"""`ledger timeline`: what somebody did, what was done for them, and what was done to them."""

import click

from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import note
from ledger_client.cli.query import order_option
from ledger_client.cli.render import choose_show, show_options, show_several
from ledger_client.plans.search import PAGE_EVENTS, Order


@click.command("timeline")
@click.argument("actor")
@connection_options
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; all when left out.")
@order_option
@show_options
def command(
    actor: str,
    connection: Connection,
    limit: int | None,
    order: Order,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what an actor did, what was done on its behalf, and what was done to it.

    Each event was proven to be in the log; `because` says which of the three it is.
    """
    show = choose_show(as_json=as_json, as_csv=as_csv)
    with connection.open() as ledger:
        found = ledger.timeline(actor, order=order, limit=limit)
        shown = show_several(found, show, at_once=PAGE_EVENTS)
    note(f"{shown:,} events")
