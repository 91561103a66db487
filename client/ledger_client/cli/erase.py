"""`ledger erase`: destroy the private values of one subject, here or through the service."""

from pathlib import Path

import click

from ledger_client import LedgerClient
from ledger_client.cli.app import load_server_part
from ledger_client.cli.client_options import read_token, token_options
from ledger_client.cli.console import json_option, note, print_json, print_line


@click.command("erase")
@click.argument("ledger", metavar="DIR|URL")
@click.option(
    "--subject",
    required=True,
    help="The subject whose values are destroyed: the id that was given to `private`.",
)
@click.option("--reason", required=True, help="The reason, which the log records.")
@token_options
@json_option
def command(
    ledger: str,
    subject: str,
    reason: str,
    token_file: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Destroy the key, salts and values of a subject, for good. The log records that it was done.

    With a folder the service may run or not: its log takes the event within a second, or at the
    next start. With an address you need a token with the scope admin.
    """
    if ledger.startswith(("http://", "https://")):
        token = read_token(token_file, url=ledger, insecure=insecure)
        with LedgerClient(ledger, token, insecure=insecure) as client:
            erased = client.erase(subject, reason=reason)
        values, event_id, index = erased.values, erased.id, erased.index
    else:
        erase_here = load_server_part("erase-here", needed_by="ledger erase DIR")
        values, event_id = erase_here(Path(ledger), subject, reason)
        index = None
    if as_json:
        print_json({"subject": subject, "values": values, "id": event_id, "index": index})
    else:
        note(f"{values} values of {subject!r} are destroyed; the event that records it:")
        print_line(event_id)
