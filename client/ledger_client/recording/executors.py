"""`with_audit_context`: functions in an executor work in the audit context of who submits them."""

import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from ledger_client.recording.acting import BoundActor
from ledger_client.recording.context import (
    AuditContext,
    current_scope,
    restored,
    restored_job,
    sendable_scope,
)

E = TypeVar("E", bound=Executor)


def with_audit_context(executor: E) -> E:
    """Change `submit` of this executor, which `map` and `loop.run_in_executor` use; it is returned.

        pool = with_audit_context(ThreadPoolExecutor())
        loop.set_default_executor(pool)

    To a pool of processes the audit context goes as JSON. Code without an audit context submits as
    before.
    """
    submit = executor.submit
    processes = sys.modules.get("concurrent.futures.process")
    is_of_processes = processes is not None and isinstance(executor, processes.ProcessPoolExecutor)

    def submit_within(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        scope = current_scope()
        if not scope:
            return submit(function, *args, **kwargs)
        if is_of_processes:
            return submit(_run_job, sendable_scope(), function, args, kwargs)
        if callable(actor := scope.get("actor")):
            scope = {**scope, "actor": BoundActor(actor)}
        return submit(_run_within, scope, function, args, kwargs)

    executor.submit = submit_within  # type: ignore[method-assign] # the class stays as it is
    return executor


def _run_within(
    scope: AuditContext, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> Any:
    with restored(scope):
        return function(*args, **kwargs)


def _run_job(
    scope: dict[str, Any], function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> Any:
    with restored_job(scope):
        return function(*args, **kwargs)
