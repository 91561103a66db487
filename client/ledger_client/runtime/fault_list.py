"""The faults that a check finds: all are counted, and the first are kept."""

from collections.abc import Iterator
from typing import Final

LINES_MAX: Final = 20
"""Faults that a command prints for a person."""


class FaultList:
    """Faults in the order in which they were found. `first` has `most` of them, `total` counts."""

    def __init__(self, most: int) -> None:
        self.first: Final[list[str]] = []
        self.total = 0
        self._most: Final = most

    def add(self, fault: str) -> None:
        """Count a fault, and keep it if it is one of the first."""
        self.total += 1
        if len(self.first) < self._most:
            self.first.append(fault)

    def lines(self) -> Iterator[str]:
        """The first faults for a person, a line each, and how many more there are."""
        yield from self.first[:LINES_MAX]
        if more := self.total - len(self.first[:LINES_MAX]):
            yield f"and {more:,} more; --json names the first {len(self.first):,}"
