"""The one text of a time in an event: UTC, six decimals and a `Z`.

    2026-11-25T03:03:36.1234567+01:00   is kept as   2026-11-25T02:03:36.123456Z

Years 1970 to 9999, no leap seconds. Digits beyond the sixth are cut off, not rounded.
"""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from ledger_core.event.model import EventError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
UNIX_US_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_looks_canonical_time = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z"
).fullmatch
LATE_S = 3600
"""Seconds between an event and its receipt that are marked when there are more."""
_HOUR_CHARS = len("2026-11-25T02")
_match_time = re.compile(
    # Hour and offset stop at 23 here, because Python 3.14 reads 24:00 as the next day's midnight.
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]((?:[01][0-9]|2[0-3]):[0-9]{2}:([0-9]{2}))"
    r"(?:\.([0-9]{1,32}))?(?:[Zz]|([+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))"
).fullmatch


def parse_time(text: str, *, field: str = "time") -> int:
    """Read an RFC 3339 time with a zone as microseconds since 1970, cutting off further digits.

    Years 1970 to 9999. No leap seconds: neither POSIX time nor Python can name one.

    Raises: EventError (rule "time") for `field`.
    """
    match = _match_time(text)
    if match is None:
        message = "not an RFC 3339 time with a zone, such as 2026-11-25T02:03:36.123456Z"
        raise EventError(message, rule="time", field=field)
    day, clock, second, fraction, offset = match.groups()
    if second == "60":
        message = "second 60, a leap second, can't be kept; send second 59"
        raise EventError(message, rule="time", field=field)
    local = f"{day}T{clock}.{(fraction or '')[:6]:0<6}"
    try:
        unix_us = (datetime.fromisoformat(f"{local}{offset or '+00:00'}") - _EPOCH) // _MICROSECOND
    except ValueError:
        unix_us = -1  # No such date; refused with the years before 1970.
    if not 0 <= unix_us <= UNIX_US_MAX:
        message = "no such date or time of day in the years 1970 to 9999"
        raise EventError(message, rule="time", field=field)
    return unix_us


def format_time(unix_us: int) -> str:
    """Write microseconds since 1970 as `2026-11-25T02:03:36.123456Z`.

    Raises: ValueError outside the years 1970 to 9999.
    """
    if not 0 <= unix_us <= UNIX_US_MAX:
        raise ValueError(f"not a time in the years 1970 to 9999: {unix_us} µs")
    unix_s, us = divmod(unix_us, 1_000_000)
    return f"{_format_second(unix_s)}.{us:06d}Z"


def late_s(event_time: str, received_time: str) -> int | None:
    """Whole seconds by which a receipt is later than the event, if they are over an hour apart.

    Negative for an event that was dated ahead. Both times are canonical.
    """
    if event_time[:_HOUR_CHARS] == received_time[:_HOUR_CHARS]:
        return None
    apart_s = (parse_time(received_time) - parse_time(event_time)) // 1_000_000
    return apart_s if abs(apart_s) > LATE_S else None


# The times of now are of the same few seconds.
@lru_cache(maxsize=64)
def _format_second(unix_s: int) -> str:
    return (_EPOCH + timedelta(seconds=unix_s)).isoformat()[:-6]


def is_canonical_time(text: str) -> bool:
    """Whether a text is the one text of a time."""
    return bool(_looks_canonical_time(text)) and is_date(text[:10])


# Neighbouring entries of a log are of the same few days.
@lru_cache(maxsize=1024)
def is_date(text: str) -> bool:
    """Whether a text such as 2026-11-25 is a date from 1970 on."""
    with suppress(ValueError):
        return date.fromisoformat(text) >= _EPOCH.date()
    return False
