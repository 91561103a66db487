"""`audit_context`: who acts, from where, in which request, for all that is recorded inside.

    with audit_context(actor=("user", "u_1"), source={"ip": "203.0.113.9"}, request_id="r-1"):
        recorder.record("user.deleted", target=("user", "u_2"))

Stored in a `contextvars.ContextVar`: each thread and each task has its own. A task starts with a
copy of its creator's, and so does a function in `asyncio.to_thread`. A new `threading.Thread`
starts without one; run it in `contextvars.copy_context()` to hand it on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, TypedDict, Unpack, cast

from ledger_client.recording.arguments import CONTEXT_MEMBERS, Principal, Source, resolve_actor
from ledger_client.recording.jsonable import jsonable
from ledger_core.event.model import EventError

AuditContext = Mapping[str, Any]
"""Arguments of `record` that hold for several events."""

EMPTY: Final[AuditContext] = MappingProxyType({})

_scope: ContextVar[AuditContext | None] = ContextVar("ledger_audit_scope", default=None)


class ContextArguments(TypedDict, total=False):
    """The arguments of `audit_context`. None is as if the argument were absent.

    `actor` may be a function, called when something is recorded: a framework often knows the user
    only later.
    """

    actor: Principal | Callable[[], Principal | None] | None
    source: Source | None
    request_id: str | None
    trace_id: str | None
    tenant: str | None
    reason: str | None
    context: Mapping[str, Any] | None


@contextmanager
def audit_context(*, fresh: bool = False, **arguments: Unpack[ContextArguments]) -> Iterator[None]:
    """Set who acts, from where and in which request for what is recorded inside the block.

    Inner blocks add to outer ones, member by member for `source` and `context`; the arguments of
    `record` itself override both. With `fresh`, nothing of the outer blocks holds inside: use it
    where the work of somebody else begins, as a request, a message or a job. Servers and workers
    may begin it in the context of an earlier one.
    """
    outer = EMPTY if fresh else current_scope()
    token = _scope.set(merge(outer, _scope_of(arguments)))
    try:
        yield
    finally:
        # Some frameworks leave a block in another context than they entered it in. The variable of
        # that context is gone with it.
        with suppress(ValueError):
            _scope.reset(token)


def extend_audit_context(**arguments: Unpack[ContextArguments]) -> None:
    """Add to the innermost open block until it ends, as when a user has just logged in.

    Raises: RuntimeError outside any `audit_context`, where the addition would never end.
    """
    scope = _scope.get()
    if scope is None:
        raise RuntimeError("no audit_context is open here")
    _scope.set(merge(scope, _scope_of(arguments)))


def current_scope() -> AuditContext:
    """The audit context for what is recorded here."""
    return _scope.get() or EMPTY


def merge(outer: AuditContext, inner: AuditContext) -> AuditContext:
    """Both audit contexts, `inner` overriding `outer`; `source` and `context` member by member."""
    merged = {**outer, **inner}
    for name in ("source", "context"):
        if name in outer and name in inner:
            merged[name] = {**outer[name], **inner[name]}
    return merged


def restored(scope: AuditContext) -> AbstractContextManager[None]:
    """Make exactly this the audit context inside the block, whatever the outer blocks are.

    `scope` is what `capture_scope` returned, also after a trip through JSON.
    """
    return audit_context(fresh=True, **cast("ContextArguments", scope))


def capture_scope() -> dict[str, Any]:
    """Copy the audit context as JSON: a job of another process can work in it, by `restored`.

    If the actor is a function, it is called now, while its request still exists.

    Raises: EventError for an actor that is none, or whose function failed.
    """
    scope = dict(current_scope())
    actor = resolve_actor(scope.pop("actor", None))
    if actor is not None:
        scope["actor"] = actor
    captured: dict[str, Any] = jsonable(scope)
    return captured


def sendable_scope() -> dict[str, Any]:
    """As `capture_scope`, for an integration: the actor is `unknown` if its function failed."""
    try:
        return capture_scope()
    except EventError:
        captured: dict[str, Any] = jsonable({**current_scope(), "actor": {"id": "unknown"}})
        return captured


def restored_job(scope: object, **names: str) -> AbstractContextManager[None]:
    """As `restored`, for an integration, with these members of `context` beside it.

    What came with a message and is no audit context is left out.
    """
    scope = scope if isinstance(scope, dict) else {}
    known = {name: scope[name] for name in ContextArguments.__annotations__ if name in scope}
    for name in ("context", "source"):
        if not isinstance(known.get(name, {}), dict):
            del known[name]
    return restored({**known, "context": {**known.get("context", {}), **names}})


def pinned_scope() -> AuditContext:
    """Copy the audit context, for an event of now that is recorded later with `restored`.

    If the actor is a function, it is called now: the user may have logged out by then.
    """
    scope = dict(current_scope())
    with suppress(Exception):  # A function that fails is called again, and reported, by `record`.
        actor = resolve_actor(scope.get("actor"))
        if actor is not None:
            scope["actor"] = actor
    return scope


def _scope_of(arguments: ContextArguments) -> AuditContext:
    unknown = sorted(arguments.keys() - ContextArguments.__annotations__.keys())
    if unknown:
        raise TypeError(f"unexpected arguments of an audit context: {', '.join(unknown)}")
    scope: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
    if "source" in scope:
        source = scope["source"]
        scope["source"] = {"ip": source} if isinstance(source, str) else dict(source)
    ids = {name: scope.pop(name) for name in CONTEXT_MEMBERS if name in scope}
    context = {**scope.pop("context", {}), **ids}
    return {**scope, "context": context} if context else scope
