"""The clock of the log: times of receipt never run backwards, even if this host's clock does.

If this host's clock is set back, the time of receipt stands still until the clock has caught up.
That is said: in the log, `/readyz`, `/v1/log` and `/metrics`. Times and ids of events are never
filled in from a clock that stands still. A start is refused while now and the last entry are far
apart, since one entry with a time years ahead would stop the clock of the log for years.
"""

from collections.abc import Callable
from typing import Final

import structlog

from ledger.service.settings import Settings
from ledger_core.event.times import format_time, parse_time
from ledger_core.tlog.errors import UnavailableError

BEHIND_SAID_US: Final = 1_000_000
"""Microseconds by which this host's clock may be behind unsaid: time servers slew by less."""

_US: Final = 1_000_000

_log = structlog.get_logger("ledger.service")


class LogClock:
    """Microseconds since 1970 that never decrease, even if the system's clock is set back.

    `last` is the time of receipt of the last entry of the log, None for an empty log.
    """

    def __init__(self, *, last: str | None, read_unix_ns: Callable[[], int]) -> None:
        self._last_us = 0 if last is None else parse_time(last)
        self._read_unix_ns = read_unix_ns
        self._is_behind = False

    def now(self) -> int:
        """The time now, or that of the last call if the system's clock went back since."""
        wall_us = self.wall_us()
        self._last_us = max(self._last_us, wall_us)
        is_behind = self._last_us - wall_us > BEHIND_SAID_US
        if is_behind != self._is_behind:
            self._is_behind = is_behind
            self._say()
        return self._last_us

    def wall_us(self) -> int:
        """The time of this host, which may go back."""
        return self._read_unix_ns() // 1000

    def behind_s(self) -> int:
        """Seconds by which this host's clock is behind the last entry; 0 if it isn't."""
        behind_us = self._last_us - self.wall_us()
        return behind_us // _US if behind_us > BEHIND_SAID_US else 0

    def check_start(self, settings: Settings) -> None:
        """Refuse to go on from a last entry that is far from now.

        Raises: UnavailableError naming the setting that allows it.
        """
        if not self._last_us:
            return
        ahead_s = (self.wall_us() - self._last_us) // _US
        for apart_s, most, flag, how in (
            (ahead_s, settings.clock_ahead_max_s, "--clock-ahead-max-s", "after"),
            (-ahead_s, settings.clock_behind_max_s, "--clock-behind-max-s", "before"),
        ):
            if apart_s > most:
                raise UnavailableError(
                    f"this host's clock says {format_time(self.wall_us())}, {apart_s} s {how} the "
                    f"last entry was received, at {format_time(self._last_us)}. Set the clock, or, "
                    f"if it is right, start once with {flag} {apart_s + 60}"
                )

    def _say(self) -> None:
        if self._is_behind:
            _log.warning("clock_behind", seconds=self.behind_s(), until=format_time(self._last_us))
        else:
            _log.info("clock_caught_up")
