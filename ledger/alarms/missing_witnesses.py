"""Alarms of missing witnesses: one of the policy has cosigned no published head for `window_s`.

The time is that of the cosignature, which the witness signs, so a head that is served again says
nothing new. A time further ahead than the window does not count: one cosignature of a wrong clock,
or of a liar, would put the alarm off for years. While the log publishes nothing, no witness
cosigns, and all of them are missing: that the quorum fails is noticed too.
"""

from collections.abc import Collection, Mapping
from typing import Final

from ledger.alarms.config import AlarmConfig
from ledger.alarms.firing import Firing


class MissingWitnesses:
    """One alarm of missing witnesses: when each was seen last."""

    def __init__(
        self,
        name: str,
        alarm: AlarmConfig,
        *,
        witnesses: Collection[str],
        seen_us: Mapping[str, int],
        now_us: int,
    ) -> None:
        """`witnesses`: those of the policy. `seen_us`: when each was seen, as `memory` gave it."""
        self._name: Final = name
        self._window_us: Final = int(alarm.window_s * 1e6)
        self._seen_us: Final = {each: seen_us.get(each, now_us) for each in witnesses}
        self._missing: Final[set[str]] = set()

    def memory(self) -> dict[str, int]:
        """When each witness was seen last, for the next start."""
        return dict(self._seen_us)

    def saw(self, times_us: Mapping[str, int], *, now_us: int) -> None:
        """Note the cosignatures of a published head."""
        for witness in times_us.keys() & self._seen_us.keys():
            if self._seen_us[witness] < times_us[witness] <= now_us + self._window_us:
                self._seen_us[witness] = times_us[witness]
                self._missing.discard(witness)

    def tick(self, now_us: int) -> list[Firing]:
        """The witnesses that are missing by now. Each fires once, until it has cosigned again."""
        firings = []
        for witness, stated_us in sorted(self._seen_us.items()):
            # The clock here may have been ahead, and was set back.
            at_us = self._seen_us[witness] = min(stated_us, now_us)
            if now_us - at_us >= self._window_us and witness not in self._missing:
                self._missing.add(witness)
                firings.append(
                    Firing(
                        alarm=self._name,
                        group=witness,
                        count=0,
                        indices=(),
                        time_us=at_us + self._window_us,
                    )
                )
        return firings
