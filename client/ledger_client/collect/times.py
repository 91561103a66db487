"""Times as other systems write them. What can't be read is refused, never guessed.

    2026-11-25T02:03:36.123Z    2026-11-25 02:03:36,123 +0100    2026-11-25T02:03Z    2026-11-25
    20261125T020336Z    Wed, 25 Nov 2026 02:03:36 +0100    25/Nov/2026:02:03:36 +0100
    1790000000    1790000000123

Digits alone count seconds, milliseconds, microseconds or nanoseconds since 1970: their number tells
which. A time without a zone is read only in the zone that the caller names. Second 60, a leap
second, becomes second 59; a date alone becomes its first moment. Both are noted.
"""

import re
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from ledger_core.event.model import EventError
from ledger_core.event.times import format_time, parse_time

UNITS: Final = {
    "s": Decimal(1_000_000),
    "ms": Decimal(1_000),
    "us": Decimal(1),
    "ns": Decimal("0.001"),
}
"""Microseconds of each unit of an epoch."""

_UNIT_BY_DIGITS: Final = {
    9: "s", 10: "s", 12: "ms", 13: "ms", 15: "us", 16: "us", 18: "ns", 19: "ns",
}  # fmt: skip
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_FORMAT_BYTES_MAX: Final = 256

_CLOCK: Final = (
    r"(?P<hour>[0-9]{2}):?(?P<minute>[0-9]{2})"
    r"(?::?(?P<second>[0-9]{2})(?:[.,](?P<part>[0-9]{1,32}))?)?"
)
_ZONE: Final = r" ?(?P<zone>[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_FORMS: Final = tuple(
    re.compile(form).fullmatch
    for form in (
        # ISO 8601 with its separators, or in the basic form with none.
        rf"(?P<year>[0-9]{{4}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}})(?:[Tt ]{_CLOCK}{_ZONE})?",
        rf"(?P<year>[0-9]{{4}})(?P<month>[0-9]{{2}})(?P<day>[0-9]{{2}})[Tt]{_CLOCK}{_ZONE}",
        # RFC 2822 §3.3, and the HTTP date.
        rf"(?:[A-Z][a-z]{{2}}, )?(?P<day>[0-9]{{1,2}}) (?P<name>[A-Z][a-z]{{2}}) "
        rf"(?P<year>[0-9]{{4}}) {_CLOCK}{_ZONE}",
        # Apache's %t, with its brackets or without.
        rf"\[?(?P<day>[0-9]{{2}})/(?P<name>[A-Z][a-z]{{2}})/(?P<year>[0-9]{{4}}):{_CLOCK}{_ZONE}\]?",
    )
)
_match_epoch = re.compile(r"([0-9]{9,19})(?:\.([0-9]{1,32}))?").fullmatch


class ReadTime(NamedTuple):
    """A time that was read, and what had to be changed, "" for nothing."""

    unix_us: int
    note: str


def read_time(text: str, time_zone: str | None = None) -> ReadTime | None:
    """Read a time; None for one that can't be read. `time_zone` is `Z` or `+01:00`."""
    text = text.strip()
    if match := _match_epoch(text):
        unit = _UNIT_BY_DIGITS.get(len(match[1]))
        unix_us = from_epoch(Decimal(text), unit) if unit else None
        return None if unix_us is None else ReadTime(unix_us, "")
    for form in _FORMS:
        if match := form(text):
            return _from_parts(match.groupdict(), time_zone)
    return None


def from_epoch(moment: float | Decimal, unit: str) -> int | None:
    """Return the microseconds since 1970 of a number of `unit`, rounded; None out of range."""
    try:
        unix_us = round(Decimal(str(moment)) * UNITS[unit])
        format_time(unix_us)
    except (KeyError, ValueError, ArithmeticError):
        return None
    return unix_us


def read_with_format(text: str, form: str) -> str | None:
    """Read a time by a format of `strptime`, and write it as ISO 8601, with its zone if it has one.

    None for a text of another form, and for `%Z`: a zone's name means different things.
    """
    if "%Z" in form or len(form) > _FORMAT_BYTES_MAX:
        return None
    try:
        return datetime.strptime(text, form).isoformat()  # noqa: DTZ007 - the zone may come later
    except ValueError:
        return None


def _from_parts(parts: dict[str, str | None], time_zone: str | None) -> ReadTime | None:
    zone = parts.get("zone") or time_zone
    name = parts.get("name")
    if zone is None or (name and name not in _MONTHS):
        return None
    month = _MONTHS.index(name) + 1 if name else int(parts["month"] or 0)
    note = "" if parts["hour"] else "a date alone, its first moment stands for it"
    second = parts["second"] or "00"
    if second == "60":
        second, note = "59", "a leap second, second 59 stands for it"
    offset = zone.replace(":", "")
    offset = "Z" if offset in ("Z", "z", "UTC", "GMT") else f"{offset[:3]}:{offset[3:] or '00'}"
    date = f"{parts['year']}-{month:02d}-{int(parts['day'] or 0):02d}"
    clock = f"{parts['hour'] or '00'}:{parts['minute'] or '00'}:{second}.{parts['part'] or '0'}"
    try:
        return ReadTime(parse_time(f"{date}T{clock}{offset}"), note)
    except EventError:
        return None
