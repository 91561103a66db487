"""The numbers of a recorder: sets of them, and the numbers that an event explains.

Every recorder numbers its events from 1. Numbers that are missing were dropped or rejected, and
then the recorder logs an event about them; or they were lost, or removed.

A report explains a number only if its recorder can have made it: the report has a number of its own
from a recorder, its count is that of its ranges, and a recorder reports of itself what it numbered
before. Any other report is a claim, which explains nothing.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from ledger_core.event.model import INTEGER_MAX, Event

DROPPED: Final = "ledger.recorder.dropped"
REJECTED: Final = "ledger.recorder.rejected"

Range = tuple[int, int]
"""Numbers from the first to the last, both included."""


class Explained(NamedTuple):
    """Numbers of an instance that an event explains. `is_claim`: it can't, and only says so."""

    instance: str
    first: int
    last: int
    is_claim: bool


class Numbers:
    """A set of numbers, kept as ascending ranges that do not touch."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def add(self, first: int, last: int) -> None:
        """Add a range; it may overlap others. Nearly always it follows the last one."""
        begin = bisect_right(self._lasts, first - 2)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> None:
        """Remove a range, or what there is of it."""
        begin = bisect_right(self._lasts, first - 1)
        end = bisect_right(self._firsts, last)
        if begin >= end:
            return
        kept = [
            (low, high)
            for low, high in (
                (self._firsts[begin], first - 1),
                (last + 1, self._lasts[end - 1]),
            )
            if low <= high
        ]
        self._firsts[begin:end] = [low for low, _ in kept]
        self._lasts[begin:end] = [high for _, high in kept]

    def overlaps(self, first: int, last: int) -> bool:
        """Whether any number of a range is in the set."""
        at = bisect_right(self._firsts, last) - 1
        return at >= 0 and self._lasts[at] >= first

    def holes(self, first: int) -> list[Range]:
        """The ranges that are missing between `first` and the last number."""
        missing: list[Range] = []
        for begin, end in self:
            if begin > first:
                missing.append((first, begin - 1))
            first = max(first, end + 1)
        return missing


def explained_numbers(event: Event) -> Iterator[Explained]:
    """The numbers that an event explains, or claims to. Malformed ones are ignored."""
    if event.context is UNSET:
        return
    recorder = event.recorder
    if event.action == DROPPED:
        dropped = _mapping(event.context.get("dropped"))
        numbers = dropped.get("numbers")
        ranges: list[Range] = []
        for pair in numbers if isinstance(numbers, list) else ():
            match pair:
                case [int() as first, int() as last] if 0 < first <= last <= INTEGER_MAX:
                    ranges.append((first, last))
        is_counted = dropped.get("count") == sum(last - first + 1 for first, last in ranges)
        found = [(str(dropped.get("instance")), first, last) for first, last in ranges]
    elif event.action == REJECTED:
        number = _mapping(_mapping(event.context.get("rejected")).get("recorder"))
        is_counted, found = True, []
        match number.get("seq"):
            case int() as seq if 0 < seq <= INTEGER_MAX:
                found = [(str(number.get("instance")), seq, seq)]
    else:
        return
    for instance, first, last in found:
        is_possible = recorder is not UNSET and (
            # Or of a recorder before it on the same spool folder.
            last < recorder.seq or recorder.instance != instance
        )
        yield Explained(instance, first, last, is_claim=not (is_counted and is_possible))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
