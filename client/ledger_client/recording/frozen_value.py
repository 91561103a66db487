"""A copy of any value that can be compared and shown, and that later changes don't alter.

Each value has a digest, so that two values that look the same in JSON (two byte strings of one
length, two objects of one class) still differ. `Decimal("1.0")` and `Decimal("1.00")` have one
digest, and so has one instant in two zones. The digest has a random key of the process: nobody can
guess the value from it.

The attributes of an object of unknown class count for its digest and are never shown.
"""

import copyreg
import datetime as dt
import enum
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

from ledger_client.recording.jsonable import (
    ITEMS_MAX,
    ITERATED,
    LEVELS_MAX,
    TOO_DEEP,
    TooManyItemsError,
    holds_no_text,
    jsonable,
    read_items,
    type_shown,
    unique_items,
)
from ledger_core.event.model import INTEGER_MAX

NESTING_MAX: Final = 100
"""Levels that are compared; what is deeper counts as the same."""

OBJECTS_MAX: Final = 1_000
"""Objects of unknown class whose attributes are read for one value; one may lead to many others."""

HASH_CHARS: Final = 16

_KEY: Final = os.urandom(32)

StateOf = Callable[[object], Mapping[str, object] | None]
"""Gives the attributes of an object, and None for an unknown class."""


class FrozenValue(NamedTuple):
    """A value: its members if it has any, otherwise JSON that shows it."""

    members: "dict[str, FrozenValue] | list[FrozenValue] | None"
    shown: Any
    digest: bytes
    is_json: bool
    """Whether JSON holds the value exactly."""

    def is_same(self, other: "FrozenValue") -> bool:
        """Whether the values are equal.

        A snapshot that was JSON in between has texts for dates, and is compared by what is shown.
        """
        mine, theirs = self.members, other.members
        if self.digest == other.digest:
            return True
        if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
            return all(a.is_same(b) for a, b in zip(mine, theirs, strict=True))
        if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
            return all(member.is_same(theirs[name]) for name, member in mine.items())
        return self.is_json != other.is_json and self.looks_as(other)

    def looks_as(self, other: "FrozenValue") -> bool:
        """Whether the JSON of both is the same."""
        mine, theirs = (msgspec.json.encode(each.show()) for each in (self, other))
        return mine == theirs

    def show(self) -> Any:
        """The value as JSON; a hash stands for what is too deep, and for what is too much.

        What stands in the value several times is shown several times, and counts each time.
        """
        return self.show_some(LEVELS_MAX, [ITEMS_MAX])

    def show_some(self, levels: int, left: list[int]) -> Any:
        """As `show`; `left` holds how many values more are shown."""
        if self.members is None:
            return self.shown
        left[0] -= len(self.members)
        if not levels or left[0] < 0:
            return f"{TOO_DEEP}{self.digest.hex()[:HASH_CHARS]}"
        if isinstance(self.members, list):
            return [member.show_some(levels - 1, left) for member in self.members]
        return {name: member.show_some(levels - 1, left) for name, member in self.members.items()}

    def show_hashed(self) -> dict[str, Any]:
        """As `show`, with the hash of the value."""
        shown = self.show()
        members = shown if isinstance(shown, dict) else {"value": shown}
        return {**members, "hash": self.digest.hex()[:HASH_CHARS]}


def freeze(value: object, state_of: StateOf) -> FrozenValue:
    """Copy a value."""
    return _Freezer(state_of).freeze(value, 0)


def is_plain(value: Any) -> bool:
    """Whether this never alters, and JSON holds it exactly as it is."""
    kind = type(value)
    if kind is str:
        return (value.isascii() and "\0" not in value) or not holds_no_text(value)
    if kind is int:
        return bool(-INTEGER_MAX <= value <= INTEGER_MAX)
    return kind is bool or value is None


class _Freezer:
    """Copies one value. What it has in several places is copied once."""

    def __init__(self, state_of: StateOf) -> None:
        self._state_of: Final = state_of
        self._frozen: Final[dict[int, tuple[object, FrozenValue]]] = {}
        self._objects_left = OBJECTS_MAX

    def freeze(self, value: object, level: int) -> FrozenValue:
        """Copy a value. Of one that can't be read, only the class is known."""
        try:
            return self._freeze(value, level)
        except Exception as error:  # noqa: BLE001 - the application's object, of which even the class may raise
            shown = type_shown(value)
            # Of two values that are too long to compare, nobody may say that they are the same.
            unlike = os.urandom(32) if isinstance(error, TooManyItemsError) else b""
            frozen = FrozenValue(None, shown, _digest(str(shown), unlike), is_json=False)
            self._frozen[id(value)] = value, frozen
            return frozen

    def _freeze(self, value: object, level: int) -> FrozenValue:
        if is_plain(value):  # Most values are plain, and the questions below take a while.
            digest = _digest(type(value).__name__, str(value).encode())
            return FrozenValue(None, value, digest, is_json=True)
        value = _unwrapped(value)
        if isinstance(value, ITERATED):
            read_items(value)
        shown = jsonable(value, 1)
        if not isinstance(shown, dict | list) or isinstance(value, bytes | bytearray | memoryview):
            return _freeze_leaf(value, shown)
        if level == NESTING_MAX:
            return _DEEP
        if id(value) not in self._frozen:
            # A value inside itself is not followed. The value is kept, so that no other has its id.
            self._frozen[id(value)] = value, _DEEP
            self._frozen[id(value)] = value, self._freeze_members(value, shown, level + 1)
        return self._frozen[id(value)][1]

    def _freeze_members(self, value: object, shown: Any, level: int) -> FrozenValue:
        if isinstance(shown, list):
            members: Any = value  # Shown as a list, so it can be read as one.
            items = [self.freeze(item, level) for item in read_items(members)]
            if isinstance(value, AbstractSet):
                items.sort(key=lambda item: (str(item.show()), item.digest))
            return FrozenValue(
                items, None, _digest("list", *(item.digest for item in items)), is_json=True
            )
        state = value if isinstance(value, Mapping) else self._state_of(value)
        if state is not None:
            return self._freeze_mapping(state, level)
        attributes = b""
        if self._objects_left:
            self._objects_left -= 1
            attributes = self._freeze_mapping(_attributes(value), level).digest
        return FrozenValue(None, shown, _digest(str(shown), attributes), is_json=False)

    def _freeze_mapping(self, state: Mapping[Any, object], level: int) -> FrozenValue:
        members = {name: self.freeze(member, level) for name, member in unique_items(state)}
        parts = sorted(name.encode() + b"\0" + each.digest for name, each in members.items())
        return FrozenValue(members, None, _digest("object", *parts), is_json=True)


def _freeze_leaf(value: object, shown: Any) -> FrozenValue:
    kind, identity = type(shown).__name__, str(shown).encode()
    is_json = type(shown) is type(value)
    if isinstance(value, str):
        identity = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes | bytearray | memoryview):
        kind, identity = "bytes", bytes(value)
    elif isinstance(value, Decimal) and value.is_finite():
        kind, identity = "Decimal", _decimal_text(value).encode()
    elif isinstance(value, dt.datetime) and value.utcoffset() is not None:
        kind, identity = "instant", str(value - _EPOCH).encode()
    elif isinstance(value, float) and value == 0:
        identity = b"0.0"  # -0.0 is no other value.
    elif not is_json and not isinstance(value, int | float):
        kind = type(value).__qualname__
    return FrozenValue(None, shown, _digest(kind, identity), is_json=is_json)


def _decimal_text(value: Decimal) -> str:
    """The number without the zeros that change nothing, however many digits it has."""
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits))
    kept = text.rstrip("0")
    if not kept.strip("0"):
        return "0"
    return f"{'-' * sign}{kept.lstrip('0')}E{int(exponent) + len(text) - len(kept)}"


def _unwrapped(value: object) -> object:
    """The value of an enumeration's member; what NumPy's scalars and arrays hold."""
    if isinstance(value, enum.Enum):
        return _unwrapped(value.value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        plain: object = value.tolist()
        return plain
    return value


def _attributes(value: object) -> dict[str, object]:
    """What tells an object from others of its class: its attributes, else what copies it.

    A function or a class is known by its name.
    """
    if callable(value) and isinstance(name := getattr(value, "__qualname__", None), str):
        return {"name": f"{value.__module__}.{name}"}
    found = _readable_attributes(value)
    if isinstance(value, BaseException):
        found["args"] = value.args
    reduce = copyreg.dispatch_table.get(type(value))
    return found or {"copy": reduce(value) if reduce else value.__reduce_ex__(2)}


def _readable_attributes(value: object) -> dict[str, object]:
    names = (
        name for kind in type(value).__mro__ for name in _names(kind.__dict__.get("__slots__", ()))
    )
    found: dict[str, object] = {}
    for name in (*names, "__dict__"):
        try:
            attribute = getattr(value, name)
            found.update(attribute if name == "__dict__" else {name: attribute})
        except Exception:  # noqa: BLE001, S112 - the application's code, which may fail in any way
            continue
    return found


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _digest(kind: str, *parts: bytes) -> bytes:
    data = [kind.encode(), b"\0"]
    for part in parts:
        data += len(part).to_bytes(8, "little"), part
    return hashlib.blake2b(b"".join(data), key=_KEY, digest_size=32).digest()


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DEEP: Final = FrozenValue(None, TOO_DEEP, _digest("deep"), is_json=True)
