"""`ledger prove`: an event and its proof, as two files that stand on their own."""

from pathlib import Path

import click

from ledger_client.cli.client_options import Connection, connection_options, parse_reference
from ledger_client.cli.console import json_option, note, print_json
from ledger_core.tlog.proof import format_proof


@click.command("prove")
@click.argument("reference", metavar="ID|INDEX")
@click.option(
    "-o",
    "--output",
    "name",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Writes NAME.leaf.json and NAME.tlog-proof.",
)
@connection_options
@json_option
def command(reference: str, name: Path, connection: Connection, as_json: bool) -> None:
    """Write the event with this id or index and its proof, verified, to two files."""
    with connection.open() as ledger:
        entry = ledger.event(parse_reference(reference))
    if entry.proof is None:
        raise AssertionError("a verified entry has a proof")
    leaf_file = name.with_name(f"{name.name}.leaf.json")
    proof_file = name.with_name(f"{name.name}.tlog-proof")
    # The exact leaf bytes: a final newline would make them another leaf.
    leaf_file.write_bytes(entry.leaf)
    proof_file.write_text(format_proof(entry.proof), encoding="utf-8")
    if as_json:
        print_json({"index": entry.index, "leaf": str(leaf_file), "proof": str(proof_file)})
        return
    click.echo(f"{leaf_file}\n{proof_file}")
    note(f"verify them anywhere: ledger verify {leaf_file} {proof_file} --policy FILE")
