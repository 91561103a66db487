"""`ledger token`: make, list and revoke access tokens, while the service runs or not."""

import getpass
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from ledger.cli.output import json_option, note, print_json
from ledger.event.canonical import format_time
from ledger.event.ids import format_uuid7
from ledger.service.directory import DirectoryPaths
from ledger.store.access import (
    NAME_LENGTH_MAX,
    SCOPES,
    TOKEN_PREFIX,
    TOKEN_SECRET_BYTES,
    AccessStore,
    Scope,
    TokenRecord,
)

directory_argument = click.argument(
    "directory", type=click.Path(path_type=Path, exists=True, file_okay=False)
)


@click.group("token")
def command() -> None:
    """Make, list and revoke access tokens. Only a token's hash is stored."""


@command.command("create")
@directory_argument
@click.option("--name", required=True, help="Who holds it; events say `received.by` this name.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What it may do; give the option again for more. admin includes the others.",
)
@click.option("--tenant", help="Bind the token to one tenant's events.")
@json_option
def create(
    directory: Path, name: str, scopes: tuple[Scope, ...], tenant: str | None, as_json: bool
) -> None:
    """Make a token and print it, this once, alone on standard output."""
    try:
        token = make_token(directory, name=name, scopes=scopes, tenant=tenant)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json({"token": token, "name": name, "scopes": scopes, "tenant": tenant})
        return
    note(f"token {name!r} with {', '.join(scopes)}; it is shown this once:")
    click.echo(token)


@command.command("list")
@directory_argument
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the tokens that were ever made, oldest first."""
    with _access(directory) as access:
        records = access.records()
    if as_json:
        print_json(records)
        return
    if not records:
        note(f"no token yet; make one: ledger token create {directory} --name … --scope append")
    for record in records:
        state = f"revoked {record.revoked}" if record.revoked else "in use"
        tenant = f" tenant={record.tenant}" if record.tenant else ""
        click.echo(f"{record.created}  {record.name}  {','.join(record.scopes)}{tenant}  {state}")


@command.command("revoke")
@directory_argument
@click.argument("name")
@json_option
def revoke(directory: Path, name: str, as_json: bool) -> None:
    """End the token NAME. A running service refuses it from the next request on."""
    revoked = time.time_ns() // 1000
    with _access(directory) as access:
        found = next((r for r in access.records() if r.name == name and not r.revoked), None)
        if found is None:
            raise click.UsageError(f"no token named {name!r} is in use")
        record = access.revoke(
            name,
            revoked=format_time(revoked),
            event=_event("ledger.token.revoked", found, revoked),
        )
    if as_json:
        print_json(record)
        return
    note(f"token {name!r} is revoked")


def make_token(directory: Path, *, name: str, scopes: tuple[Scope, ...], tenant: str | None) -> str:
    """Make a token in a ledger's folder. Raises: ValueError for a name that is taken or unfit."""
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        raise ValueError(f"a name has 1 to {NAME_LENGTH_MAX} characters, got {len(name)}")
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_SECRET_BYTES)
    created = time.time_ns() // 1000
    record = TokenRecord(
        name=name, scopes=tuple(dict.fromkeys(scopes)), created=format_time(created), tenant=tenant
    )
    with _access(directory) as access:
        access.add(token, record, event=_event("ledger.token.created", record, created))
    return token


@contextmanager
def _access(directory: Path) -> Iterator[AccessStore]:
    access = AccessStore.open(DirectoryPaths(directory).access)
    try:
        yield access
    finally:
        access.close()


def _event(action: str, record: TokenRecord, unix_us: int) -> bytes:
    """The audit event of a change to a token, for the log to take in."""
    event: dict[str, Any] = {
        "id": format_uuid7(unix_ms=unix_us // 1000, random=secrets.token_bytes(10)),
        "time": format_time(unix_us),
        "actor": {"type": "operator", "id": getpass.getuser()},
        "action": action,
        "targets": [{"type": "ledger.token", "id": record.name}],
        "outcome": "success",
        "context": {"scopes": list(record.scopes)},
    }
    if record.tenant is not None:
        event["tenant"] = record.tenant
    return msgspec.json.encode(event)
