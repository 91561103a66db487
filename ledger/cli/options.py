"""The pieces that several commands share: the argument DIRECTORY, log lines, a progress bar.

Log lines go to standard error: as text on a terminal, otherwise as JSON.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

import click
import structlog

from ledger_client.cli.client_options import EXISTING_FOLDER

directory_argument = click.argument("directory", type=EXISTING_FOLDER)

LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --log-format and --log-level."""
    command = click.option(
        "--log-level",
        type=click.Choice(tuple(LEVELS)),
        default="info",
        envvar="LEDGER_LOG_LEVEL",
        show_default=True,
        help="Minimum level to log.",
    )(command)
    return click.option(
        "--log-format",
        type=click.Choice(("auto", "text", "json")),
        default="auto",
        envvar="LEDGER_LOG_FORMAT",
        show_default=True,
        help="auto: text on a terminal, JSON otherwise.",
    )(command)


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


def configure_logs(log_format: str, log_level: str) -> None:
    """Set up structlog for the process."""
    is_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if is_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[log_level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", LogStream())),
        cache_logger_on_first_use=True,
    )


@contextmanager
def progress_bar(label: str, *, is_quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error, on a terminal only. Call the result with done and total."""
    is_hidden = is_quiet or not sys.stderr.isatty()
    with click.progressbar(length=0, label=label, file=sys.stderr, hidden=is_hidden) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
