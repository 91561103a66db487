"""Records in which one works as another: the actor is the one who works, and no victim or host."""

import json
from typing import Any

import pytest

from ledger_client.collect.importers import load_format

WHEN = "2026-11-25T02:03:36.123456Z"
ROLE = "arn:aws:iam::123456789012:role/analytics"
SESSION = "arn:aws:sts::123456789012:assumed-role/analytics/s"
ISSUER = {"sessionIssuer": {"type": "Role", "arn": ROLE, "userName": "analytics"}}
STORE = "arn:aws:identitystore::123456789012:identitystore/d-1"
PERSON = {"userId": "90678d2f-1", "identityStoreArn": STORE}


def cloudtrail(**identity: Any) -> dict[str, Any]:
    named = {"eventTime": WHEN, "eventName": "GetObject", "eventSource": "s3.amazonaws.com"}
    return {**named, "userIdentity": {"accountId": "123456789012", **identity}}


def windows(number: int, **data: str) -> dict[str, Any]:
    return {
        "EventTime": WHEN,
        "Hostname": "dc-1.example.com",
        "EventType": "AUDIT_SUCCESS",
        "EventID": number,
        "Channel": "Security",
        **data,
    }


def gcp(*chain: dict[str, Any]) -> dict[str, Any]:
    return {
        "timestamp": WHEN,
        "protoPayload": {
            "methodName": "storage.objects.get",
            "authenticationInfo": {
                "principalEmail": "deploy@p.iam.gserviceaccount.com",
                "serviceAccountDelegationInfo": list(chain),
            },
        },
    }


OBJECT = "http://schemas.microsoft.com/identity/claims/objectidentifier"


def azure(claims: dict[str, str]) -> dict[str, Any]:
    return {"time": WHEN, "operationName": "A/B/write", "identity": {"claims": claims}}


KEYCLOAK = {"time": 1790000000123, "realmId": "5f2b", "clientId": "shop", "userId": "8e1c"}
IMPERSONATOR = {"impersonator": "support", "username": "jo"}
GITLAB = {
    "time": WHEN,
    "author_id": 28,
    "author_name": "Jo",
    "author_class": "User",
    "entity_type": "Project",
    "change": "visibility",
}
TELEPORT = {"time": WHEN, "cluster_name": "c", "code": "T2000I"}
JO = {"TargetUserName": "jo", "TargetDomainName": "EX"}
WORKER = {"id": SESSION, "type": "AssumedRole"}
POOL = "principal://iam.googleapis.com/locations/global/workforcePools/p/subject/jo"


@pytest.mark.parametrize(
    ("name", "record", "actor"),
    [
        (
            "keycloak",
            {**KEYCLOAK, "type": "IMPERSONATE", "details": IMPERSONATOR},
            {
                "id": "support",
                "type": "user",
                "name": "support",
                "on_behalf_of": {"id": "8e1c", "type": "user", "name": "jo"},
            },
        ),
        (
            "keycloak",
            {**KEYCLOAK, "type": "UPDATE_EMAIL", "details": {"username": "jo"}},
            {"id": "8e1c", "type": "user", "name": "jo"},
        ),
        (
            "gitlab",
            {**GITLAB, "impersonated_by": "Root"},
            {
                "id": "Root",
                "type": "user",
                "name": "Root",
                "on_behalf_of": {"id": "28", "type": "user", "name": "Jo"},
            },
        ),
        ("gitlab", GITLAB, {"id": "28", "type": "user", "name": "Jo"}),
        (
            "teleport",
            {**TELEPORT, "event": "session.start", "user": "jo", "impersonator": "ci"},
            {"id": "ci", "on_behalf_of": {"id": "jo"}},
        ),
        (
            "teleport",
            {**TELEPORT, "event": "cert.create", "identity": {"user": "jo", "impersonator": "ci"}},
            {"id": "ci", "on_behalf_of": {"id": "jo"}},
        ),
        (
            "teleport",
            {
                **TELEPORT,
                "event": "cert.create",
                "user": "ci",
                "identity": {"user": "jo", "impersonator": "ci"},
            },
            {"id": "ci", "on_behalf_of": {"id": "jo"}},
        ),
        (
            "teleport",
            {**TELEPORT, "event": "session.start", "user": "bot", "impersonator": "bot"},
            {"id": "bot"},
        ),
        (
            "cloudtrail",
            cloudtrail(type="IdentityCenterUser", onBehalfOf=PERSON, credentialId="VR4d"),
            {"id": "90678d2f-1", "type": "IdentityCenterUser", "credential": "VR4d"},
        ),
        (
            "cloudtrail",
            cloudtrail(type="AssumedRole", arn=SESSION, sessionContext=ISSUER, onBehalfOf=PERSON),
            {**WORKER, "on_behalf_of": {"id": "90678d2f-1", "type": "IdentityCenterUser"}},
        ),
        (
            "cloudtrail",
            cloudtrail(type="AssumedRole", arn=SESSION, sessionContext=ISSUER),
            {**WORKER, "on_behalf_of": {"id": ROLE, "type": "Role", "name": "analytics"}},
        ),
        (
            "gcp",
            gcp({"firstPartyPrincipal": {"principalEmail": "jo@example.com"}}),
            {
                "id": "deploy@p.iam.gserviceaccount.com",
                "on_behalf_of": {"id": "jo@example.com"},
            },
        ),
        (
            "gcp",
            gcp({"principalSubject": POOL}),
            {"id": "deploy@p.iam.gserviceaccount.com", "on_behalf_of": {"id": POOL}},
        ),
        (
            "azure",
            azure({"name": "Jo Doe", OBJECT: "6b6d", "appid": "portal"}),
            {"id": "6b6d", "name": "Jo Doe"},
        ),
        ("azure", azure({OBJECT: "6b6d", "appid": "9f01"}), {"id": "9f01"}),
        ("azure", azure({"name": "jo", "appid": "portal"}), {"id": "jo", "name": "jo"}),
        (
            "windows",
            windows(4647, **JO, TargetLogonId="0x29b379"),
            {"id": "EX\\jo", "type": "user", "session": "0x29b379"},
        ),
        ("windows", windows(4800, **JO), {"id": "EX\\jo", "type": "user"}),
        (
            "windows",
            windows(4624, **JO, SubjectUserName="DC-1$", SubjectLogonId="0x3e7"),
            {"id": "EX\\jo", "type": "user"},
        ),
        (
            "windows",
            windows(4720, **JO, SubjectUserName="root", SubjectLogonId="0x1f"),
            {"id": "root", "type": "user", "session": "0x1f"},
        ),
        (
            "windows",
            windows(4625, TargetUserName="-", SubjectUserName="-", SubjectLogonId="0x0"),
            {"id": "dc-1.example.com", "type": "host"},
        ),
    ],
)
def test_the_actor_is_the_one_who_works_and_not_the_one_whose_rights_are_used(
    name: str, record: dict[str, Any], actor: dict[str, Any]
) -> None:
    (event,) = load_format(name).map(json.dumps(record).encode())
    assert event["actor"] == actor
    assert event["context"].get("import_notes") is None


def test_the_beginning_of_a_chain_of_roles_is_kept() -> None:
    identity = {"type": "AssumedRole", "arn": SESSION}
    record = cloudtrail(**identity, sessionContext={**ISSUER, "sourceIdentity": "jo"})
    (event,) = load_format("cloudtrail").map(json.dumps(record).encode())
    assert event["context"]["source_identity"] == "jo"


def test_a_document_of_gsuite_without_an_id_is_known_by_its_title() -> None:
    record = {"id": {"time": WHEN, "applicationName": "drive"}, "name": "view"}
    titled = {**record, "parameters": {"doc_title": "plan"}}
    (event,) = load_format("gsuite").map(json.dumps(titled).encode())
    assert event["targets"] == [{"id": "plan", "type": "document"}]


def test_the_rest_api_of_azure_says_from_where() -> None:
    record = {
        "eventTimestamp": WHEN,
        "operationName": {"value": "A/B/write"},
        "caller": "jo@example.com",
        "httpRequest": {"clientIpAddress": "192.0.2.9"},
    }
    (event,) = load_format("azure").map(json.dumps(record).encode())
    assert (event["actor"], event["source"]) == ({"id": "jo@example.com"}, {"ip": "192.0.2.9"})


def test_the_activity_log_in_a_stream_of_kubernetes_names_the_account_before_its_display_name() -> (
    None
):
    names = {"name": "Root Admin", OBJECT: "6f1c"}
    record = {**azure(names), "resourceId": "/subscriptions/s/managedClusters/c"}
    (event,) = load_format("kubernetes").map(json.dumps(record).encode())
    assert event["actor"] == {"id": "6f1c", "name": "Root Admin"}
