"""`ledger consistency`: prove that the log has only grown since a saved head."""

import os
from pathlib import Path

import click

from ledger_client.cli.client_options import EXISTING_FILE, NEW_FILE, Connection, connection_options
from ledger_client.cli.console import json_option, print_result
from ledger_client.runtime.files import read_limited, write_atomically
from ledger_core.tlog.note import NOTE_BYTES_MAX


@click.command("consistency")
@click.option(
    "--old",
    "old_file",
    type=EXISTING_FILE,
    help="A checkpoint that was saved earlier. Default: the head that --state remembers.",
)
@click.option(
    "--save",
    "save_file",
    type=NEW_FILE,
    help="Write the current checkpoint to this file once it is accepted.",
)
@connection_options
@json_option
def command(
    old_file: Path | None, save_file: Path | None, connection: Connection, as_json: bool
) -> None:
    """Prove that the ledger's current head extends an earlier one. Exit code 1 when it doesn't."""
    with connection.open() as ledger:
        remembered = ledger.latest.note if ledger.latest else None
        old_note = read_limited(old_file, NOTE_BYTES_MAX) if old_file else remembered
        head = ledger.checkpoint()
        old_size = None
        if old_note is not None:
            old_size = ledger.consistency(old_note, head.note).old.checkpoint.tree_size
        elif save_file is None:
            raise click.UsageError(
                "nothing to compare with: give --old FILE, or --state with a file that remembers a "
                "head, or --save FILE to begin"
            )
    if save_file is not None:
        # Of a link, the file that it names.
        write_atomically(Path(os.path.realpath(save_file)), head.note.encode())
    checkpoint = head.checkpoint
    print_result(
        as_json,
        {
            "origin": checkpoint.origin,
            "old_size": old_size,
            "tree_size": checkpoint.tree_size,
            "root_hash": checkpoint.root_hash.hex(),
        },
        {
            "log": checkpoint.origin,
            "head": f"size {checkpoint.tree_size}, root {checkpoint.root_hash.hex()}",
            "extends": None if old_size is None else f"the head of size {old_size}",
            "saved": save_file,
        },
    )
