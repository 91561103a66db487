"""`ledger export`: write all events that a query finds to one file."""

from pathlib import Path

import click

from ledger_client.cli.client_options import NEW_FILE, Connection, connection_options
from ledger_client.cli.console import counted, json_option, note, print_json
from ledger_client.cli.query import explained
from ledger_client.plans.export import Format

ENDINGS = {"jsonl": "jsonl", "csv": "csv", "evidence": "zip"}


@click.command("export")
@click.argument("words", metavar="[QUERY]...", nargs=-1)
@connection_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(tuple(ENDINGS)),
    default="jsonl",
    show_default=True,
    help="JSON lines, CSV, or a .zip with a proof for each event.",
)
@click.option(
    "-o",
    "--output",
    type=NEW_FILE,
    help="The file. Default: events.jsonl, events.csv or events.zip.",
)
@json_option
def command(
    words: tuple[str, ...],
    connection: Connection,
    format_: Format,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write all events that a query finds to a file, the oldest first.

    The file appears only when it is complete. `ledger verify FILE.zip` verifies evidence.
    """
    query = " ".join(words)
    output = output or Path(f"events.{ENDINGS[format_]}")
    with connection.open() as ledger, explained(query):
        exported = ledger.export(query, output, format=format_)
    if as_json:
        print_json({"file": str(output), "exported": exported})
        return
    rows = "" if exported.rows is None else f"{counted(exported.rows, 'event')}, "
    note(f"{output}: {rows}{exported.bytes_written:,} bytes, SHA-256 {exported.sha256}")
