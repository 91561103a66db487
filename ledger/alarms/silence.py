"""Alarms of silence: nothing came of a group that had sent something before.

Without `by` the whole log is the one group, which is taken to have sent something at the start.
"""

from typing import Final

from ledger.alarms.config import AlarmConfig
from ledger.alarms.firing import Firing
from ledger.alarms.groups import Group, Groups, group_reader, owner_of
from ledger_core.query.analyzer import LeafView


class Silence:
    """One alarm of silence: when each group sent something last."""

    def __init__(self, name: str, alarm: AlarmConfig) -> None:
        self._name: Final = name
        self._silence_us: Final = int(alarm.silence_s * 1e6)
        self._groups_of: Final = group_reader(alarm.by)
        self._has_groups: Final = bool(alarm.by)
        self._seen_us: Final[Groups[int]] = Groups()
        self._due_us: int | None = None
        """No group is silent before: it spares a search for each entry."""

    @property
    def memory_us(self) -> int:
        """How far back entries count."""
        return self._silence_us

    def feed(self, view: LeafView, time_us: int) -> None:
        """Note an event that the query found."""
        owner = owner_of(view)
        for group in self._groups_of(view):
            self._seen_us.put(group, time_us, owner)

    def tick(self, now_us: int) -> list[Firing]:
        """The groups that are silent by now. Each fires once, until it has sent something again."""
        if self._due_us is None:
            self._due_us = now_us + self._silence_us
            if not self._has_groups and not len(self._seen_us):
                self._seen_us.put(Group(""), now_us)  # Nothing is known of before.
        firings = []
        while now_us >= self._due_us:
            oldest = self._seen_us.oldest()
            silent = [(group, at) for group, at in oldest if now_us - at >= self._silence_us]
            for group, at_us in silent:
                self._seen_us.pop(group)
                firings.append(self._firing(group, at_us + self._silence_us))
            if not silent:
                first_us = min((at for _, at in oldest), default=now_us)
                self._due_us = first_us + self._silence_us
        return sorted(firings, key=lambda firing: firing.time_us)

    def _firing(self, group: Group, time_us: int) -> Firing:
        return Firing(
            alarm=self._name,
            group=group.value,
            count=0,
            indices=(),
            time_us=time_us,
            tenant=group.tenant,
        )
