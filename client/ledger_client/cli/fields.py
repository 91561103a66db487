"""`ledger fields`: what a query can ask for."""

import click

from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import counted, json_option, note, print_fields, print_json
from ledger_core.search_answers import FacetValue

VALUES_SHOWN = 3


@click.command("fields")
@connection_options
@json_option
def command(connection: Connection, as_json: bool) -> None:
    """List the fields of the query language and the keys of the context, with frequent values.

    They are what the ledger says; nothing of it is proven.
    """
    with connection.open() as ledger:
        found = ledger.fields()
    if as_json:
        print_json(found)
        return
    print_fields({each.name: _values(each.values) or each.example for each in found.fields})
    print_fields(
        {
            f"context.{each.path}": ": ".join(
                filter(None, (", ".join(each.types), _values(each.values)))
            )
            for each in found.context
        }
    )
    events = counted(found.counted, "event" if found.is_exact else "newest event")
    note(f"values of {events}, as the ledger says")


def _values(values: tuple[FacetValue, ...]) -> str:
    return ", ".join(f"{each.value} ({each.count:,})" for each in values[:VALUES_SHOWN])
