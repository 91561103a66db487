"""`audit_context`: who acts, from where, in which request, for all that is recorded inside.

    with audit_context(actor=("user", "u_1"), source={"ip": "203.0.113.9"}, request_id="r-1"):
        recorder.record("user.deleted", target=("user", "u_2"))

Stored in a `contextvars.ContextVar`: each thread and each task has its own. A task starts with a
copy of its creator's, and so does a function in `asyncio.to_thread`. A new `threading.Thread`, a
greenlet and a function in `loop.run_in_executor` start without one: `contextvars.copy_context()`
and `with_audit_context(executor)` hand it on. An event that is recorded where it was lost says so
in `context.audit_context_lost`.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, KeysView, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from inspect import CO_GENERATOR
from types import FrameType, MappingProxyType
from typing import Any, Final, NamedTuple, TypedDict, Unpack, cast

from ledger_client.recording.arguments import (
    CONTEXT_MEMBERS,
    Principal,
    Source,
    event_fields,
    resolve_actor,
)
from ledger_client.recording.jsonable import copy_members, jsonable
from ledger_client.recording.truncation import bounded_event, fit_event, jsonable_event
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.model import EventError

AuditContext = Mapping[str, Any]
"""Arguments of `record` that hold for several events."""

EMPTY: Final[AuditContext] = MappingProxyType({})

ANONYMOUS_TYPE: Final = "anonymous"
"""The type of the actor of a request whose user has not logged in."""

LOST: Final = "audit_context_lost"
"""The member of an event's context that says why its actor may be another's, or the default."""


class _Block:
    """One `audit_context` block, which copies of a context share."""

    __slots__ = (
        *("__weakref__", "away", "before", "below", "elsewhere", "generator", "is_left", "names"),
        *("outer", "thread_id"),
    )

    def __init__(
        self, outer: "_Block | None", before: "_Open | None", names: KeysView[str]
    ) -> None:
        self.outer = outer
        self.names = names
        """What it sets itself, whatever the blocks around it lack."""
        self.thread_id = threading.get_ident()
        self.elsewhere: set[str] = set()
        """What `extend_audit_context` set in another thread, and so in a copy of the context."""
        self.away: set[_Block] = set()
        """Blocks inside this one that have a `generator`, and did not end yet."""
        self.generator: FrameType | None = None
        """What began it, if threads of a pool run its steps, as FastAPI and Starlette have it. Each
        step may have a copy of the context of its own: what the block sets is lost behind one."""
        # Weak: tasks that start one another, each with a block, would keep those of all before.
        self.below = None if before is None else weakref.ref(before.block)
        self.is_left = False
        """Whether it ended below blocks that go on; then `before` is the context around it."""
        self.before: _Open | None = None

    def holds(self, block: "_Block") -> bool:
        """Whether a block is this one, or one that was open when this one began."""
        each: _Block | None = self
        while each is not None and each is not block:
            each = None if each.below is None else each.below()
        return each is not None

    def is_missed(self) -> bool:
        """Whether this runs for its generator, which waits or is in its step."""
        generator = self.generator
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the one way
        while frame is not None and frame is not generator:
            frame = frame.f_back
        return frame is not None or (generator is not None and generator.f_back is None)


class _Open(NamedTuple):
    scope: AuditContext
    block: _Block
    known: frozenset[str]
    """The values that were set in this copy of the context."""


_open: ContextVar[_Open | None] = ContextVar("ledger_audit_scope", default=None)
_is_left: ContextVar[bool] = ContextVar("ledger_audit_left", default=False)
_POOLS: Final = frozenset({"anyio", "concurrent", "starlette"})
"""The libraries that run a step of a generator in a thread of a pool."""

_is_in_use = threading.Event()
"""Set by the first `audit_context` of the process."""


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

    A generator shares the context of who iterates it: a block that is open while it yields holds
    for that one too, until the next step.
    """
    before = _open.get()
    outer = None if fresh else before
    scope = _scope_of(arguments)
    block = _Block(None if outer is None else outer.block, before, scope.keys())
    opened = _Open(
        merge(EMPTY if outer is None else outer.scope, scope),
        block,
        frozenset() if outer is None else outer.known,
    )
    _is_in_use.set()
    _open.set(opened)
    is_closed = False
    around = None if before is None else before.block
    if around is not None and around.thread_id != block.thread_id:
        block.generator = _find_generator()
        if block.generator is not None:
            around.away.add(block)
    try:
        yield
    except GeneratorExit:
        is_closed = True
        raise
    finally:
        if around is not None and block.generator is not None:
            around.away.discard(block)
            block.generator = None
        _end_block(block, before, is_closed=is_closed)


def _find_generator() -> FrameType | None:
    """The generator that begins a block, if a pool of threads runs its steps.

    None where a function runs them, as by `with` or `for`: they stay in its thread.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the one way
    own, contextlib = _find_generator.__code__, contextmanager.__code__
    files = {own.co_filename, contextlib.co_filename}
    found: FrameType | None = None
    while frame is not None:
        if frame.f_code.co_filename not in files:
            if not frame.f_code.co_flags & CO_GENERATOR:
                library = str(frame.f_globals.get("__name__")).partition(".")[0]
                return found if library in _POOLS else None
            found = found or frame
        frame = frame.f_back
    return None


def _end_block(block: _Block, before: _Open | None, *, is_closed: bool) -> None:
    """Make `before` the audit context again, where `block` is open.

    It is not where a framework leaves it in another context than it entered it in, nor where a
    generator that nobody finished is closed later: what was before it may have ended long ago.
    """
    current = _open.get()
    if current is None or not current.block.holds(block):
        return
    if is_closed and current.block is not block:
        # A generator is closed in the middle of a later block, which goes on.
        block.is_left, block.before = True, before
        return
    while before is not None and before.block.is_left:
        before = before.block.before
    _open.set(before)


def extend_audit_context(**arguments: Unpack[ContextArguments]) -> None:
    """Add to the innermost open block until it ends, as when a user has just logged in.

    In another thread or task than that of the block, as in a synchronous dependency of FastAPI,
    this adds to a copy of the block. Events that the others record then say what they lack; of
    tasks, which often add something of their own, that is the actor alone.

    Raises: RuntimeError outside any `audit_context`, where the addition would never end.
    """
    current = _open.get()
    if current is None:
        raise RuntimeError("no audit_context is open here")
    added = _scope_of(arguments)
    is_far = current.block.thread_id != threading.get_ident()
    noted = added.keys() if is_far else added.keys() & {"actor"}
    current.block.elsewhere.update(noted)
    _open.set(_Open(merge(current.scope, added), current.block, current.known | noted))


def rename_actor(actor: Principal | Callable[[], Principal | None]) -> None:
    """Name the actor of the innermost open block in another way: nobody lacks what this sets."""
    current = _open.get()
    if current is not None:
        _open.set(current._replace(scope=merge(current.scope, {"actor": actor})))


def note_left() -> None:
    """Note that a request ended here with an exception, which code outside of its block handles."""
    _is_left.set(True)


def current_context() -> _Open | None:
    """The audit context that is open here, for `ended_in`."""
    return _open.get()


@contextmanager
def ended_in(begun: _Open | None) -> Iterator[None]:
    """Make `begun` the audit context inside the block, unless its own block is open here.

    What began in one request may end in another: a generator that nobody finished is closed by
    whoever drops it, or by the garbage collector in the middle of anything.
    """
    current = _open.get()
    if current is begun or (current and begun and current.block is begun.block):
        yield
        return
    token = _open.set(begun)
    try:
        yield
    finally:
        _open.reset(token)


def current_scope() -> AuditContext:
    """The audit context for what is recorded here."""
    current = _open.get()
    return EMPTY if current is None else current.scope


def find_loss() -> str | None:
    """Why the audit context of what is recorded here is not that of its cause; None if it may be.

    In a process that uses audit contexts, a thread or greenlet without one has lost it, or works
    for nobody: the two look the same.
    """
    current = _open.get()
    if current is None:
        if _is_left.get():
            return "none outside of the middleware"
        if not _is_in_use.is_set() or not _is_aside():
            return None
        return f"none in {threading.current_thread().name}"
    missing: set[str] = set()
    known = current.known
    block: _Block | None = current.block
    while block is not None:
        missing |= block.elsewhere - known
        for away in [*block.away]:
            if not current.block.holds(away) and away.is_missed():
                missing |= away.names - known
        known |= block.names
        block = block.outer
    return f"{', '.join(sorted(missing))}: set in another thread or task" if missing else None


def _is_aside() -> bool:
    """Whether this is no main thread, or a greenlet in it."""
    if threading.current_thread() is not threading.main_thread():
        return True
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None


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
    return _as_json(scope)


def sendable_scope() -> dict[str, Any]:
    """As `capture_scope`, for an integration: the actor is `unknown` if its function failed."""
    try:
        return capture_scope()
    except EventError:
        return _as_json({**current_scope(), "actor": {"id": "unknown"}})


def _as_json(scope: Mapping[str, Any]) -> dict[str, Any]:
    captured: dict[str, Any] = jsonable(bounded_event(scope))
    return captured


def restored_job(scope: object, **names: str) -> AbstractContextManager[None]:
    """As `restored`, for an integration, with these members of `context` beside it.

    What came with a message and is no audit context is left out, member by member: no message
    decides whether what its job does is recorded.
    """
    scope = scope if isinstance(scope, dict) else {}
    known = {name: scope[name] for name in ContextArguments.__annotations__ if name in scope}
    if not _is_recordable(known):
        known = {name: value for name, value in known.items() if _is_recordable({name: value})}
    return restored({**known, "context": {**known.get("context", {}), **names}})


def _is_recordable(scope: dict[str, Any]) -> bool:
    """Whether an event with this audit context is recorded, cut to fit if need be."""
    if not all(isinstance(scope.get(name, {}), dict) for name in ("context", "source")):
        return False
    try:
        fields = event_fields({"actor": "unknown", **scope}, {})
        decode_event_object(fit_event(jsonable_event({**fields, "action": "job.begun"})))
    except EventError as error:
        return error.rule == "leaf-too-large"  # It is shortened.
    except Exception:  # noqa: BLE001 - what a stranger sent may be anything
        return False
    return True


def with_loss(scope: AuditContext) -> AuditContext:
    """The audit context of here, with the note that `find_loss` has for an event recorded here.

    `restored` opens a block of its own, where nothing is known of what was lost before.
    """
    lost = find_loss()
    return scope if lost is None else merge(scope, {"context": {LOST: lost}})


def pinned_scope() -> AuditContext:
    """Copy the audit context, for an event of now that is recorded later with `restored`.

    If the actor is a function, it is called now: the user may have logged out by then.
    """
    scope = dict(with_loss(current_scope()))
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
        scope["source"] = {"ip": source} if isinstance(source, str) else copy_members(source)
    ids: dict[str, Any] = {name: scope.pop(name) for name in CONTEXT_MEMBERS if name in scope}
    context = {**copy_members(scope.pop("context", {})), **ids}
    return {**scope, "context": context} if context else scope
