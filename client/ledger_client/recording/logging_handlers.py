"""Events out of what an application logs already: a logging.Handler and a structlog processor.

    logging.getLogger("app.audit").addHandler(AuditHandler(recorder))
    log.info("refunded", extra={"action": "payment.refunded", "target": ("payment", "p_1")})

    structlog.configure(processors=[..., AuditProcessor(recorder), ...])
    log.info("refunded", action="payment.refunded", target=("payment", "p_1"), amount=500)

A line with an `action` is an event; every other one is left alone. The words of `record` mean the
same here; the message becomes the reason. Neither ever raises: an event with a mistake in it is a
dead letter.
"""

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, cast

from ledger_client.recording.recorder import RecordArguments, Recorder

ACTION: Final = "action"
WORDS: Final = frozenset(RecordArguments.__annotations__)
OWN_LOGGERS: Final = "ledger_client"
"""What the recorder itself logs is not recorded: that would go round in circles."""

_FAILURES: Final = frozenset({"error", "exception", "critical", "fatal"})
_STRUCTLOG_KEYS: Final = frozenset(
    {"event", "level", "timestamp", "logger", "logger_name", "exc_info", "stack_info", "exception"}
)


class AuditHandler(logging.Handler):
    """Records the log records that have an `action`."""

    def __init__(self, recorder: Recorder, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._recorder: Final = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """Record one line, if it is an event."""
        action = record.__dict__.get(ACTION)
        if action is None or record.name.partition(".")[0] == OWN_LOGGERS:
            return
        try:
            said = {word: record.__dict__[word] for word in WORDS if word in record.__dict__}
            said.setdefault("reason", record.getMessage())
            said.setdefault("outcome", _outcome(failed=record.levelno >= logging.ERROR))
            _add_context(said, {"logger": record.name})
            self._recorder.record_quietly(action, **cast("RecordArguments", said))
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)


class AuditProcessor:
    """A structlog processor: records the lines that have an `action`, and hands every line on."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder: Final = recorder

    def __call__(
        self, _logger: Any, method: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Record one line, if it is an event."""
        if line.get(ACTION) is not None:
            self._recorder.record_quietly(line[ACTION], **_said_in(line, method))
        return line


def _said_in(line: Mapping[str, Any], method: str) -> RecordArguments:
    said = {word: line[word] for word in WORDS if word in line}
    if isinstance(line.get("event"), str):
        said.setdefault("reason", line["event"])
    said.setdefault("outcome", _outcome(failed=method in _FAILURES))
    others = {
        name: value
        for name, value in line.items()
        if name not in WORDS and name not in _STRUCTLOG_KEYS and name != ACTION
    }
    _add_context(said, others)
    return cast("RecordArguments", said)


def _add_context(said: dict[str, Any], members: Mapping[str, Any]) -> None:
    """Add members to the context; one that is no mapping stays, and the event is refused for it."""
    context = said.setdefault("context", {})
    if isinstance(context, Mapping):
        said["context"] = {**members, **context}


def _outcome(*, failed: bool) -> str:
    return "failure" if failed else "success"
