"""A table of any columns, as wide as the terminal; in a pipe every cell is whole."""

import shutil
import sys
from collections.abc import Sequence
from typing import Final

import click

from ledger_core.tlog.text import printable

GAP: Final = "  "
CELL_CHARS_MIN: Final = 8


def terminal_width() -> int | None:
    """The columns of the terminal; None where the output isn't shown on one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show_grid(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, are_numbers: Sequence[bool]
) -> None:
    """Print a heading and rows. Numbers stand at the right; long cells are cut on a terminal."""
    cells = [[printable(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    most = terminal_width()
    if most is not None:
        widths = fitted(widths, most)
    for place, row in enumerate(cells):
        line = GAP.join(
            cut(cell, width).rjust(width) if is_number else cut(cell, width).ljust(width)
            for cell, width, is_number in zip(row, widths, are_numbers, strict=True)
        ).rstrip()
        click.secho(line, dim=not place)


def fitted(widths: Sequence[int], most: int) -> list[int]:
    """Narrow the widest columns until a line fits, but none below `CELL_CHARS_MIN`."""
    fit = list(widths)
    excess = sum(fit) + len(GAP) * (len(fit) - 1) - most
    while excess > 0:
        widest = max(range(len(fit)), key=fit.__getitem__)
        if fit[widest] <= CELL_CHARS_MIN:
            break
        fit[widest] -= 1
        excess -= 1
    return fit


def cut(text: str, width: int) -> str:
    """The text, or its beginning and a sign that something is left out."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
