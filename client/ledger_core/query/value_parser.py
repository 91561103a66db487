"""Reads a value of the query language, the text behind a field's colon, into a condition.

Each kind of field (`fields.Kind`) has its reader here. A reader refuses a wrong value with
`RefusedValueError`, which lists right ones; the parser adds the place in the query.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from ledger_core.event.canonical import canonical_ip
from ledger_core.event.ids import is_uuid
from ledger_core.event.model import ACTION_PATTERN, LIMITS, EventError, Outcome
from ledger_core.event.times import parse_time
from ledger_core.near_names import near_names
from ledger_core.query import ast
from ledger_core.query.analyzer import fold, parse_number
from ledger_core.query.ast import Expression
from ledger_core.query.fields import FIELDS, Kind
from ledger_core.query.words import words_of
from ledger_core.tlog.hashing import SIZE_MAX

_ALWAYS: Final = frozenset({"delay", "has", "id", "index", "since", "time", "until"})
T = TypeVar("T")
Comparison: TypeAlias = Literal["", "<", "<=", ">", ">="]

_TIMES = ("2026-11-24", "2026-11-24T10:00Z", "2026-11-24..2026-11-25", "-24h", "now")
_ADDRESSES = ("203.0.113.9", "203.0.113.0/24", "203.0.113.*", "2001:db8::/32")
_INDICES = ("17", "100..199", ">=100")
_NUMBERS = ("200..299", ">=1000", "<0.5")
_DELAYS = (">3600", ">=1h", "1m..1h", "<0")
_PORTS = ("443", "1024..65535", ">=1024")
_MAPPED_BITS: Final = 96
_ORDERED: Final = frozenset({"context", "delay", "index", "port", "time"})
"""The kinds of fields whose values have an order."""
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_is_action = re.compile(ACTION_PATTERN).fullmatch
_match_octets = re.compile(r"(?:[0-9]{1,3}\.){1,3}").fullmatch
_match_relative = re.compile(r"-([0-9]{1,9})([smhdw])").fullmatch
_match_delay = re.compile(r"(-?[0-9]{1,12}(?:\.[0-9]{1,6})?)([smhdw]?)").fullmatch
_match_time = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?)?)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?"
).fullmatch


@dataclass(frozen=True, slots=True)
class Value:
    """A value as it was written: its text without quotes, star and comparison, and these."""

    text: str
    is_prefix: bool = False
    is_quoted: bool = False
    comparison: Comparison = ""

    @property
    def is_range(self) -> bool:
        """Whether it is written as a range, `A..B`; in quotes, dots are text."""
        return not self.is_quoted and ".." in self.text


class RefusedValueError(Exception):
    """A value does not fit its field: why, which values would, and the nearest of these."""

    def __init__(
        self, message: str, *, expected: Sequence[str] = (), nearest: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.nearest = nearest


def read_condition(field: str, value: Value, *, key: str = "") -> Expression:
    """The condition that a field has this value; `key` is the path if the field is `context`.

    Raises: RefusedValueError.
    """
    if "\0" in value.text:
        raise RefusedValueError("no value of the log holds a NUL")
    kind = FIELDS[field].kind
    if value.comparison:
        _check_comparison(field, value)
    if kind == "context" and (value.comparison or value.is_range):
        return _read_numbers(field, value, key)
    read = _READERS.get(kind)
    if read is not None:
        return read(field, value)
    if value.is_range:
        raise RefusedValueError(
            f"{field} has no order, so there is no range of it",
            expected=(f'{field}:"{value.text}"', *_ordered_examples()),
        )
    return ast.Is(field, value.text, is_prefix=value.is_prefix, key=key)


def read_presence(field: str, key: str) -> Expression:
    """The condition that an event has a value of a field. Raises: RefusedValueError."""
    if FIELDS[field].kind in _ALWAYS:
        raise RefusedValueError(
            f"every event has {field}", expected=("has:actor.session", "has:context.KEY")
        )
    return ast.Has(field, key)


def is_ordered(field: str) -> bool:
    """Whether values of a field compare as more or less."""
    return FIELDS[field].kind in _ORDERED


def _check_comparison(field: str, value: Value) -> None:
    if not is_ordered(field) and FIELDS[field].kind not in ("since", "until"):
        raise RefusedValueError(
            f"{field} has no order, so nothing is more or less than a value of it",
            expected=_ordered_examples(),
        )
    if not value.text or value.is_prefix or value.is_range:
        raise RefusedValueError(
            "a comparison has one value behind it, without a blank, a star or a range",
            expected=(f"{value.comparison}VALUE",),
        )


def _ordered_examples() -> tuple[str, ...]:
    return ("context.amount:>=1000", "time:2026-11-24..2026-11-25", "index:100..199")


def _read_numbers(field: str, value: Value, key: str) -> Expression:
    """A range of numbers, or a comparison with one; texts that are no numbers are refused."""
    expected = (*_NUMBERS, f'"{value.comparison}{value.text}"')

    def read(text: str) -> Decimal:
        number = parse_number(text)
        if number is None:
            message = "not a number; a text with dots or signs needs quotes"
            raise RefusedValueError(message, expected=expected)
        return number

    return replace(_read_range(field, value, read, expected=expected), key=key)


def read_words(field: str, value: Value) -> Expression:
    """The condition that an event has these words side by side in one text.

    Raises: RefusedValueError.
    """
    if field and value.is_prefix and not value.text:
        return ast.Has(field)
    if "*" in value.text:
        raise RefusedValueError(
            "a star stands behind the quotes", expected=(f'"{value.text.replace("*", "")}"*',)
        )
    if not words_of(value.text):
        raise RefusedValueError("there is no word in it", expected=("letters or digits",))
    return ast.Words(field, " ".join(value.text.split()), is_prefix=value.is_prefix)


def _read_name(field: str, value: Value) -> Expression:
    """In quotes the whole value, or its beginning; else words of it."""
    if value.is_quoted:
        return ast.Is(field, value.text, is_prefix=value.is_prefix)
    return read_words(field, replace(value, text=ast.bare_words(value.text)))


def _read_port(field: str, value: Value) -> Expression:
    if value.is_prefix and not value.text:
        return ast.Has(field)
    found = _read_range(field, value, _read_port_number, expected=_PORTS)
    if value.comparison or value.is_range:
        return found
    return ast.Is(field, str(found.low))


def _read_port_number(text: str) -> Decimal:
    most = LIMITS["port"].most
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not is_number or int(text) > most:
        raise RefusedValueError(f"not a port, 0 to {most}", expected=_PORTS)
    return Decimal(int(text))


def _read_delay(field: str, value: Value) -> Expression:
    return _read_range(field, value, _read_seconds, expected=_DELAYS)


def _read_seconds(text: str) -> Decimal:
    found = _match_delay(text)
    if found is None:
        raise RefusedValueError("not a number of seconds", expected=_DELAYS)
    seconds = Decimal(found[1]) * (_UNITS_S[found[2]] if found[2] else 1)
    # One text for each number: neither 1.50 nor -0.
    return Decimal(f"{seconds:f}".rstrip("0").rstrip(".") if seconds % 1 else int(seconds))


def _read_range(
    field: str, value: Value, read: Callable[[str], Decimal], *, expected: Sequence[str]
) -> ast.NumberBetween:
    """A number, a range of numbers, or a comparison with one."""
    low, dots, high = value.text.partition("..")
    if not dots and not value.comparison:
        high = low
    elif value.comparison.startswith("<"):
        low, high = "", low
    if value.is_prefix or not (low or high):
        raise RefusedValueError("neither a number nor a range", expected=expected)
    first, last = (read(text) if text else None for text in (low, high))
    if first is not None and last is not None and last < first:
        raise RefusedValueError("the range ends before it begins")
    return ast.NumberBetween(
        field,
        first,
        last,
        is_above_low=value.comparison == ">",
        is_below_high=value.comparison == "<",
    )


def _read_action(field: str, value: Value) -> Expression:
    text = value.text.removesuffix(".") if value.is_prefix else value.text
    if not _is_action(text) and not (value.is_prefix and not text):
        raise RefusedValueError(
            "not an action", expected=("segments joined by dots: user.created",)
        )
    return ast.Is(field, value.text, is_prefix=value.is_prefix)


def _read_outcome(field: str, value: Value) -> Expression:
    outcomes, text = get_args(Outcome), fold(value.text)
    is_known = any(map(str.startswith, outcomes, [text] * len(outcomes)))
    if not is_known or (not value.is_prefix and text not in outcomes):
        near = near_names(text, outcomes, count=1, cutoff=0.5)
        raise RefusedValueError(
            "not an outcome", expected=outcomes, nearest=near[0] if near else None
        )
    return ast.Is(field, text, is_prefix=value.is_prefix)


def _read_source(field: str, value: Value) -> Expression:
    if value.is_prefix and not value.text:
        return ast.Is(field, "", is_prefix=True)
    try:
        return ast.InNetwork(_network_of(value))
    except ValueError:
        raise RefusedValueError("neither an address nor a network", expected=_ADDRESSES) from None


def _network_of(value: Value) -> IPv4Network | IPv6Network:
    if value.is_prefix:
        if not _match_octets(value.text):
            raise ValueError("a star replaces whole numbers between dots")
        given = value.text.count(".")
        return ip_network(f"{value.text}{'.'.join('0' * (4 - given))}/{8 * given}")
    if "/" in value.text:
        network = ip_network(value.text, strict=False)
        mapped = network.network_address
        if network.prefixlen >= _MAPPED_BITS and isinstance(mapped, IPv6Address):
            # The log holds IPv4-mapped addresses as IPv4.
            inner = mapped.ipv4_mapped
            return network if inner is None else _within(inner, network.prefixlen)
        return network
    return ip_network(ip_address(canonical_ip(value.text)))


def _within(address: IPv4Address, bits: int) -> IPv4Network:
    return IPv4Network((address, bits - _MAPPED_BITS))


def _read_id(field: str, value: Value) -> Expression:
    text = value.text.lower()
    whole = text + "00000000-0000-0000-0000-000000000000"[len(text) :]
    if not is_uuid(whole if value.is_prefix else text):
        raise RefusedValueError(
            "not the id of an event", expected=("a UUID", "its beginning and *")
        )
    return ast.Is(field, text, is_prefix=value.is_prefix)


def _read_index(_field: str, value: Value) -> Expression:
    low, dots, high = value.text.partition("..")
    if value.is_prefix or not (low or high):
        raise RefusedValueError("not an index", expected=_INDICES)
    start = _read_number(low) if low else 0
    end = start + 1
    if value.comparison:
        least, above = _compared(value, start, end)
        start, end = least or 0, SIZE_MAX if above is None else above
    elif dots:
        end = _read_number(high) + 1 if high else SIZE_MAX
    if end <= start:
        raise RefusedValueError("the range ends before it begins")
    return ast.IndexBetween(start, end)


def _compared(value: Value, start: T, end: T) -> tuple[T | None, T | None]:
    """The two ends of what is less or more than a span `[start, end)`; None is an open end."""
    match value.comparison:
        case "<":
            return None, start
        case "<=":
            return None, end
        case ">":
            return end, None
    return start, None


def _read_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(SIZE_MAX))):
        raise RefusedValueError("not an index", expected=_INDICES)
    return min(int(text), SIZE_MAX - 1)


def _read_time(field: str, value: Value) -> Expression:
    text = value.text
    low, dots, high = text.partition("..")
    if value.is_prefix or not (low or high):
        raise RefusedValueError("not a time", expected=_TIMES)
    if field in ("since", "until"):
        if value.comparison or dots:
            raise RefusedValueError(
                f"{field} has one time", expected=("time:2026-11-24..2026-11-25", "time:>=-24h")
            )
        start, end = _read_moment(text)
        return (
            ast.Between("time", start, None) if field == "since" else ast.Between("time", None, end)
        )
    if value.comparison:
        first, last = _compared(value, *_read_moment(text))
        is_past = last is not None and not last.relative and last.unix_us <= 0
        if is_past or (first is not None and first.unix_us >= ast.UNIX_US_END):
            raise RefusedValueError("times are within the years 1970 to 9999", expected=_TIMES)
        return ast.Between(field, first, last)
    if not dots:
        start, end = _read_moment(text)
        if start == end:
            raise RefusedValueError("one moment, not a span", expected=(f"{text}..", f"..{text}"))
        return ast.Between(field, start, end)
    first = _read_moment(low)[0] if low else None
    last = _read_moment(high)[1] if high else None
    if first and last and first.relative == last.relative and last.unix_us <= first.unix_us:
        raise RefusedValueError("the range ends before it begins")
    return ast.Between(field, first, last)


def _read_moment(text: str) -> tuple[ast.Moment, ast.Moment]:
    """The first moment of the time that a text names, and the first moment after it."""
    if text == "now":
        return (ast.Moment(0, relative=True),) * 2
    relative = _match_relative(text)
    if relative:
        amount, unit = relative.groups()
        back_us = int(amount) * _UNITS_S[unit] * ast.MICROSECONDS
        return (ast.Moment(-back_us, relative=True, whole_minutes=unit != "s"),) * 2
    found = _match_time(text)
    if found is None:
        near = f"-{text}" if _match_relative(f"-{text}") else None
        raise RefusedValueError("not a time", expected=_TIMES, nearest=near)
    date, hour, minute, second, fraction, zone = found.groups(default="")
    if hour and not zone:
        raise RefusedValueError("a time of day needs its zone", expected=(f"{text}Z",))
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{fraction or '0'}"
    try:
        start = parse_time(f"{date}T{clock}{zone or 'Z'}")
    except EventError as error:
        raise RefusedValueError(error.message) from None
    if fraction:
        unit_us = 10 ** (6 - len(fraction))
    else:
        unit = "s" if second else "m" if minute else "h" if hour else "d"
        unit_us = _UNITS_S[unit] * ast.MICROSECONDS
    return ast.Moment(start), ast.Moment(min(start + unit_us, ast.UNIX_US_END))


_READERS: Mapping[Kind, Callable[[str, Value], Expression]] = {
    "action": _read_action,
    "address": _read_source,
    "delay": _read_delay,
    "id": _read_id,
    "index": _read_index,
    "name": _read_name,
    "outcome": _read_outcome,
    "port": _read_port,
    "since": _read_time,
    "time": _read_time,
    "until": _read_time,
    "words": read_words,
}
