"""`ledger policy check`: name what makes a policy weaker than it looks."""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import click

from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.cli.console import json_option, print_json, print_line
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import Policy, PolicyWitness, parse_policy


@click.group("policy")
def command() -> None:
    """Check the policy files that clients, monitors and services trust."""


@command.command("check")
@click.argument("file", type=EXISTING_FILE)
@json_option
def check(file: Path, as_json: bool) -> None:
    """Name what makes the policy FILE weaker than it looks. Exit code 1 when there is anything."""
    found = list(find_weaknesses(parse_policy(file.read_bytes())))
    if as_json:
        print_json({"file": str(file), "weaknesses": found})
    else:
        for weakness in found:
            print_line(weakness)
    if found:
        raise VerificationError(f"{file.name}: {len(found)} weaknesses")


def find_weaknesses(policy: Policy) -> Iterator[str]:
    """Each reason for which fewer parties than it names could make a false head pass."""
    if not policy.logs:
        yield "no log line: no checkpoint can meet this policy"
    if policy.quorum is None:
        yield "quorum none: the log alone can show another history to each client"
    keys = {log.verifier.public_key for log in policy.logs}
    for witness in policy.witnesses:
        if witness.verifier.public_key in keys:
            yield f"witness {witness.name} has the log's own key, so the log cosigns itself"
    for one, other in combinations(policy.witnesses, 2):
        for what, of in _SHARED:
            if (shared := of(one)) is not None and shared == of(other):
                yield f"witnesses {one.name} and {other.name} have one {what} and may be one party"
                break


def _host(witness: PolicyWitness) -> str | None:
    return urlsplit(witness.url).hostname if witness.url else None


_SHARED: tuple[tuple[str, Callable[[PolicyWitness], str | None]], ...] = (
    ("URL", lambda witness: witness.url),
    ("host", _host),
    ("key name", lambda witness: witness.verifier.name),
)
"""What two witnesses of one party have in common, the surest sign first."""
