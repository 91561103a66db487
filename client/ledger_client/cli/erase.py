"""`ledger erase`: destroy the private values of one subject, here or through the service."""

import sys
from pathlib import Path

import click

from ledger_client import LedgerClient
from ledger_client.cli.app import NotFoundError, load_server_part
from ledger_client.cli.client_options import read_token, token_options
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_core.tlog.text import printable


@click.command("erase")
@click.argument("ledger", metavar="DIR|URL")
@click.option(
    "--subject",
    required=True,
    help="The subject whose values are destroyed: the id that was given to `private`.",
)
@click.option("--reason", required=True, help="The reason, which the log records.")
@click.option("--yes", "is_sure", is_flag=True, help="Don't ask. Without a terminal it is needed.")
@token_options
@json_option
def command(
    ledger: str,
    subject: str,
    reason: str,
    is_sure: bool,
    token_file: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Destroy the key, salts and values of a subject, for good. The log records that it was done.

    With a folder the service may run or not: its log takes the event within a second, or at the
    next start. With an address you need a token with the scope admin.
    """
    if not is_sure:
        _ask(subject)
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
    if not values:
        raise NotFoundError(
            f"there was no value of {subject!r}: is the subject misspelt? The event {event_id}"
            " records the attempt"
        )


def _ask(subject: str) -> None:
    """Raises: click.UsageError without a terminal; click.Abort unless the answer is yes."""
    if not sys.stdin.isatty():
        raise click.UsageError("Use --yes: what is erased can't be brought back.")
    question = f"Destroy every private value of {subject!r}, for good?"
    click.confirm(printable(question), abort=True, err=True)
