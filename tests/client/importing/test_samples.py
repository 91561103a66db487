"""Recorded events of seven products: who did what to what from where, by the source's own fields.

Each `_…` function reads a record in plain Python, as the product's documentation describes it, and
knows nothing of the mapping files. CloudTrail has tests of its own beside this one.
"""

import ipaddress
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ledger_client.collect.importers import load_format, read_records
from ledger_client.collect.importers.apply_mapping import UNKNOWN_TIME
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.model import EventError

Record = dict[str, Any]


class Statements(NamedTuple):
    """The statements of a record; None and the empty set stand for nothing."""

    who: str | None
    what: str
    to: set[str | None]
    address: str | None
    outcome: str
    time: str | None


def _fold(value: Any) -> Any:
    """The same value with all keys in lower case, because some exports lower them."""
    if isinstance(value, dict):
        return {key.lower(): _fold(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_fold(item) for item in value]
    return value


def _at(value: Any, *path: str | int) -> Any:
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and value[step:] else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _azure(record: Record) -> Statements:
    record = _fold(record)
    claims = _at(record, "identity", "claims") or {}
    soap = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/"
    evidence = _at(record, "identity", "authorization", "evidence", "principalid")
    who = (
        claims.get(f"{soap}upn")
        or claims.get(f"{soap}emailaddress")
        or claims.get("name")
        or claims.get("appid")
        or evidence
    )
    operation = record["operationname"]
    if isinstance(operation, dict):
        operation = operation["value"]
    to = {record.get("resourceid"), _at(record, "properties", "objectkey")}
    body = _at(record, "properties", "requestbody")
    if isinstance(body, str) and "PrincipalId" in body:
        to.add(json.loads(body)["Properties"]["PrincipalId"])
    status = record.get("statuscode") or _at(record, "resultsignature") or ""
    metric = _at(record, "properties", "metricresponsetype") or ""
    result = record.get("resulttype") or _at(record, "status", "value") or metric
    if str(status) in ("401", "403") or metric.startswith("Auth"):
        outcome = "denied"
    elif result in ("Success", "Succeeded"):
        outcome = "success"
    elif result in ("Failed", "ClientOtherError"):
        outcome = "failure"
    else:
        outcome = "unknown"
    return Statements(
        who,
        operation.lower().replace("/", "."),
        {target for target in to if target},
        record["calleripaddress"].split(":")[0],
        outcome,
        record["time"],
    )


def _gcp(record: Record) -> Statements:
    record = _fold(record)
    payload = record.get("protopayload", {})
    authentication = payload.get("authenticationinfo", {})
    who = authentication.get("principalemail") or authentication.get("principalsubject")
    if payload.get("methodname") == "google.ssh-serialport.v1.connect":
        who = payload["request"]["username"]
    rights = payload.get("authorizationinfo") or []
    what = payload.get("methodname") or record.get("methodname") or rights[0]["permission"]
    granted = {str(right.get("granted")) for right in rights}
    code = _at(payload, "status", "code")
    if code in (7, 16) or granted == {"False"}:
        outcome = "denied"
    elif code or _at(payload, "response", "error") or record.get("severity") == "ERROR":
        outcome = "failure"
    else:
        outcome = "success" if payload else "unknown"
    return Statements(
        who,
        what,
        {right["resource"] for right in rights if right.get("resource")}
        | ({payload["resourcename"]} if payload.get("resourcename") else set()),
        _at(payload, "requestmetadata", "callerip"),
        outcome,
        record.get("timestamp") or record.get("p_event_time"),
    )


_OKTA_OUTCOMES: dict[Any, str] = {"SUCCESS": "success", "FAILURE": "failure", "DENY": "denied"}


def _okta(record: Record) -> Statements:
    record = _fold(record)
    actor = record.get("actor", {})
    who = actor.get("id") or record.get("actorid")
    if who == "unknown" and actor.get("alternateid"):
        who = actor["alternateid"]
    result = _at(record, "outcome", "result") or record.get("result")
    return Statements(
        who,
        record["eventtype"],
        {
            target.get("id") or target.get("alternateid") or target.get("displayname")
            for target in record.get("target") or []
        }
        - {None, ""},
        _at(record, "client", "ipaddress") or record.get("sourceip"),
        _OKTA_OUTCOMES.get(result, "unknown"),
        record.get("published") or record.get("p_event_time"),
    )


def _kubernetes(record: Record) -> Statements:
    if "protoPayload" in record:
        payload = record["protoPayload"]
        metadata = payload.get("requestMetadata", {})
        denied = _at(payload, "status", "code") == 7 or (
            [right["granted"] for right in payload.get("authorizationInfo", [])] == [False]
        )
        return Statements(
            _at(payload, "authenticationInfo", "principalEmail"),
            payload["methodName"],
            {payload["resourceName"]} if "resourceName" in payload else set(),
            metadata.get("callerIP") or metadata.get("callerIp"),
            "denied" if denied else "success",
            record.get("timestamp"),
        )
    if record.get("category") == "Administrative":
        what = record["operationName"].lower().replace("/", ".")
        return Statements(None, what, set(), None, "unknown", None)
    if isinstance(_at(record, "properties", "log"), str):
        record = json.loads(record["properties"]["log"])
    about = record.get("objectRef") or {}
    verb = record.get("verb") or "request"
    parts = (about.get("resource"), about.get("subresource"), verb)
    name = about.get("name") or _at(record, "requestObject", "metadata", "name")
    path = (about.get("namespace"), about.get("resource"), name)
    to = "/".join(part for part in path if part) if about else record.get("requestURI")
    code = _at(record, "responseStatus", "code")
    decision = _at(record, "annotations", "authorization.k8s.io/decision")
    if code in (401, 403) or decision == "forbid":
        outcome = "denied"
    elif code is None:
        outcome = "unknown"
    else:
        outcome = "failure" if code >= 400 else "success"
    return Statements(
        _at(record, "user", "username"),
        ".".join(part for part in parts if part),
        {to},
        _at(record, "sourceIPs", -1),
        outcome,
        record.get("requestReceivedTimestamp") or record.get("p_event_time"),
    )


def _teleport(record: Record) -> Statements:
    remote = _at(record, "addr.remote") or record.get("addr_remote") or record.get("src_addr")
    return Statements(
        record.get("user") or _at(record, "identity", "user"),
        record["event"],
        {record.get("server_id"), record.get("path"), record.get("name")}
        | {_at(record, "target", "user")},
        re.sub(r"^\[?(.*?)\]?(:\d+)?$", r"\1", remote) if remote else None,
        "success" if record.get("success", True) else "failure",
        record["time"],
    )


def _gsuite(record: Record) -> Statements:
    parameters = record.get("parameters") or {}
    application = record["id"]["applicationName"]
    event = record.get("name") or record.get("type")
    event_info = _at(parameters, "event_info", "success")
    message = _at(parameters, "message_info", "rfc2822_message_id")
    if event in ("login_failure", "saml_failure") or event_info is False:
        outcome = "failure"
    else:
        outcome = "success" if record.get("name") or event_info else "unknown"
    return Statements(
        _at(record, "actor", "email"),
        f"{application}.{event}".replace(" ", "_") if event else application,
        {
            parameters.get("doc_id"),
            parameters.get("SETTING_NAME"),
            parameters.get("affected_email_address"),
            parameters.get("USER_EMAIL"),
            parameters.get("ROLE_ID"),
            parameters.get("calendar_id"),
            message,
        },
        record.get("ipAddress") or _at(parameters, "message_info", "connection_info", "client_ip"),
        outcome,
        record["id"].get("time") or record.get("p_event_time"),
    )


# Which of a webhook's members says what kind it is, the most telling first.
_WEBHOOKS = {
    "review": "pull_request_review",
    "workflow_job": "workflow_job",
    "workflow_run": "workflow_run",
    "pull_request": "pull_request",
    "issue": "issues",
}


def _github(record: Record) -> Statements:
    repository = record.get("repository")
    if not isinstance(repository, dict):
        created = record.get("@timestamp") or record.get("created_at") or record.get("p_event_time")
        conclusion = record.get("conclusion")
        return Statements(
            record.get("actor")
            or record.get("external_identity_nameid")
            or _at(record, "p_udm", "user", "name"),
            record["action"],
            {record.get("repo") or repository, record.get("org"), record.get("user")},
            record.get("actor_ip"),
            "failure" if conclusion == "failure" else "success",
            created,
        )
    action = record.get("action")
    if "comment" in record:
        kind = "issue_comment" if "issue" in record else "pull_request_review_comment"
    else:
        kind = next((_WEBHOOKS[key] for key in _WEBHOOKS if key in record), "")
    if not kind and "pages" in record:
        what = "gollum"
    elif not kind and ("commits" in record or action == "push"):
        what = "push"
    elif not kind and action in ("created", "deleted"):
        what = f"repository.{action}"
    else:
        what = ".".join(part for part in (kind, action) if part)
    written: Record = next(
        (record[key] for key in ("review", "comment", "issue", "pull_request") if key in record), {}
    )
    author = _at(written, "user", "login") if action in ("created", "submitted", "opened") else None
    work = record.get("workflow_job") or record.get("workflow_run") or {}
    return Statements(
        _at(record, "sender", "login") or author or _at(record, "pusher", "name"),
        what,
        {repository["full_name"], *(page["page_name"] for page in record.get("pages", []))}
        | ({str(work["id"])} if work else set()),
        None,
        "failure" if work.get("conclusion") == "failure" else "success",
        None,
    )


FORMATS: dict[str, tuple[str, int, Callable[[Record], Statements]]] = {
    "azure": ("azure_activity", 212, _azure),
    "gcp": ("gcp_audit", 134, _gcp),
    "github": ("github", 166, _github),
    "gsuite": ("gsuite_activityevent", 105, _gsuite),
    "kubernetes": ("kubernetes", 236, _kubernetes),
    "okta": ("okta", 89, _okta),
    "teleport": ("gravitational_teleport", 21, _teleport),
}


def _is_statistic(record: Record) -> bool:
    """Tell that it is what a detection reckoned over many events, and none of them."""
    return any(key.startswith(("baseline_", "recent_", "z_score_")) for key in record)


@pytest.mark.shared
@pytest.mark.parametrize("name", FORMATS)
def test_each_event_says_who_did_what_to_what_from_where_as_its_source_does(
    name: str, shared_dir: Path
) -> None:
    file, count, read = FORMATS[name]
    format_ = load_format(name, "keep")
    records = list(read_records(shared_dir / "samples" / f"{file}.jsonl"))
    assert len(records) == count
    ids = set()
    for record in records:
        source = json.loads(record.raw)
        if _is_statistic(source):
            with pytest.raises(EventError, match="action: the record has none"):
                format_.map(record.raw)
            continue
        (event,) = format_.map(record.raw)
        decode_event_object(event)
        _check(event, read(source), f"{file} line {record.line}")
        context = event["context"]
        assert context.get("original", source) == source
        assert "original" in context or json.loads(context["original_text"]) == source
        ids.add(event["id"])
    distinct = {json.dumps(json.loads(record.raw), sort_keys=True) for record in records}
    assert len(ids) == len(distinct) - sum(_is_statistic(json.loads(text)) for text in distinct)


def _check(event: Record, said: Statements, where: str) -> None:
    assert event["actor"]["id"] == (said.who or "unknown"), where
    assert event["action"] == said.what, where
    assert said.to - {None, ""} <= {target["id"] for target in event.get("targets", [])}, where
    assert event["outcome"] == said.outcome, where
    _check_address(event, said.address, where)
    _check_time(event["time"], said.time, where)


def _check_address(event: Record, address: str | None, where: str) -> None:
    ip = event.get("source", {}).get("ip")
    try:
        expected = str(ipaddress.ip_address(address)) if address else None
    except ValueError:
        assert ip is None, where
        assert str(address) in event["context"]["source_address"], where
    else:
        assert ip == expected, where


def _check_time(time: str, said: object, where: str) -> None:
    if isinstance(said, int):
        assert time.startswith("20"), where
    elif isinstance(said, str) and re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\D|$)", said):
        assert time[:19] == said[:19].replace(" ", "T"), where
    elif isinstance(said, str) and not re.match(r"\d{4}-\d\d-\d\d", said):
        assert time == UNKNOWN_TIME, where


@pytest.mark.shared
def test_only_26_of_the_1402_are_no_events_and_none_of_these_holds_an_actor_and_an_action(
    shared_dir: Path,
) -> None:
    records = [
        json.loads(line)
        for file in (shared_dir / "samples").glob("*.jsonl")
        for line in file.read_bytes().splitlines()
    ]
    assert len(records) == 1_402
    statistics = [record for record in records if _is_statistic(record)]
    assert len(statistics) == 26
    assert not any({"actor", "eventType", "eventtype", "uuid"} & {*record} for record in statistics)
