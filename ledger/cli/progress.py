"""A progress bar on standard error, for commands that read a whole ledger."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Progress = Callable[[int, int], None]
"""Takes how much is done, and the total."""


@contextmanager
def progress_bar(label: str, *, is_quiet: bool) -> Iterator[Progress]:
    """Draw a bar, but only on a terminal, so that a pipe gets the result alone."""
    is_hidden = is_quiet or not sys.stderr.isatty()
    with click.progressbar(length=0, label=label, file=sys.stderr, hidden=is_hidden) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
