"""The Model Context Protocol's Python SDK: records each tool call of a server.

    server = MCPServer("shop", middleware=[AuditTools(person=lambda ctx: ("user", user_of(ctx)))])

    @server.tool()
    @audited_tool(target=lambda order: ("order", order), masked=["card"])
    def cancel(order: str, card: str) -> str: ...

The actor of an event is the program that called the tool, an agent, `on_behalf_of` the person who
uses it:

actor.id             the client id of the access token; on stdio, and without tokens, the name that
                     the client gave at its start, which nobody has checked
actor.on_behalf_of   `person`, by default the subject of the access token
actor.session        a hash of the session's id
targets              the tool, and what `@audited_tool` of the function says
outcome              `success`, `failure` for a result that is an error and for an error of the
                     protocol, `denied` if the function of an `@audited_tool` raised PermissionError
                     or another denial, `unknown` for a call that was cancelled or asked for input
context.arguments    the arguments of the call. The rules for secrets mask them; `masked` hides
                     more, that of any tool of the process where no `@audited_tool` was called

What the tool itself records, by `@audited` or a recorder, has the same actor and request.
"""

import functools
import hashlib
import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, Unpack, cast

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolResult
from pydantic import AliasChoices, AliasPath
from pydantic.fields import FieldInfo
from starlette.requests import Request

from ledger_client.integrations.proxies import parse_peer
from ledger_client.integrations.request_info import (
    RequestReader,
    RequestSettings,
)
from ledger_client.recording.arguments import Principal
from ledger_client.recording.arguments import principal as principal_fields
from ledger_client.recording.context import audit_context
from ledger_client.recording.exception_outcomes import Outcome, outcome_of
from ledger_client.recording.jsonable import LEVELS_MAX, TOO_DEEP, holds_too_many, jsonable
from ledger_client.recording.recorder import RecordArguments, Recorder, current_recorder
from ledger_client.runtime.signatures import signature_of
from ledger_client.runtime.trace_context import parse_trace_id

F = TypeVar("F", bound=Callable[..., Any])
ToolContext = ServerRequestContext[Any, Any]

ACTION: Final = "tool.called"
MASKED: Final = {"masked": "setting"}
UNKNOWN_AGENT: Final = "unknown"

_CALL: Final = "tools/call"
_HASH_CHARS: Final = 32

_log = logging.getLogger("ledger_client.integrations")


@dataclass(slots=True)
class _ToolCall:
    """The additions of a tool's function to the event of its call."""

    targets: list[Principal] = field(default_factory=list)
    masked: frozenset[str] | None = None
    """What the function hides; None until it is called."""
    error: BaseException | None = None


_call: ContextVar[_ToolCall | None] = ContextVar("ledger_tool_call", default=None)

_masked_by_tools: Final[set[str]] = set()
"""What any `@audited_tool` hides: the function that was not called can't be told from the name."""


class AuditTools:
    """A middleware of `MCPServer` and of the low-level `Server`: records each tool call."""

    def __init__(
        self,
        *,
        person: Callable[[ToolContext], Principal | None] | None = None,
        agent: Callable[[ToolContext], Principal | None] | None = None,
        masked: Collection[str] = (),
        recorder: Recorder | None = None,
        **settings: Unpack[RequestSettings],
    ) -> None:
        """`masked` names arguments that no tool shows; the settings are about proxies.

        The default recorder is the one of `use_recorder` at the time of the call.

        Raises: ValueError for a proxy that is no network.
        """
        self._person: Final = person or token_subject
        self._agent: Final = agent or calling_agent
        self._masked: Final = frozenset(masked)
        self._recorder: Final = recorder
        self._reader: Final = RequestReader(**settings)

    async def __call__(self, ctx: ToolContext, call_next: CallNext) -> HandlerResult:
        """Pass the message on; of a tool call, record how it ended."""
        if ctx.method != _CALL or ctx.request_id is None:
            return await call_next(ctx)
        with audit_context(fresh=True, actor=self._actor(ctx), **self._read(ctx)):
            call = _ToolCall()
            token = _call.set(call)
            outcome: Outcome = "failure"
            error: str | None = None
            try:
                result = await call_next(ctx)
                outcome = _outcome_of_result(result, call)
            except BaseException as raised:
                outcome, error = outcome_of(raised), type(raised).__name__
                raise
            else:
                return result
            finally:
                _call.reset(token)
                self._record(ctx, call, outcome, error)

    def _record(
        self, ctx: ToolContext, call: _ToolCall, outcome: Outcome, error: str | None
    ) -> None:
        params = ctx.params or {}
        if call.error is not None:
            error = type(call.error).__name__
        # The function told nothing if it was not called: the arguments were refused, a decorator or
        # another middleware answered, or it is no `@audited_tool`. Success doesn't tell them apart.
        masked = frozenset(_masked_by_tools) if call.masked is None else call.masked
        context = {
            "arguments": _arguments(params.get("arguments"), self._masked | masked),
            "client": _client(ctx),
            "error": error,
        }
        event: RecordArguments = {
            "outcome": outcome,
            "targets": [("tool", _text(params.get("name"))), *call.targets],
            "context": {name: value for name, value in context.items() if value is not None},
        }
        try:
            recorder = self._recorder or current_recorder()
        except Exception as reason:  # noqa: BLE001 - a tool call must not fail at its event
            _log.error("event_lost action=%s reason=%s", ACTION, reason)
        else:
            recorder.record_quietly(ACTION, **event)

    def _actor(self, ctx: ToolContext) -> dict[str, Any]:
        agent = _found(self._agent, ctx) or {"id": UNKNOWN_AGENT}
        person = _found(self._person, ctx)
        session = _session_hash(ctx)
        return {
            "type": "agent",
            **agent,
            **({} if person is None else {"on_behalf_of": person}),
            **({} if session is None else {"session": session}),
        }

    def _read(self, ctx: ToolContext) -> dict[str, Any]:
        meta: Mapping[str, Any] = ctx.meta or {}
        trace_id = parse_trace_id([str(meta["traceparent"])]) if "traceparent" in meta else None
        request = ctx.request
        if not isinstance(request, Request):
            return {"trace_id": trace_id}
        peer = None if request.client is None else parse_peer(*request.client)
        read = self._reader.read(peer, request.headers.getlist)
        return {**read, "trace_id": read["trace_id"] or trace_id}


def audited_tool(
    *,
    target: Principal | Callable[..., Principal | None] | None = None,
    masked: Collection[str] = (),
) -> Callable[[F], F]:
    """Say what a tool acts on, and which of its arguments the event hides.

    `target` may be a function of those arguments of the tool that it names. Without `AuditTools`
    in the server this does nothing.
    """

    def decorate(function: F) -> F:
        signature = signature_of(function)
        hidden = _names_sent(function, masked)
        _masked_by_tools.update(hidden)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with _noting(signature, args, kwargs, target, hidden):
                    return await function(*args, **kwargs)

            return cast("F", run_async)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with _noting(signature, args, kwargs, target, hidden):
                return function(*args, **kwargs)

        return cast("F", run)

    return decorate


def calling_agent(ctx: ToolContext) -> Principal | None:
    """The client of the access token; without one, the name that the client gave."""
    token = _access_token(ctx)
    if token is not None:
        return {"type": "agent", "id": token.client_id}
    client = _client(ctx)
    return None if client is None else {"type": "agent", "id": client["name"]}


def token_subject(ctx: ToolContext) -> Principal | None:
    """The subject of the access token: the person who gave it to the agent."""
    token = _access_token(ctx)
    return None if token is None or token.subject is None else ("user", token.subject)


def _names_sent(function: Callable[..., Any], masked: Collection[str]) -> frozenset[str]:
    """`masked`, and the names that clients of the tool send for these: the aliases of Pydantic."""
    names = set(masked)
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
        for name in names & parameters.keys():
            annotation, default = parameters[name].annotation, parameters[name].default
            if default is inspect.Parameter.empty:
                found = FieldInfo.from_annotation(annotation)
            else:
                found = FieldInfo.from_annotated_attribute(annotation, default)
            names.update(_aliases(found.alias), _aliases(found.validation_alias))
    except Exception as error:  # noqa: BLE001 - annotations are the application's code
        _log.debug("aliases_not_found error=%s", type(error).__name__)
    return frozenset(names)


def _aliases(alias: str | AliasPath | AliasChoices | None) -> Iterator[str]:
    """The members of the arguments that this alias takes."""
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, AliasPath):
        yield from (each for each in alias.path[:1] if isinstance(each, str))
    elif alias is not None:
        for each in alias.choices:
            yield from _aliases(each)


@contextmanager
def _noting(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Principal | Callable[..., Principal | None] | None,
    masked: frozenset[str],
) -> Iterator[None]:
    """Note for the event of the call what its tool says, and the exception that it raises."""
    call = _call.get()
    if call is None:
        yield
        return
    call.masked = (call.masked or frozenset()) | masked
    found = _target(signature, args, kwargs, target)
    if found is not None:
        call.targets.append(found)
    before = call.error
    try:
        yield
    except BaseException as error:
        call.error = error
        raise
    # What a function that was called by this one raised ended there.
    call.error = before


def _target(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Principal | Callable[..., Principal | None] | None,
) -> Principal | None:
    if not callable(target):
        return target
    try:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        names = signature_of(target).parameters
        return target(**{name: bound.arguments[name] for name in names})
    except Exception as error:  # noqa: BLE001 - the application's code, which must not stop the call
        _log.error("audited_function_failed what=target error=%s", type(error).__name__)
        return None


def _outcome_of_result(result: HandlerResult, call: _ToolCall) -> Outcome:
    if call.error is not None:
        return outcome_of(call.error)
    if isinstance(result, CallToolResult):
        return "failure" if result.is_error else "success"
    if isinstance(result, dict):
        return "failure" if result.get("isError") else "success"
    return "unknown"  # The tool asks for input, and is called again with it.


def _found(
    find: Callable[[ToolContext], Principal | None], ctx: ToolContext
) -> dict[str, Any] | None:
    try:
        found = find(ctx)
        return None if found is None else principal_fields(found, "actor")
    except Exception as error:  # noqa: BLE001 - the application's code, and recording must not fail
        _log.error("actor_not_found error=%s", type(error).__name__)
        return {"id": UNKNOWN_AGENT}


def _access_token(ctx: ToolContext) -> AccessToken | None:
    if not isinstance(ctx.request, Request):
        return get_access_token()
    # Not that of the context, which is of the request that began the session.
    token: AccessToken | None = getattr(ctx.request.scope.get("user"), "access_token", None)
    return token


def _client(ctx: ToolContext) -> dict[str, str] | None:
    params = ctx.session.client_params
    if params is None:
        return None
    return {"name": params.client_info.name, "version": params.client_info.version}


def _session_hash(ctx: ToolContext) -> str | None:
    if not isinstance(ctx.request, Request):
        return None
    session = ctx.request.headers.get("mcp-session-id")
    return session and hashlib.sha256(session.encode()).hexdigest()[:_HASH_CHARS]


def _arguments(arguments: Any, masked: Collection[str]) -> Any:
    if holds_too_many((arguments, LEVELS_MAX)):
        return TOO_DEEP  # A client of the tool chose them, and no leaf has room for so many.
    if not isinstance(arguments, Mapping):
        return None if arguments is None else jsonable(arguments)
    return {name: MASKED if name in masked else jsonable(each) for name, each in arguments.items()}


def _text(name: object) -> str:
    return name if isinstance(name, str) and name else UNKNOWN_AGENT
