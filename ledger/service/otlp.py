"""OpenTelemetry logs as events: the body of `/v1/otlp/v1/logs` is split, and each record mapped.

    eventName, or the attribute event.name   action; `otel.log` without either
    user.id, enduser.id; service.name        actor, else the service, else the host
    client.address, user_agent.original      source
    body                                     reason if it is a text, else context.body
    audit.action, audit.actor.id, …          say it outright, and win; see docs/otlp.md

What has no field of its own goes to `context`. A record that is sent again gets the same id, so a
collector that tries again adds nothing.

Source: opentelemetry.io, "OTLP Specification 1.x", "Logs Data Model", semantic conventions.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import ParsedBody, check_commas
from ledger.service.otlp_decoder import RecordDecoder
from ledger.service.otlp_protobuf import SPLIT_FIELDS_MAX, split_records
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.model import LIMITS, EventError
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.event.times import format_time
from ledger_core.event.truncation import Fitter, without_empty
from ledger_core.tlog.errors import MalformedError

ACTION_DEFAULT: Final = "otel.log"
EVENTS_BYTES_MAX: Final = 1 << 26
"""Bytes of the events of a request. Each holds its resource, which stands once in the request."""

ERROR_SEVERITY: Final = 17
"""The first severity number of an error."""

_ATTRIBUTE_DEPTH_MAX: Final = 16
_CONTEXT_BYTES: Final = 4
_OUTCOMES: Final = ("success", "failure", "denied", "unknown")
_UNIX_NS_MAX: Final = 253_402_300_799 * 10**9


class _ScopeLogs(msgspec.Struct):
    scope: msgspec.Raw = msgspec.Raw(b"{}")
    logRecords: list[msgspec.Raw] = []  # noqa: N815 - OTLP's name


class _ResourceLogs(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw(b"{}")
    scopeLogs: list[msgspec.Raw] = []  # noqa: N815 - OTLP's name


class _Request(msgspec.Struct):
    resourceLogs: list[msgspec.Raw] = []  # noqa: N815 - OTLP's name


_decode_one_or_array = msgspec.json.Decoder(_Request | list[msgspec.Raw]).decode
_decode_request = msgspec.json.Decoder(_Request).decode
# One by one: all at once, objects without content would take much time and memory.
_decode_resource_logs = msgspec.json.Decoder(_ResourceLogs).decode
_decode_scope_logs = msgspec.json.Decoder(_ScopeLogs).decode
_find_break = re.compile(rb"\}[ \t\r]*\n[ \t\r]*\{").search


def split_otlp(body: bytes, *, is_json: bool, events_max: int, reader: Reader) -> ParsedBody:
    """The log records of an ExportLogsServiceRequest as the events of a body.

    Raises: ProblemError when it is not well-formed or has too many records.
    """
    contexts: list[tuple[bytes, bytes]] = []
    numbers: dict[tuple[bytes, bytes], int] = {}
    raws: list[bytes] = []
    events_bytes = 0
    try:
        for resource, scope, record in _split_json(body) if is_json else split_records(body):
            number = numbers.setdefault((resource, scope), len(contexts))
            if number == len(contexts):
                contexts.append((resource, scope))
            raws.append(number.to_bytes(_CONTEXT_BYTES, "big") + record)
            events_bytes += len(resource) + len(scope) + len(record)
            if events_bytes > EVENTS_BYTES_MAX:
                raise ProblemError(
                    "body-too-large",
                    f"the records have more than {EVENTS_BYTES_MAX} bytes, each with its resource "
                    "and scope; send fewer at once",
                    limit=EVENTS_BYTES_MAX,
                )
            if len(raws) > events_max:
                raise ProblemError(
                    "too-many-events",
                    f"a request has at most {events_max} log records",
                    limit=events_max,
                )
    except (MalformedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        slug, form = ("not-json", "JSON") if is_json else ("not-protobuf", "protobuf")
        raise ProblemError(slug, f"the body is not OTLP logs in {form}: {error}") from None
    seen: Counter[bytes] = Counter()
    decoder = RecordDecoder(contexts, is_json=is_json)

    def read(raw: bytes) -> ReadEvent:
        number, record = int.from_bytes(raw[:_CONTEXT_BYTES], "big"), raw[_CONTEXT_BYTES:]
        key = decoder.digest(number, record)
        # Equal records of one request are as many events.
        digest = hashlib.sha256(b"%b%d" % (key, seen[key])).digest()
        seen[key] += 1
        try:
            context, decoded = decoder.decode(number, record)
            event = map_record(
                decoded, resource=context.resource, scope=context.scope, digest=digest
            )
        except (MalformedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EventError(f"not a log record: {error}", rule="wrong-type") from None
        except EventError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError):
            raise EventError("not a log record of OTLP", rule="wrong-type") from None
        return reader.read_object(event)

    return ParsedBody(raws, read, is_batch=True, events_bytes=events_bytes)


def map_record(
    record: Mapping[str, Any],
    *,
    resource: Mapping[str, Any],
    scope: Mapping[str, Any],
    digest: bytes,
) -> dict[str, Any]:
    """The event of a log record as OTLP's JSON has it; `digest` makes its id.

    Raises: ValueError, TypeError, KeyError and AttributeError for what is not a log record.
    """
    fitter = Fitter()
    attributes, of_resource = _attributes(record), _attributes(resource)
    body = _value(record.get("body"))
    # A shipper that makes no attributes sends a record's keys as a map.
    text = _Taker(attributes, body if isinstance(body, dict) else {}, of_resource)
    unix_ns = int(record.get("timeUnixNano") or record.get("observedTimeUnixNano") or 0)
    unix_us = min(max(unix_ns, 0), _UNIX_NS_MAX) // 1000
    uid = text("log.record.uid", in_body=False)
    if uid:
        digest = hashlib.sha256(uid.encode("utf-8", "surrogatepass")).digest()
    action = record.get("eventName") or text("audit.action", "event.name") or ACTION_DEFAULT
    ip, port = fitter.address(text("client.address", "source.address", "net.peer.ip"))
    reason = text("audit.reason") or (body if isinstance(body, str) else "")
    event: dict[str, Any] = {
        "id": format_uuid7(unix_ms=unix_us // 1000, random=digest[:UUID7_RANDOM_BYTES]),
        "action": fitter.action(str(action)) or ACTION_DEFAULT,
        "actor": _actor(fitter, text),
        "outcome": _outcome(record, text),
        "source": without_empty(
            {
                "ip": ip,
                "port": port,
                "user_agent": fitter.text(
                    text("user_agent.original"),
                    field="source.user_agent",
                    chars_max=LIMITS["user_agent"].most,
                ),
                "service": fitter.id(text("service.name"), field="source.service"),
            }
        ),
        "reason": fitter.text(reason, field="reason", chars_max=LIMITS["reason"].most),
        "tenant": fitter.id(text("audit.tenant"), field="tenant"),
    }
    if unix_us:
        event["time"] = format_time(unix_us)
    for in_body in (False, True):
        if target := text("audit.target.id", in_body=in_body):
            event["targets"] = [
                fitter.principal(
                    field="targets[0]",
                    of_id=target,
                    of_type=text("audit.target.type", in_body=in_body),
                    name=text("audit.target.name", in_body=in_body),
                )
            ]
            break
    event["context"] = _context(fitter, record, attributes, of_resource, scope, body, reason)
    return without_empty(event)


class _Taker:
    """Takes texts out of the attributes and the body of a record, or looks into its resource.

    The attributes and the resource are of the application and its shipper. A body may hold what
    somebody else wrote, so its keys say only what these do not.
    """

    def __init__(
        self, attributes: dict[str, Any], body: dict[str, Any], of_resource: Mapping[str, Any]
    ) -> None:
        self._attributes = attributes
        self._body = body
        self._of_resource = of_resource

    def __call__(self, *names: str, in_body: bool = True) -> str:
        """The first of these attributes that is there, as text; an empty text for none.

        `in_body`: the keys of the body are looked at, behind all others.
        """
        for holder in (self._attributes, self._of_resource, self._body if in_body else {}):
            for name in names:
                if name in holder and (text := _as_text(holder[name])):
                    for own in (self._attributes, self._body):
                        if holder is own:
                            del own[name]
                    return text
        return ""


def _as_text(value: Any) -> str:
    """A single value as text; an empty text for a list, an object or None."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, dict | list):
        return ""
    return msgspec.json.encode(value).decode()


def _actor(fitter: Fitter, text: _Taker) -> dict[str, Any]:
    """The actor, by the first of these that is known: by the body if no attribute names one."""
    actor = (
        _person(fitter, text, in_body=False)
        or _person(fitter, text, in_body=True)
        or _machine(fitter, text)
    )
    if not actor:
        return {"type": "unknown", "id": "unknown"}
    session = fitter.id(text("session.id"), field="actor.session")
    return {**actor, "session": session} if session else actor


def _person(fitter: Fitter, text: _Taker, *, in_body: bool) -> dict[str, Any]:
    """The actor that a record names, or its user; empty if it names none."""
    if found := text("audit.actor.id", in_body=in_body):
        of_type, name = text("audit.actor.type", in_body=in_body), "audit.actor.name"
    else:
        found = text("user.id", "enduser.id", "user.name", in_body=in_body)
        of_type, name = "user", "user.name"
    if not found:
        return {}
    return fitter.principal(
        field="actor", of_id=found, of_type=of_type, name=text(name, in_body=in_body)
    )


def _machine(fitter: Fitter, text: _Taker) -> dict[str, Any]:
    """The service of a record, else its host; empty without both."""
    for names, of_type in ((("service.name",), "service"), (("host.name", "host.id"), "host")):
        if found := text(*names):
            return fitter.principal(field="actor", of_id=found, of_type=of_type, name="")
    return {}


def _outcome(record: Mapping[str, Any], text: _Taker) -> str:
    outcome = text("audit.outcome", "event.outcome").lower()
    if outcome in _OUTCOMES:
        return outcome
    # A line that says nothing of its outcome may well report a success, or a failure of others.
    return "failure" if int(record.get("severityNumber") or 0) >= ERROR_SEVERITY else "unknown"


def _context(
    fitter: Fitter,
    record: Mapping[str, Any],
    attributes: Mapping[str, Any],
    of_resource: Mapping[str, Any],
    scope: Mapping[str, Any],
    body: Any,
    reason: str,
) -> dict[str, Any]:
    """The values without a field of their own, and the notes about values that were cut to fit."""
    context = without_empty(
        {
            "attributes": attributes,
            "resource": of_resource,
            "scope": str(scope.get("name") or ""),
            "severity": str(record.get("severityText") or record.get("severityNumber") or ""),
            "trace_id": str(record.get("traceId") or "").strip("0") and record.get("traceId"),
            "span_id": str(record.get("spanId") or "").strip("0") and record.get("spanId"),
            "body": None if body == reason else body,
        }
    )
    fitted = {key: fitter.value(value, field=f"context.{key}") for key, value in context.items()}
    return {**fitted, "fitted": fitter.notes} if fitter.notes else fitted


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    pairs: Sequence[Mapping[str, Any]] = holder.get("attributes") or ()
    return {str(pair["key"]): _value(pair.get("value")) for pair in pairs}


def _value(value: Mapping[str, Any] | None, depth: int = 0) -> Any:
    """The JSON value of OTLP's AnyValue, which has one member that says its type."""
    if not value:
        return None
    if depth > _ATTRIBUTE_DEPTH_MAX:
        raise ValueError("too deep")
    ((kind, content),) = value.items()
    match kind:
        case "stringValue" | "bytesValue":
            return str(content)
        case "boolValue":
            return bool(content)
        case "intValue":
            return int(content)
        case "doubleValue":
            number = float(content)
            return number if math.isfinite(number) else str(number)
        case "arrayValue":
            return [_value(each, depth + 1) for each in content.get("values") or ()]
        case "kvlistValue":
            pairs = content.get("values") or ()
            return {str(pair["key"]): _value(pair.get("value"), depth + 1) for pair in pairs}
    raise ValueError("not a value of OTLP")


def _split_json(body: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    check_commas(body)
    containers = 0
    for request in _decode_requests(body):
        for raw_resource_logs in request.resourceLogs:
            resource_logs = _decode_resource_logs(raw_resource_logs)
            containers += 1 + len(resource_logs.scopeLogs)
            if containers > SPLIT_FIELDS_MAX:
                raise MalformedError(f"more than {SPLIT_FIELDS_MAX} resources and scopes")
            for raw_scope_logs in resource_logs.scopeLogs:
                scope_logs = _decode_scope_logs(raw_scope_logs)
                for record in scope_logs.logRecords:
                    yield bytes(resource_logs.resource), bytes(scope_logs.scope), bytes(record)


def _decode_requests(body: bytes) -> Iterator[_Request]:
    """The requests of a body: one as OTLP wants it, or an array or lines of them.

    Vector's sink sends arrays and lines when it encodes JSON.
    """
    found: _Request | Sequence[bytes | msgspec.Raw]
    try:
        found = _decode_one_or_array(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if _find_break(body) is None:
            raise
        found = [line for line in body.split(b"\n") if line.strip()]
    if isinstance(found, _Request):
        yield found
        return
    if len(found) > SPLIT_FIELDS_MAX:
        raise MalformedError(f"more than {SPLIT_FIELDS_MAX} requests")
    yield from map(_decode_request, found)
