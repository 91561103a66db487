"""Any Python value as JSON that an event may hold.

Nothing here calls `repr` or `str` on a value of unknown type: what such an object prints may be a
password. It becomes the name of its type instead.
"""

import array
import collections
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import itertools
import math
import pathlib
import re
import sys
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeVar

import msgspec

from ledger_core.event.model import INTEGER_MAX, LIMITS

T = TypeVar("T")

LEVELS_MAX: Final = LIMITS["depth"].most
TOO_DEEP: Final = "…"
REPLACEMENT: Final = "\ufffd"
INTEGER_BITS_MAX: Final = 4096
VALUES_MAX: Final = LIMITS["leaf"].most // 2
"""Each value in a list takes two bytes of a leaf with its comma."""
ITEMS_MAX: Final = 1_000_000
"""Members that are read of one container, which may have no end if its class is no built-in one."""

_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")
_not_text = _NO_TEXT.sub
holds_no_text = _NO_TEXT.search
"""Finds what no text of an event may hold: NUL, and lone surrogates."""
_PRINTED: Final = (
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    complex,
    range,
    dt.timezone,
    zoneinfo.ZoneInfo,
    pathlib.PurePath,
    dt.timedelta,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_SEQUENCES: Final = (list, tuple, array.array, collections.deque)
ITERATED: Final = (*_SEQUENCES, AbstractSet)
_ENDING: Final = frozenset(
    {list, tuple, set, frozenset, array.array, collections.deque, type({}.items())}
)
"""Classes that are no one's own, and so have an end."""

_LAZY_TEXTS: Final = (
    ("babel.support", "LazyProxy"),
    ("django.utils.functional", "Promise"),
    ("flask_babel.speaklater", "LazyString"),
)
"""The classes of texts that are translated where they are shown."""


def jsonable(value: object, levels: int = LEVELS_MAX) -> Any:
    """The value as JSON, objects and arrays at most `levels` deep.

    Numbers that JSON doesn't hold exactly become texts. Texts are never cut here, where secrets
    aren't masked yet: the mask would not recognise half a secret.
    """
    try:
        match value:
            case enum.Enum():
                return jsonable(value.value, levels)
            case None | bool():
                return value
            case str():
                return _not_text(REPLACEMENT, str(value))
            case int():
                return int(value) if abs(value) <= INTEGER_MAX else _integer_text(value)
            case float():
                return value if math.isfinite(value) and abs(value) <= INTEGER_MAX else str(value)
            case dt.datetime() | dt.date() | dt.time():
                return value.isoformat()
            case bytes() | bytearray() | memoryview():
                return {"bytes": len(value)} if levels else TOO_DEEP
        if isinstance(value, _PRINTED):
            return str(value)
        if is_lazy_text(value):
            return jsonable(str(value), levels)
        return _jsonable_container(value, levels)
    except Exception:  # noqa: BLE001 - the application's object, of which even the class may raise
        return type_shown(value)


def _jsonable_container(value: object, levels: int) -> Any:
    if not levels:
        return TOO_DEEP
    if isinstance(value, Mapping):
        return {name: jsonable(member, levels - 1) for name, member in unique_items(value)}
    if isinstance(value, _SEQUENCES):
        return [jsonable(item, levels - 1) for item in read_items(value)]
    if isinstance(value, AbstractSet):
        return sorted((jsonable(item, levels - 1) for item in read_items(value)), key=str)
    return type_shown(value)


def holds_too_many(*parts: tuple[object, int]) -> bool:
    """Whether parts of an event, each down to so many levels, have more values than any leaf.

    Cost: so many of them are visited, whatever else there is: a list may have millions of them, one
    list may stand in another many times, and an iterator of the application may have no end.
    """
    left = VALUES_MAX
    waiting = [*parts]
    while waiting:
        each, levels = waiting.pop()
        kind = type(each)
        if kind in _SCALARS or not levels:
            continue
        if kind is dict or kind is list:  # Nearly all are, and need no questions.
            known: Any = each
            left -= len(known)
            if left < 0:
                return True
            # A copy, made in one step: another thread may change it meanwhile.
            some = [*known.values()] if kind is dict else known
            waiting += [(one, levels - 1) for one in some if type(one) not in _SCALARS]
            continue
        try:
            members = list(itertools.islice(_members(each), left + 1))
        except Exception:  # noqa: BLE001, S112 - the application's object, of which even the class may raise
            continue
        left -= len(members)
        if left < 0:
            return True
        waiting += [(member, levels - 1) for member in members]
    return False


def _members(value: object) -> Iterable[object]:
    """The members of a container, read as `jsonable` reads them; none of other values."""
    if isinstance(value, Mapping):
        return (member for _, member in value.items())
    return value if isinstance(value, ITERATED) else ()


class TooManyItemsError(ValueError):
    """A container of the application has more members than are read."""


def read_items(value: Iterable[T]) -> Iterable[T]:
    """Read the members of a container.

    Raises: TooManyItemsError for more than `ITEMS_MAX`, before so many are held.
    """
    if type(value) in _ENDING:
        return value
    items = [*itertools.islice(value, ITEMS_MAX + 1)]
    if len(items) > ITEMS_MAX:
        raise TooManyItemsError(f"more than {ITEMS_MAX} members")
    return items


def copy_members(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a mapping; of one of the application's own class the first `VALUES_MAX` members.

    No field of an event has as many.
    """
    if type(mapping) is dict:
        return dict(mapping)
    return dict(itertools.islice(mapping.items(), VALUES_MAX))


def is_lazy_text(value: object) -> bool:
    """Whether this is a text that is translated where it is shown.

    The classes are looked up among the loaded modules, and nothing is imported.
    """
    kinds = (getattr(sys.modules.get(module), name, None) for module, name in _LAZY_TEXTS)
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def type_shown(value: object) -> dict[str, str]:
    """The replacement of a value of unknown type, or of one that can't be read."""
    kind = type(value)
    return {"type": f"{kind.__module__}.{kind.__qualname__}"}


def unique_items(mapping: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """The items of a mapping under names for a JSON object, of which no two are the same.

    Texts keep their names: of `{1: "a", "1": "b"}` the first is named `1 (int)`.

    Raises: TooManyItemsError; what the mapping raises.
    """
    items = [*read_items(mapping.items())]
    keys = [key for key, _ in items]
    if all(type(key) is str for key in keys) and not holds_no_text("".join(keys)):
        return items
    names: dict[Any, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}  # Counted on, or a thousand like keys would be a million questions.
    for key in sorted(keys, key=lambda key: not isinstance(key, str)):
        name = text = _key_text(key)
        if name in taken:
            name = typed = f"{text} ({type(key).__name__})"
            while name in taken:
                counts[typed] = counts.get(typed, 1) + 1
                name = f"{typed} {counts[typed]}"
        names[key] = name
        taken.add(name)
    return [(names[key], value) for key, value in items]


def _key_text(key: object) -> str:
    shown = jsonable(key)
    if isinstance(shown, dict | list):
        return msgspec.json.encode(shown).decode()
    return shown if isinstance(shown, str) else str(shown)


def _integer_text(value: int) -> str:
    # Python refuses to print more than 4,300 digits.
    return str(value) if value.bit_length() <= INTEGER_BITS_MAX else hex(value)
