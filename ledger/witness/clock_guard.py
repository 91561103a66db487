"""Refuses to sign while the clock is far ahead of the time that has passed since the start.

A head that is cosigned with a time to come keeps its signer from cosigning until that time.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from ledger_core.tlog.witness import Refused

CLOCK_AHEAD_MAX_S: Final = 300
"""Seconds by which the clock may be set ahead while the signer runs."""


def steady_s() -> float:
    """Seconds that nobody sets, and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockGuard:
    """Compares the clock with seconds that nobody sets. Used on one thread at a time."""

    def __init__(self, time_unix_s: int, steady_s: Callable[[], float] = steady_s) -> None:
        """`time_unix_s`: the clock now."""
        self._steady_s: Final = steady_s
        self._offset_s = time_unix_s - steady_s()

    def check(self, time_unix_s: int) -> Refused | None:
        """A refusal while the clock is too far ahead."""
        ahead_s = round(time_unix_s - self._steady_s() - self._offset_s)
        if ahead_s > CLOCK_AHEAD_MAX_S:
            return Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the clock was set {ahead_s} s ahead while this service ran; the most is "
                f"{CLOCK_AHEAD_MAX_S} s. If it is right, start the service again",
            )
        return None

    def used(self, time_unix_s: int) -> None:
        """A time was signed: a clock that was ahead at the start and was set back counts anew."""
        self._offset_s = min(self._offset_s, time_unix_s - self._steady_s())
