"""`ledger erase`: destroy what is private of one subject, here or through the service."""

import getpass
import secrets
import time
from pathlib import Path

import click

from ledger.cli.connection import read_token, token_options
from ledger.cli.output import json_option, note, print_json
from ledger.event.canonical import decode_event_object, format_time
from ledger.event.private import erasure_event
from ledger.event.secrets import mask
from ledger.service.directory import DirectoryPaths, open_private
from ledger.store.access import AccessStore
from ledger.store.private import KEY_BYTES
from ledger_client import LedgerClient, new_event_id


@click.command("erase")
@click.argument("ledger", metavar="DIR|URL")
@click.option("--subject", required=True, help="Whose values: the id that `private` was given.")
@click.option("--reason", required=True, help="Why: it will be in the log.")
@token_options
@json_option
def command(
    ledger: str,
    subject: str,
    reason: str,
    token_file: Path | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Destroy key, salts and values of a subject, for good. The log says that it was done.

    With a folder the service may run or not: its log takes the event within a second, or at the
    next start. With an address a token with the scope admin is needed.
    """
    if ledger.startswith(("http://", "https://")):
        with LedgerClient(ledger, read_token(token_file, token)) as client:
            erased = client.erase(subject, reason=reason)
        values, event_id, index = erased.values, erased.id, erased.index
    else:
        values, event_id = _erase_here(Path(ledger), subject, reason)
        index = None
    if as_json:
        print_json({"subject": subject, "values": values, "id": event_id, "index": index})
    else:
        note(f"{values} values of {subject!r} are destroyed; the event that says so:")
        click.echo(event_id)


def _erase_here(directory: Path, subject: str, reason: str) -> tuple[int, str]:
    paths = DirectoryPaths(directory)
    access = AccessStore.open(paths.access)
    try:
        store = open_private(paths, make_key=lambda: secrets.token_bytes(KEY_BYTES))
        try:
            values, event_id = store.count(subject), new_event_id()
            event = erasure_event(
                subject=subject,
                reason=reason,
                actor={"type": "operator", "id": getpass.getuser()},
                values=values,
                event_id=event_id,
                time=format_time(time.time_ns() // 1000),
            )
            # Read before anything is destroyed: an event that can't be logged must stop it.
            _, event_json = decode_event_object(mask(event))
            erasure = store.erase(subject, event_json=event_json)
            access.post(event_json)
            store.finish(erasure)
        finally:
            store.close()
    finally:
        access.close()
    return values, event_id
