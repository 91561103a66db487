"""`ledger doctor`: check a ledger on this machine, or what a client needs, and say what to do."""

import http.client
import os
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

import click
import msgspec
from click.core import ParameterSource

from ledger_client.cli.app import EXIT_NOT_VERIFIED, load_server_part
from ledger_client.cli.client_options import (
    EXISTING_FOLDER,
    policy_option,
    read_token,
    token_options,
    url_option,
)
from ledger_client.cli.console import json_option, print_json, print_line
from ledger_client.client import LedgerClient
from ledger_client.messages import Endpoint, Request, parse_endpoint
from ledger_client.recording.dead_letters import FILE_NAME
from ledger_client.recording.spool_reader import DAMAGED_FOLDER, count_waiting
from ledger_client.responses import decode_problem, trust_hint
from ledger_client.runtime.files import read_limited
from ledger_client.transport import Transport
from ledger_core.evidence.policies import find_weaknesses
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy

TIMEOUT_S: Final = 10.0
SKEW_WARNED_S: Final = 10.0
_OPEN_TO_OTHERS: Final = 0o077

Verdict = Literal["ok", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """The result of one check, and what to do about it."""

    check: str
    verdict: Verdict
    text: str


@click.command("doctor")
@click.argument("directory", required=False, type=EXISTING_FOLDER)
@click.option("--client", "is_client", is_flag=True, help="Check this client's settings.")
@url_option
@token_options
@policy_option
@click.option(
    "--spool",
    envvar="LEDGER_SPOOL",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="The spool folder of a recorder.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    directory: Path | None,
    is_client: bool,
    url: str,
    token_file: Path | None,
    insecure: bool,
    policy: Path | None,
    spool: Path | None,
    as_json: bool,
) -> int:
    """Say what is wrong, and what mends it. Changes nothing and appends nothing.

    With DIRECTORY, of a ledger or a mirror on this machine: settings, log, keys, policy, TLS,
    tokens, disk, and its service, at --url or where ledger.toml says. With --client: address,
    token, policy, clock and spool; run it as the user of the application. Exit code 1 when a check
    fails.
    """
    if (directory is not None) == is_client:
        raise click.UsageError("Name the folder of a ledger, or use --client.")
    if directory is not None:
        is_default = context.get_parameter_source("url") is ParameterSource.DEFAULT
        find_here = load_server_part("doctor-here", needed_by="ledger doctor DIR")
        findings = list(find_here(directory, None if is_default else url))
    else:
        token = read_token(token_file, url=url, insecure=insecure)
        findings = list(find_faults(url, token, policy=policy, spool=spool))
    if as_json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        for finding in findings:
            print_line(f"{finding.verdict:>7}  {finding.check:<7}  {finding.text}")
    return EXIT_NOT_VERIFIED if any(each.verdict == "failed" for each in findings) else 0


def find_faults(
    url: str, token: str | None, *, policy: Path | None, spool: Path | None
) -> Iterator[Finding]:
    """Make all checks; those that need the ledger only when it answers."""
    try:
        endpoint = parse_endpoint(url, token=token, timeout_s=TIMEOUT_S)
    except ValueError as error:
        yield Finding("address", "failed", f"{error}: correct LEDGER_URL")
        endpoint = None
    if endpoint is not None:
        address, clock = _check_address(endpoint)
        yield address
        if address.verdict == "ok":
            yield clock
            yield _check_token(endpoint)
    is_reached = endpoint is not None and address.verdict == "ok"
    yield from _check_policy(url, token, policy, is_reached=is_reached)
    if spool is not None:
        yield from _check_spool(spool)


def _check_address(endpoint: Endpoint) -> tuple[Finding, Finding]:
    """Ask whether the service answers, and hold its clock against ours."""
    connect = (
        http.client.HTTPSConnection if endpoint.scheme == "https" else http.client.HTTPConnection
    )
    connection = connect(endpoint.host, endpoint.port, timeout=endpoint.timeout_s)
    unknown = Finding("clock", "warning", "the answer has no date: the clocks can't be compared")
    try:
        connection.request("GET", f"{endpoint.path}/healthz")
        answer = connection.getresponse()
        answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:
        hint = (
            f"its certificate is not trusted here; {trust_hint()}"
            if isinstance(error, ssl.SSLError)
            else ""
        )
        reason = hint or getattr(error, "strerror", None) or type(error).__name__
        text = (
            f"no answer from {endpoint.address}: {reason}; check LEDGER_URL, the service and the "
            "network"
        )
        return Finding("address", "failed", text), unknown
    finally:
        connection.close()
    if answer.status != http.client.OK:
        text = f"{endpoint.address} answers with {answer.status}: it is no ledger; check LEDGER_URL"
        return Finding("address", "failed", text), unknown
    found = Finding("address", "ok", f"{endpoint.address} answers")
    try:
        ahead_s = time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (TypeError, ValueError):
        return found, unknown
    if abs(ahead_s) <= SKEW_WARNED_S:
        return found, Finding("clock", "ok", "agrees with the ledger's")
    side = "ahead of" if ahead_s > 0 else "behind"
    text = f"{abs(ahead_s):.0f} s {side} the ledger's: events get a wrong time; synchronise (NTP)"
    return found, Finding("clock", "warning", text)


def _check_token(endpoint: Endpoint) -> Finding:
    """Ask to append no event: the answer says whether the token may append."""
    if endpoint.token is None:
        text = "there is none: set LEDGER_TOKEN, or LEDGER_TOKEN_FILE"
        return Finding("token", "failed", text)
    transport = Transport(endpoint)
    body = b'{"events":[]}'
    request = Request(
        target="/v1/events", method="POST", content_type="application/json", body=body
    )
    try:
        problem = decode_problem(transport.send(request))
    except (UnavailableError, MalformedError) as error:
        return Finding("token", "failed", f"could not be checked: {error}")
    finally:
        transport.close()
    match problem.slug:
        case "empty-batch":
            return Finding("token", "ok", "is valid and may append")
        case "scope-missing":
            text = (
                "may not append: make one by `ledger token create DIR --name NAME --scope append`"
            )
        case "token-unknown":
            text = "is unknown, or was revoked: make one by `ledger token create`"
        case _:
            text = f"is refused: {problem.detail or problem.slug}"
    return Finding("token", "failed", text)


def _check_policy(
    url: str, token: str | None, policy: Path | None, *, is_reached: bool
) -> Iterator[Finding]:
    if policy is None:
        text = "there is none: copy DIR/policy of the ledger, and set LEDGER_POLICY"
        yield Finding("policy", "failed", text)
        return
    try:
        parsed = parse_policy(read_limited(policy, POLICY_BYTES_MAX))
    except (OSError, MalformedError) as error:
        yield Finding("policy", "failed", f"{policy}: {error}; copy DIR/policy of the ledger again")
        return
    for weakness in find_weaknesses(parsed):
        yield Finding("policy", "warning", weakness)
    if not is_reached:
        yield Finding("policy", "ok", f"{policy} can be read")
        return
    try:
        with LedgerClient(url, token, policy=parsed, timeout_s=TIMEOUT_S) as client:
            head = client.checkpoint()
    except VerificationError as error:
        text = f"the ledger's head does not meet it: {error}; another ledger, or a false one"
        yield Finding("policy", "failed", text)
    except (UnavailableError, MalformedError, ValueError) as error:
        yield Finding("policy", "failed", f"no head could be verified: {error}")
    else:
        yield Finding("policy", "ok", f"the head of size {head.checkpoint.tree_size} meets it")


def _check_spool(spool: Path) -> Iterator[Finding]:
    existing = next(each for each in (spool, *spool.absolute().parents) if each.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        text = f"{spool} can't be written by user {os.geteuid()}: change the owner of {existing}"
        yield Finding("spool", "failed", text)
        return
    if existing != spool:
        yield Finding("spool", "ok", f"{spool} will be made")
        return
    try:
        waiting = count_waiting(spool)
    except OSError as error:
        yield Finding("spool", "failed", f"{spool} can't be read: {error.strerror}")
        return
    except MalformedError as error:
        yield Finding("spool", "failed", f"{error}: no recorder has written it so")
        return
    text = f"{waiting} waiting in {spool}; the recorder will retry" if waiting else "nothing waits"
    yield Finding("spool", "ok", text)
    if spool.stat().st_mode & _OPEN_TO_OTHERS:
        yield Finding("spool", "warning", f"others can open it: chmod 700 {spool}")
    letters = spool / FILE_NAME
    if letters.exists():
        text = (
            f"events that the ledger does not take are in {letters}: read why, and send them anew"
        )
        yield Finding("spool", "warning", text)
    if (spool / DAMAGED_FOLDER).exists():
        text = f"{spool / DAMAGED_FOLDER} has segments that can't be read: examine, then remove it"
        yield Finding("spool", "warning", text)
