"""`ledger token`: make, list and revoke access tokens, while the service runs or not."""

from pathlib import Path

import click
import msgspec

from ledger.cli.options import directory_argument
from ledger.service.token_admin import make_token, open_access, token_event
from ledger.store.tokens import SCOPES, TokenLimits, TokenScope
from ledger_client.cli.app import NotFoundError
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import format_time


@click.group("token")
def command() -> None:
    """Make, list and revoke access tokens. Only a token's hash is stored."""


@command.command("create")
@directory_argument
@click.option("--name", required=True, help="The holder; events have this name in `received.by`.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What the token allows; repeatable. admin includes the others.",
)
@click.option("--tenant", help="Bind the token to one tenant's events.")
@click.option(
    "--requests-per-minute",
    type=click.IntRange(min=0),
    help="Requests that the token may make in a minute, for the setting's. 0: no limit.",
)
@click.option("--bytes-per-minute", type=click.IntRange(min=0), help="Bytes of bodies and answers.")
@click.option(
    "--stored-bytes-per-day", type=click.IntRange(min=0), help="Bytes of new leaves in the log."
)
@json_option
def create(
    directory: Path,
    name: str,
    scopes: tuple[TokenScope, ...],
    tenant: str | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Make a token and print it, alone on standard output. It is never shown again."""
    own = TokenLimits(**limits)
    limits_given = None if own == TokenLimits() else own
    try:
        token = make_token(directory, name=name, scopes=scopes, tenant=tenant, limits=limits_given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        made = {"token": token, "name": name, "scopes": scopes, "tenant": tenant}
        print_json(made if limits_given is None else {**made, "limits": limits_given})
        return
    note(f"token {name!r} with {', '.join(scopes)}; it is never shown again:")
    click.echo(token)


@command.command("list")
@directory_argument
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List all tokens, revoked ones too, oldest first."""
    with open_access(directory) as access:
        records = access.records()
    if as_json:
        print_json(records)
        return
    if not records:
        note(f"no token yet; make one: ledger token create {directory} --name … --scope append")
    for record in records:
        state = f"revoked {record.revoked}" if record.revoked else "in use"
        tenant = f" tenant={record.tenant}" if record.tenant else ""
        limits = msgspec.to_builtins(record.limits) if record.limits else {}
        own = "".join(f" {limit}={most}" for limit, most in limits.items())
        scopes = ",".join(record.scopes)
        print_line(f"{record.created}  {record.name}  {scopes}{tenant}{own}  {state}")


@command.command("revoke")
@directory_argument
@click.argument("name")
@json_option
def revoke(directory: Path, name: str, as_json: bool) -> None:
    """Revoke the token NAME. A running service refuses it from the next request on."""
    revoked = unix_us()
    with open_access(directory) as access:
        found = next((r for r in access.records() if r.name == name and not r.revoked), None)
        if found is None:
            raise NotFoundError(f"no token named {name!r} is in use")
        record = access.revoke(
            name,
            revoked=format_time(revoked),
            event=token_event("ledger.token.revoked", found, revoked),
        )
    if as_json:
        print_json(record)
        return
    note(f"token {name!r} is revoked")
