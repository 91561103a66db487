"""Traces: which requests have a span, what it says, and what a collector that fails costs."""

import base64
import importlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ledger.service.metrics import Metrics
from ledger.service.settings import read_settings
from ledger.service.tracing import SPANS_MAX, RequestFacts, Tracer
from ledger_core.tlog.errors import MalformedError
from tests.service.serving import QUICK, Ledger, event, serving_new
from tests.sinks.sinking import HttpPeer, Reply
from tests.waiting import until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "u_unmistakable"


def decoded(body: bytes) -> ExportTraceServiceRequest:
    """A request by OpenTelemetry's own types. OTLP's JSON has ids in hex, protobuf's in base64."""

    def to_base64(value: Any) -> Any:
        if isinstance(value, list):
            return [to_base64(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            key: base64.b64encode(bytes.fromhex(each)).decode()
            if key in ("traceId", "spanId", "parentSpanId")
            else to_base64(each)
            for key, each in value.items()
        }

    json_format: Any = importlib.import_module("google.protobuf.json_format")
    found = ExportTraceServiceRequest()
    json_format.ParseDict(to_base64(json.loads(body)), found)
    return found


def spans(peer: HttpPeer) -> list[Any]:
    """Every span that a collector got."""
    return [
        span
        for request in peer.requests
        for resource in decoded(request.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_requests_have_spans_that_go_on_the_traces_of_applications(tmp_path: Path) -> None:
    with HttpPeer() as peer:
        settings = structs.replace(QUICK, traces_url=f"{peer.url}/v1/traces")
        with serving_new(tmp_path, settings) as ledger:
            started_ns = time.time_ns()
            sent = event(actor={"id": SECRET}, reason=SECRET)
            answer = ask(ledger, sent, traceparent=f"00-{TRACE}-{PARENT}-01")
            assert answer == 200
            assert ask(ledger, event(), traceparent=f"00-{'1' * 32}-{PARENT}-00") == 200
            assert ledger.ask(f"/v1/events?q=actor:{SECRET}").status == 200
            assert ledger.ask("/v1/export").status == 200
            assert ledger.ask(f"/v1/events/{sent['id']}").status == 200
            assert ledger.ask("/v1/events?q=nonsense:x").status == 422
            assert ledger.ask("/healthz").status == 200
            until(lambda: len(spans(peer)) >= 5)
        found = {
            (span.name, attributes(span)["http.response.status_code"]): span for span in spans(peer)
        }
        assert set(found) == {
            ("POST /v1/events", 200),
            ("GET /v1/events", 200),
            ("GET /v1/export", 200),
            ("GET /v1/events/{ref}", 200),
            ("GET /v1/events", 422),
        }
        assert len(spans(peer)) == 5  # The trace that is not sampled has none.
        append = found["POST /v1/events", 200]
        assert (append.trace_id.hex(), append.parent_span_id.hex()) == (TRACE, PARENT)
        assert append.kind == 2
        assert started_ns <= append.start_time_unix_nano <= append.end_time_unix_nano
        assert attributes(append)["ledger.events"] == 1
        search = found["GET /v1/events", 200]
        assert attributes(search)["ledger.events"] == 1
        assert len(search.trace_id) == 16
        assert not search.parent_span_id
        assert attributes(search)["http.route"] == "/v1/events"
        for request in peer.requests:
            assert request.path == "/v1/traces"
            assert SECRET not in request.body.decode()
            assert sent["id"] not in request.body.decode()
            assert "wl_" not in request.body.decode()


def ask(ledger: Ledger, sent: dict[str, Any], *, traceparent: str) -> int:
    return ledger.ask(
        "/v1/events",
        method="POST",
        body=json.dumps(sent).encode(),
        content_type="application/json",
        traceparent=traceparent,
    ).status


def test_a_collector_that_refuses_costs_spans_and_no_request(tmp_path: Path) -> None:
    with HttpPeer([Reply(503)]) as peer:
        settings = structs.replace(QUICK, traces_url=peer.url)
        with serving_new(tmp_path, settings) as ledger:
            assert ledger.append(event()).status == 200
            until(lambda: "ledger_spans_lost_total 1" in ledger.ask("/metrics").text)
            assert ledger.append(event()).status == 200
            until(lambda: len(peer.requests) >= 2)
            assert ledger.ask("/readyz").status == 200


def test_without_a_collector_nothing_is_kept_and_with_a_slow_one_only_so_much() -> None:
    facts = RequestFacts("GET", "/v1/events", 200, 0, 10, 1, 0.001)
    metrics, url = Metrics(), ""
    tracer = Tracer(lambda: structs.replace(QUICK, traces_url=url), metrics)
    tracer.add((), facts)
    assert metrics.counters() == []
    url = "http://127.0.0.1:9/"
    for _ in range(SPANS_MAX + 7):
        tracer.add((), facts)
    assert [(each.name, each.value) for each in metrics.counters()] == [("spans_lost_total", 7)]


def test_a_part_of_the_requests_without_a_trace_is_traced() -> None:
    facts = RequestFacts("GET", "/v1/events", 500, 0, 10, 1, 0.001)
    draws = iter([0, 1 << 52, (1 << 52) - 1])
    metrics = Metrics()
    settings = structs.replace(QUICK, traces_url="http://127.0.0.1:9/", traces_ratio=0.5)

    def random_bits(bits: int) -> int:
        return next(draws) if bits == 53 else 1

    tracer = Tracer(lambda: settings, metrics, random_bits=random_bits)
    for _ in range(3):
        tracer.add((), facts)
    waiting = list(tracer._waiting)
    assert len(waiting) == 2
    assert waiting[0]["status"] == {"code": 2}


@pytest.mark.parametrize("url", ["collector:4318", "ftp://host/", "http://", "https://u:p@host/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(MalformedError, match="traces_url"):
        read_settings(toml=f'traces_url = "{url}"')
