"""The values of a dimension by the entries of a segment, for counts over very many values.

A segment's file stores the place of each entry's value, and the values in their blocks. Reading
both takes milliseconds, and a question about a month reads them for each of its segments, so those
that were used last stay in memory, in the form of bytes: 0.4 MB for 20,000 values.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from typing import Final

COLUMN_BYTES: Final = 32 << 20
"""Memory for the columns of all segments."""

_SEPARATOR = b"\0"


class ValueColumn:
    """The place of each entry's value, NO_PLACE if it has none, and the values by their place."""

    __slots__ = ("_starts", "_text", "places", "size")

    def __init__(self, places: "array[int]", values: list[bytes]) -> None:
        """Precondition: no value holds a NUL."""
        self.places: Final = places
        self._text = _SEPARATOR.join(values)
        self._starts = array("I", accumulate(map((1).__add__, map(len, values)), initial=0))
        self.size: Final = sum(each.itemsize * len(each) for each in (places, self._starts)) + len(
            self._text
        )

    def value(self, place: int) -> str:
        """The value at a place that some entry has."""
        return self._text[self._starts[place] : self._starts[place + 1] - 1].decode()

    def values(self) -> list[str]:
        """Every value by its place."""
        return self._text.decode().split("\0") if len(self._starts) > 1 else []


class ColumnCache:
    """The columns that were used last, of any segment and dimension. Safe from any thread."""

    def __init__(self, bytes_max: int = COLUMN_BYTES) -> None:
        self._bytes_max = bytes_max
        self._columns: OrderedDict[tuple[int, str], ValueColumn] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def column(
        self, serial: int, dimension: str, read: Callable[[], ValueColumn | None]
    ) -> ValueColumn | None:
        """The column of a dimension in the file of this serial number; `read` reads it."""
        key = (serial, dimension)
        with self._lock:
            found = self._columns.get(key)
            if found is not None:
                self._columns.move_to_end(key)
                return found
        column = read()
        if column is not None:
            with self._lock:
                if key not in self._columns:
                    self._columns[key] = column
                    self._bytes += column.size
                while self._bytes > self._bytes_max:
                    self._bytes -= self._columns.popitem(last=False)[1].size
        return column
