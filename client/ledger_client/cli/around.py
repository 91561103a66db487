"""`ledger around`: what happened around an event, each with what the two share."""

import click

from ledger_client.cli.client_options import Connection, connection_options, parse_reference
from ledger_client.cli.console import note
from ledger_client.cli.render import choose_show, show_options, show_several
from ledger_client.plans.search import PAGE_EVENTS

MINUTES_DEFAULT = 15


@click.command("around")
@click.argument("reference", metavar="ID|INDEX")
@connection_options
@click.option(
    "--minutes",
    type=click.IntRange(min=1),
    default=MINUTES_DEFAULT,
    show_default=True,
    help="So long before it, and so long after it.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; all when left out.")
@show_options
def command(
    reference: str,
    connection: Connection,
    minutes: int,
    limit: int | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what else was done by the same actor or session, from the same address, or to the same
    target, around the time of an event; the oldest first, each proven to be in the log.
    """
    show = choose_show(as_json=as_json, as_csv=as_csv)
    with connection.open() as ledger:
        found = ledger.around(parse_reference(reference), minutes=minutes, limit=limit)
        shown = show_several(found, show, at_once=PAGE_EVENTS)
    note(f"{shown:,} events within {minutes} minutes of it")
