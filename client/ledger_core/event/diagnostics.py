"""Finds the reason why an event is refused: the slow, strict second reading.

The fast path (`canonical.decode_event`) only detects *that* something may be wrong: msgspec refused
the bytes, the colons don't add up, a value isn't plain. This module reads the input again with the
standard library's parser, which shows repeated keys, and walks it along the types of the model, so
that the error names the place with its index, the rule, the limit and the value's size. Nothing
here depends on the wording of msgspec's messages.

The walk follows the order of the document and raises at the first fault. It refuses at least what
msgspec refuses; a property test compares the two.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import inspect

from ledger_core.event.model import INTEGER_MAX, LIMITS, Event, EventError

KEY_SHOWN_CHARS_MAX = 64

# A refused event would cost a hundred times as much without the cache.
_type_info = lru_cache(maxsize=16)(inspect.type_info)
_EVENT_TYPE = _type_info(Event)
_DEPTH_MAX = LIMITS["depth"].most
_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def check_json(raw: bytes) -> None:
    """Refuse bytes that aren't one event without repeated keys; formats of texts aside.

    `canonical` checks the formats of times, addresses, ids and actions.

    Raises: EventError.
    """
    check_json_of(raw, Event)


def check_json_of(raw: bytes, kind: type) -> None:
    """Refuse bytes that aren't a struct of the types of the model, without repeated keys.

    Raises: EventError.
    """
    value = parse_json(raw, read_object=_mark_repeated, read_integer=_read_integer)
    _check(value, _type_info(kind), "")


def parse_json(
    raw: bytes,
    *,
    read_object: Callable[[list[tuple[str, Any]]], Any],
    read_integer: Callable[[str], int] = int,
    read_float: Callable[[str], float] = float,
) -> Any:
    """Parse JSON with the standard library; NaN and numbers too large come as floats.

    Raises: EventError (rules "not-json" and "too-deep"), and what the two functions raise.
    """
    try:
        text = raw.decode()
        return json.loads(
            text,
            object_pairs_hook=read_object,
            parse_int=read_integer,
            parse_float=read_float,
            parse_constant=float,
        )
    except UnicodeDecodeError as error:
        reason = f"the byte at {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        reason = f"{error.msg.lower()} at character {error.pos}"
    except RecursionError:
        raise _too_deep("") from None
    raise EventError(f"not JSON: {reason}", rule="not-json")


def check_object(value: object) -> None:
    """Refuse a decoded value that isn't an event; as `check_json`. Raises: EventError."""
    _check(value, _EVENT_TYPE, "")


class _Repeating(dict[str, object]):
    """An object of the input that has a key twice."""

    repeated_key: str


def _mark_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    counted = Counter(key for key, _ in pairs)
    repeating = _Repeating(members)
    repeating.repeated_key = next(key for key, count in counted.items() if count > 1)
    return repeating


def _read_integer(text: str) -> int:
    """Read an integer, or any other that is as far out of range when the digits are very many."""
    # int() is quadratic, and refuses more than 4,300 digits with an error of its own.
    return int(text[:20])


def _check(value: object, kind: inspect.Type, field: str) -> None:
    if isinstance(kind, inspect.Metadata):
        _check(value, kind.type, field)
    elif isinstance(kind, inspect.AnyType):
        _check_any(value, field, depth=1)
    elif type(kind) in _CHECKS:
        _CHECKS[type(kind)](value, kind, field)
    else:
        raise TypeError(f"the model has a type that is not checked here: {kind}")


def _check_struct(value: object, kind: inspect.StructType, field: str) -> None:
    members = _expect_object(value, field)
    fields = {entry.encode_name: entry for entry in kind.fields}
    for key, member in members.items():
        if key not in fields:
            message = "no such key; put what has no field of its own into `context`"
            raise EventError(message, rule="unknown-key", field=_member(field, key))
        _check(member, fields[key].type, _member(field, key))
    for name, entry in fields.items():
        if entry.required and name not in members:
            raise EventError("is required", rule="missing-field", field=_member(field, name))


def _check_map(value: object, kind: inspect.DictType, field: str) -> None:
    members = _expect_object(value, field)
    _check_count(len(members), kind.max_length, "keys", field)
    for key, member in members.items():
        _check(key, kind.key_type, _member(field, key))
        _check_any(member, _member(field, key), depth=2)


def _check_array(value: object, kind: inspect.VarTupleType, field: str) -> None:
    if type(value) is not list and type(value) is not tuple:
        raise _wrong_type("an array", value, field)
    _check_count(len(value), kind.max_length, "items", field)
    for index, item in enumerate(value):
        _check(item, kind.item_type, f"{field}[{index}]")


def _check_string(value: object, kind: inspect.StrType, field: str) -> None:
    if type(value) is not str:
        raise _wrong_type("a string", value, field)
    _check_text(value, field)
    got, least, most = len(value), kind.min_length, kind.max_length
    if least is not None and got < least:
        message = "is empty; leave it out or give at least one character"
        raise EventError(message, rule="too-short", field=field, limit=least, got=got)
    if most is not None and got > most:
        raise EventError.exceeds("has", "characters", got, most, rule="too-long", field=field)


def _check_integer(value: object, kind: inspect.IntType, field: str) -> None:
    if type(value) is not int:
        raise _wrong_type("an integer", value, field)
    if kind.ge is not None and kind.le is not None and not kind.ge <= value <= kind.le:
        message = f"is not between {kind.ge} and {kind.le}"
        raise EventError(message, rule="out-of-range", field=field, limit=kind.le)


def _check_literal(value: object, kind: inspect.LiteralType, field: str) -> None:
    if type(value) is not str:
        raise _wrong_type("a string", value, field)
    if value not in kind.values:
        listed = ", ".join(str(name) for name in kind.values)
        raise EventError(f"is not one of {listed}", rule="not-listed", field=field)


_CHECKS: Mapping[type, Callable[[object, Any, str], None]] = {
    inspect.StructType: _check_struct,
    inspect.DictType: _check_map,
    inspect.VarTupleType: _check_array,
    inspect.StrType: _check_string,
    inspect.IntType: _check_integer,
    inspect.LiteralType: _check_literal,
}


def _check_any(value: object, field: str, *, depth: int) -> None:
    """Check a free value; an object or array stands at level `depth`."""
    if type(value) is str:
        _check_text(value, field)
    elif type(value) is int or type(value) is float:
        # NaN is in no interval, and infinities are outside this one.
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            message = (
                f"not a number between ±{INTEGER_MAX}, where JSON is exact; send it as a string"
            )
            raise EventError(message, rule="number", field=field, limit=INTEGER_MAX)
    elif isinstance(value, dict | list) and depth > _DEPTH_MAX:
        raise _too_deep(field)
    elif isinstance(value, dict):
        for key, member in _expect_object(value, field).items():
            _check_text(key, _member(field, key))
            _check_any(member, _member(field, key), depth=depth + 1)
    elif type(value) is list:
        for index, item in enumerate(value):
            _check_any(item, f"{field}[{index}]", depth=depth + 1)
    elif value is not None and type(value) is not bool:
        raise _wrong_type("a JSON value", value, field)


def _expect_object(value: object, field: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong_type("an object", value, field)
    if isinstance(value, _Repeating):
        key = _member(field, value.repeated_key)
        raise EventError("stands twice in one object", rule="repeated-key", field=key)
    for each in value:
        if type(each) is not str:
            raise _wrong_type("a string as key", each, field)
    return value


def _check_text(value: str, field: str) -> None:
    if "\0" in value:
        raise EventError("holds a NUL character", rule="string", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"holds a lone surrogate at character {error.start}, which is no Unicode text"
        raise EventError(message, rule="string", field=field) from None


def _check_count(count: int, count_max: int | None, unit: str, field: str) -> None:
    if count_max is not None and count > count_max:
        raise EventError.exceeds("has", unit, count, count_max, rule="too-many", field=field)


def _wrong_type(want: str, value: object, field: str) -> EventError:
    got = _JSON_NAMES.get(type(value), f"a Python {type(value).__name__}")
    return EventError(f"expected {want}, got {got}", rule="wrong-type", field=field)


def _too_deep(field: str) -> EventError:
    message = f"objects and arrays stand more than {_DEPTH_MAX} deep in one another"
    return EventError(message, rule="too-deep", field=field, limit=_DEPTH_MAX)


def _member(field: str, key: object) -> str:
    """Name a member: `context.request`, or `context["a b"]` for a key that isn't a plain name."""
    text = str(key)
    if len(text) > KEY_SHOWN_CHARS_MAX:
        text = f"{text[:KEY_SHOWN_CHARS_MAX]}…"
    if text.replace("_", "a").replace("-", "a").isalnum() and text.isascii():
        return f"{field}.{text}" if field else text
    # As ASCII: a key may hold line ends, or right-to-left marks that turn a log line round.
    return f"{field}[{json.dumps(text)}]"
