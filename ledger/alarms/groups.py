"""The groups by which alarms count, and the limit of how many they keep.

The ids of two tenants are not the same ones: events of one tenant neither fire an alarm about an
actor of another one, nor keep it from firing again. An address is the same in all tenants.

Of more groups than `GROUPS_MAX` the one that was counted longest ago is forgotten, of the tenant
that has the most. So an attacker who makes up many values can push out a group of his own, at a
cost of that many events within the window, and none of a tenant with fewer groups.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final, Generic, NamedTuple, TypeVar

from ledger.alarms.config import check_field
from ledger_core.query.analyzer import ABSENT, LeafView
from ledger_core.query.predicate import values_of

T = TypeVar("T")

GROUPS_MAX: Final = 10_000

TENANT_FIELDS: Final = frozenset({"actor", "target", "session", "credential", "request", "trace"})
"""Fields whose values each tenant gives by itself."""


class Group(NamedTuple):
    """A value of the field that groups, and the tenant whose it is; empty texts for none."""

    value: str
    tenant: str = ""


class Groups(Generic[T]):
    """The latest values of `GROUPS_MAX` groups at most."""

    def __init__(self) -> None:
        self._by_tenant: Final[dict[str, OrderedDict[str, T]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Group, T]]:
        """All groups; of each tenant the group that was put longest ago comes first."""
        for tenant, of_tenant in self._by_tenant.items():
            for value, kept in of_tenant.items():
                yield Group(value, tenant), kept

    def get(self, group: Group) -> T | None:
        """The value of a group; None if it has none."""
        return self._by_tenant.get(group.tenant, OrderedDict[str, T]()).get(group.value)

    def put(self, group: Group, value: T) -> None:
        """Store the value of a group, and make it the latest group."""
        self.pop(group)
        self._by_tenant.setdefault(group.tenant, OrderedDict())[group.value] = value
        self._count += 1
        if self._count > GROUPS_MAX:
            tenant = max(self._by_tenant, key=lambda each: len(self._by_tenant[each]))
            self.pop(Group(next(iter(self._by_tenant[tenant])), tenant))

    def pop(self, group: Group) -> T | None:
        """Remove a group; return its value, None if it has none."""
        of_tenant = self._by_tenant.get(group.tenant, OrderedDict())
        value = of_tenant.pop(group.value, None)
        if value is not None:
            self._count -= 1
            if not of_tenant:
                del self._by_tenant[group.tenant]
        return value

    def oldest(self) -> list[tuple[Group, T]]:
        """Of each tenant the group that was put longest ago."""
        return [
            (Group(value, tenant), of_tenant[value])
            for tenant, of_tenant in self._by_tenant.items()
            for value in (next(iter(of_tenant)),)
        ]


def group_reader(field: str) -> Callable[[LeafView], list[Group]]:
    """Reads the groups of an event by a field, empty for one group. Raises: MalformedError."""
    read = value_reader(field, "by")
    if field not in TENANT_FIELDS:
        return lambda view: list(map(Group, read(view)))

    def groups_of(view: LeafView) -> list[Group]:
        tenant = "" if view.event.tenant == ABSENT else view.event.tenant
        return [Group(value, tenant) for value in read(view)]

    return groups_of


def value_reader(field: str, key: str) -> Callable[[LeafView], list[str]]:
    """Reads the values of a field, or their networks; one empty text for no field."""
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
