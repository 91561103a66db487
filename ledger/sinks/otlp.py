"""The records of OTLP/HTTP logs, as protobuf: a request for a batch.

The body of a log record is the record's JSON. Its attributes are `ledger.index`,
`ledger.leaf_hash`, `ledger.origin` and what is asked for most: `event.name`, `enduser.id`,
`client.address`, `ledger.outcome`. The fields are written by hand, ten numbers of two messages; the
tests decode them by OpenTelemetry's own types.

Source: opentelemetry-proto 1.x, `logs.proto`, `logs_service.proto`.
"""

from collections.abc import Sequence
from typing import Final

from ledger.sinks.record import Record
from ledger_core.event.model import Event
from ledger_core.event.times import parse_time

MEDIA: Final = "application/x-protobuf"
INFO: Final = 9
WARN: Final = 13
_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_MORE: Final = 0x80
_LOW: Final = 0x7F
_VARINT_BITS_MAX: Final = 70


def encode(records: Sequence[Record]) -> bytes:
    """An ExportLogsServiceRequest. Precondition: all records are of one log."""
    service = _pair("service.name", _text("witnessed-ledger"))
    origin = _pair("ledger.origin", _text(records[0].origin))
    resource = _field(1, service) + _field(1, origin)
    scope = _field(1, b"witnessed-ledger")
    logs = b"".join([_field(2, _log_record(record)) for record in records])
    return _field(1, _field(1, resource) + _field(2, _field(1, scope) + logs))


def read_answer(answer: bytes) -> tuple[int, str]:
    """How many records were rejected, and the message, of an ExportLogsServiceResponse.

    Bytes that are none say that nothing was rejected.
    """
    rejected, message = 0, ""
    for number, value in _fields(answer):
        if number != 1 or not isinstance(value, bytes):
            continue
        for inner, part in _fields(value):
            if inner == 1 and isinstance(part, int):
                rejected = part
            elif isinstance(part, bytes):
                message = part.decode(errors="replace")
    return rejected, message


def _log_record(record: Record) -> bytes:
    content = record.content()
    event = content.event
    severity, name = (WARN, b"WARN") if event.outcome in {"failure", "denied"} else (INFO, b"INFO")
    attributes = [
        _pair("ledger.index", _integer(record.index)),
        _pair("ledger.leaf_hash", _text(record.leaf_hash)),
        _pair("ledger.origin", _text(record.origin)),
        _pair("event.name", _text(event.action)),
        _pair("ledger.outcome", _text(event.outcome)),
        _pair("enduser.id", _text(event.actor.id)),
    ]
    if address := _address(event):
        attributes.append(_pair("client.address", _text(address)))
    return b"".join(
        (
            _fixed64(1, parse_time(str(event.time)) * 1000),
            _number(2, severity),
            _field(3, name),
            _field(5, _field(1, record.json)),
            *(_field(6, attribute) for attribute in attributes),
            _fixed64(11, parse_time(content.received.time) * 1000),
        )
    )


def _address(event: Event) -> str:
    return str((event.source and event.source.ip) or "")


def _pair(key: str, value: bytes) -> bytes:
    """A KeyValue."""
    return _field(1, key.encode()) + _field(2, value)


def _text(value: str) -> bytes:
    """An AnyValue."""
    return _field(1, value.encode())


def _integer(value: int) -> bytes:
    return _number(3, value)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _fixed64(number: int, value: int) -> bytes:
    return _varint(number << 3 | _FIXED64) + value.to_bytes(8, "little")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > _LOW:
        out.append(value & _LOW | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Numbers and bytes of a message, up to the first byte that doesn't fit."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            value, at = _read_varint(data, at)
            if key & 7 == _VARINT:
                found.append((key >> 3, value))
            elif key & 7 == _BYTES:
                found.append((key >> 3, data[at : at + value]))
                at += value
            else:
                break
    except (IndexError, OverflowError):
        pass
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _VARINT_BITS_MAX:
        byte = data[at]
        at += 1
        value |= (byte & _LOW) << shift
        shift += 7
        if byte < _MORE:
            return value, at
    raise OverflowError("a number has more than ten bytes")
