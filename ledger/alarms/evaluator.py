"""Counts the events that alarms ask for: no clock, no I/O.

Time is that of receipt, which never runs backwards along the log, so the same entries always give
the same firings: `ledger alarm replay` shows what would have fired.

The ids of two tenants are not the same ones: events of one tenant neither fire an alarm about an
actor of another one, nor keep it from firing again. An address is the same in all tenants.

A group that counts nothing within its window is forgotten; of more groups than `GROUPS_MAX` the
one that was counted longest ago is, of the tenant that has the most. So an attacker who makes up
many values can push out a group of his own, at a cost of that many events within the window, and
none of a tenant with fewer groups.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from ledger.alarms.config import AlarmConfig, check_field
from ledger_core.event.times import parse_time
from ledger_core.query.analyzer import ABSENT, LeafView, decode_view
from ledger_core.query.ast import resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import Matcher, make_matcher, values_of

T = TypeVar("T")

GROUPS_MAX: Final = 10_000
INDICES_MAX: Final = 100
"""Indices that a firing names: the latest of more."""

OWN_ACTIONS: Final = frozenset({"ledger.alarm.fired", "ledger.alarm.muted"})


TENANT_FIELDS: Final = frozenset({"actor", "target", "session", "credential", "request", "trace"})
"""Fields whose values each tenant gives by itself."""


class Firing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alarm that fired. `count`: of events or values; `indices`: of the events that made it.

    `tenant`: of the group, where its ids are those of a tenant.
    """

    alarm: str
    group: str
    count: int
    indices: tuple[int, ...]
    time_us: int
    tenant: str = ""


class _Group(NamedTuple):
    """A value of the field that groups, and the tenant whose it is; empty texts for none."""

    value: str
    tenant: str = ""


class _Groups(Generic[T]):
    """The latest values of `GROUPS_MAX` groups at most."""

    def __init__(self) -> None:
        self._by_tenant: Final[dict[str, OrderedDict[str, T]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, group: _Group, value: T) -> None:
        """Note the value of a group, which is the latest then."""
        self.pop(group)
        self._by_tenant.setdefault(group.tenant, OrderedDict())[group.value] = value
        self._count += 1
        if self._count > GROUPS_MAX:
            tenant = max(self._by_tenant, key=lambda each: len(self._by_tenant[each]))
            self.pop(_Group(next(iter(self._by_tenant[tenant])), tenant))

    def pop(self, group: _Group) -> T | None:
        """The value of a group, which is forgotten; None if it has none."""
        of_tenant = self._by_tenant.get(group.tenant, OrderedDict())
        value = of_tenant.pop(group.value, None)
        if value is not None:
            self._count -= 1
            if not of_tenant:
                del self._by_tenant[group.tenant]
        return value


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
    ) -> None:
        """`now_us`: what relative times in queries count from.

        `fired`: when each alarm and group fired last, as `fired` gave it before a restart.
        """
        self._rules: Final = [_Rule(name, alarm, now_us) for name, alarm in alarms.items()]
        self._repeat_us: Final = {name: int(a.repeat_s * 1e6) for name, a in alarms.items()}
        self.fired: Final = OrderedDict(fired or {})

    @property
    def memory_us(self) -> int:
        """How far back entries count."""
        return max((rule.memory_us for rule in self._rules), default=0)

    def feed(self, index: int, leaf: bytes) -> list[Firing]:
        """The alarms that fire with this entry. Precondition: entries come in order."""
        view = decode_view(leaf)
        if view.event.action in OWN_ACTIONS:
            return []
        time_us = parse_time(view.received.time)
        firings = []
        for rule in self._rules:
            firings += rule.silent(time_us)
            firings += rule.feed(index, leaf, view, time_us)
        return [firing for firing in firings if self._is_new(firing)]

    def tick(self, now_us: int) -> list[Firing]:
        """The alarms that fire since nothing was logged until now."""
        firings = [firing for rule in self._rules for firing in rule.silent(now_us)]
        return [firing for firing in firings if self._is_new(firing)]

    def _is_new(self, firing: Firing) -> bool:
        """Whether the group has not fired a short time ago; it has now."""
        key = f"{firing.alarm}\n{firing.group}" + (firing.tenant and f"\n{firing.tenant}")
        before_us = self.fired.get(key)
        if before_us is not None and firing.time_us - before_us < self._repeat_us[firing.alarm]:
            return False
        self.fired[key] = firing.time_us
        self.fired.move_to_end(key)
        if len(self.fired) > GROUPS_MAX:
            self.fired.popitem(last=False)
        return True


class _Rule:
    """One alarm, and what it has counted."""

    def __init__(self, name: str, alarm: AlarmConfig, now_us: int) -> None:
        self._name: Final = name
        self._count: Final = alarm.count
        self._window_us: Final = int(alarm.window_s * 1e6)
        self._silence_us: Final = int(alarm.silence_s * 1e6)
        self._matches: Final = _matcher(alarm.query, now_us)
        self._then: Final = _matcher(alarm.then, now_us) if alarm.then else None
        self._groups_of: Final = _group_reader(alarm.by)
        self._distinct: Final = _reader(alarm.distinct, "distinct") if alarm.distinct else None
        self._counted: Final[_Groups[deque[_Match]]] = _Groups()
        self._armed: Final[_Groups[Firing]] = _Groups()
        self._seen_us: int | None = None

    @property
    def memory_us(self) -> int:
        """How far back entries count: the events, and then what follows them."""
        return self._silence_us or self._window_us * (1 if self._then is None else 2)

    def silent(self, now_us: int) -> list[Firing]:
        """The firing of an alarm of silence."""
        if not self._silence_us:
            return []
        if self._seen_us is None:
            self._seen_us = now_us  # Nothing is known of before.
        if now_us - self._seen_us < self._silence_us:
            return []
        return [self._firing(_Group(""), 0, (), self._seen_us + self._silence_us)]

    def feed(self, index: int, leaf: bytes, view: LeafView, time_us: int) -> Iterator[Firing]:
        """The firings with this entry, one for each group that it is of."""
        if self._then is not None and self._then(index, leaf):
            yield from self._follow(index, view, time_us)
        if not self._matches(index, leaf):
            return
        if self._silence_us:
            self._seen_us = time_us
            return
        values = self._distinct(view) if self._distinct else [""]
        for group in self._groups_of(view):
            counted = self._count_in(group, time_us)
            counted.extend(_Match(time_us, index, value) for value in values)
            firing = self._reached(group, counted, time_us)
            if firing is not None and self._then is None:
                yield firing
            elif firing is not None:
                self._armed.put(group, firing)

    def _follow(self, index: int, view: LeafView, time_us: int) -> Iterator[Firing]:
        for group in self._groups_of(view):
            armed = self._armed.pop(group)
            if armed is not None and time_us - armed.time_us <= self._window_us:
                self._counted.pop(group)
                indices = (*armed.indices, index)[-INDICES_MAX:]
                yield self._firing(group, armed.count, indices, time_us)

    def _count_in(self, group: _Group, time_us: int) -> deque[_Match]:
        """The counted events of a group, without those that are too old."""
        known = self._counted.pop(group)
        counted = deque[_Match]() if known is None else known
        self._counted.put(group, counted)
        while counted and time_us - counted[0].time_us > self._window_us:
            counted.popleft()
        return counted

    def _reached(self, group: _Group, counted: deque[_Match], time_us: int) -> Firing | None:
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

    def _firing(self, group: _Group, count: int, indices: tuple[int, ...], time_us: int) -> Firing:
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


def _group_reader(field: str) -> Callable[[LeafView], list[_Group]]:
    read = _reader(field, "by")
    if field not in TENANT_FIELDS:
        return lambda view: list(map(_Group, read(view)))

    def groups_of(view: LeafView) -> list[_Group]:
        tenant = "" if view.event.tenant == ABSENT else view.event.tenant
        return [_Group(value, tenant) for value in read(view)]

    return groups_of


def _reader(field: str, key: str) -> Callable[[LeafView], list[str]]:
    """Reads the values of a field, or their networks; one group for no field."""
    if not field:
        return lambda _view: [""]
    name, bits = check_field(field, key)
    if not bits:
        return lambda view: values_of(name, view)
    return lambda view: [_network(value, bits) for value in values_of(name, view)]


def _network(address: str, bits: int) -> str:
    """The network of an address; of IPv6 twice as many bits, which is as much of it."""
    parsed = ip_address(address)
    length = bits if parsed.version == 4 else min(128, bits * 2)  # noqa: PLR2004 - IPv4
    return str(ip_network((parsed, length), strict=False))
