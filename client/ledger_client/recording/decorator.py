"""`@audited`: records each call of a function as an event, whatever its outcome.

    @audited("payment.refunded", target=lambda payment_id: ("payment", payment_id))
    def refund(payment_id: str, amount: int) -> None: ...

It works on functions, coroutine functions, generators and asynchronous generators; of a generator
the whole run is one event, at its end. If a function returns an awaitable or a future, as a
decorated coroutine function does, the call ends when that is done. A coroutine that is never
awaited is no event: nothing of it ran. An awaitable with other uses, such as `async with`, is
returned as it is, and the call ends there.

The actor is who acted when the call began, if the function of the audit context named somebody
then: a call that logs out, or becomes another user, is still of who made it. Another user at its
end is `context.actor_after`.

`target`, `changes` and `context` may be functions: they are called with those arguments of the call
that they name, `target` and `context` before the function runs and `changes` after. No failure of
recording changes what the caller gets, and none keeps the function from running: without a recorder
an error is logged, and an event with a mistake is a dead letter. With `require=True`, both are
raised before the function runs, so that nothing is done that can't be recorded.

If the function returns a response of Django, DRF, Flask, Starlette, FastAPI or aiohttp, that
decides the outcome: 401 and 403 are `denied`, another 4xx or 5xx is a `failure`. If an integration
knows it as the view of a request, the response that is sent decides: see `view_request`.
"""

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from ledger_client.recording.acting import acting_now
from ledger_client.recording.arguments import Changes, Principal
from ledger_client.recording.awaitables import has, is_only_awaited
from ledger_client.recording.context import (
    audit_context,
    current_context,
    ended_in,
    pinned_scope,
    restored,
)
from ledger_client.recording.exception_outcomes import (
    Outcome,
    outcome_of,
    outcome_of_status,
    response_of,
)
from ledger_client.recording.jsonable import copy_members
from ledger_client.recording.recorder import RecordArguments, Recorder, current_recorder
from ledger_client.recording.view_request import ResponseOutcome, current_view_request
from ledger_client.runtime.signatures import signature_of

F = TypeVar("F", bound=Callable[..., Any])

RESULT: Final = "result"
"""The name of the parameter by which `changes` and `outcome` get the function's return value."""

_AUDIT: Final = "__ledger_audit__"
"""The attribute by which an integration knows an audited view, also below other decorators."""

_log = logging.getLogger("ledger_client.recorder")


def audited(
    action: str,
    *,
    target: Principal | Callable[..., Principal | None] | None = None,
    actor: Principal | Callable[[], Principal | None] | None = None,
    changes: Callable[..., Changes | None] | None = None,
    context: Mapping[str, Any] | Callable[..., Mapping[str, Any] | None] | None = None,
    outcome: Callable[..., Outcome | None] | None = None,
    reason: str | None = None,
    recorder: Recorder | None = None,
    require: bool = False,
) -> Callable[[F], F]:
    """Record each call: `success`, `failure` on an exception, `denied` on a forbidden one.

    `outcome` is for a function that tells in its result how it ended: it is called with the
    arguments that it names and `result`, and decides unless it returns None.

    The exception is raised to the caller; the event names its type and not its message, which may
    hold a secret. The default `recorder` is the one of `use_recorder` at the time of the call.

    With `require`, the decorated function raises, before anything is done: RuntimeError without a
    recorder, and EventError for a mistake in the event when the recorder raises those.
    """

    def decorate(function: F) -> F:
        audit = _Audit(
            action,
            {"actor": actor, "reason": reason},
            recorder,
            signature_of(function),
            target=_FromArguments("target", target),
            changes=_FromArguments("changes", changes),
            context=_FromArguments("context", context),
            outcome=_FromArguments("outcome", outcome),
            require=require,
        )
        wrapped = _wrap(function, audit)
        setattr(wrapped, _AUDIT, audit)
        return cast("F", wrapped)

    return decorate


@dataclass(frozen=True, slots=True)
class _Audit:
    """Records the calls of one function."""

    action: str
    fixed: RecordArguments
    recorder: Recorder | None
    signature: inspect.Signature
    target: "_FromArguments"
    changes: "_FromArguments"
    context: "_FromArguments"
    outcome: "_FromArguments"
    require: bool

    @contextmanager
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Record the call inside the block, which puts its `result` into the mapping."""
        recorder, begun = self._recorder(require=self.require), current_context()
        acting = None if recorder is None or self.fixed["actor"] is not None else acting_now()
        arguments = self._arguments(args, kwargs)
        event: RecordArguments = {
            **self.fixed,
            "target": self.target.of(arguments),
            "context": self.context.of(arguments),
        }
        if self.require and recorder is not None:
            recorder.check(self.action, **event)
        request = current_view_request()
        if request is not None and not request.begins(self):
            request = None
        error: BaseException | None = None
        try:
            yield arguments
        except BaseException as raised:
            error = raised
            raise
        finally:
            if recorder is not None:
                try:
                    with ended_in(begun):
                        actor, after = (None, None) if acting is None else acting.at_end()
                        finish = self._ended(event, arguments, error, after)
                        with nullcontext() if actor is None else audit_context(actor=actor):
                            if request is None:
                                recorder.record_quietly(self.action, **finish(None))
                            else:
                                request.end_call(self._pinned(recorder, finish))
                except Exception as failed:  # noqa: BLE001 - the caller gets its own result or error
                    reason = type(failed).__name__
                    _log.error("event_lost action=%s reason=%s", self.action, reason)

    def record_refusal(self, arguments: Mapping[str, Any], response: ResponseOutcome) -> None:
        """Record that a request was refused before its view was called."""
        recorder = self._recorder(require=False)  # Nothing is left to be kept from running.
        if recorder is not None:
            event: RecordArguments = {
                **self.fixed,
                "target": self.target.of_known(arguments),
                "context": self.context.of_known(arguments),
                "outcome": response.outcome,
            }
            recorder.record_quietly(
                self.action, **_with_context(event, http_status=response.status)
            )

    def _ended(
        self,
        event: RecordArguments,
        arguments: dict[str, Any],
        error: BaseException | None,
        actor_after: dict[str, Any] | None,
    ) -> Callable[[ResponseOutcome | None], RecordArguments]:
        """A function that makes the event, given the response that followed the call."""
        own, own_status = _own_outcome(arguments, error)
        stated = _given(self.outcome.of(arguments)) if error is None else None
        changes = self.changes.of(arguments) if (stated or own) == "success" else None
        error_type = None if error is None else type(error).__name__

        def finish(response: ResponseOutcome | None) -> RecordArguments:
            outcome = stated or _combined(own, response)
            is_success = outcome == "success"
            status = own_status if response is None else response.status
            ended: RecordArguments = {
                **event,
                "outcome": outcome,
                "changes": changes if is_success else None,
            }
            return _with_context(
                ended,
                error=error_type,
                http_status=None if is_success else status,
                actor_after=actor_after,
            )

        return finish

    def _pinned(
        self, recorder: Recorder, finish: Callable[[ResponseOutcome | None], RecordArguments]
    ) -> Callable[[ResponseOutcome], None]:
        """A function that records the call later, with the time and the audit context of now."""
        actor = self.fixed["actor"]
        with nullcontext() if actor is None else audit_context(actor=actor):
            scope, at = pinned_scope(), datetime.now(UTC)
        pinned = None if actor is None else scope["actor"]

        def record(response: ResponseOutcome) -> None:
            ended: RecordArguments = {**finish(response), "actor": pinned, "time": at}
            with restored(scope):
                recorder.record_quietly(self.action, **ended)

        return record

    def _recorder(self, *, require: bool) -> Recorder | None:
        try:
            return self.recorder or current_recorder()
        except Exception as error:
            if require:
                raise
            _log.error("event_lost action=%s reason=%s", self.action, error)
            return None

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        asked = (self.target, self.changes, self.context, self.outcome)
        if not any(each.is_function for each in asked):
            return {}
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            return {}  # The call itself will raise it too.
        bound.apply_defaults()
        return bound.arguments


def audit_of(view: object) -> _Audit | None:
    """What `@audited` keeps of a view; None of one that isn't audited."""
    try:
        audit = getattr(view, _AUDIT, None)
    except Exception:  # noqa: BLE001 - the application's object
        return None
    # The type is asked: an object may have any attribute, and any `__class__`.
    return audit if type(audit) is _Audit else None


class _FromArguments:
    """A value, or a function that computes it from the arguments of a call."""

    def __init__(self, name: str, value: Any) -> None:
        self._name: Final = name
        self._value: Final = value
        self.is_function: Final = callable(value)
        self._names: Final = tuple(signature_of(value).parameters) if self.is_function else ()

    def of(self, arguments: Mapping[str, Any]) -> Any:
        if not self.is_function:
            return self._value
        try:
            return self._value(**{name: arguments[name] for name in self._names})
        except Exception as error:  # noqa: BLE001 - the application's code, which must not stop the call
            _log.error("audited_function_failed what=%s error=%s", self._name, type(error).__name__)
            return None

    def of_known(self, arguments: Mapping[str, Any]) -> Any:
        """As `of`; None where some of the arguments aren't known."""
        return self.of(arguments) if arguments.keys() >= set(self._names) else None


def _own_outcome(
    arguments: Mapping[str, Any], error: BaseException | None
) -> tuple[Outcome, int | None]:
    """How the function itself ended, and the status of the response that it returned."""
    if error is not None:
        return outcome_of(error), None
    response = response_of(arguments.get(RESULT))
    if response is None:
        return "success", None
    request = current_view_request()
    if request is None:
        return outcome_of_status(response[0]), response[0]
    return request.outcome(*response), response[0]


def _combined(own: Outcome, response: ResponseOutcome | None) -> Outcome:
    """The outcome of a call and of the response that followed it."""
    if response is None or own == "denied" or response.outcome in {"success", "unknown"}:
        return own
    return response.outcome


def _with_context(event: RecordArguments, **members: object) -> RecordArguments:
    known = {name: value for name, value in members.items() if value is not None}
    context = _given(event["context"])
    if not known or not isinstance(context, Mapping | None):
        return event  # What is no mapping is a mistake, and this event a dead letter.
    return {**event, "context": {**copy_members(context or {}), **known}}


def _given(value: Any) -> Any:
    """What the application's function gave; None for nothing, and for what can't be asked."""
    try:
        return value or None
    except Exception:  # noqa: BLE001 - the application's object, whose truth may raise
        return None


def _wrap(function: Callable[..., Any], audit: _Audit) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):
        return _wrap_async_generator(function, audit)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with audit.call(args, kwargs) as arguments:
                arguments[RESULT] = await function(*args, **kwargs)
            return arguments[RESULT]

        return run_async
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def iterate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with audit.call(args, kwargs) as arguments:
                arguments[RESULT] = yield from function(*args, **kwargs)
            return arguments[RESULT]

        return iterate

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            arguments = stack.enter_context(audit.call(args, kwargs))
            result = arguments[RESULT] = function(*args, **kwargs)
            if has(result, "add_done_callback"):
                return _record_when_done(result, arguments, stack.pop_all())
            if is_only_awaited(result):
                return _record_when_awaited(result, arguments, stack.pop_all())
        return result

    return run


def _record_when_done(future: Any, arguments: dict[str, Any], call: ExitStack) -> Any:
    """End the call when a future of asyncio or concurrent.futures is done; it is returned."""

    def end(_: object) -> None:
        with suppress(BaseException), call:  # The caller of the function gets the exception.
            arguments[RESULT] = future.result()

    # A future of concurrent.futures runs this in its thread, which has no audit context.
    context = copy_context()
    try:
        future.add_done_callback(lambda done: context.run(end, done))
    except Exception:  # noqa: BLE001 - no future after all: the call has ended
        with call:
            arguments[RESULT] = future
    return future


async def _record_when_awaited(
    awaitable: Awaitable[Any], arguments: dict[str, Any], call: ExitStack
) -> Any:
    with call:
        arguments[RESULT] = await awaitable
    return arguments[RESULT]


def _wrap_async_generator(function: Callable[..., Any], audit: _Audit) -> Callable[..., Any]:
    @functools.wraps(function)
    async def iterate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with audit.call(args, kwargs):
            inner: AsyncGenerator[Any, Any] = function(*args, **kwargs)
            step = inner.__anext__()
            try:
                while True:
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown on, as `yield from` does
                        step = inner.athrow(error)
                    else:
                        step = inner.asend(sent)
            finally:
                await inner.aclose()

    return iterate
