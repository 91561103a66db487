"""OTLP logs: by the exporter of OpenTelemetry's own SDK, in JSON, and what is not OTLP."""

import gzip
import hashlib
import importlib
import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.service.http.problems import ProblemError
from ledger.service.otlp import EVENTS_BYTES_MAX, map_record, split_otlp
from ledger.service.otlp_decoder import RecordDecoder
from ledger.service.otlp_protobuf import decode_message, encode_response, split_records
from ledger_core.event.model import EventError
from ledger_core.event.reader import Reader
from ledger_core.tlog.errors import MalformedError
from tests.service.serving import JSON, Answer, Ledger, new_id

PROTOBUF = "application/x-protobuf"
TIME_NS = 1_790_000_000_123_456_789


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


def record(**members: Any) -> dict[str, Any]:
    return {
        "timeUnixNano": str(TIME_NS),
        "eventName": "user.login",
        "body": {"stringValue": "alice logged in"},
        "attributes": [attribute("user.id", stringValue="u_1")],
        **members,
    }


def logs(*records: Any, **resource: str) -> bytes:
    held = [attribute(key.replace("_", "."), stringValue=text) for key, text in resource.items()]
    scope_logs = [{"scope": {"name": "shop.auth"}, "logRecords": list(records)}]
    return json.dumps(
        {"resourceLogs": [{"resource": {"attributes": held}, "scopeLogs": scope_logs}]}
    ).encode()


def post(ledger: Ledger, body: bytes, media: str = JSON, **headers: str) -> Answer:
    return ledger.ask(
        "/v1/otlp/v1/logs", method="POST", body=body, token="append", content_type=media, **headers
    )


def newest(ledger: Ledger) -> dict[str, Any]:
    (found,) = ledger.ask("/v1/events?limit=1&order=newest").json()["events"]
    event: dict[str, Any] = found["event"]
    return event


def message(*fields: tuple[int, bytes]) -> bytes:
    """Fields with bytes, in protobuf."""
    return b"".join(bytes([number << 3 | 2, len(data)]) + data for number, data in fields)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_exporter_of_the_sdk_delivers(ledger: Ledger, compression: str) -> None:
    # Named as text, for they have no place in the packages that we type-check.
    sdk: Any = importlib.import_module("opentelemetry.sdk._logs")
    export: Any = importlib.import_module("opentelemetry.sdk._logs.export")
    http: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http")
    exporter: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http._log_exporter")
    resources: Any = importlib.import_module("opentelemetry.sdk.resources")
    provider = sdk.LoggerProvider(resources.Resource.create({"service.name": "shop"}))
    sender = exporter.OTLPLogExporter(
        endpoint=f"{ledger.url}/v1/otlp/v1/logs",
        headers={"Authorization": f"Bearer {ledger.tokens['append']}"},
        compression=http.Compression(compression),
    )
    provider.add_log_record_processor(export.SimpleLogRecordProcessor(sender))
    provider.get_logger("shop.auth").emit(
        timestamp=TIME_NS,
        severity_number=importlib.import_module("opentelemetry._logs").SeverityNumber.ERROR,
        body="no way",
        attributes={"user.id": "u_1", "count": 3, "ok": True, "list": [1, 2]},
        event_name="user.login",
    )
    provider.shutdown()
    event = newest(ledger)
    assert event["action"] == "user.login"
    assert event["actor"] == {"type": "user", "id": "u_1"}
    assert (event["outcome"], event["reason"]) == ("failure", "no way")
    assert event["source"]["service"] == "shop"
    assert event["context"]["attributes"] == {"count": 3, "ok": True, "list": [1, 2]}
    assert event["context"]["resource"]["service.name"] == "shop"
    assert event["context"]["scope"] == "shop.auth"


def test_a_record_is_mapped(ledger: Ledger) -> None:
    sent = record(
        severityText="INFO",
        traceId="0af7651916cd43dd8448eb211c80319c",
        attributes=[
            attribute("user.id", stringValue="u_1"),
            attribute("session.id", stringValue="s_1"),
            attribute("client.address", stringValue="192.0.2.7"),
            attribute("user_agent.original", stringValue="curl"),
            attribute("audit.outcome", stringValue="denied"),
            attribute("audit.target.id", stringValue="doc_7"),
            attribute("audit.target.type", stringValue="document"),
            attribute("audit.tenant", stringValue="acme"),
            attribute("big", intValue=str(2**60)),
            attribute("rate", doubleValue="NaN"),
            attribute("list", arrayValue={"values": [{"intValue": "1"}, {"boolValue": False}]}),
            attribute("map", kvlistValue={"values": [attribute("a", bytesValue="AAE=")]}),
            attribute("none"),
        ],
    )
    assert post(ledger, logs(sent, service_name="shop")).json() == {}
    event = newest(ledger)
    assert event["time"] == "2026-09-21T14:13:20.123456Z"
    assert event["actor"] == {"type": "user", "id": "u_1", "session": "s_1"}
    assert event["source"] == {"ip": "192.0.2.7", "user_agent": "curl", "service": "shop"}
    assert event["targets"] == [{"type": "document", "id": "doc_7"}]
    assert (event["tenant"], event["outcome"]) == ("acme", "denied")
    context = event["context"]
    assert context["attributes"] == {
        "big": str(2**60),
        "rate": "nan",
        "list": [1, False],
        "map": {"a": "AAE="},
        "none": None,
    }
    assert context["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert context["severity"] == "INFO"
    assert any("context.attributes" in note for note in context["fitted"])


def test_who_acted_is_the_user_else_the_service_else_the_host(ledger: Ledger) -> None:
    bare = record(attributes=[])
    for resource, actor in (
        ({"service_name": "shop", "host_name": "web-1"}, {"type": "service", "id": "shop"}),
        ({"host_name": "web-1"}, {"type": "host", "id": "web-1"}),
        ({}, {"type": "unknown", "id": "unknown"}),
    ):
        post(ledger, logs(bare, **resource))
        assert newest(ledger)["actor"] == actor


def test_what_is_sent_again_is_logged_once_and_equal_records_are_several(ledger: Ledger) -> None:
    size = ledger.ask("/v1/log").json()["tree_size"]
    body = logs(record(), record(), record(eventName="user.logout"))
    for _ in range(2):
        assert post(ledger, body).status == 200
        assert ledger.ask("/v1/log").json()["tree_size"] == size + 3


@pytest.mark.parametrize(
    "bad",
    [
        7,
        {"timeUnixNano": "soon"},
        record(body={"stringValue": "a", "intValue": "1"}),
        record(attributes=[{"value": {}}]),
        record(attributes=7),
        record(attributes=[attribute("password", stringValue="zxq-hunter-2")]),
        record(body={"arrayValue": {"values": 7}}),
    ],
)
def test_a_bad_record_is_rejected_alone(ledger: Ledger, bad: Any) -> None:
    size = ledger.ask("/v1/log").json()["tree_size"]
    answer = post(ledger, logs(record(), bad, record(eventName="user.logout")))
    assert answer.status == 200
    assert answer.json()["partialSuccess"]["rejectedLogRecords"] == "1"
    assert "hunter" not in answer.text
    assert ledger.ask("/v1/log").json()["tree_size"] >= size + 2


def test_what_is_not_otlp_is_refused(shared_ledger: Ledger) -> None:
    for body, media, slug in (
        (b"[", JSON, "not-json"),
        (b'{"resourceLogs":7}', JSON, "not-json"),
        (b"\x0a\xff", PROTOBUF, "not-protobuf"),
        (b"\x0b", PROTOBUF, "not-protobuf"),
        (b"{}", "text/plain", "unsupported-media-type"),
        (logs(*[record()] * 10_001), JSON, "too-many-events"),
    ):
        assert post(shared_ledger, body, media).slug == slug
    # A request without a record is one, as the specification says.
    assert post(shared_ledger, b"", PROTOBUF).body == b""
    assert post(shared_ledger, b"{}").json() == {}


def test_protobuf_is_answered_in_protobuf_and_may_be_compressed(ledger: Ledger) -> None:
    good = message((12, b"user.login"), (5, message((1, b"hello"))))
    secret = message((1, b"password"), (2, message((1, b"zxq-hunter-2"))))
    bad = message((12, b"user.login"), (5, message((1, b"\xff"))), (6, secret))
    body = message((1, message((2, message((2, good), (2, bad))))))
    answer = post(ledger, gzip.compress(body), PROTOBUF, content_encoding="gzip")
    assert answer.headers["Content-Type"] == PROTOBUF
    assert answer.body[:1] == b"\x0a"
    assert b"looks like a secret" in answer.body
    assert newest(ledger)["action"] in ("user.login", "ledger.event.refused")


def test_a_response_counts_what_was_rejected() -> None:
    assert encode_response(rejected=0, message="") == b""
    assert encode_response(rejected=300, message="x" * 200) == (
        b"\x0a\xce\x01" + b"\x08\xac\x02" + b"\x12\xc8\x01" + b"x" * 200
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode in (
        lambda: list(split_records(data)),
        lambda: decode_message(data, "RECORD"),
        lambda: decode_message(data, "VALUE"),
    ):
        try:
            decode()
        except MalformedError:
            continue


def test_messages_that_nest_without_end_are_malformed() -> None:
    deep = b"\x2a\x00"
    for _ in range(200):
        inner = b"\x0a" + _varint(len(deep)) + deep
        deep = b"\x2a" + _varint(len(inner)) + inner
    with pytest.raises(MalformedError, match="deep"):
        decode_message(deep, "VALUE")


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 0x7F | 0x80, value >> 7])


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


ATTRIBUTE = _field(1, _field(1, b"k") + _field(2, _field(1, b"v")))


@pytest.mark.parametrize("field", [b"\x32\x00", b"\x20\x00", b"\x7a\x00"], ids=bytes.hex)
def test_the_values_of_a_request_are_bounded_and_the_refusal_names_the_limit(field: bytes) -> None:
    """Empty attributes, and two unknown fields; each record has 1,500."""
    decoder = RecordDecoder([(b"", b"")], is_json=False, work_max=10_000)
    for _ in range(7):  # The last one that has begun is read to its end.
        decoder.decode(0, field * 1_500)
    for _ in range(2):
        with pytest.raises(EventError, match="at most 10000 values"):
            decoder.decode(0, field * 1_500)
        assert decoder.work_left == 0


def test_a_resource_is_decoded_once_and_counts_for_each_record() -> None:
    record = _field(5, _field(1, b"text"))
    decoder = RecordDecoder([(ATTRIBUTE * 6, b""), (b"\x0a", b"")], is_json=False)
    decoded = 0

    def count(frame: FrameType, kind: str, _argument: object) -> None:
        nonlocal decoded
        decoded += kind == "call" and frame.f_code is decode_message.__code__

    sys.setprofile(count)
    try:
        works = []
        for _ in range(40):
            before = decoder.work_left
            context, _ = decoder.decode(0, record)
            works.append(before - decoder.work_left)
        for _ in range(40):
            with pytest.raises(MalformedError):
                decoder.decode(1, record)
    finally:
        sys.setprofile(None)
    assert len(context.resource["attributes"]) == 6
    assert set(works) == {works[0]}
    assert works[0] > 6 * 4
    assert decoded == 2 + 40 + 1


def test_the_id_of_a_record_is_that_of_its_resource_scope_and_content() -> None:
    decoder = RecordDecoder([(b"a", b"bc"), (b"ab", b"c")], is_json=False)
    assert decoder.digest(0, b"d") == hashlib.sha256(b"1\na2\nbcd").digest()
    assert decoder.digest(1, b"d") == hashlib.sha256(b"2\nab1\ncd").digest()
    assert decoder.digest(0, b"d") == hashlib.sha256(b"1\na2\nbcd").digest()


def test_records_that_are_large_with_their_resource_are_refused_before_they_are_read() -> None:
    text = "a" * (EVENTS_BYTES_MAX // 900)
    resource = {"attributes": [{"key": "k", "value": {"stringValue": text}}]}
    scopes: list[Any] = [{"logRecords": [{}] * 1_000}]
    body = json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": scopes}]}).encode()
    assert len(body) < EVENTS_BYTES_MAX // 500
    reader = Reader(new_id, lambda: 0)
    with pytest.raises(ProblemError) as caught:
        split_otlp(body, is_json=True, events_max=10_000, reader=reader)
    assert caught.value.problem.slug == "body-too-large"
    assert str(EVENTS_BYTES_MAX) in caught.value.problem.detail
    scopes = [{"logRecords": [{}] * 100}]
    body = json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": scopes}]}).encode()
    parsed = split_otlp(body, is_json=True, events_max=10_000, reader=reader)
    assert parsed.events_bytes > 100 * len(text)


def test_the_body_says_only_what_attributes_and_resource_do_not(ledger: Ledger) -> None:
    """An application may log as the body what a client sent."""
    body = {
        "audit.actor.id": "u_victim",
        "audit.actor.type": "user",
        "user.name": "victim",
        "audit.target.id": "t_other",
        "audit.target.type": "document",
        "source.address": "192.0.2.99",
        "event.outcome": "success",
        "audit.action": "user.deleted",
        "service.name": "payments",
    }
    sent = record(
        attributes=[
            attribute("user.id", stringValue="u_attacker"),
            attribute("audit.target.id", stringValue="t_1"),
            attribute("client.address", stringValue="192.0.2.7"),
            attribute("audit.outcome", stringValue="denied"),
            attribute("event.name", stringValue="user.viewed"),
        ],
        body={
            "kvlistValue": {
                "values": [attribute(name, stringValue=value) for name, value in body.items()]
            }
        },
    )
    sent.pop("eventName", None)
    assert post(ledger, logs(sent, service_name="shop")).json() == {}
    event = newest(ledger)
    assert event["actor"] == {"type": "user", "id": "u_attacker"}
    assert event["targets"] == [{"id": "t_1"}]
    assert event["source"] == {"ip": "192.0.2.7", "service": "shop"}
    assert (event["action"], event["outcome"]) == ("user.viewed", "denied")
    assert event["context"]["body"] == body


def test_a_body_does_not_choose_the_id_of_its_record() -> None:
    def id_of(**members: Any) -> Any:
        return map_record(record(**members), resource={}, scope={}, digest=b"d" * 32)["id"]

    key = "log.record.uid"
    member = attribute(key, stringValue="01J")
    assert id_of(body={"kvlistValue": {"values": [member]}}) == id_of(body=None)
    assert id_of(attributes=[member]) != id_of(body=None)
