"""The faults that a check finds: all are counted, and the first are kept."""

from typing import Final


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
