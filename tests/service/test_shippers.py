"""Requests as log shippers send them: their headers, framing, compression and retries.

Each shape is built here from what the documentation and the source of the program say of it, or
recorded from a run of the program (`recorded/`). The same body is sent twice, as each of these
programs does when an answer is lost: the second time adds nothing.
"""

import base64
import gzip
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from tests.service.serving import Answer, Ledger, event

RECORDED_DIR = Path(__file__).parent / "recorded"
EVENTS = "/v1/events"
OTLP = "/v1/otlp/v1/logs"
TIME_NS = 1_790_000_000_123_456_789


class Shape(NamedTuple):
    """A request of a shipper, and how many events it holds."""

    target: str
    headers: dict[str, str]
    body: bytes
    records: int


def events(count: int) -> list[dict[str, Any]]:
    return [event() for _ in range(count)]


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def otlp(number: int) -> dict[str, Any]:
    """One request of OTLP in JSON, as a `remap` of Vector makes it."""
    record = {
        "timeUnixNano": str(TIME_NS + number * 1_000),
        "severityText": "INFO",
        "body": {"stringValue": f"line {number}"},
        "attributes": [{"key": "audit.action", "value": {"stringValue": "user.login"}}],
    }
    service = {"key": "service.name", "value": {"stringValue": "shop"}}
    return {
        "resourceLogs": [
            {"resource": {"attributes": [service]}, "scopeLogs": [{"logRecords": [record]}]}
        ]
    }


def protobuf(value: dict[str, Any]) -> bytes:
    """The same in protobuf, by the types of OpenTelemetry."""
    service: Any = importlib.import_module("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    parse: Any = importlib.import_module("google.protobuf.json_format").ParseDict
    return bytes(parse(value, service.ExportLogsServiceRequest()).SerializeToString())


def any_value(value: Any) -> dict[str, Any]:
    """A value as Fluent Bit converts one of its records: a map becomes a kvlist."""
    if isinstance(value, dict):
        pairs = [{"key": key, "value": any_value(each)} for key, each in value.items()]
        return {"kvlistValue": {"values": pairs}}
    return {"stringValue": value}


def vector() -> Iterator[tuple[str, Shape]]:
    headers = {"User-Agent": "Vector/0.51.1 (x86_64-unknown-linux-gnu)", "Accept-Encoding": "zstd"}
    as_json = {**headers, "Content-Type": "application/json"}
    as_lines = {**headers, "Content-Type": "application/x-ndjson"}
    as_protobuf = {**headers, "Content-Type": "application/x-protobuf"}
    yield "an array", Shape(EVENTS, as_json, encode(events(3)), 3)
    zipped = {**as_json, "Content-Encoding": "gzip"}
    yield "an array in gzip", Shape(EVENTS, zipped, gzip.compress(encode(events(3))), 3)
    zipped = {**as_lines, "Content-Encoding": "zstd"}
    lines = b"".join(encode(each) + b"\n" for each in events(3))
    yield "lines in zstd", Shape(EVENTS, zipped, zstandard.compress(lines), 3)
    yield "OTLP in an array", Shape(OTLP, as_json, encode(list(map(otlp, range(3)))), 3)
    for number, named in ((3, as_lines), (6, as_json)):
        lines = b"".join(encode(otlp(each)) + b"\n" for each in range(number, number + 3))
        yield f"OTLP in lines, {named['Content-Type']}", Shape(OTLP, named, lines, 3)
    # Protobuf messages one behind another are one message with the fields of all.
    joined = b"".join(protobuf(otlp(number)) for number in range(9, 12))
    yield "OTLP in protobuf", Shape(OTLP, as_protobuf, joined, 3)


def fluent_bit() -> Iterator[tuple[str, Shape]]:
    headers = {"User-Agent": "Fluent-Bit"}
    as_json = {**headers, "Content-Type": "application/json"}
    as_lines = {**headers, "Content-Type": "application/x-ndjson"}
    # `json_date_key time` and `json_date_format iso8601` put the time of the record there.
    yield "json", Shape(EVENTS, as_json, encode(events(3)), 3)
    yield "json_lines", Shape(EVENTS, as_lines, b"\n".join(map(encode, events(3))), 3)
    zipped = {**as_json, "Content-Encoding": "gzip"}
    yield "json in gzip", Shape(EVENTS, zipped, gzip.compress(encode(events(3))), 3)


def rsyslog() -> Iterator[tuple[str, Shape]]:
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Accept": "application/json",
        "Expect": "",
    }
    yield "one event", Shape(EVENTS, headers, encode(event()), 1)
    yield "jsonarray", Shape(EVENTS, headers, json.dumps(events(2)).encode(), 2)
    zipped = {**headers, "Content-Encoding": "gzip"}
    yield (
        "jsonarray in gzip",
        Shape(EVENTS, zipped, gzip.compress(json.dumps(events(2)).encode()), 2),
    )


def recorded() -> Iterator[tuple[str, Shape]]:
    for path in sorted(RECORDED_DIR.glob("*.json")):
        for each in json.loads(path.read_text()):
            body = base64.b64decode(each["body"])
            yield each["configuration"], Shape(OTLP, each["headers"], body, each["records"])


SHAPES = {
    f"{make.__name__}: {name}": shape
    for make in (vector, fluent_bit, rsyslog, recorded)
    for name, shape in make()
}


def send(ledger: Ledger, shape: Shape) -> Answer:
    return ledger.ask(
        shape.target,
        method="POST",
        body=shape.body,
        token="append",
        **{name.replace("-", "_"): value for name, value in shape.headers.items() if value},
    )


def tree_size(ledger: Ledger) -> int:
    return int(ledger.ask("/v1/log").json()["tree_size"])


def newest(ledger: Ledger) -> dict[str, Any]:
    (found,) = ledger.ask("/v1/events?limit=1&order=newest").json()["events"]
    event: dict[str, Any] = found["event"]
    return event


@pytest.mark.parametrize("name", SHAPES)
def test_a_request_is_taken_as_it_comes_and_once(shared_ledger: Ledger, name: str) -> None:
    shape = SHAPES[name]
    size = tree_size(shared_ledger)
    for _ in range(2):
        # Fluent Bit repeats after any other answer than 200 to 205, Vector after 5xx and 429.
        answer = send(shared_ledger, shape)
        assert answer.status == 200, answer.text
        assert tree_size(shared_ledger) == size + shape.records


def test_a_retry_after_a_partial_refusal_adds_nothing(ledger: Ledger) -> None:
    bad = event(outcome="maybe")
    shape = Shape(EVENTS, {"Content-Type": "application/json"}, encode([event(), bad, event()]), 2)
    size = tree_size(ledger)
    for _ in range(2):  # Fluent Bit takes a 207 for a failure.
        assert send(ledger, shape).status == 207
        assert tree_size(ledger) == size + 2


def fluent_bit_otlp(record: dict[str, Any]) -> Shape:
    body = any_value(record.pop("message")) if "message" in record else any_value(record)
    attributes = [{"key": key, "value": any_value(value)} for key, value in record.items()]
    log_record: dict[str, Any] = {"timeUnixNano": str(TIME_NS), "body": body}
    if "stringValue" in body:  # Only then has it attributes.
        log_record["attributes"] = attributes
    request = {"resourceLogs": [{"resource": {}, "scopeLogs": [{"logRecords": [log_record]}]}]}
    headers = {"User-Agent": "Fluent-Bit", "Content-Type": "application/x-protobuf"}
    return Shape(OTLP, headers, protobuf(request), 1)


@pytest.mark.parametrize("text", [{}, {"message": "alice logged in"}], ids=["body", "attributes"])
def test_fluent_bits_record_is_read_from_attributes_and_body(
    ledger: Ledger, text: dict[str, str]
) -> None:
    about = {
        "audit.action": "user.login",
        "user.id": "u_1",
        "audit.outcome": "denied",
        "client.address": "192.0.2.7",
        "kubernetes": {"pod_name": "shop-1"},
    }
    assert send(ledger, fluent_bit_otlp(text | about)).status == 200
    found = newest(ledger)
    assert (found["action"], found["outcome"]) == ("user.login", "denied")
    assert found["actor"] == {"type": "user", "id": "u_1"}
    assert found["source"] == {"ip": "192.0.2.7"}
    assert found.get("reason") == text.get("message")
    rest = {"kubernetes": {"pod_name": "shop-1"}}
    assert found["context"] == ({"attributes": rest} if text else {"body": rest})


def test_the_collectors_record_is_read(ledger: Ledger) -> None:
    shape = next(shape for name, shape in SHAPES.items() if "filelog" in name)
    assert send(ledger, shape).status == 200
    found = newest(ledger)
    assert (found["action"], found["reason"]) == ("user.login", "alice logged in")
    assert found["actor"] == {"type": "user", "id": "u_1"}
    assert found["context"]["attributes"]["log.file.name"] == "app.log"


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"\x0a\x00" * (1 << 18), "application/x-protobuf"),
        (b"\x7a\x00" * (1 << 18), "application/x-protobuf"),
        (b'{"resourceLogs":[' + b"{}," * (1 << 17) + b"{}]}", "application/json"),
        (b"[" + b"{}," * (1 << 17) + b"{}]", "application/json"),
        (b"{}\n" * ((1 << 17) + 1), "application/x-ndjson"),
    ],
    ids=["empty resources", "unknown fields", "JSON resources", "an array", "lines"],
)
def test_a_request_without_records_costs_little(
    shared_ledger: Ledger, body: bytes, media: str
) -> None:
    answer = send(shared_ledger, Shape(OTLP, {"Content-Type": media}, body, 0))
    assert answer.status == 400
    assert "more than 131072" in answer.json()["detail"]


@pytest.mark.parametrize("form", ["protobuf", "JSON"])
def test_a_record_with_very_many_fields_is_refused_alone(ledger: Ledger, form: str) -> None:
    request = otlp(0)
    (scope_logs,) = request["resourceLogs"][0]["scopeLogs"]
    large = {"body": {"arrayValue": {"values": [{"intValue": "1"}] * 20_000}}}
    scope_logs["logRecords"].append(large)
    is_json = form == "JSON"
    media = "application/json" if is_json else "application/x-protobuf"
    body = encode(request) if is_json else protobuf(request)
    size = tree_size(ledger)
    answer = send(ledger, Shape(OTLP, {"Content-Type": media}, body, 1))
    assert answer.status == 200
    assert b"more than 16384" in answer.body
    assert tree_size(ledger) == size + 1
