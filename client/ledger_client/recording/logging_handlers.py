"""A `logging.Handler` and a structlog processor: log lines with an `action` become events.

    logging.getLogger("app.audit").addHandler(AuditHandler(recorder))
    log.info("refunded", extra={"action": "payment.refunded", "target": ("payment", "p_1")})

    structlog.configure(processors=[..., AuditProcessor(recorder), ...])
    log.info("refunded", action="payment.refunded", target=("payment", "p_1"), amount=500)

Every other line is ignored. The arguments of `record` mean the same here; the message becomes the
reason, and the time of the line that of the event. Neither ever raises: an event with a mistake in
it is a dead letter.

Behind a `MemoryHandler` or a `QueueListener`, `AuditHandler` runs later and in another thread. Who
acts must then be found out when the line is logged: add an `AuditContextFilter` to the handler that
buffers or queues the lines (a filter of a logger does not see the lines of its children).

    queue_handler.addFilter(AuditContextFilter())
    listener = QueueListener(queue, AuditHandler(recorder))
"""

import logging
from collections.abc import Mapping, MutableMapping
from contextlib import nullcontext
from typing import Any, Final, cast

from ledger_client.recording.context import restored, sendable_scope, with_loss
from ledger_client.recording.recorder import RecordArguments, Recorder
from ledger_core.event.times import format_time

ACTION: Final = "action"
SCOPE: Final = "ledger_audit_scope"
"""The attribute of a log record that holds the audit context in which it was logged."""
MESSAGE: Final = "ledger_audit_message"
"""The attribute that holds its message: a `QueueHandler` puts the traceback behind that."""

ARGUMENTS: Final = frozenset(RecordArguments.__annotations__)
OWN_LOGGERS: Final = "ledger_client"
"""The recorder's own log lines are not recorded: each would cause another one."""

_FAILURES: Final = frozenset({"error", "exception", "critical", "fatal"})
_STRUCTLOG_KEYS: Final = frozenset(
    {"event", "level", "timestamp", "logger", "logger_name", "exc_info", "stack_info", "exception"}
)


class AuditContextFilter(logging.Filter):
    """Stamps a line that has an `action` with the audit context and its message. Every line passes.

    A line whose arguments don't fit its format loses the arguments, since a `QueueHandler` would
    lose the line.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Stamp one line, unless that was done before."""
        if record.__dict__.get(ACTION) is not None and SCOPE not in record.__dict__:
            record.__dict__[SCOPE] = with_loss(sendable_scope())
            record.__dict__[MESSAGE] = message = _message(record)
            if message is record.msg:
                record.args = None
        return True


class AuditHandler(logging.Handler):
    """Records the log records that have an `action`."""

    def __init__(self, recorder: Recorder, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._recorder: Final = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """Record one line, if it has an action."""
        action = record.__dict__.get(ACTION)
        if action is None or str(record.name).partition(".")[0] == OWN_LOGGERS:
            return
        try:
            arguments = _event_arguments(
                record.__dict__,
                reason=record.__dict__.get(MESSAGE) or _message(record),
                failed=record.levelno >= logging.ERROR,
                context={"logger": record.name},
            )
            arguments.setdefault("time", format_time(int(record.created * 1_000_000)))
            scope = record.__dict__.get(SCOPE)
            with nullcontext() if scope is None else restored(scope):
                self._recorder.record_quietly(action, **arguments)
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)


class AuditProcessor:
    """A structlog processor: records the lines that have an `action`, and returns every line."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder: Final = recorder

    def __call__(
        self, _logger: Any, method: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Record one line, if it has an action."""
        if line.get(ACTION) is not None:
            others = {
                name: value
                for name, value in line.items()
                if name not in ARGUMENTS and name not in _STRUCTLOG_KEYS and name != ACTION
            }
            message = line.get("event")
            arguments = _event_arguments(
                line,
                reason=message if isinstance(message, str) else None,
                failed=method in _FAILURES,
                context=others,
            )
            self._recorder.record_quietly(line[ACTION], **arguments)
        return line


def _message(record: logging.LogRecord) -> str:
    """The message of a line; its format, where its arguments don't fit that."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments of the application, which may fail in any way
        return str(record.msg)


def _event_arguments(
    line: Mapping[str, Any], *, reason: str | None, failed: bool, context: Mapping[str, Any]
) -> RecordArguments:
    """The arguments of `record` in a line, over what the line itself implies.

    A context that is no mapping stays as it is, and the event is refused for it.
    """
    arguments = {
        "reason": reason,
        "outcome": "failure" if failed else "success",
        **{name: line[name] for name in ARGUMENTS if name in line},
    }
    own_context = arguments.get("context", {})
    if isinstance(own_context, Mapping):
        arguments["context"] = {**context, **own_context}
    return cast("RecordArguments", arguments)
