"""What stays in memory of the segments that were asked last: blocks of terms, columns and hours.

A look-up in a block costs its read, its checksum and its decompression, and a query about common
values makes one in each segment. The next question of a responder is mostly about the same values,
with one more condition.

A column is the place of each entry's value in its dimension, with the values: for counts over very
many values. Reading it takes milliseconds, and a question about a month reads two of each of its
segments. It stays as text: 0.3 MB with 20,000 values.

The hours of a segment are the bitmaps of their entries, by hour and by day. A segment of a month
has 700 posting lists of hours; a range of time unites them, and a histogram intersects each. In
memory, a range is a union of some 30 days and of the hours beside them.
"""

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from itertools import accumulate, groupby
from typing import Final, Generic, Protocol, TypeVar

from pyroaring import BitMap

from ledger.store.index.roaring_containers import assemble, union_of
from ledger.store.index.segment_file import BlockTable, SegmentFile
from ledger.store.index.term_blocks import OpenBlock

BLOCKS_BYTES: Final = 32 << 20
"""Memory for the blocks of all segments."""

TABLES_BYTES: Final = 48 << 20
"""Memory for the tables of all segments, some 5 KB each. With millions of terms of one client it is
megabytes."""

COLUMNS_BYTES: Final = 80 << 20
"""Memory for the columns of all segments."""

HOURS_BYTES: Final = 24 << 20
"""Memory for the hours of all segments."""

HOUR_BLOCKS_MAX: Final = 128
"""Blocks of hours of a segment that become bitmaps: at most 18,000 hours, in 10 MB."""

_DAY_CHARS = 10
_BITMAP_BYTES = 430
"""The memory of a bitmap of one container beside its payload, and of its name."""

_TEXT_BYTES = 80
"""The memory of the text of a block beside its characters."""


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

    __slots__ = ("_ends", "_texts", "places", "size")

    def __init__(self, places: "array[int]", blocks: Iterable[OpenBlock]) -> None:
        """`blocks`: those of the dimension, in order."""
        self.places: Final = places
        counts: list[int] = []
        self._texts: Final[list[str]] = []
        for block in blocks:
            counts.append(block.count)
            self._texts.append(block.text.decode())
        self._ends: Final = list(accumulate(counts))
        self.size: Final = 2 * len(places) + sum(map(len, self._texts)) + _TEXT_BYTES * len(counts)

    @property
    def blocks(self) -> int:
        """The number of texts, of which each has the values of a block."""
        return len(self._texts)

    def values(self) -> list[str]:
        """Every value by its place."""
        values: list[str] = []
        for text in self._texts:
            values += text.split("\0")
        return values

    def named(self, places: Iterable[int]) -> Iterator[str]:
        """The values at some places, which ascend; only their texts are split."""
        values: list[str] = []
        start = end = at = 0
        for place in places:
            while place >= end:
                start, end = end, self._ends[at]
                at += 1
                values = []
            values = values or self._texts[at - 1].split("\0")
            yield values[place - start]


class SegmentHours:
    """The entries of one segment by the hour and by the day of their event time.

    Nothing changes a bitmap of it.
    """

    __slots__ = ("_days", "_hours", "_names", "_starts", "size")

    def __init__(self, blocks: Iterable[OpenBlock]) -> None:
        """`blocks`: those of the hours, in order. Cost: 6 µs an hour."""
        names: list[str] = []
        self._hours: Final[list[BitMap]] = []
        payloads = 0
        for block in blocks:
            for name, container in block:
                names.append(name.decode())
                self._hours.append(assemble([(0, container)]))
                payloads += len(container.payload)
        self._names: Final = names
        self._starts: Final[list[int]] = []
        """For each day its first hour, and the number of hours as the last item."""
        self._days: Final[list[BitMap]] = []
        start = 0
        for _, hours in groupby(names, lambda name: name[:_DAY_CHARS]):
            end = start + len(list(hours))
            self._starts.append(start)
            self._days.append(union_of(self._hours[start:end]))
            start = end
        self._starts.append(start)
        self.size: Final = 2 * payloads + _BITMAP_BYTES * (len(names) + len(self._days))

    def between(self, low: str, high: str) -> BitMap:
        """The entries of the hours `low <= hour < high`, in a bitmap of its own."""
        start = bisect_left(self._names, low)
        end = bisect_left(self._names, high, start)
        first = bisect_left(self._starts, start)
        last = bisect_right(self._starts, end) - 1
        if first > last:  # Within one day.
            return BitMap.union(BitMap(), *self._hours[start:end])
        return BitMap.union(
            BitMap(),
            *self._hours[start : self._starts[first]],
            *self._days[first:last],
            *self._hours[self._starts[last] : end],
        )

    def count(self, offsets: BitMap, *, by_day: bool) -> Iterator[tuple[str, int]]:
        """How many of some entries are of each hour; `by_day`: of each day, named by an hour."""
        if by_day:
            names = [self._names[start] for start in self._starts[:-1]]
            bitmaps = self._days
        else:
            names, bitmaps = self._names, self._hours
        return zip(names, map(offsets.intersection_cardinality, bitmaps), strict=True)


class SegmentCache:
    """What stays in memory of segments, by the serial number of their files and the dimension."""

    def __init__(self) -> None:
        self._tables: Final = BoundedCache[BlockTable](TABLES_BYTES)
        self.blocks: Final = BoundedCache[OpenBlock](BLOCKS_BYTES)
        self.columns: Final = BoundedCache[ValueColumn](COLUMNS_BYTES)
        self.hours: Final = BoundedCache[SegmentHours](HOURS_BYTES)

    def table(self, file: SegmentFile, dimension: str) -> BlockTable:
        """The table of a dimension. Raises: DamagedSegmentError."""
        return self._tables.get((file.serial, dimension), partial(file.table, dimension))
