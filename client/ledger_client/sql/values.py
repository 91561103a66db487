"""The values of an answer, as JSON and as text: times in RFC 3339, absent ones null or empty."""

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from ledger_core.event.times import format_time

_INTEGER_MAX: Final = (1 << 63) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_json(value: object, type_name: str = "", *, zone: ZoneInfo | None = None) -> Any:
    """A value as msgspec encodes it.

    `type_name` is DuckDB's: a JSON value is put in as it is. Integers beyond 64 bits and decimal
    numbers become text, so no digit is lost; NaN and infinities become null. A time with a zone is
    in UTC, or in `zone` with its offset.
    """
    match value:
        case bool() | None:
            return value
        case int():
            return value if abs(value) <= _INTEGER_MAX else str(value)
        case float():
            return value if math.isfinite(value) else None
        case str() if type_name == "JSON":
            return msgspec.Raw(value.encode())
        case datetime(tzinfo=None) | date() | time() if not _is_zoned(value):
            return value.isoformat()
        case datetime():
            return _moment(value, zone)
        case Mapping():
            return {str(key): to_json(each, zone=zone) for key, each in value.items()}
        case list() | tuple():
            return [to_json(each, zone=zone) for each in value]
        case bytes():
            return value.hex()
        case str() | Decimal() | UUID() | timedelta():
            return str(value)
    return str(value)


def to_text(value: object, type_name: str = "", *, zone: ZoneInfo | None = None) -> str:
    """A value as a cell of a table or of CSV; null is an empty text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.15g}"
    plain = to_json(value, type_name, zone=zone)
    if isinstance(plain, str):
        return plain
    return msgspec.json.encode(plain).decode()


def _is_zoned(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _moment(value: datetime, zone: ZoneInfo | None) -> str:
    if zone is not None:
        with suppress(OverflowError):  # A time of the year 9999 may be in the year 10000 there.
            return value.astimezone(zone).isoformat(timespec="seconds")
    try:
        return format_time((value - _EPOCH) // _MICROSECOND)
    except ValueError:
        return value.isoformat()
