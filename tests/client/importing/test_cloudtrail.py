"""CloudTrail records as events: who, what, on what, when, from where, and how it ended."""

import ipaddress
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from ledger_client.collect.importers import load_format, read_records
from ledger_client.collect.importers.apply_mapping import UNKNOWN_TIME
from ledger_core.event.canonical import decode_event_object, format_leaf
from ledger_core.event.model import EventError

VECTORS = json.loads((Path(__file__).parent / "cloudtrail.json").read_text(encoding="utf-8"))
RECORD: dict[str, Any] = {
    "eventTime": "2026-11-25T02:03:36Z",
    "eventSource": "iam.amazonaws.com",
    "eventName": "CreateUser",
    "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/jo"},
    "sourceIPAddress": "203.0.113.9",
}
CLOUDTRAIL = load_format("cloudtrail", "keep")


def map_json(raw: bytes) -> dict[str, Any]:
    (event,) = CLOUDTRAIL.map(raw)
    return event


def map_record(record: dict[str, Any]) -> dict[str, Any]:
    return map_json(json.dumps(record).encode())


def _map(**members: Any) -> dict[str, Any]:
    return map_record({**RECORD, **members})


def _notes(event: dict[str, Any]) -> str:
    return " / ".join(event["context"].get("import_notes", []))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["what"]))
def test_each_record_becomes_the_event_of_the_table(vector: dict[str, Any]) -> None:
    event = map_json(json.dumps(vector["record"]).encode())
    assert uuid.UUID(event.pop("id")).version == 8
    assert event["context"].pop("original") == vector["record"]
    if not event["context"]:
        del event["context"]
    assert event == vector["event"]


def test_the_id_belongs_to_the_whole_record_and_not_to_the_order_of_its_keys() -> None:
    reversed_keys = dict(reversed(RECORD.items()))
    assert map_record(reversed_keys)["id"] == map_record(RECORD)["id"]
    assert _map(requestID="another")["id"] != map_record(RECORD)["id"]


@pytest.mark.parametrize(
    ("time", "kept"),
    [
        ("2026-11-25T02:03:36Z", "2026-11-25T02:03:36.000000Z"),
        ("2026-11-25 02:03:36", "2026-11-25T02:03:36.000000Z"),
        ("2026-11-25 02:03:36.123456789", "2026-11-25T02:03:36.123456Z"),
        ("2026-11-25 02:03:36.000Z", "2026-11-25T02:03:36.000000Z"),
        ("2026-11-25T03:03:36+01:00", "2026-11-25T02:03:36.000000Z"),
    ],
)
def test_a_time_is_read_in_each_form_that_exports_have(time: str, kept: str) -> None:
    assert _map(eventTime=time)["time"] == kept
    assert _map(eventTime=None, p_event_time=time)["time"] == kept


@pytest.mark.parametrize("time", [None, "", "redacted", "2026-02-30T00:00:00Z", True])
def test_a_time_that_cannot_be_read_is_noted_and_is_never_that_of_the_import(time: object) -> None:
    event = _map(eventTime=time)
    assert event["time"] == UNKNOWN_TIME
    assert "time: the record has none" in _notes(event)


@pytest.mark.parametrize(
    ("members", "outcome", "reason"),
    [
        ({}, "success", None),
        ({"errorCode": ""}, "success", None),
        ({"errorCode": "AccessDenied"}, "denied", "AccessDenied"),
        ({"errorCode": "VpceAccessDenied"}, "denied", "VpceAccessDenied"),
        ({"errorCode": "Client.UnauthorizedOperation", "errorMessage": "no"}, "denied",
         "Client.UnauthorizedOperation: no"),
        ({"errorCode": "NoSuchEntity"}, "failure", "NoSuchEntity"),
        ({"errorMessage": "Failed authentication"}, "failure", "Failed authentication"),
        ({"responseElements": {"CreateUser": "Failure"}}, "failure", None),
        ({"responseElements": {"CreateUser": "Success"}}, "success", None),
    ],
)  # fmt: skip
def test_the_outcome_comes_from_the_error_or_from_the_answer(
    members: dict[str, Any], outcome: str, reason: str | None
) -> None:
    event = _map(**members)
    assert (event["outcome"], event.get("reason")) == (outcome, reason)


def test_a_text_that_is_too_long_is_cut_and_noted_and_the_original_has_it_all() -> None:
    event = _map(userAgent="x" * 1_025)
    assert event["source"]["user_agent"] == "x" * 1_023 + "…"
    assert "source.user_agent: cut, it has 1025 characters" in _notes(event)
    assert event["context"]["original"]["userAgent"] == "x" * 1_025


def test_ids_that_are_too_long_stay_two_ids() -> None:
    long_key = "arn:aws:s3:::bucket/" + "x" * 300
    event = _map(resources=[{"ARN": f"{long_key}1"}, {"ARN": f"{long_key}2"}])
    one, another = (target["id"] for target in event["targets"])
    assert one.startswith("sha256:")
    assert one != another
    assert "targets[0].id: replaced by its hash" in _notes(event)


def test_what_no_event_holds_is_replaced_and_the_original_is_kept_as_text() -> None:
    event = _map(userAgent="a\0b\ud800c")
    assert event["source"]["user_agent"] == "a\ufffdb\ufffdc"
    assert "U+FFFD" in _notes(event)
    assert json.loads(event["context"]["original_text"])["userAgent"] == "a\0b\ud800c"


def test_targets_beyond_the_limit_are_counted() -> None:
    event = _map(resources=[{"ARN": f"arn:{number}"} for number in range(40)])
    assert len(event["targets"]) == 32
    assert "targets: the first 32 of 40" in _notes(event)


def test_an_action_keeps_to_its_alphabet_and_says_so() -> None:
    event = _map(eventName="Create User!", eventSource="x..é.amazonaws.com")
    assert event["action"] == "x._.Create_User_"
    assert "action: cut, or written with other characters" in _notes(event)
    assert len(_map(eventName="x" * 200)["action"]) == 128


@pytest.mark.parametrize("number", [2**53, 10**30])
def test_a_record_with_what_no_event_holds_is_kept_as_text(number: int) -> None:
    event = _map(requestParameters={"size": number})
    assert "original" not in event["context"]
    assert json.loads(event["context"]["original_text"])["requestParameters"] == {"size": number}


def test_a_record_that_nests_too_deep_is_kept_as_text() -> None:
    parameters: dict[str, Any] = {"userName": "deep"}
    for _ in range(20):
        parameters = {"inner": parameters}
    event = _map(requestParameters=parameters)
    assert json.loads(event["context"]["original_text"])["requestParameters"] == parameters


@pytest.mark.parametrize(
    ("size", "kept"),
    [(62_000, "original"), (63_400, "original_omitted"), (70_000, "original_omitted")],
)
def test_a_record_that_is_too_long_for_a_leaf_is_left_out_and_this_is_said(
    size: int, kept: str
) -> None:
    event = _map(requestParameters={"document": "x" * size})
    assert list(event["context"]) == [kept]
    assert kept == "original" or "too many for a leaf of 65535" in event["context"][kept]
    _, event_json = decode_event_object(event)
    format_leaf(event_json=event_json, by="\u0001" * 256, received_time=UNKNOWN_TIME)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"", "not-json"),
        (b'{"eventName":"A"', "not-json"),
        (b"[]", "wrong-type"),
        (b'"eventName"', "wrong-type"),
        (b"{}", "missing-field"),
        (b'{"eventName":7.5}', "missing-field"),
        (b'{"eventName":"A","eventName":"B"}', "repeated-key"),
        (b'{"eventName":"A","b":{"c":1,"c":2}}', "repeated-key"),
        (b'{"eventName":"A","b":NaN}', "number"),
        (b'{"eventName":"A","b":1e999}', "number"),
        (b'{"eventName":"A","b":' + b"9" * 5_000 + b"}", "number"),
        (b'{"eventName":"A","b":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "too-deep"),
        (b'{"eventName":"A","b":"\xff"}', "not-json"),
        (b'{"eventName":"..."}', "missing-field"),
    ],
)
def test_a_record_that_cannot_be_an_event_is_refused_with_a_reason(raw: bytes, rule: str) -> None:
    with pytest.raises(EventError) as caught:
        map_json(raw)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    "members",
    [
        {"userIdentity": "redacted"},
        {"userIdentity": {"sessionContext": []}},
        {"userIdentity": {"arn": ["a"], "principalId": None, "accountId": 123456789012}},
        {"resources": "none", "requestParameters": ["a", {"bucketName": {"a": "b"}}]},
        {"resources": ["none", None, {"ARN": 7}], "requestParameters": "HIDDEN"},
        {"responseElements": [], "errorCode": None, "userAgent": None, "sourceIPAddress": {}},
        {"eventSource": None, "requestID": 7},
    ],
)
def test_parts_of_other_types_than_usual_do_no_harm(members: dict[str, Any]) -> None:
    event = _map(**members)
    decode_event_object(event)
    assert event["context"]["original"] == {**RECORD, **members}


def _either(record: dict[str, Any], name: str) -> Any:
    return record.get(name, record.get(name.lower()))


@pytest.mark.shared
def test_every_recorded_event_of_other_people_becomes_an_event(shared_dir: Path) -> None:
    records = list(read_records(shared_dir / "samples" / "aws_cloudtrail.jsonl"))
    assert len(records) == 439
    assert len({map_json(record.raw)["id"] for record in records}) == 439
    for record in records:
        source = json.loads(record.raw)
        event = map_json(record.raw)
        decode_event_object(event)
        _check_who(source, event)
        _check_what(source, event)
        _check_where(source, event)
        kept = event["context"]
        assert kept.get("original") == source or json.loads(kept["original_text"]) == source


def _check_who(source: dict[str, Any], event: dict[str, Any]) -> None:
    identity = _either(source, "userIdentity") or {}
    actor = event["actor"]
    if not identity:
        assert actor == {"id": "unknown"}
        return
    assert actor["id"] in identity.values()
    assert actor.get("type") == identity.get("type")
    assert actor.get("credential", "") == (_either(identity, "accessKeyId") or "")
    issuer = (_either(identity, "sessionContext") or {}).get("sessionIssuer", {})
    if "arn" in issuer:
        assert actor["on_behalf_of"]["id"] in issuer.values()


def _check_what(source: dict[str, Any], event: dict[str, Any]) -> None:
    service = (_either(source, "eventSource") or "").removesuffix(".amazonaws.com")
    assert event["action"] == f"{service}.{_either(source, 'eventName')}".lstrip(".")
    time = _either(source, "eventTime") or source.get("p_event_time") or ""
    if time[:2] == "20":
        assert event["time"][:19] == time[:19].replace(" ", "T")
    else:
        assert event["time"] == UNKNOWN_TIME
    answer = source.get("responseElements") or {}
    failed = source.get("errorCode") or source.get("errorMessage")
    failed = failed or answer.get(_either(source, "eventName")) == "Failure"
    assert (event["outcome"] == "success") is not bool(failed)
    if source.get("errorCode") == "AccessDenied":
        assert event["outcome"] == "denied"
    for resource in source.get("resources") or []:
        if isinstance(resource, dict):
            arn = resource.get("ARN", resource.get("arn"))
            assert arn in [target["id"] for target in event["targets"]]


def _check_where(source: dict[str, Any], event: dict[str, Any]) -> None:
    origin = event.get("source", {})
    assert origin.get("user_agent", "") == (source.get("userAgent") or "")
    address = source.get("sourceIPAddress") or ""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        assert "ip" not in origin
        assert not address or origin["service"] == address
    else:
        assert origin["ip"] == address
