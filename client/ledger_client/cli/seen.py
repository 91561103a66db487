"""`ledger seen`: when an address or a network was first and last seen, and what it did."""

import click

from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import json_option, note, print_json
from ledger_client.cli.query import explained
from ledger_client.cli.render import show_counts, show_several, show_table


@click.command("seen")
@click.argument("source", metavar="ADDRESS|NETWORK")
@connection_options
@json_option
def command(source: str, connection: Connection, as_json: bool) -> None:
    """Show the first and the last event from an address or a network, and count its actions."""
    with connection.open() as ledger, explained(source):
        seen = ledger.seen(source)
    if as_json:
        print_json(
            {
                "source": seen.source,
                "total": seen.total,
                "first": seen.first and {"index": seen.first.index, "event": seen.first.event},
                "last": seen.last and {"index": seen.last.index, "event": seen.last.event},
                "actions": dict(seen.actions.counts),
            }
        )
        return
    if seen.first and seen.last:
        ends = {entry.index: entry for entry in (seen.first, seen.last)}
        show_several(ends.values(), show_table, at_once=len(ends))
        show_counts("actions", seen.actions.counts)
    note(f"{'' if seen.is_total_exact else 'at least '}{seen.total:,} events from {source}")
