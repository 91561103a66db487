"""`ledger policy check`: name what makes a policy weaker than it looks."""

from pathlib import Path

import click

from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_client.runtime.files import read_limited
from ledger_core.evidence.policies import find_weaknesses
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


@click.group("policy")
def command() -> None:
    """Check the policy files that clients, monitors and services trust."""


@command.command("check")
@click.argument("file", type=EXISTING_FILE)
@json_option
def check(file: Path, as_json: bool) -> None:
    """Name what makes the policy FILE weaker than it looks. Exit code 1 when there is anything."""
    found = list(find_weaknesses(parse_policy(read_limited(file, POLICY_BYTES_MAX))))
    if as_json:
        print_json({"file": str(file), "weaknesses": found})
    else:
        for weakness in found:
            print_line(weakness)
        if not found:
            note(f"{file.name} has none of the known weaknesses")
    if found:
        raise VerificationError(f"{file.name}: {len(found)} weakness{'es' * (len(found) > 1)}")
