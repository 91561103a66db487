"""What stays in memory of the segments that were asked last: blocks of terms, and columns.

A look-up in a block costs its read, its checksum and its decompression, and a query about common
values makes one in each segment. The next question of a responder is mostly about the same values,
with one more condition.

A column is the place of each entry's value in its dimension, with the values: for counts over very
many values. Reading it takes milliseconds, and a question about a month reads two of each of its
segments. With 20,000 values it takes 1.4 MB, or 0.3 MB if other segments have the same values.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from sys import intern
from typing import Final, Generic, Protocol, TypeVar

from ledger.store.index.segment_file import TableCache
from ledger.store.index.term_blocks import OpenBlock

BLOCKS_BYTES: Final = 32 << 20
"""Memory for the blocks of all segments."""

COLUMNS_BYTES: Final = 48 << 20
"""Memory for the columns of all segments."""

_STR_BYTES = 57
"""The memory of a string beside its characters, with a reference."""


class _Sized(Protocol):
    @property
    def size(self) -> int:
        """The bytes that it takes in memory."""


T = TypeVar("T", bound=_Sized)


class BoundedCache(Generic[T]):
    """What was used last, up to some bytes. Safe from any thread."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """What stands under a key; `read` reads what does not stand there yet."""
        try:
            # Each is atomic; another thread may evict the key between them.
            found = self._kept[key]
            self._kept.move_to_end(key)
        except KeyError:
            found = read()
        else:
            return found
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._bytes += found.size
            while self._bytes > self._bytes_max:
                self._bytes -= self._kept.popitem(last=False)[1].size
        return found


class ValueColumn:
    """The place of each entry's value, NO_PLACE if it has none, and the values by their place."""

    __slots__ = ("places", "size", "values")

    def __init__(self, places: "array[int]", values: Iterable[str]) -> None:
        self.places: Final = places
        # Segments have many values in common, which are in memory once.
        self.values: Final = list(map(intern, values))
        self.size: Final = (
            2 * len(places) + sum(map(len, self.values)) + _STR_BYTES * len(self.values)
        )


class SegmentCache:
    """What stays in memory of segments, by the serial number of their files and the dimension."""

    def __init__(self) -> None:
        self.tables: Final = TableCache()
        self.blocks: Final = BoundedCache[OpenBlock](BLOCKS_BYTES)
        self.columns: Final = BoundedCache[ValueColumn](COLUMNS_BYTES)
