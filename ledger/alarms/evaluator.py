"""Evaluates the alarms of a ledger: no clock, no I/O.

Time is that of receipt, which never runs backwards along the log, so the same entries always give
the same firings: `ledger alarm replay` shows what would have fired. Silence, gaps and missing
witnesses are noticed by the clock too, when nothing is logged.

A group that counts nothing within its window is forgotten.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from ledger.alarms.config import AlarmConfig
from ledger.alarms.firing import INDICES_MAX, Firing
from ledger.alarms.gaps import GapMemory, Gaps
from ledger.alarms.groups import (
    GROUPS_MAX,
    Group,
    Groups,
    Owner,
    group_reader,
    owner_of,
    value_reader,
)
from ledger.alarms.missing_witnesses import MissingWitnesses
from ledger.alarms.silence import Silence
from ledger.follow.firings import FIRING_ACTIONS
from ledger_core.event.times import parse_time
from ledger_core.query.analyzer import LeafView, decode_view
from ledger_core.query.ast import resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import Matcher, make_matcher

KEY_CHARS_MAX: Final = 200
"""Of what tells groups apart in `fired.json`; of a longer one the hash does."""


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state that the entries of a window don't give, by the names of alarms."""

    gaps: dict[str, GapMemory] = msgspec.field(default_factory=dict)
    witnesses: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)


class _Match(NamedTuple):
    time_us: int
    place: int
    value: str


class Evaluator:
    """Evaluates all alarms of a ledger, entry by entry."""

    def __init__(
        self,
        alarms: Mapping[str, AlarmConfig],
        *,
        now_us: int,
        fired: Mapping[str, int] | None = None,
        memory: Memory | None = None,
        witnesses: Collection[str] = (),
        is_whole: bool = False,
    ) -> None:
        """`now_us`: what relative times in queries count from.

        `fired`: when each alarm and group fired last, as `fired` gave it before a restart; `memory`
        as `memory` gave it. `witnesses`: those of the log's policy. `is_whole`: the first entry
        that it is fed is the first one of the log.
        """
        memory = memory or Memory()
        self._rules: Final[list[_Count | _Silent]] = []
        self._gaps: Final[dict[str, Gaps]] = {}
        self._witnesses: Final[dict[str, MissingWitnesses]] = {}
        for name, alarm in alarms.items():
            if alarm.kind == "gap":
                known = memory.gaps.get(name, GapMemory(is_whole=is_whole))
                self._gaps[name] = Gaps(name, alarm, known)
            elif alarm.kind == "witness":
                seen_us = memory.witnesses.get(name, {})
                self._witnesses[name] = MissingWitnesses(
                    name, alarm, witnesses=witnesses, seen_us=seen_us, now_us=now_us
                )
            else:
                make = _Silent if alarm.silence_s else _Count
                self._rules.append(make(name, alarm, now_us))
        self._repeat_us: Final = {name: int(a.repeat_s * 1e6) for name, a in alarms.items()}
        self.fired: Final = OrderedDict(fired or {})

    @property
    def memory_us(self) -> int:
        """How far back entries count."""
        return max((rule.memory_us for rule in self._rules), default=0)

    def memory(self) -> Memory:
        """The state beside the entries of a window, for the next start."""
        return Memory(
            gaps={name: each.memory() for name, each in self._gaps.items()},
            witnesses={name: each.memory() for name, each in self._witnesses.items()},
        )

    def feed(self, index: int, leaf: bytes) -> list[Firing]:
        """The alarms that fire with this entry. Precondition: entries come in order."""
        firings = [*self.count(index, leaf), *self.number(index, leaf)]
        return [firing for firing in firings if self._is_new(firing)]

    def count(self, index: int, leaf: bytes) -> list[Firing]:
        """Feed an entry to the alarms of kind `events` alone; return all firings, new or not."""
        view = decode_view(leaf)
        if view.event.action in FIRING_ACTIONS:
            return []
        time_us = parse_time(view.received.time)
        firings = []
        for rule in self._rules:
            firings += rule.tick(time_us)
            firings += rule.feed(index, leaf, view, time_us)
        return firings

    def number(self, index: int, leaf: bytes) -> list[Firing]:
        """Feed an entry to the alarms of kind `gap` alone; return all its firings, new or not."""
        return [firing for each in self._gaps.values() for firing in each.feed(index, leaf)]

    def saw_head(self, times_us: Mapping[str, int], *, now_us: int) -> None:
        """Note a published head: when each witness has cosigned it."""
        for each in self._witnesses.values():
            each.saw(times_us, now_us=now_us)

    def tick(self, now_us: int) -> list[Firing]:
        """The alarms that fire since nothing was logged until now."""
        rules = (*self._rules, *self._gaps.values(), *self._witnesses.values())
        firings = [firing for rule in rules for firing in rule.tick(now_us)]
        return [firing for firing in firings if self._is_new(firing)]

    def _is_new(self, firing: Firing) -> bool:
        """Whether the group has not fired a short time ago; it has now."""
        key = f"{firing.alarm}\n{firing.group}" + (firing.tenant and f"\n{firing.tenant}")
        if len(key) > KEY_CHARS_MAX:
            # All keys are written at each firing.
            key = f"{firing.alarm}\n{hashlib.sha256(key.encode()).hexdigest()}"
        before_us = self.fired.get(key)
        if before_us is not None and firing.time_us - before_us < self._repeat_us[firing.alarm]:
            return False
        self.fired[key] = firing.time_us
        self.fired.move_to_end(key)
        if len(self.fired) > GROUPS_MAX:
            self.fired.popitem(last=False)
        return True


class _Silent:
    """One alarm of silence, with the query whose events break it."""

    def __init__(self, name: str, alarm: AlarmConfig, now_us: int) -> None:
        self._matches: Final = _matcher(alarm.query, now_us)
        self._silence: Final = Silence(name, alarm)
        self.memory_us: Final = self._silence.memory_us
        self.tick: Final = self._silence.tick

    def feed(self, index: int, leaf: bytes, view: LeafView, time_us: int) -> Iterator[Firing]:
        """Note an entry; it fires nothing."""
        if self._matches(index, leaf):
            self._silence.feed(view, time_us)
        yield from ()


class _Count:
    """One alarm that counts, and what it has counted."""

    def __init__(self, name: str, alarm: AlarmConfig, now_us: int) -> None:
        self._name: Final = name
        self._count: Final = alarm.count
        self._window_us: Final = int(alarm.window_s * 1e6)
        self._matches: Final = _matcher(alarm.query, now_us)
        self._then: Final = _matcher(alarm.then, now_us) if alarm.then else None
        self._groups_of: Final = group_reader(alarm.by)
        self._distinct: Final = value_reader(alarm.distinct, "distinct") if alarm.distinct else None
        self._counted: Final[Groups[deque[_Match]]] = Groups()
        self._armed: Final[Groups[Firing]] = Groups()

    @property
    def memory_us(self) -> int:
        """How far back entries count: the events, and then what follows them."""
        return self._window_us * (1 if self._then is None else 2)

    def tick(self, _now_us: int) -> list[Firing]:
        """No firing: a count fires with an entry only."""
        return []

    def feed(self, index: int, leaf: bytes, view: LeafView, time_us: int) -> Iterator[Firing]:
        """The firings with this entry, one for each of its groups."""
        if self._then is not None and self._then(index, leaf):
            yield from self._follow(index, view, time_us)
        if not self._matches(index, leaf):
            return
        values = self._distinct(view) if self._distinct else [""]
        owner = owner_of(view)
        for group in self._groups_of(view):
            counted = self._count_in(group, owner, time_us)
            counted.extend(_Match(time_us, index, value) for value in values)
            firing = self._reached(group, counted, time_us)
            if firing is not None and self._then is None:
                yield firing
            elif firing is not None:
                self._armed.put(group, firing, owner)

    def _follow(self, index: int, view: LeafView, time_us: int) -> Iterator[Firing]:
        for group in self._groups_of(view):
            armed = self._armed.pop(group)
            if armed is not None and time_us - armed.time_us <= self._window_us:
                self._counted.pop(group)
                indices = (*armed.indices, index)[-INDICES_MAX:]
                yield self._firing(group, armed.count, indices, time_us)

    def _count_in(self, group: Group, owner: Owner, time_us: int) -> deque[_Match]:
        """The counted events of a group, without those that are too old."""
        known = self._counted.get(group)
        counted = deque[_Match]() if known is None else known
        self._counted.put(group, counted, owner)
        while counted and time_us - counted[0].time_us > self._window_us:
            counted.popleft()
        return counted

    def _reached(self, group: Group, counted: deque[_Match], time_us: int) -> Firing | None:
        if self._distinct is None:
            while len(counted) > self._count:
                counted.popleft()  # The latest are enough to reach the count again.
            number = len(counted)
        else:
            latest = {match.value: match for match in counted}
            if len(counted) > 2 * len(latest):  # Each value once, by its latest event.
                kept = sorted(latest.values(), key=lambda match: match.place)
                counted.clear()
                counted.extend(kept)
            number = len(latest)
        if number < self._count:
            return None
        indices = tuple(dict.fromkeys(match.place for match in counted))[-INDICES_MAX:]
        if self._distinct is not None:
            # A group that has fired begins anew, or each further event would count all of it.
            counted.clear()
        return self._firing(group, number, indices, time_us)

    def _firing(self, group: Group, count: int, indices: tuple[int, ...], time_us: int) -> Firing:
        return Firing(
            alarm=self._name,
            group=group.value,
            count=count,
            indices=indices,
            time_us=time_us,
            tenant=group.tenant,
        )


def _matcher(query: str, now_us: int) -> Matcher:
    return make_matcher(resolve(parse_query(query), now_us))
