"""Counts that the processes of one service share, so that N of them keep one limit together.

Each process writes a part of the memory that nobody else writes, and reads the others' parts; so
there is no lock, and a count is as new as the memory. A part is a count-min sketch: a name has one
place in each of two rows, which it may share with other names, and the smaller of the two is its
count. Two names disturb each other only if both places are shared, at random: one in 4 billion
pairs.

Two kinds of counts: what is in use now (`in_use`), which ends with its process, and what was spent
ever (`spent`), which stays. Beside them a name has a latest time (`note_time`), which stays too:
two names that share a place share the later time of both there.

Source: Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch", 2005.
"""

import hashlib
import mmap
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

SLOTS: Final = 1 << 16
"""Places in a row. A page of the memory is taken when a place in it is first used."""

COUNT_BYTES: Final = 8
_ROWS: Final = 2

Kind = Literal["in_use", "spent"]
_BLOCKS: Final = ("in_use", "spent", "time")

_PART_BYTES: Final = COUNT_BYTES * SLOTS * _ROWS * len(_BLOCKS)


class SharedCounts:
    """The counts of one process, and what the other processes count."""

    def __init__(self, memory: mmap.mmap, *, number: int, processes: int, key: bytes) -> None:
        """`memory`: `memory_bytes(processes)`, shared by all. `number`: whose part is written.

        `key` is the same in all of them, and unknown to those who choose names.
        """
        self._counts: Final = memoryview(memory).cast("q")
        self._number: Final = number
        self._others: Final = [each for each in range(processes) if each != number]
        self._places: Final = lru_cache(maxsize=16_384)(lambda name: _places(name, key))
        # Each request counts some names, and the same ones come back.
        self._own_places: Final = lru_cache(maxsize=16_384)(self._find_own)
        self._others_places: Final = lru_cache(maxsize=16_384)(self._find_others)

    def add(self, kind: Kind, name: str, amount: int) -> None:
        """Add to the own count of a name."""
        self.count(kind, name).add(amount)

    def of_others(self, kind: Kind, name: str) -> int:
        """The count of a name in all other processes together."""
        return self.count(kind, name).of_others()

    def count(self, kind: Kind, name: str) -> "SharedCount":
        """The count of one name, which is found once: to be kept by those who use it often."""
        return SharedCount(
            self._counts, self._own_places(kind, name), self._others_places(kind, name)
        )

    def _find_own(self, kind: Kind, name: str) -> tuple[int, int]:
        first, second = self._places(name)
        start = _start(self._number, kind)
        return start + first, start + second

    def _find_others(self, kind: Kind, name: str) -> list[tuple[int, int]]:
        first, second = self._places(name)
        starts = [_start(other, kind) for other in self._others]
        return [(start + first, start + second) for start in starts]

    def note_time(self, name: str, time_us: int) -> None:
        """Raise the own time of a name to this one."""
        start = _start(self._number, "time")
        for place in self._places(name):
            self._counts[start + place] = max(self._counts[start + place], time_us)

    def latest_time(self, name: str) -> int:
        """The latest time of a name in any process, this one and the one before it included."""
        return max(
            min(self._counts[_start(each, "time") + place] for place in self._places(name))
            for each in (self._number, *self._others)
        )

    def forget_in_use(self, number: int) -> None:
        """Set to zero what a process that ended had in use."""
        start = _start(number, "in_use")
        self._counts[start : start + _ROWS * SLOTS] = memoryview(
            bytes(COUNT_BYTES * _ROWS * SLOTS)
        ).cast("q")


class SharedCount:
    """The count of one name. See `SharedCounts`."""

    __slots__ = ("_counts", "_first", "_others", "_second")

    def __init__(
        self, counts: memoryview, own: tuple[int, int], others: Sequence[tuple[int, int]]
    ) -> None:
        self._counts = counts
        self._first, self._second = own
        self._others = others

    def add(self, amount: int) -> None:
        """Add to the own count."""
        counts = self._counts
        counts[self._first] += amount
        counts[self._second] += amount

    def of_others(self) -> int:
        """The count in all other processes together."""
        counts = self._counts
        first = second = 0
        for in_first, in_second in self._others:
            first += counts[in_first]
            second += counts[in_second]
        return min(first, second)


class _AloneCount:
    """The count of a name in a service that is one process."""

    def add(self, amount: int) -> None:
        """Nothing: there is nobody else to know."""

    def of_others(self) -> int:
        """Zero."""
        return 0


def memory_bytes(processes: int) -> int:
    """The size of the memory that so many processes share."""
    return processes * _PART_BYTES


def _start(number: int, block: str) -> int:
    return (number * len(_BLOCKS) + _BLOCKS.index(block)) * _ROWS * SLOTS


def _places(name: str, key: bytes) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), key=key, digest_size=4).digest()
    first, second = int.from_bytes(digest[:2]), int.from_bytes(digest[2:])
    return first % SLOTS, SLOTS + second % SLOTS


class _Alone:
    """The counts of a service that is one process."""

    def add(self, kind: Kind, name: str, amount: int) -> None:
        """Nothing: there is nobody else to know."""

    def of_others(self, kind: Kind, name: str) -> int:  # noqa: ARG002 - as `SharedCounts`
        """Zero."""
        return 0

    def count(self, kind: Kind, name: str) -> _AloneCount:  # noqa: ARG002 - as `SharedCounts`
        """A count of nobody."""
        return _ALONE_COUNT

    def note_time(self, name: str, time_us: int) -> None:
        """Nothing."""

    def latest_time(self, name: str) -> int:  # noqa: ARG002 - as `SharedCounts`
        """Zero."""
        return 0


_ALONE_COUNT: Final = _AloneCount()

ALONE: Final = _Alone()

Shared = SharedCounts | _Alone
