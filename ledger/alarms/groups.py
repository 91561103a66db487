"""The groups by which alarms count, and the limit of how many they keep.

The ids of two tenants are not the same ones: events of one tenant neither fire an alarm about an
actor of another one, nor keep it from firing again. An address is the same in all tenants.

Of more groups than `GROUPS_MAX` the one that was counted longest ago is forgotten: of the principal
that has the most, and of its tenants the one that has the most. So an attacker who makes up many
values, or many tenants, can push out groups of his own, and none of a principal with fewer groups.
A group that two of them count is that of the one with fewer, or the other could push it out.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final, Generic, NamedTuple, TypeVar

from ledger.alarms.config import check_field
from ledger_core.query.analyzer import ABSENT, LeafView
from ledger_core.query.predicate import values_of

T = TypeVar("T")

GROUPS_MAX: Final = 10_000

VALUE_CHARS_MAX: Final = 1_024
"""Of a value that groups or is counted; ids have fewer."""

VALUE_CHARS_SHOWN: Final = 256
"""Of a longer one."""

TENANT_FIELDS: Final = frozenset({"actor", "target", "session", "credential", "request", "trace"})
"""Fields whose values each tenant gives by itself."""


class Group(NamedTuple):
    """A value of the field that groups, and the tenant whose it is; empty texts for none."""

    value: str
    tenant: str = ""


class Owner(NamedTuple):
    """Whose events a group counts: of the principal that sent them, in a tenant."""

    by: str
    tenant: str


def owner_of(view: LeafView) -> Owner:
    """The owner of an event."""
    tenant = "" if view.event.tenant == ABSENT else view.event.tenant
    return Owner("" if view.received.by == ABSENT else view.received.by, tenant)


class _Sizes:
    """A number for each key; the key with the largest one is found without a search."""

    def __init__(self) -> None:
        self._size: Final = defaultdict[str, int](int)
        self._of_size: Final = defaultdict[int, dict[str, None]](dict)
        self._most = 0

    def of(self, key: str) -> int:
        """The number of a key, 0 if it has none."""
        return self._size.get(key, 0)

    def add(self, key: str, count: int) -> None:
        """Add 1 or -1 to the number of a key."""
        before = self._size.pop(key, 0)
        self._of_size[before].pop(key, None)
        if not self._of_size[before]:
            del self._of_size[before]
        after = before + count
        if after:
            self._size[key] = after
            self._of_size[after][key] = None
        if after > self._most or self._most not in self._of_size:
            self._most = after

    def largest(self) -> str:
        """The key with the largest number. Precondition: there is one."""
        return next(iter(self._of_size[self._most]))


class Groups(Generic[T]):
    """The latest values of `GROUPS_MAX` groups at most. Each call takes a constant time."""

    def __init__(self) -> None:
        self._kept: Final[dict[Group, tuple[T, Owner]]] = {}
        self._of_owner: Final[dict[Owner, OrderedDict[Group, None]]] = {}
        self._of_principal: Final = _Sizes()
        self._of_tenant: Final = defaultdict[str, _Sizes](_Sizes)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[tuple[Group, T]]:
        """All groups; of each owner the group that was put longest ago comes first."""
        for groups in self._of_owner.values():
            for group in groups:
                yield group, self._kept[group][0]

    def get(self, group: Group) -> T | None:
        """The value of a group; None if it has none."""
        kept = self._kept.get(group)
        return None if kept is None else kept[0]

    def put(self, group: Group, value: T, owner: Owner | None = None) -> None:
        """Store the value of a group, and make it the latest group of its owner.

        `owner`: whose event was counted, by default the group's tenant.
        """
        owner = owner or Owner("", group.tenant)
        kept = self._kept.get(group)
        if kept is not None:
            owner = min(owner, kept[1], key=self._size)
            self.pop(group)
        self._kept[group] = value, owner
        self._of_owner.setdefault(owner, OrderedDict())[group] = None
        self._count(owner, 1)
        if len(self._kept) > GROUPS_MAX:
            by = self._of_principal.largest()
            most = Owner(by, self._of_tenant[by].largest())
            self.pop(next(iter(self._of_owner[most])))

    def pop(self, group: Group) -> T | None:
        """Remove a group; return its value, None if it has none."""
        kept = self._kept.pop(group, None)
        if kept is None:
            return None
        value, owner = kept
        groups = self._of_owner[owner]
        del groups[group]
        if not groups:
            del self._of_owner[owner]
        self._count(owner, -1)
        return value

    def oldest(self) -> list[tuple[Group, T]]:
        """Of each owner the group that was put longest ago."""
        firsts = [next(iter(groups)) for groups in self._of_owner.values()]
        return [(group, self._kept[group][0]) for group in firsts]

    def _size(self, owner: Owner) -> tuple[int, int]:
        tenants = self._of_tenant.get(owner.by)
        of_tenant = 0 if tenants is None else tenants.of(owner.tenant)
        return self._of_principal.of(owner.by), of_tenant

    def _count(self, owner: Owner, count: int) -> None:
        self._of_principal.add(owner.by, count)
        self._of_tenant[owner.by].add(owner.tenant, count)
        if not self._of_principal.of(owner.by):
            del self._of_tenant[owner.by]


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
        return lambda view: list(map(_short, values_of(name, view)))
    return lambda view: [_network(value, bits) for value in values_of(name, view)]


def _short(value: str) -> str:
    """A value as it is kept and stands in a firing; a long one by its beginning and its hash.

    A request id may have the length of an event: a firing that names it could not be logged.
    """
    if len(value) <= VALUE_CHARS_MAX:
        return value
    return f"{value[:VALUE_CHARS_SHOWN]}… SHA-256 {hashlib.sha256(value.encode()).hexdigest()}"


def _network(address: str, bits: int) -> str:
    """The network of an address; of IPv6 twice as many bits, which is as much of it."""
    parsed = ip_address(address)
    length = bits if parsed.version == 4 else min(128, bits * 2)  # noqa: PLR2004 - IPv4
    return str(ip_network((parsed, length), strict=False))
