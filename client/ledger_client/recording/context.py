"""Who acts, from where, in which request: said once, for all that is recorded inside.

    with audit_context(actor=("user", "u_1"), source={"ip": "203.0.113.9"}, request_id="r-1"):
        recorder.record("user.deleted", target=("user", "u_2"))

Kept in a `contextvars.ContextVar`: each thread and each task has its own. A task begins with a copy
of its creator's, and so does a function in `asyncio.to_thread`. A new `threading.Thread` begins
with none; run it in `contextvars.copy_context()` to hand it on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

from ledger_client.recording.arguments import Principal, Source

AuditContext = Mapping[str, Any]
"""What is said so far, by the words of `record`."""

NOTHING: Final[AuditContext] = MappingProxyType({})

_scope: ContextVar[AuditContext | None] = ContextVar("ledger_audit_scope", default=None)


@contextmanager
def audit_context(
    *,
    actor: Principal | Callable[[], Principal | None] | None = None,
    source: Source | None = None,
    request_id: str | None = None,
    trace_id: str | None = None,
    tenant: str | None = None,
    reason: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Say who, from where and in which request for what is recorded inside the block.

    Inner blocks add to outer ones, member by member for `source` and `context`; what `record` is
    told itself comes last. `actor` may be a function, called when something is recorded: a
    framework often knows the user only later.
    """
    said = _said(actor, source, request_id, trace_id, tenant, reason, context)
    token = _scope.set(merge(current_scope(), said))
    try:
        yield
    finally:
        # Some frameworks leave a block in another context than they entered it in; what was set
        # there is gone with that context.
        with suppress(ValueError):
            _scope.reset(token)


def extend_audit_context(
    *,
    actor: Principal | Callable[[], Principal | None] | None = None,
    source: Source | None = None,
    request_id: str | None = None,
    trace_id: str | None = None,
    tenant: str | None = None,
    reason: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> None:
    """Say more for the rest of the block that is open, as when a user has just logged in.

    Raises: RuntimeError outside any `audit_context`: it would hold for ever.
    """
    scope = _scope.get()
    if scope is None:
        raise RuntimeError("no audit_context is open here")
    said = _said(actor, source, request_id, trace_id, tenant, reason, context)
    _scope.set(merge(scope, said))


def current_scope() -> AuditContext:
    """What was said for what is recorded here."""
    return _scope.get() or NOTHING


def merge(outer: AuditContext, inner: AuditContext) -> AuditContext:
    """The words of both, the inner ones winning; `source` and `context` member by member."""
    merged = {**outer, **inner}
    for name in ("source", "context"):
        if name in outer and name in inner:
            merged[name] = {**outer[name], **inner[name]}
    return merged


def _said(
    actor: Principal | Callable[[], Principal | None] | None,
    source: Source | None,
    request_id: str | None,
    trace_id: str | None,
    tenant: str | None,
    reason: str | None,
    context: Mapping[str, Any] | None,
) -> AuditContext:
    said: dict[str, Any] = {"actor": actor, "tenant": tenant, "reason": reason}
    said = {name: value for name, value in said.items() if value is not None}
    if source is not None:
        said["source"] = {"ip": source} if isinstance(source, str) else dict(source)
    ids = {"request_id": request_id, "trace_id": trace_id}
    members = {**(context or {}), **{name: text for name, text in ids.items() if text is not None}}
    if members:
        said["context"] = members
    return said
