"""The keys that a search can count by: fields, keys of context and changes, networks, times.

The service counts the terms of its index by these rules; the client holds what it can against the
events at hand.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

from ledger_core.near_names import near_names
from ledger_core.query.analyzer import context_prefix
from ledger_core.query.ast import Between, Moment, resolve
from ledger_core.query.event_values import key_of
from ledger_core.query.fields import CONTEXT_DIMENSIONS, FIELDS, LANGUAGE
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

Unit: TypeAlias = Literal["minute", "hour", "day", "weekday", "hour-of-day"]

BUCKETS_MAX: Final = 10_000
"""Beyond this many buckets of a histogram its empty ones are left out."""

KINDS: Final = frozenset(("action", "address", "context", "name", "outcome", "port", "target",
                          "text"))  # fmt: skip
NAMES: Final[Mapping[str, str]] = {
    name: field.name
    for field in LANGUAGE
    if field.number is not None and field.kind in KINDS and not field.read_at
    for name in (field.name, *field.aliases)
}
"""The fields whose values can be counted, by their names."""

_PATHS: Final = ("context.", "before.", "after.")
_USUAL_BITS: Final = {4: 24, 6: 48}
_V4_BITS: Final = 32
_V6_BITS: Final = 128
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_CALENDAR_YEARS: Final = 400
"""Years after which the calendar repeats, weekdays and all."""
_STEPS: Final = {
    "minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CountField:
    """A field to count by: its dimension in the index, and how a term becomes a value."""

    name: str
    dimension: str
    prefix: str = ""
    """The beginning of the terms of one path."""
    bits: int = 0
    """The length of a network's prefix; 0 counts single addresses."""

    @property
    def is_single(self) -> bool:
        """Whether an event has one value at most."""
        field = FIELDS[self.dimension]
        return bool(field.attribute or self.dimension in ("port", "actor.on_behalf_of"))

    def value_of(self, term: str) -> str | None:
        """The value of a term; None for a term of another path."""
        if self.prefix:
            return term[len(self.prefix) :] if term.startswith(self.prefix) else None
        kind = FIELDS[self.dimension].kind
        if kind == "address":
            return _address(term, self.bits)
        return str(int(term)) if kind == "port" else term


def parse_count_field(name: str) -> CountField:
    """Read the name of a field, of a path, or `source/24`. Raises: MalformedError."""
    field, slash, bits = name.partition("/")
    if slash and NAMES.get(field) == "source":
        if not (bits.isascii() and bits.isdigit()) or not 1 <= int(bits[:4]) <= _V6_BITS:
            raise MalformedError(f"{excerpt(name)}: want a length of 1 to {_V6_BITS}, as source/24")
        return CountField(name, "source", bits=int(bits))
    for path in _PATHS:
        if name.startswith(path) and name != path and name not in NAMES:
            key, side = name[len(path) :], path[:-1]
            own = CONTEXT_DIMENSIONS.get(key) if side == "context" else None
            if own:
                return CountField(name, own)
            key = key if side == "context" else key_of(key)
            return CountField(name, side, context_prefix(key))
    if name not in NAMES:
        known = ", ".join(dict.fromkeys(NAMES.values()))
        near = near_names(name, NAMES, count=1)
        these = f"did you mean {near[0]}? These" if near else "these"
        raise MalformedError(
            f"{excerpt(name)} can't be counted; {these} can: {known}, context.KEY, before.PATH,"
            " after.PATH, source/24"
        )
    return CountField(name, NAMES[name])


@lru_cache(maxsize=65_536)
def _address(term: str, bits: int) -> str:
    address = ip_address(bytes.fromhex(term[1:]))
    if not bits:
        return str(address)
    is_own = (bits <= _V4_BITS) == (address.version == 4)  # noqa: PLR2004 - IPv4
    return str(
        ip_network((address, bits if is_own else _USUAL_BITS[address.version]), strict=False)
    )


def parse_zone(name: str) -> ZoneInfo | None:
    """A time zone by its IANA name; None is UTC. Raises: MalformedError."""
    if name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise MalformedError(
            f"there is no time zone {excerpt(name)}; want a name such as Europe/Berlin"
        ) from None


def bucket_of(minute: str, unit: Unit, zone: ZoneInfo | None) -> str:
    """The bucket of a minute such as `2026-11-25T02:03`, or of a longer time of the log."""
    if zone is None and unit in ("hour", "day"):
        return f"{minute[:13]}:00:00Z" if unit == "hour" else f"{minute[:10]}T00:00:00Z"
    return _bucket(minute[:16], unit, zone)


@lru_cache(maxsize=65_536)
def _bucket(minute: str, unit: Unit, zone: ZoneInfo | None) -> str:
    utc = datetime.fromisoformat(f"{minute}+00:00")
    try:
        moment = utc.astimezone(zone or UTC)
    except OverflowError:  # In this zone it is the year 10000 already.
        if unit in ("weekday", "hour-of-day"):
            moment = utc.replace(year=utc.year - _CALENDAR_YEARS).astimezone(zone)
        else:
            moment = datetime.max.replace(tzinfo=zone, second=0, microsecond=0)
    if unit == "weekday":
        return _DAYS[moment.weekday()]
    if unit == "hour-of-day":
        return f"{moment:%H}"
    if unit == "day":
        # Where clocks go back to midnight, as in Havana, the day begins with the first of both.
        return _text(moment.replace(hour=0, minute=0, fold=0))
    return _text(moment.replace(minute=moment.minute if unit == "minute" else 0))


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def fill(counts: Counter[str], unit: Unit, zone: ZoneInfo | None) -> list[tuple[str, int]]:
    """The buckets in order with the empty ones between them, unless these are too many."""
    if unit == "weekday":
        return [(day, counts[day]) for day in _DAYS]
    if unit == "hour-of-day":
        return [(f"{hour:02d}", counts[f"{hour:02d}"]) for hour in range(24)]
    found = sorted(counts, key=datetime.fromisoformat)
    if not found:
        return []
    return [(start, counts[start]) for start in _starts(found, unit, zone)]


def _starts(found: list[str], unit: Unit, zone: ZoneInfo | None) -> Iterable[str]:
    """Every bucket from the first that was found to the last."""
    first, last = (datetime.fromisoformat(end) for end in (found[0], found[-1]))
    if (last - first) / _STEPS[unit] > BUCKETS_MAX:
        return found
    starts: dict[str, None] = {}
    moment = first.astimezone(UTC)
    # A day of a zone may have 23 or 25 hours, so buckets are found hour by hour.
    step = _STEPS["minute" if unit == "minute" else "hour"]
    while moment <= last:
        starts[bucket_of(moment.isoformat()[:16], unit, zone)] = None
        if last - moment < step:  # A further step may lead out of the years that there are.
            break
        moment += step
    starts.update(dict.fromkeys(found))
    return sorted(starts, key=datetime.fromisoformat)


def read_since(text: str, now_unix_us: int) -> Moment:
    """A time as `since:` takes it. Raises: MalformedError."""
    condition = resolve(parse_query(f'since:"{text}"'), now_unix_us)
    if not isinstance(condition, Between) or condition.start is None:
        raise MalformedError(f"{excerpt(text)} is no time; want one such as -7d or 2026-11-24")
    return condition.start
