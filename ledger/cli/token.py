"""`ledger token`: make, rotate, list and revoke access tokens, while the service runs or not."""

import re
from pathlib import Path
from typing import Final

import click
import msgspec

from ledger.cli.folders import LEDGER, MIRROR, READER, directory_of
from ledger.service.token_admin import make_token, open_access, rotate_token, token_event
from ledger.store.tokens import SCOPES, AccessStore, TokenLimits, TokenRecord, TokenScope
from ledger_client.cli.app import NotFoundError
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_client.runtime.clock import unix_us
from ledger_core.event.model import EventError
from ledger_core.event.times import format_time, parse_time

_match_duration = re.compile(r"([0-9]{1,9})([smhdw])").fullmatch
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _duration_s(text: str) -> int:
    match = _match_duration(text)
    if match is None:
        raise click.BadParameter(f"want a number and s, m, h, d or w, such as 12h: {text!a}")
    return int(match[1]) * _UNITS_S[match[2]]


def _expiry(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """Microseconds since 1970 of a time, or of a while from now."""
    if text is None:
        return None
    if _match_duration(text):
        return unix_us() + _duration_s(text) * 1_000_000
    try:
        return parse_time(text)
    except EventError:
        raise click.BadParameter(
            f"want a while such as 90d, or a time such as 2027-01-31T00:00:00Z: {text!a}"
        ) from None


def _state(record: TokenRecord, now_us: int) -> str:
    if record.revoked:
        return f"revoked {record.revoked}"
    if not record.is_in_use(now_us):
        return f"expired {record.expires}"
    return f"in use until {record.expires}" if record.expires else "in use"


expires_option = click.option(
    "--expires",
    callback=_expiry,
    help="When the token ends: after a while such as 90d, or at an RFC 3339 time. Default: never.",
)


@click.group("token")
def command() -> None:
    """Make, rotate, list and revoke access tokens. Only a token's hash is stored."""


@command.command("create")
@directory_of(LEDGER, MIRROR, READER)
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
@expires_option
@click.option(
    "--network",
    "networks",
    multiple=True,
    help="A network that the token may be used from, such as 10.0.0.0/8; repeatable. Default: all.",
)
@click.option(
    "--action",
    "actions",
    multiple=True,
    help="An action that the token may append, exact or with .* at its end; repeatable. Default: "
    "all.",
)
@json_option
def create(
    directory: Path,
    name: str,
    scopes: tuple[TokenScope, ...],
    tenant: str | None,
    expires: int | None,
    networks: tuple[str, ...],
    actions: tuple[str, ...],
    as_json: bool,
    **limits: int | None,
) -> None:
    """Make a token and print it, alone on standard output. It is never shown again."""
    own = TokenLimits(**limits)
    limits_given = None if own == TokenLimits() else own
    try:
        token = make_token(
            directory,
            name=name,
            scopes=scopes,
            tenant=tenant,
            limits=limits_given,
            expires_unix_us=expires,
            networks=networks,
            actions=actions,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        made: dict[str, object] = {"token": token, "name": name, "scopes": scopes, "tenant": tenant}
        others = {
            "limits": limits_given,
            "expires": None if expires is None else format_time(expires),
            "networks": networks,
            "actions": actions,
        }
        print_json(made | {name: value for name, value in others.items() if value})
        return
    until = "" if expires is None else f", until {format_time(expires)}"
    note(f"token {name!r} with {', '.join(scopes)}{until}; it is never shown again:")
    click.echo(token)


@command.command("rotate")
@directory_of(LEDGER, MIRROR, READER)
@click.argument("name")
@click.option(
    "--overlap",
    default="1d",
    show_default=True,
    callback=lambda _context, _option, text: _duration_s(text),
    help="How long the old token may still be used: 12h, 7d; 0s ends it at once.",
)
@expires_option
@json_option
def rotate(directory: Path, name: str, overlap: int, expires: int | None, as_json: bool) -> None:
    """Make another token NAME, which may do the same, and have the old one expire.

    Without --expires the new token lasts as long as the old one was made to.
    """
    try:
        token, record, old_expires = rotate_token(
            directory, name=name, overlap_s=overlap, expires_unix_us=expires
        )
    except LookupError as error:
        raise NotFoundError(str(error)) from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json(
            {"token": token, "name": name, "expires": record.expires, "old_expires": old_expires}
        )
        return
    note(f"token {name!r}; the old one ends at {old_expires}; it is never shown again:")
    click.echo(token)


@command.command("list")
@directory_of(LEDGER, MIRROR, READER)
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List all tokens, revoked ones too, oldest first."""
    with open_access(directory) as access:
        records = access.records()
        _note_damage(access)
    if as_json:
        print_json(records)
        return
    if not records:
        note(f"no token yet; make one: ledger token create {directory} --name … --scope append")
    for record in records:
        state = _state(record, unix_us())
        tenant = f" tenant={record.tenant}" if record.tenant else ""
        limits = msgspec.to_builtins(record.limits) if record.limits else {}
        own = "".join(f" {limit}={most}" for limit, most in limits.items())
        own += f" networks={','.join(record.networks)}" if record.networks else ""
        own += f" actions={','.join(record.actions)}" if record.actions else ""
        scopes = ",".join(record.scopes)
        print_line(f"{record.created}  {record.name}  {scopes}{tenant}{own}  {state}")


@command.command("revoke")
@directory_of(LEDGER, MIRROR, READER)
@click.argument("name")
@json_option
def revoke(directory: Path, name: str, as_json: bool) -> None:
    """Revoke the token NAME, and those that it replaced and that are still in use.

    A running service refuses them from the next request on.
    """
    revoked = unix_us()
    with open_access(directory) as access:
        found = next((r for r in access.records() if r.name == name and not r.revoked), None)
        if found is None:
            _note_damage(access)
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


def _note_damage(access: AccessStore) -> None:
    """Say which records are damaged: a list without them isn't complete."""
    for problem in access.damaged():
        note(f"damaged, and of no use to anybody: {problem}; make another token instead")
