"""Rows of CSV, as objects: `{"user_name": "jo", "message": "…"}`.

The first row names the columns, unless the mapping does, for files that have no such row. An empty
cell is left out. A cell without a column is `column_27`, by its place.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ledger_core.tlog.errors import MalformedError

CELL_CHARS_MAX = 16 * 1024 * 1024


def read_rows(
    plain: BinaryIO, bytes_max: int, columns: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str] | bytes]]:
    """Yield each row and the number of its first line; a row that isn't CSV as its bytes.

    Raises: MalformedError for a row that is too long, such as after a quote that nothing closes.
    """
    for number, text in _texts(plain, bytes_max):
        cells = parse_row(text.decode(errors="backslashreplace"))
        if cells is None:
            yield number, text
        elif not columns:
            columns = cells
        else:
            yield (
                number,
                {
                    columns[place] if place < len(columns) else f"column_{place + 1}": cell
                    for place, cell in enumerate(cells)
                    if cell
                },
            )


def parse_row(text: str) -> list[str] | None:
    """Return the cells of one row; None for a text that isn't one."""
    # The module has one limit, too low for the statements in a log of a database.
    csv.field_size_limit(max(csv.field_size_limit(), CELL_CHARS_MAX))
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _texts(plain: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Yield the text of each row: lines, until each quote is closed."""
    number, first, row, quotes = 0, 1, bytearray(), 0
    while line := plain.readline(bytes_max + 1 - len(row)):
        number += 1
        row += line
        quotes += line.count(b'"')
        if len(row) > bytes_max:
            raise MalformedError(f"the row in line {first} has more than {bytes_max} bytes")
        if quotes % 2 == 0:
            if row.strip():
                yield first, bytes(row.rstrip(b"\r\n"))
            first, row, quotes = number + 1, bytearray(), 0
    if row.strip():
        yield first, bytes(row)
