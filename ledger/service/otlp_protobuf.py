"""OTLP logs in protobuf, decoded to the objects of OTLP in JSON.

Only the messages of logs are known here, as a table of field numbers. A field that is not in the
table is skipped, as protobuf wants it.

Source: protobuf.dev, "Encoding"; opentelemetry/proto/collector/logs/v1/logs_service.proto.
"""

import base64
import struct
from collections.abc import Iterator
from typing import Any, Final

from ledger_core.tlog.errors import MalformedError

DEPTH_MAX: Final = 32
"""Messages inside one another; a value in a list in a list takes three."""
SPLIT_FIELDS_MAX: Final = 1 << 17
"""Fields that are read to find the records of a request, a few tenths of a second of work. 10,000
records, each with a resource and a scope of its own, have 110,000."""
RECORD_FIELDS_MAX: Final = 1 << 14
"""Fields of one message with all inside it; an event has room for fewer."""

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_VARINT_BYTES_MAX: Final = 10
_ONE_BYTE_MAX: Final = 0x7F
_UINT64_END: Final = 1 << 64
_INT64_END: Final = 1 << 63

# Number: name, kind. A kind in capitals is a message; `*` makes a list.
_MESSAGES: Final[dict[str, dict[int, tuple[str, str]]]] = {
    "RESOURCE": {1: ("attributes", "*KEY_VALUE")},
    "SCOPE": {1: ("name", "string"), 2: ("version", "string")},
    "RECORD": {
        1: ("timeUnixNano", "fixed64"),
        2: ("severityNumber", "int"),
        3: ("severityText", "string"),
        5: ("body", "VALUE"),
        6: ("attributes", "*KEY_VALUE"),
        9: ("traceId", "hex"),
        10: ("spanId", "hex"),
        11: ("observedTimeUnixNano", "fixed64"),
        12: ("eventName", "string"),
    },
    "KEY_VALUE": {1: ("key", "string"), 2: ("value", "VALUE")},
    "VALUE": {
        1: ("stringValue", "string"),
        2: ("boolValue", "bool"),
        3: ("intValue", "int"),
        4: ("doubleValue", "double"),
        5: ("arrayValue", "LIST"),
        6: ("kvlistValue", "OBJECT"),
        7: ("bytesValue", "base64"),
    },
    "LIST": {1: ("values", "*VALUE")},
    "OBJECT": {1: ("values", "*KEY_VALUE")},
}

_WIRE_TYPES: Final = {"int": _VARINT, "bool": _VARINT, "fixed64": _FIXED64, "double": _FIXED64}


def split_records(body: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Resource, scope and log record of each record in an ExportLogsServiceRequest, undecoded.

    Raises: MalformedError.
    """
    count = FieldCount(SPLIT_FIELDS_MAX)
    for resource_logs in _messages(body, 1, count):
        resource = b"".join(_messages(resource_logs, 1, count))
        for scope_logs in _messages(resource_logs, 2, count):
            scope = b"".join(_messages(scope_logs, 1, count))
            for record in _messages(scope_logs, 2, count):
                yield resource, scope, record


def decode_message(data: bytes, message: str, count: "FieldCount | None" = None) -> dict[str, Any]:
    """A message of the table as OTLP's JSON has it; `count` counts its fields.

    Raises: MalformedError.
    """
    count = count or FieldCount(RECORD_FIELDS_MAX)
    try:
        return _decode(data, 0, len(data), _DECODED[message], 0, count)
    except IndexError:
        raise MalformedError("the message ends before its end") from None


class FieldCount:
    """Counts fields, and refuses more than so many."""

    __slots__ = ("left", "most")

    def __init__(self, most: int) -> None:
        self.most = self.left = most

    def add(self) -> None:
        """One more field. Raises: MalformedError."""
        self.left -= 1
        if self.left < 0:
            raise MalformedError(f"more than {self.most} fields")


class _Message:
    """A message of the table. `fields`: by the first byte of a field, how it is decoded."""

    __slots__ = ("fields", "numbers")

    def __init__(self) -> None:
        self.fields: dict[int, tuple[str, str, _Message | None, bool]] = {}
        """Name, kind, and for a message that message and whether there is a list of them."""
        self.numbers: dict[int, str] = {}

    def check_unknown(self, key: int) -> None:
        """Refuse a known field that has another wire type. Raises: MalformedError."""
        name = self.numbers.get(key >> 3)
        if name is not None:
            raise MalformedError(f"the field {name} has the wire type {key & 7}")


def _compile_messages() -> dict[str, _Message]:
    messages = {name: _Message() for name in _MESSAGES}
    for name, table in _MESSAGES.items():
        for number, (field, kind) in table.items():
            key = number << 3 | _WIRE_TYPES.get(kind, _BYTES)
            inner = messages.get(kind.removeprefix("*"))
            messages[name].fields[key] = (field, kind, inner, kind.startswith("*"))
            messages[name].numbers[number] = field
    return messages


_DECODED: Final = _compile_messages()


def _decode(
    data: bytes, at: int, end: int, message: _Message, depth: int, count: FieldCount
) -> dict[str, Any]:
    """The message in `data[at:end]`. Raises: MalformedError, IndexError behind the end of `data`.

    A number takes one byte nearly always, so that is tried first: this is most of the work.
    """
    if depth > DEPTH_MAX:
        raise MalformedError(f"messages stand more than {DEPTH_MAX} deep in one another")
    decoded: dict[str, Any] = {}
    find = message.fields.get
    while at < end:
        count.left -= 1
        if count.left < 0:
            raise MalformedError(f"more than {count.most} fields")
        key = data[at]
        at += 1
        if key > _ONE_BYTE_MAX:
            key, at = _read_varint(data, at - 1)
        wire_type = key & 7
        start = at
        if wire_type == _BYTES:
            size = data[at]
            start += 1
            if size > _ONE_BYTE_MAX:
                size, start = _read_varint(data, at)
            at = start + size
        elif wire_type == _VARINT:
            size, at = _read_varint(data, at)
        else:
            at += _fixed_size(wire_type)
        if at > end or key < 8:  # noqa: PLR2004 - the first field has the number 1
            raise MalformedError("the message ends before its end")
        field = find(key)
        if field is None:
            message.check_unknown(key)
            continue
        name, kind, inner, is_list = field
        if inner is None:
            decoded[name] = _scalar(kind, size if wire_type == _VARINT else data[start:at])
        elif is_list:
            decoded.setdefault(name, []).append(_decode(data, start, at, inner, depth + 1, count))
        else:
            decoded[name] = _decode(data, start, at, inner, depth + 1, count)
    return decoded


def encode_response(*, rejected: int, message: str) -> bytes:
    """An ExportLogsServiceResponse: empty, or with a partial success."""
    if not rejected:
        return b""
    text = message.encode()
    inner = b"\x08" + _varint(rejected) + b"\x12" + _varint(len(text)) + text
    return b"\x0a" + _varint(len(inner)) + inner


def _scalar(kind: str, value: Any) -> Any:
    match kind:
        case "string":
            # Protobuf's strings are UTF-8; what is not is no reason to lose the record.
            return value.decode(errors="replace")
        case "int":
            return value - _UINT64_END if value >= _INT64_END else value
        case "bool":
            return bool(value)
        case "double":
            return struct.unpack("<d", value)[0]
        case "fixed64":
            return int.from_bytes(value, "little")
        case "hex":
            return value.hex()
    return base64.b64encode(value).decode()


def _messages(data: bytes, wanted: int, count: FieldCount) -> Iterator[bytes]:
    for number, wire_type, value in _fields(data, count):
        if number == wanted:
            if wire_type != _BYTES:
                raise MalformedError(f"the field {number} has the wire type {wire_type}")
            yield value


def _fields(data: bytes, count: FieldCount) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field."""
    at, end = 0, len(data)
    while at < end:
        count.add()
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, at = _read_varint(data, at)
            yield number, wire_type, value
            continue
        if wire_type == _BYTES:
            size, at = _read_varint(data, at)
        else:
            size = _fixed_size(wire_type)
        if size > end - at or not number:
            raise MalformedError("the message ends before its end")
        yield number, wire_type, data[at : at + size]
        at += size


def _fixed_size(wire_type: int) -> int:
    if wire_type not in (_FIXED64, _FIXED32):
        raise MalformedError(f"there is no wire type {wire_type}")
    return 8 if wire_type == _FIXED64 else 4


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position, byte in enumerate(data[at : at + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follow
            return value % _UINT64_END, at + position + 1
    raise MalformedError("a number has no end")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
