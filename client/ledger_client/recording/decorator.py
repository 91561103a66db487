"""`@audited`: each call of a function is an event, whatever comes of it.

    @audited("payment.refunded", target=lambda payment_id: ("payment", payment_id))
    def refund(payment_id: str, amount: int) -> None: ...

It works on functions, coroutine functions, generators and asynchronous generators; of a generator
the whole run is one event, at its end.

`target`, `changes` and `context` may be functions: they are called with those arguments of the call
that they name, `target` and `context` before the function runs and `changes` after. What the event
lacks shows before too, so that a mistake never turns up after the money has been sent; and nothing
that goes wrong with recording afterwards changes what the caller gets.
"""

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from ledger_client.recording.arguments import Changes, Principal
from ledger_client.recording.current import current_recorder
from ledger_client.recording.exception_outcomes import Outcome, outcome_of
from ledger_client.recording.recorder import RecordArguments, Recorder

F = TypeVar("F", bound=Callable[..., Any])

RESULT: Final = "result"
"""The name under which `changes` may ask for what the function returned."""

_log = logging.getLogger("ledger_client.recorder")


def audited(
    action: str,
    *,
    target: Principal | Callable[..., Principal | None] | None = None,
    actor: Principal | Callable[[], Principal | None] | None = None,
    changes: Callable[..., Changes | None] | None = None,
    context: Mapping[str, Any] | Callable[..., Mapping[str, Any] | None] | None = None,
    reason: str | None = None,
    recorder: Recorder | None = None,
) -> Callable[[F], F]:
    """Record each call: `success`, `failure` on an exception, `denied` on a forbidden one.

    The exception goes on to the caller; the event names its type and not its message, which may
    hold anything. Without `recorder` the one of `use_recorder` is taken, at the call.

    The decorated function raises, before anything is done: RuntimeError without a recorder, and
    EventError for a mistake in the event when the recorder raises those.
    """
    said: RecordArguments = {"actor": actor, "reason": reason}

    def decorate(function: F) -> F:
        audit = _Audit(
            action,
            said,
            signature=inspect.signature(function),
            target=target,
            changes=changes,
            context=context,
            recorder=recorder,
        )
        return cast("F", _wrap(function, audit))

    return decorate


class _Audit:
    """What is to be recorded of each call of one function."""

    def __init__(
        self,
        action: str,
        said: RecordArguments,
        *,
        signature: inspect.Signature,
        target: Principal | Callable[..., Principal | None] | None,
        changes: Callable[..., Changes | None] | None,
        context: Mapping[str, Any] | Callable[..., Mapping[str, Any] | None] | None,
        recorder: Recorder | None,
    ) -> None:
        self._action: Final = action
        self._said: Final[RecordArguments] = said
        self._signature: Final = signature
        self._target: Final = _Asked("target", target)
        self._changes: Final = _Asked("changes", changes)
        self._context: Final = _Asked("context", context)
        self._recorder: Final = recorder

    @contextmanager
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Around one call: what it leaves as `result` in the mapping may be asked for."""
        recorder = self._recorder or current_recorder()
        arguments = self._arguments(args, kwargs)
        said: RecordArguments = {
            **self._said,
            "target": self._target.of(arguments),
            "context": self._context.of(arguments),
        }
        recorder.check(self._action, **said)
        outcome: Outcome = "success"
        error_type: str | None = None
        try:
            yield arguments
        except BaseException as error:
            outcome = outcome_of(error)
            error_type = type(error).__name__
            raise
        finally:
            said["changes"] = self._changes.of(arguments) if outcome == "success" else None
            said["outcome"] = outcome
            if error_type is not None:
                said["context"] = {**(said["context"] or {}), "error": error_type}
            recorder.record_quietly(self._action, **said)

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not (self._target.is_asked or self._changes.is_asked or self._context.is_asked):
            return {}
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            return {}  # The call itself will say what is wrong with it.
        bound.apply_defaults()
        return bound.arguments


class _Asked:
    """A value, or a function that gives it from the arguments of a call."""

    def __init__(self, what: str, value: Any) -> None:
        self._what: Final = what
        self._value: Final = value
        self.is_asked: Final = callable(value)
        self._names: Final = tuple(inspect.signature(value).parameters) if self.is_asked else ()

    def of(self, arguments: Mapping[str, Any]) -> Any:
        if not self.is_asked:
            return self._value
        try:
            return self._value(**{name: arguments[name] for name in self._names})
        except Exception as error:  # noqa: BLE001 - the application's code, and not what was called
            _log.error("audited_function_failed what=%s error=%s", self._what, type(error).__name__)
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
        with audit.call(args, kwargs) as arguments:
            arguments[RESULT] = function(*args, **kwargs)
        return arguments[RESULT]

    return run


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
                    except BaseException as error:  # noqa: BLE001 - it is handed on, as `yield from` does
                        step = inner.athrow(error)
                    else:
                        step = inner.asend(sent)
            finally:
                await inner.aclose()

    return iterate
