"""The pieces that several commands share: the argument DIRECTORY, log lines, a progress bar."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ledger.runtime.log_lines import FILE_VARIABLE, FORMAT_VARIABLE, FORMATS, LEVEL_VARIABLE, LEVELS
from ledger_client.cli.client_options import EXISTING_FOLDER

directory_argument = click.argument("directory", type=EXISTING_FOLDER)


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --log-format, --log-level and --log-file."""
    command = click.option(
        "--log-level",
        type=click.Choice(tuple(LEVELS)),
        default="info",
        envvar=LEVEL_VARIABLE,
        show_envvar=True,
        show_default=True,
        help="Minimum level to log.",
    )(command)
    command = click.option(
        "--log-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=FILE_VARIABLE,
        show_envvar=True,
        help="File for log lines, of all processes; without it standard error. One that is renamed "
        "is made anew.",
    )(command)
    return click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="auto",
        envvar=FORMAT_VARIABLE,
        show_envvar=True,
        show_default=True,
        help="auto: text on a terminal, JSON otherwise.",
    )(command)


@contextmanager
def progress_bar(label: str, *, is_quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error, on a terminal only. Call the result with done and total."""
    is_hidden = is_quiet or not sys.stderr.isatty()
    with click.progressbar(length=0, label=label, file=sys.stderr, hidden=is_hidden) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
