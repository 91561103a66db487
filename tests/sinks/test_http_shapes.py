"""Each HTTP shape, as its receiver reads it, and what the receiver's own answers mean."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from ledger.sinks.dead_letters import read_letters
from tests.sinks.sinking import ORIGIN, Folder, HttpPeer, Reply, Request, deliver

QUICK: dict[str, Any] = {"retry_max_s": 0.02}
EVENT = {
    "time": "2026-11-25T02:03:36.123456Z",
    "action": "login.failed",
    "outcome": "failure",
    "source": {"ip": "203.0.113.9", "service": "shop"},
}


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text("t0ken\n")
    return str(path)


def test_splunk(folder: Folder, secret_file: str) -> None:
    folder.append(EVENT, {})
    with HttpPeer() as peer:
        folder.add(
            "siem", type="splunk", url=peer.url, token_file=secret_file, index="audit", **QUICK
        )
        deliver(folder, "siem")
    (request,) = peer.requests
    assert request.path == "/services/collector/event"
    assert request.headers["Authorization"] == "Splunk t0ken"
    first, second = request.lines()
    assert first["time"] == 1795572216.123456
    assert first["index"] == "audit"
    assert first["source"] == ORIGIN
    assert first["event"]["leaf_hash"] == folder.leaf_hashes()[0]
    assert first["event"]["event"]["action"] == "login.failed"
    assert second["event"]["index"] == 1


def test_splunk_with_an_index_that_it_may_not_write_gives_up_nothing(folder: Folder) -> None:
    folder.append({})
    wrong = Reply(400, b'{"text":"Incorrect index","code":7,"invalid-event-number":1}')
    with HttpPeer([wrong, wrong]) as peer:
        folder.add("siem", type="splunk", url=peer.url, **QUICK)
        deliver(folder, "siem")
    assert len(peer.requests) == 3
    assert folder.report("siem").state.dead == 0


def elastic_answer(*statuses: int) -> Reply:
    items = [
        {"create": {"status": status, **({"error": {"type": "bad"}} if status >= 300 else {})}}
        for status in statuses
    ]
    body = {"errors": any(status >= 300 for status in statuses), "items": items}
    return Reply(200, json.dumps(body).encode())


def test_elastic_says_for_each_record_what_became_of_it(folder: Folder, secret_file: str) -> None:
    folder.append(EVENT, {}, {}, {})
    with HttpPeer([elastic_answer(201, 400, 429, 409), elastic_answer(201)]) as peer:
        paths = folder.add(
            "siem", type="elastic", url=peer.url, token_file=secret_file, index="audit", **QUICK
        )
        deliver(folder, "siem")
    first, second = peer.requests
    assert first.path == "/_bulk"
    assert first.headers["Authorization"] == "ApiKey t0ken"
    actions, documents = first.lines()[::2], first.lines()[1::2]
    assert [action["create"]["_index"] for action in actions] == ["audit"] * 4
    assert len({action["create"]["_id"] for action in actions}) == 4
    assert documents[0]["@timestamp"] == EVENT["time"]
    assert [document["index"] for document in documents] == [0, 1, 2, 3]
    assert second.lines()[0] == actions[2]
    assert second.lines()[1]["index"] == 2
    assert [letter.index for letter in read_letters(paths.dead)] == [1]


def test_an_id_at_elastic_can_not_be_taken_before_its_entry_is_logged(folder: Folder) -> None:
    """A document with it would be taken for the record: the answer to both is 409."""
    folder.append({})
    with HttpPeer([elastic_answer(201)]) as peer:
        folder.add("siem", type="elastic", url=peer.url, index="audit", **QUICK)
        deliver(folder, "siem")
    action, document = peer.requests[0].lines()
    known_before = f"{document['origin']}\n{document['index']}"
    whole = f"{known_before}\n{document['leaf_hash']}"
    assert action["create"]["_id"] == hashlib.sha256(whole.encode()).hexdigest()[:40]
    assert action["create"]["_id"] != hashlib.sha256(known_before.encode()).hexdigest()[:40]


def test_an_answer_that_is_not_elastics_is_no_confirmation(folder: Folder) -> None:
    folder.append({})
    deep = b'{"x":' + b"[" * 100_000
    replies = [Reply(200, b"<html>"), Reply(200, deep), Reply(403, deep), elastic_answer()]
    with HttpPeer([*replies, elastic_answer(201)]) as peer:
        folder.add("siem", type="elastic", url=peer.url, index="audit", **QUICK)
        deliver(folder, "siem")
    assert len(peer.requests) == 5


def test_datadog(folder: Folder, secret_file: str) -> None:
    folder.append(EVENT, count=0)
    folder.append(count=1200)
    with HttpPeer() as peer:
        folder.add(
            "dd", type="datadog", url=peer.url, token_file=secret_file, batch_events=5000, **QUICK
        )
        deliver(folder, "dd")
    logs = [log for request in peer.requests for log in json.loads(request.body)]
    assert peer.requests[0].path == "/api/v2/logs"
    assert peer.requests[0].headers["DD-API-KEY"] == "t0ken"
    assert max(len(json.loads(request.body)) for request in peer.requests) <= 1000
    assert logs[0]["service"] == "shop"
    assert [json.loads(log["message"])["index"] for log in logs] == list(range(1201))


def test_a_webhook_is_signed(folder: Folder, secret_file: str) -> None:
    folder.append(EVENT)
    with HttpPeer() as peer:
        folder.add("hook", type="webhook", url=peer.url + "/in", token_file=secret_file, **QUICK)
        deliver(folder, "hook")
    (request,) = peer.requests
    time_s, _, digest = request.headers["X-Ledger-Signature"].partition(",v1=")
    signed = time_s.removeprefix("t=").encode() + b"." + request.body
    assert digest == hmac.new(b"t0ken", signed, hashlib.sha256).hexdigest()
    assert "Authorization" not in request.headers
    (record,) = json.loads(request.body)["records"]
    assert record["event"]["action"] == "login.failed"


def test_a_compressed_request_and_basic_authentication(folder: Folder, secret_file: str) -> None:
    folder.append(count=10)
    with HttpPeer() as peer:
        folder.add(
            "siem",
            type="http",
            url=peer.url,
            gzip=True,
            username="jo",
            token_file=secret_file,
            **QUICK,
        )
        deliver(folder, "siem")
    (request,) = peer.requests
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.headers["Authorization"] == "Basic am86dDBrZW4="
    assert peer.indices() == list(range(10))


def test_otlp_is_decoded_by_the_types_of_opentelemetry(folder: Folder) -> None:
    folder.append(EVENT, {"actor": {"type": "user", "id": "jö"}})
    with HttpPeer() as peer:
        folder.add("otel", type="otlp", url=peer.url, **QUICK)
        deliver(folder, "otel")
    (request,) = peer.requests
    assert request.path == "/v1/logs"
    assert request.headers["Content-Type"] == "application/x-protobuf"
    read = ExportLogsServiceRequest.FromString(request.body)
    assert read.SerializeToString() == request.body  # No field that the types don't know.
    (resource,) = read.resource_logs
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert attributes == {"service.name": "witnessed-ledger", "ledger.origin": ORIGIN}
    one, two = resource.scope_logs[0].log_records
    assert one.time_unix_nano == 1_795_572_216_123_456_000
    assert one.severity_text == "WARN"
    named = {each.key: each.value for each in one.attributes}
    assert named["ledger.index"].int_value == 0
    assert named["ledger.leaf_hash"].string_value == folder.leaf_hashes()[0]
    assert named["ledger.origin"].string_value == ORIGIN
    assert named["client.address"].string_value == "203.0.113.9"
    assert json.loads(one.body.string_value)["event"]["action"] == "login.failed"
    assert {each.key: each.value for each in two.attributes}["enduser.id"].string_value == "jö"


def test_records_that_an_otlp_receiver_rejects_are_found(folder: Folder) -> None:
    folder.append(count=4)

    def answer(request: Request) -> Reply:
        read = ExportLogsServiceRequest.FromString(request.body)
        records = read.resource_logs[0].scope_logs[0].log_records
        indices = [json.loads(record.body.string_value)["index"] for record in records]
        response = ExportLogsServiceResponse()
        if 2 in indices:
            response.partial_success.rejected_log_records = 1
            response.partial_success.error_message = "too old"
        return Reply(200, response.SerializeToString())

    with HttpPeer(answer) as peer:
        paths = folder.add("otel", type="otlp", url=peer.url, **QUICK)
        deliver(folder, "otel")
    (letter,) = read_letters(paths.dead)
    assert (letter.index, letter.reason) == (2, "rejected; the answer: too old")
