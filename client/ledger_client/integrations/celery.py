"""Celery: a task works in the audit context of the code that sent it.

    app = Celery("shop")
    audit_tasks()

One call, in the module that both the application and its workers import. The context goes with the
message as JSON, so whoever can write to the broker can name any actor. A task that nobody sent from
an audit context, as those of the beat, starts with an empty one. `context.task` and
`context.task_id` name the task. Retries and the tasks that a task sends keep its context. An eager
task runs in its caller's context, as the function that it is.
"""

from contextlib import suppress
from typing import Any, Final

from celery import signals

from ledger_client.recording.context import restored_job, sendable_scope
from ledger_client.recording.recorder import recorder_in_use

HEADER: Final = "ledger_audit_scope"
"""The header of a message that holds the audit context."""

FLUSH_S: Final = 5.0
_BLOCK: Final = "_ledger_block"


def audit_tasks() -> None:
    """Connect to the signals of Celery, of all applications in this process. Again: no effect."""
    connections = {
        signals.before_task_publish: _add_scope,
        signals.task_prerun: _begin,
        signals.task_postrun: _end,
        signals.worker_process_shutdown: _flush,
    }
    for signal, receiver in connections.items():
        signal.connect(receiver, weak=False, dispatch_uid=f"ledger_client.{receiver.__name__}")


def _add_scope(headers: dict[str, Any], **_: Any) -> None:
    headers[HEADER] = sendable_scope()


def _begin(task: Any, task_id: str, **_: Any) -> None:
    if task.request.is_eager:
        return
    scope = getattr(task.request, HEADER, None)
    block = restored_job(scope, task=task.name, task_id=task_id)
    block.__enter__()
    setattr(task.request, _BLOCK, block)


def _end(task: Any, **_: Any) -> None:
    block = task.request.__dict__.pop(_BLOCK, None)
    if block is not None:
        block.__exit__(None, None, None)


def _flush(**_: Any) -> None:
    # A process of the pool ends without the exit functions of Python.
    recorder = recorder_in_use()
    if recorder is not None:
        with suppress(Exception):
            recorder.flush(FLUSH_S)
