"""Tells when the fast encoding of an event is RFC 8785 for sure.

RFC 8785 sorts keys by UTF-16 code units and prints numbers as ECMAScript does. For ASCII keys,
integers and fractions like 12.5 that is what msgspec's sorted encoder writes. A non-ASCII key, or a
float like 1.0 or 1e-7, is not plain.

Source: RFC 8785 §3.2.
"""

from collections.abc import Sequence
from itertools import chain
from types import NoneType
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from ledger_core.event.model import INTEGER_MAX, LIMITS, Event

_DEPTH_MAX = LIMITS["depth"].most

# From here up, msgspec and ECMAScript both write a fraction's shortest digits without an exponent.
_PLAIN_FLOAT_MIN = 1e-4
_PLAIN_SCALARS = frozenset({str, bool, NoneType, UnsetType})
_INTEGERS_TOO = _PLAIN_SCALARS | {int}

encode_sorted = msgspec.json.Encoder(order="sorted").encode


def encode_plain(event: Event) -> bytes | None:
    """Encode an event fast; None when that may not be RFC 8785, or a string may be forbidden."""
    if (event.context is not UNSET or event.changes is not UNSET) and not is_plain_event(event):
        return None
    try:
        event_json = encode_sorted(event)
    except (UnicodeEncodeError, TypeError):
        return None
    # The search for one byte here: it is ten times faster, and most events have no escape.
    return None if b"\\" in event_json and holds_nul(event_json) else event_json


def is_plain_event(event: Event) -> bool:
    """Whether all keys and numbers of an event are plain."""
    if event.context is not UNSET and not _is_plain_object(event.context, 1):
        return False
    if event.changes is not UNSET:
        for change in event.changes:
            if not (_is_plain(change.before, 1) and _is_plain(change.after, 1)):
                return False
    return True


def holds_nul(encoded: bytes) -> bool:
    """Whether JSON may hold a NUL, which no string of an event has."""
    return b"\\" in encoded and b"\\u0000" in encoded


def kept_all_keys(raw: bytes, event_json: bytes, colons_added: int) -> bool:
    """Whether decoding dropped no repeated key; False where only the strict parse can tell.

    Each colon of `raw` is in a string that was kept, after a key that was kept, or in a member that
    was dropped, and a dropped member has at least the colon after its key. So equal counts mean
    that none was dropped, unless a string has a colon as an escape, which hides it from the count
    of `raw`.
    """
    # The search for one byte first: it is ten times faster, and most events have no escape.
    if b"\\" in raw and (b"\\u003a" in raw or b"\\u003A" in raw):
        return False
    return raw.count(b":") + colons_added == event_json.count(b":")


def _is_plain(value: object, depth: int) -> bool:
    """Tell whether a value may be encoded fast; an object or array would be at level `depth`."""
    kind = type(value)
    if kind in _PLAIN_SCALARS:
        return True
    if kind is int:
        return -INTEGER_MAX <= cast("int", value) <= INTEGER_MAX
    if kind is float:
        number = cast("float", value)
        return _PLAIN_FLOAT_MIN <= abs(number) <= INTEGER_MAX and not number.is_integer()
    if depth > _DEPTH_MAX:
        return False
    if kind is dict:
        return _is_plain_object(cast("dict[str, Any]", value), depth)
    if kind is list:
        return all(_is_plain(item, depth + 1) for item in cast("list[Any]", value))
    return False


def are_plain_objects(objects: Sequence[dict[str, Any]]) -> bool:
    """Whether all keys and numbers of contexts are plain."""
    # Passes in C over all of them: most hold nothing but texts and a few integers.
    values = [*chain.from_iterable(map(dict.values, objects))]
    kinds = set(map(type, values))
    if not kinds <= _INTEGERS_TOO:
        return all(_is_plain_object(each, 1) for each in objects)
    if int in kinds:
        integers = [value for value in values if type(value) is int]
        if not -INTEGER_MAX <= min(integers) <= max(integers) <= INTEGER_MAX:
            return False
    return "".join(chain.from_iterable(objects)).isascii()


def _is_plain_object(members: dict[str, Any], depth: int) -> bool:
    try:
        if not "".join(members).isascii():
            return False
    except TypeError:
        return False
    values = members.values()
    # One pass in C: most objects hold nothing else.
    if _PLAIN_SCALARS.issuperset(map(type, values)):
        return True
    return all(_is_plain(value, depth + 1) for value in values)
