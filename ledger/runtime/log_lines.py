"""Log lines of a process, on standard error or in a file: as text on a terminal, else as JSON.

A file that was renamed or deleted, as logrotate does, is made anew by the next line: its
processes need not be told. Lines that strangers cause have a limit.
"""

import logging
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

from ledger_client.runtime.line_limit import LineLimit
from ledger_client.runtime.sender_network import sender_network
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.text import printable

FORMATS: Final = ("auto", "text", "json")
LEVELS: Final = {
    name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")
}
FORMAT_VARIABLE: Final = "LEDGER_LOG_FORMAT"
LEVEL_VARIABLE: Final = "LEDGER_LOG_LEVEL"
FILE_VARIABLE: Final = "LEDGER_LOG_FILE"
FILE_MODE: Final = 0o640

LIMITED_LINES: Final = frozenset(
    {
        *("connection_refused", "handshake_failed", "head_too_slow", "body_too_slow"),
        *("reader_gone", "request_refused", "head_refused", "log_forked"),
    }
)
"""Lines that a client causes as often as it likes, by `by`, `origin` or `address`."""


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


class LogFile:
    """A file for log lines, of all processes of a service: each line is one write at its end.

    A line that can't be written goes to standard error.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises: UnavailableError."""
        self._path: Final = path
        self._lock: Final = threading.Lock()
        self._descriptor = -1
        try:
            self._open()
        except OSError as error:
            raise UnavailableError(f"the log file {path}: {error.strerror}") from None

    def write(self, text: str) -> None:
        try:
            with self._lock:
                if not self._is_current():
                    self._open()
                os.write(self._descriptor, text.encode("utf-8", "replace"))
        except OSError:
            LogStream().write(text)

    def flush(self) -> None:
        """Nothing: a line is not kept back."""

    def _is_current(self) -> bool:
        """Whether the path still names the open file."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        opened = os.open(self._path, flags, FILE_MODE)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = opened


def configure_logs(
    log_format: str, log_level: str, log_file: Path | None = None, **fields: int
) -> None:
    """Set up structlog for the process, and for the processes that it starts.

    Each line of this process has the `fields`. Raises: UnavailableError when there can be no such
    file.
    """
    stream = LogStream() if log_file is None else LogFile(log_file)

    def add_fields(
        _logger: Any, _name: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        line.update(fields)
        return line

    os.environ.update({FORMAT_VARIABLE: log_format, LEVEL_VARIABLE: log_level})
    if log_file is not None:
        os.environ[FILE_VARIABLE] = str(log_file.absolute())
    is_terminal = log_file is None and sys.stderr.isatty()
    is_text = log_format == "text" or (log_format == "auto" and is_terminal)
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
            limit_lines(LineLimit()),
            add_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[log_level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", stream)),
        cache_logger_on_first_use=True,
    )


def limit_lines(limit: LineLimit) -> structlog.typing.Processor:
    """A processor that leaves out what is too much of `LIMITED_LINES`."""

    def admit(
        _logger: Any, _name: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if line["event"] not in LIMITED_LINES:
            return line
        sender = line.get("by") or line.get("origin") or sender_network(line.get("address") or "")
        left_out = limit.admit(line["event"], sender)
        if left_out is None:
            raise structlog.DropEvent
        return {**line, "left_out": left_out} if left_out else line

    return admit


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
    log_file = os.environ.get(FILE_VARIABLE)
    configure_logs(
        os.environ.get(FORMAT_VARIABLE, "auto"),
        os.environ.get(LEVEL_VARIABLE, "info"),
        Path(log_file) if log_file else None,
        **fields,
    )
