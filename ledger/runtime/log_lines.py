"""Log lines of a process, on standard error: as text on a terminal, otherwise as JSON."""

import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final, TextIO, cast

import structlog

from ledger_core.tlog.text import printable

FORMATS: Final = ("auto", "text", "json")
LEVELS: Final = {
    name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")
}
FORMAT_VARIABLE: Final = "LEDGER_LOG_FORMAT"
LEVEL_VARIABLE: Final = "LEDGER_LOG_LEVEL"


class LogStream:
    """Standard error for log lines: one that can't be written is left out, and stops nothing.

    A closed terminal, a full disk or a pipe without a reader must not end a request or the
    publisher.
    """

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logs(log_format: str, log_level: str, **fields: int) -> None:
    """Set up structlog for the process, and for the processes that it starts.

    Each line of this process has the `fields`.
    """

    def add_fields(
        _logger: Any, _name: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        line.update(fields)
        return line

    os.environ.update({FORMAT_VARIABLE: log_format, LEVEL_VARIABLE: log_level})
    is_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        # The default shows local variables, hence events, where the package rich is installed.
        [
            _escape,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
        if is_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            add_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[log_level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", LogStream())),
        cache_logger_on_first_use=True,
    )


def _escape(
    _logger: Any, _name: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Take from texts what a terminal would obey: escapes, and marks that turn the writing around.

    Lines of a text stay: the renderer quotes them.
    """
    return {
        name: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for name, value in line.items()
    }


def configure_child_logs(**fields: int) -> None:
    """Set up structlog in a process that a service started, as `configure_logs` did there."""
    configure_logs(
        os.environ.get(FORMAT_VARIABLE, "auto"), os.environ.get(LEVEL_VARIABLE, "info"), **fields
    )
