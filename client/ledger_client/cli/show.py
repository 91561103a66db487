"""`ledger show`: an event, verified before it is shown."""

import click
import msgspec

from ledger_client.cli.client_options import Connection, connection_options, parse_reference
from ledger_client.cli.console import json_option, print_fields, print_json
from ledger_client.cli.verify import described, verdict
from ledger_core.event.canonical import parse_leaf


@click.command("show")
@click.argument("reference", metavar="ID|INDEX")
@connection_options
@json_option
def command(reference: str, connection: Connection, as_json: bool) -> None:
    """Show the event with this id or at this index, once its proof is verified."""
    with connection.open() as ledger:
        entry = ledger.event(parse_reference(reference))
    if entry.head is None:
        raise AssertionError("a verified entry has a head")
    leaf = parse_leaf(entry.leaf)
    if as_json:
        shown = verdict(leaf, entry.index, entry.head)
        print_json({**shown, "private": entry.private} if entry.private else shown)
        return
    print_fields(described(leaf, entry.index, entry.head))
    more = {
        key: value
        for key, value in msgspec.to_builtins(entry.event).items()
        if key in ("changes", "context")
    }
    if entry.private:
        more["private"] = dict(entry.private)
    if more:
        click.echo(msgspec.json.format(msgspec.json.encode(more), indent=2).decode())
