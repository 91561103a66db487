"""Making tokens in a ledger's folder; each change to a token is an event for the outbox."""

import getpass
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.store.log import LogStore
from ledger.store.token_events import SERVICE_NAME as SERVICE_NAME
from ledger.store.token_events import logged_token_events, read_token_event, revived_tokens
from ledger.store.tokens import (
    NAME_LENGTH_MAX,
    TOKEN_PREFIX,
    TOKEN_SECRET_BYTES,
    AccessStore,
    TokenLimits,
    TokenRecord,
    TokenScope,
)
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import format_time
from ledger_core.event.ids import format_uuid7

_log = structlog.get_logger("ledger.service")


def make_token(
    directory: Path,
    *,
    name: str,
    scopes: tuple[TokenScope, ...],
    tenant: str | None,
    limits: TokenLimits | None = None,
) -> str:
    """Make a token in a ledger's folder.

    Raises: ValueError for a name that is in use, too long, not printable, or the service's own.
    """
    _check_name(name)
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_SECRET_BYTES)
    created = unix_us()
    record = TokenRecord(
        name=name,
        scopes=tuple(dict.fromkeys(scopes)),
        created=format_time(created),
        tenant=tenant,
        limits=limits,
    )
    with open_access(directory) as access:
        access.add(token, record, event=token_event("ledger.token.created", record, created))
    return token


def _check_name(name: str) -> None:
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        raise ValueError(f"a name has 1 to {NAME_LENGTH_MAX} characters, got {len(name)}")
    if not name.isprintable() or name != name.strip():
        raise ValueError("a name has printable characters alone, and no space at its ends")
    if name.casefold() == SERVICE_NAME:
        raise ValueError(f"the name {SERVICE_NAME} is the service's own in the log")


@contextmanager
def open_access(directory: Path) -> Iterator[AccessStore]:
    """The tokens of a ledger's folder."""
    access = open_tokens(DirectoryPaths(directory))
    try:
        yield access
    finally:
        access.close()


def token_event(action: str, record: TokenRecord, unix_us: int) -> bytes:
    """The audit event of a change to a token."""
    event: dict[str, Any] = {
        "id": format_uuid7(unix_ms=unix_us // 1000, random=secrets.token_bytes(10)),
        "time": format_time(unix_us),
        "actor": {"type": "operator", "id": getpass.getuser()},
        "action": action,
        "targets": [{"type": "ledger.token", "id": record.name}],
        "outcome": "success",
        "context": {"scopes": list(record.scopes)},
    }
    if record.limits is not None:
        event["context"]["limits"] = msgspec.to_builtins(record.limits)
    if record.tenant is not None:
        event["tenant"] = record.tenant
    return msgspec.json.encode(event)


def revoke_revived(log: LogStore, access: AccessStore) -> None:
    """Revoke again the tokens that an older copy of their store brought back into use."""
    waiting = [read_token_event(event, is_leaf=False) for _, event in access.outbox()]
    events = [*logged_token_events(log), *(each for each in waiting if each is not None)]
    for name in revived_tokens(events, access.records()):
        now = unix_us()
        (record,) = [r for r in access.records() if r.name == name and r.revoked is None]
        event = token_event("ledger.token.revoked", record, now)
        access.revoke(name, revoked=format_time(now), event=event)
        _log.critical(
            "revoked_token_was_in_use", token=name, reason="an older access/ was put back"
        )
