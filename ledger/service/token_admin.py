"""Making tokens in a ledger's folder; each change to a token is an event for the outbox."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.operator_events import operator_event
from ledger.store.log import LogStore
from ledger.store.token_events import SERVICE_NAME as SERVICE_NAME
from ledger.store.token_events import (
    logged_token_events,
    prolonged_tokens,
    read_token_event,
    revived_tokens,
)
from ledger.store.tokens import (
    NAME_LENGTH_MAX,
    TOKEN_PREFIX,
    TOKEN_SECRET_BYTES,
    AccessStore,
    TokenLimits,
    TokenRecord,
    TokenScope,
    canonical_network,
    checked_action,
)
from ledger_client.runtime.clock import unix_us
from ledger_core.event.secrets import find
from ledger_core.event.secrets.folding import fold
from ledger_core.event.times import format_time, parse_time
from ledger_core.tlog.text import is_visible

CALLER_PREFIXES: Final = ("address ", "revoked ", "expired ", "elsewhere ")
"""Of callers without a token in use, as `ledger.service.auth` names them in log lines."""

PRINCIPAL_PREFIXES: Final = ("cert:", "oidc:")
"""Of principals of `ledger.service.identities`."""

_log = structlog.get_logger("ledger.service")


def make_token(
    directory: Path,
    *,
    name: str,
    scopes: tuple[TokenScope, ...],
    tenant: str | None,
    limits: TokenLimits | None = None,
    expires_unix_us: int | None = None,
    networks: Sequence[str] = (),
    actions: Sequence[str] = (),
) -> str:
    """Make a token in a ledger's folder; `networks` and `actions` as in `TokenRecord`.

    Raises: ValueError for a name that is in use, too long, not printable, or the service's own; for
    a tenant that no event has, a time that is over, and what is no network or pattern of actions,
    and for actions of a token that may not append.
    """
    _check_name(name)
    if tenant is not None:
        _check_text("a tenant", tenant)
    token = _new_secret()
    created = unix_us()
    if expires_unix_us is not None and expires_unix_us <= created:
        raise ValueError(f"the token would have expired at {format_time(expires_unix_us)}")
    record = TokenRecord(
        name=name,
        scopes=tuple(dict.fromkeys(scopes)),
        created=format_time(created),
        tenant=tenant,
        limits=limits,
        expires=None if expires_unix_us is None else format_time(expires_unix_us),
        networks=tuple(dict.fromkeys(map(canonical_network, networks))),
        actions=tuple(dict.fromkeys(map(checked_action, actions))),
    )
    if actions and not record.may("append"):
        raise ValueError("actions limit what a token appends: it needs the scope append")
    event = token_event("ledger.token.created", record, created)
    if find(event):
        raise ValueError("a name or a tenant that looks like a secret is masked in the log")
    with open_access(directory) as access:
        access.add(token, record, event=event)
    return token


def rotate_token(
    directory: Path, *, name: str, overlap_s: int, expires_unix_us: int | None = None
) -> tuple[str, TokenRecord, str]:
    """Make another token of a name, with what the one in use may do, which expires after a while.

    The new token, its record, and when the old one expires. A new token lasts as long as the old
    one was made to, unless it is told. Raises: ValueError as `make_token`; LookupError when no
    token of this name is in use.
    """
    created = unix_us()
    with open_access(directory) as access:
        found = [each for each in access.records() if each.name == name and each.is_in_use(created)]
        if not found:
            raise LookupError(f"no token named {name!r} is in use")
        old = found[-1]
        if expires_unix_us is None and old.expires is not None:
            expires_unix_us = created + parse_time(old.expires) - parse_time(old.created)
        if expires_unix_us is not None and expires_unix_us <= created:
            raise ValueError(f"the token would have expired at {format_time(expires_unix_us)}")
        record = msgspec.structs.replace(
            old,
            created=format_time(created),
            expires=None if expires_unix_us is None else format_time(expires_unix_us),
        )
        old_expires = format_time(created + overlap_s * 1_000_000)
        token = _new_secret()
        event = token_event("ledger.token.created", record, created, old_expires=old_expires)
        access.rotate(token, record, old_expires=old_expires, event=event)
    return token, record, old_expires


def _new_secret() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_SECRET_BYTES)


def _check_name(name: str) -> None:
    _check_text("a name", name)
    # `ledger` in full width or with an invisible letter is the service's own to whoever reads it.
    seen = fold(name).strip().casefold()
    if seen == SERVICE_NAME:
        raise ValueError(f"the name {SERVICE_NAME} is the service's own in the log")
    if seen.startswith(CALLER_PREFIXES):
        raise ValueError(
            "a name can't begin with 'address ', 'revoked ', 'expired ' or 'elsewhere ', as log "
            "lines do"
        )
    if seen.startswith(PRINCIPAL_PREFIXES):
        raise ValueError("a name can't begin with 'cert:' or 'oidc:', as principals do")


def _check_text(what: str, text: str) -> None:
    """Raises: ValueError for what no event can have as its tenant, or that nobody can read."""
    if not 0 < len(text) <= NAME_LENGTH_MAX:
        raise ValueError(f"{what} has 1 to {NAME_LENGTH_MAX} characters, got {len(text)}")
    if not is_visible(text) or text != text.strip():
        raise ValueError(f"{what} has printable characters alone, and no space at its ends")


@contextmanager
def open_access(directory: Path) -> Iterator[AccessStore]:
    """The tokens of a ledger's folder."""
    access = open_tokens(DirectoryPaths(directory))
    try:
        yield access
    finally:
        access.close()


def token_event(action: str, record: TokenRecord, unix_us: int, *, old_expires: str = "") -> bytes:
    """The audit event of a change to a token.

    `old_expires`: when the tokens of this name that were in use before it expire.
    """
    context: dict[str, Any] = {"scopes": list(record.scopes)}
    if record.limits is not None:
        context["limits"] = msgspec.to_builtins(record.limits)
    for name in ("expires", "networks", "actions"):
        if value := getattr(record, name):
            context[name] = value
    if old_expires:
        context["old_expires"] = old_expires
    targets = [("ledger.token", record.name)]
    return operator_event(action, unix_us, targets=targets, context=context, tenant=record.tenant)


def revoke_revived(log: LogStore, access: AccessStore) -> None:
    """Revoke again the tokens that an older copy of their store brought back into use."""
    waiting = [read_token_event(event, is_leaf=False) for _, event in access.outbox()]
    events = [*logged_token_events(log), *(each for each in waiting if each is not None)]
    for name in revived_tokens(events, access.records()):
        now = unix_us()
        record = [r for r in access.records() if r.name == name and r.revoked is None][-1]
        event = token_event("ledger.token.revoked", record, now)
        access.revoke(name, revoked=format_time(now), event=event)
        _log.critical(
            "revoked_token_was_in_use", token=name, reason="an older access/ was put back"
        )
    for record, expires in prolonged_tokens(events, access.records()):
        access.expire(record, expires)
        _log.critical(
            "replaced_token_was_in_use", token=record.name, reason="an older access/ was put back"
        )
