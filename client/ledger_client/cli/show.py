"""`ledger show` and `ledger prove`: one event, verified, on the terminal or as two files."""

import os
from pathlib import Path

import click
import msgspec

from ledger_client.cli.client_options import (
    NEW_FILE,
    Connection,
    connection_options,
    parse_reference,
    refuse_existing,
)
from ledger_client.cli.console import (
    json_option,
    json_text,
    note,
    print_fields,
    print_json,
    print_line,
)
from ledger_client.cli.verify import described, verdict
from ledger_client.runtime.files import create_file, write_atomically
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.proof import format_proof


@click.command("show")
@click.argument("reference", metavar="ID|INDEX")
@connection_options
@json_option
def show(reference: str, connection: Connection, as_json: bool) -> None:
    """Show the event with this id or index, after its proof has been verified."""
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
    event = msgspec.to_builtins(entry.event)
    more = {key: event[key] for key in ("changes", "context") if key in event}
    if entry.private:
        more["private"] = dict(entry.private)
    if more:
        click.echo(json_text(more, is_indented=True))


@click.command("prove")
@click.argument("reference", metavar="ID|INDEX")
@click.option(
    "-o",
    "--output",
    "name",
    required=True,
    type=NEW_FILE,
    help="Write NAME.leaf.json and NAME.tlog-proof.",
)
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
@connection_options
@json_option
def prove(reference: str, name: Path, force: bool, connection: Connection, as_json: bool) -> None:
    """Write the event with this id or index and its proof, verified, to two files."""
    leaf_file = name.with_name(f"{name.name}.leaf.json")
    proof_file = name.with_name(f"{name.name}.tlog-proof")
    refuse_existing(leaf_file, proof_file, force=force)
    with connection.open() as ledger:
        entry = ledger.event(parse_reference(reference))
    if entry.proof is None:
        raise AssertionError("a verified entry has a proof")
    write = _replace if force else create_file
    # The exact leaf bytes: a final newline would make them another leaf.
    write(leaf_file, entry.leaf)
    write(proof_file, format_proof(entry.proof).encode())
    if as_json:
        print_json({"index": entry.index, "leaf": str(leaf_file), "proof": str(proof_file)})
        return
    print_line(str(leaf_file))
    print_line(str(proof_file))
    note(f"to verify them anywhere: ledger verify {leaf_file} {proof_file} --policy FILE")


def _replace(path: Path, data: bytes) -> None:
    """Write or replace a file; of a link, the file that it names."""
    write_atomically(Path(os.path.realpath(path)), data)
