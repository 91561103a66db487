"""Bounds the log lines that strangers cause, so that none of them fills a disk.

Each sender has so many lines of a kind in a minute, and those beyond are left out; the first one
after that says how many. The senders beyond `SENDERS_MAX` have lines together.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LINES_MAX: Final = 60
PERIOD_S: Final = 60.0
SENDERS_MAX: Final = 1024
OTHERS: Final = "others"


@dataclass(slots=True)
class _Count:
    started_s: float
    lines: int = 0
    left_out: int = 0


class LineLimit:
    """Counts lines by kind and sender. Used from any thread."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s: Final = monotonic_s
        self._counts: dict[tuple[str, str], _Count] = {}
        self._lock: Final = threading.Lock()

    def admit(self, kind: str, sender: str) -> int | None:
        """Count a line: how many were left out before it, None when it is left out itself."""
        with self._lock:
            count = self._find(kind, sender, self._monotonic_s())
            count.lines += 1
            if count.lines > LINES_MAX:
                count.left_out += 1
                return None
            left_out, count.left_out = count.left_out, 0
            return left_out

    def _find(self, kind: str, sender: str, now_s: float) -> _Count:
        key = kind, sender
        if key not in self._counts and len(self._counts) >= SENDERS_MAX:
            self._counts = {
                each: count
                for each, count in self._counts.items()
                if now_s - count.started_s < PERIOD_S
            }
            if len(self._counts) >= SENDERS_MAX:
                key = kind, OTHERS
        count = self._counts.setdefault(key, _Count(now_s))
        if now_s - count.started_s >= PERIOD_S:
            count.started_s, count.lines = now_s, 0
        return count
