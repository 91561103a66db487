"""`ledger scan`: find secrets in a file, or in events that are already in the log."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click
import msgspec

from ledger_client import LedgerClient
from ledger_client.cli.app import EXIT_REJECTED
from ledger_client.cli.client_options import EXISTING_FILE, Connection, connection_options
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_client.collect.importers import read_records
from ledger_client.runtime.files import read_utf8
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.secrets import Hit, SecretRules, default_rules, parse_rules
from ledger_core.event.times import format_time, parse_time


@click.command("scan")
@click.argument("files", nargs=-1, metavar="FILE…", type=EXISTING_FILE)
@click.option(
    "--since",
    metavar="TIME",
    help="Scan the events that the ledger received since this time: RFC 3339, or 0 for all.",
)
@click.option(
    "--rules",
    "rules_file",
    type=EXISTING_FILE,
    help="A ledger's secrets.toml, whose rules are added to the built-in ones.",
)
@connection_options
@json_option
def command(
    files: tuple[Path, ...],
    since: str | None,
    rules_file: Path | None,
    connection: Connection,
    as_json: bool,
) -> int:
    """Print where secrets are and by which rule they were found, never the secrets.

    FILE holds JSON records of any kind; no ledger is asked. With --since the events of the ledger
    are read and verified. Exit code 3 when something was found.
    """
    if bool(files) == (since is not None):
        raise click.UsageError("use FILE or --since, not both")
    rules = parse_rules(read_utf8(rules_file)) if rules_file else default_rules()
    since_us = None if since is None else 0 if since == "0" else parse_time(since, field="--since")
    found = (
        chain.from_iterable(_scan_file(file, rules) for file in files)
        if since_us is None
        else _scan_log(connection, since_us, rules)
    )
    count = 0
    for where, hit in found:
        count += 1
        if as_json:
            print_json({"where": where, "path": hit.path, "rule": hit.rule})
        else:
            print_line(f"{where}  {hit.path}  {hit.rule}")
    note(f"{count} found")
    return EXIT_REJECTED if count else 0


def _scan_file(file: Path, rules: SecretRules) -> Iterator[tuple[str, Hit]]:
    for record in read_records(file, wrappers=("events", "Records")):
        where = f"{file}:{record.line}"
        try:
            msgspec.json.decode(record.raw, type=dict[str, msgspec.Raw])
            hits = rules.find(record.raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            note(f"{where}: skipped, not a JSON object")
            continue
        for hit in hits:
            yield where, hit


def _scan_log(
    connection: Connection, since_us: int, rules: SecretRules
) -> Iterator[tuple[str, Hit]]:
    with connection.open() as ledger:
        size = ledger.checkpoint().checkpoint.tree_size
        for entry in ledger.events(_first_since(ledger, size, since_us), size):
            for hit in rules.find(parse_leaf(entry.leaf).event_json):
                yield str(entry.index), hit


def _first_since(ledger: LedgerClient, size: int, since_us: int) -> int:
    """The first index received at that time or later: `received.time` never decreases."""
    since = format_time(since_us)
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if ledger.event(middle).received.time < since:
            low = middle + 1
        else:
            high = middle
    return low
