"""What a stranger writes is no actor, no outcome and no other request."""

import json
from pathlib import Path
from typing import Any

import pytest

from ledger_client.collect.importers import LastStages, load_format

WHEN = "2026-11-25T02:03:36.123456Z"
TYPED = "0b6ad5f0-7c11-4dd8-8b35-b0ce57b0f2c1"
"""A name that somebody typed, and that is the id of another."""


def mapped(name: str, record: dict[str, Any]) -> dict[str, Any]:
    (event,) = load_format(name).map(json.dumps(record).encode())
    return event


def keycloak_line(message: str, level: str = "WARN") -> dict[str, Any]:
    return {
        "timestamp": WHEN,
        "loggerName": "org.keycloak.events",
        "level": level,
        "message": message,
    }


QUOTED = (
    'type="LOGIN_ERROR", realmId="r", clientId="shop", userId="null", ipAddress="192.0.2.1", '
    'error="user_not_found", username="'
)
BARE = QUOTED.replace('"', "")


@pytest.mark.parametrize(
    ("start", "typed", "end"),
    [
        (QUOTED, r"x\", impersonator=\"root", '"'),
        (QUOTED, r"x\", redirect_uri=", '", impersonator=root, code_id=""'),
        (BARE, "x, impersonator=root", ""),
        (BARE, "x, operationType=DELETE, resourceType=USER", ""),
        (BARE, "x, time=1999-01-01T00:00:00Z", ""),
        (BARE, "x, userId=root, error=", ""),
    ],
)
def test_a_user_name_of_keycloak_that_looks_like_more_pairs_adds_none(
    start: str, typed: str, end: str
) -> None:
    event = mapped("keycloak", keycloak_line(start + typed + end))
    assert "root" not in event["actor"]["id"]
    assert "on_behalf_of" not in event["actor"]
    assert event["actor"]["type"] == "username"
    assert (event["action"], event["outcome"]) == ("keycloak.login", "failure")
    assert event["time"] == WHEN


START = "type=LOGIN_ERROR, realmId=r, clientId="
END = ", userId=null, ipAddress=192.0.2.1, error=client_not_found"
VICTIM = "a, userId=8e1c, ipAddress=198.51.100.7"


@pytest.mark.parametrize(
    "message",
    [
        # What was typed as the client, before the pairs of the line itself.
        f"{START}{VICTIM}{END}",
        f"{START}{VICTIM}, error=x{END}",
        f"{START}{VICTIM}, error=x, z='{END}, redirect_uri='b c'",
        f"{START}a, userId=8e1c, sessionId=7, ipAddress=198.51.100.7, username=jo{END}",
        f"{START}a, b=c{END}",
        # Who asked for a token as another one, or a text that says so.
        "type=TOKEN_EXCHANGE, realmId=r, clientId=cli, userId=8e1c, ipAddress=192.0.2.1, "
        "scope='x, impersonator=root'",
        "type=TOKEN_EXCHANGE, realmId=r, clientId=cli, userId=8e1c, ipAddress=192.0.2.1, "
        "impersonator=root, username=8e1c",
        # What was typed into an event that has no name of its own.
        "type=REFRESH_TOKEN, realmId=r, clientId=cli, userId=1d00, ipAddress=192.0.2.1, "
        "scope=x, username=8e1c, code_id=8e1c, token_id=8e1c",
        "type=LOGIN, realmId=r, clientId=cli, userId=1d00, ipAddress=192.0.2.1, "
        "username=jo, scope=x, username=8e1c",
        "type=IMPERSONATE, realmId=r, clientId=null, userId=1d00, ipAddress=192.0.2.1, "
        "impersonator=root, impersonator=8e1c",
    ],
)
def test_a_line_of_keycloak_without_quotes_names_nobody_who_may_have_been_typed(
    message: str,
) -> None:
    event = mapped("keycloak", keycloak_line(message))
    shown = {name: value for name, value in event.items() if name != "context"}
    for typed in ("8e1c", "198.51.100.7", "root"):
        assert typed not in json.dumps(shown)
    (note,) = [each for each in event["context"]["import_notes"] if "typed" in each]
    assert note.startswith("message: pairs of it")


@pytest.mark.parametrize(
    ("message", "actor", "outcome"),
    [
        (
            "type=LOGIN, realmId=r, realmName=shop, clientId=cli, userId=1d00, sessionId=7, "
            "ipAddress=192.0.2.1, auth_method=openid-connect, username='jo x'",
            {"id": "1d00", "type": "user", "name": "jo x", "session": "7"},
            "success",
        ),
        (
            "type=LOGIN_ERROR, realmId=r, clientId=cli, userId=1d00, ipAddress=192.0.2.1, "
            "error=invalid_user_credentials, username=jo",
            {"id": "1d00", "type": "user", "name": "jo"},
            "failure",
        ),
        (
            "type=IMPERSONATE, realmId=r, clientId=null, userId=1d00, ipAddress=192.0.2.1, "
            "impersonator_realm=master, impersonator=support",
            {
                "id": "support",
                "type": "user",
                "name": "support",
                "on_behalf_of": {"id": "1d00", "type": "user"},
            },
            "success",
        ),
    ],
)
def test_a_line_of_keycloak_without_quotes_says_who_it_was_as_far_as_nobody_typed_it(
    message: str, actor: dict[str, Any], outcome: str
) -> None:
    event = mapped("keycloak", keycloak_line(message, "INFO"))
    assert (event["actor"], event["outcome"]) == (actor, outcome)
    assert event["source"] == {"ip": "192.0.2.1"}


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("users/8e1c", "success"),
        ("users/8e1c, error=not_found", "failure"),
        ("users/x, y=z, error=not_found", "unknown"),
    ],
)
def test_an_administrator_of_keycloak_succeeds_by_no_line_without_quotes_that_has_an_error(
    path: str, outcome: str
) -> None:
    message = (
        "operationType=UPDATE, realmId=r, clientId=c, userId=1d00, ipAddress=192.0.2.1, "
        f"resourceType=USER, resourcePath={path}"
    )
    event = mapped("keycloak", keycloak_line(message))
    assert (event["actor"]["id"], event["outcome"]) == ("1d00", outcome)


@pytest.mark.parametrize(
    ("application", "actor"),
    [
        (
            {"oauthClientId": "1089", "applicationName": "backup", "impersonation": True},
            {
                "id": "1089",
                "type": "application",
                "name": "backup",
                "on_behalf_of": {"id": "jo@example.com", "type": "user", "name": "117"},
            },
        ),
        (
            {"impersonation": "true"},
            {
                "id": "unknown",
                "type": "application",
                "on_behalf_of": {"id": "jo@example.com", "type": "user", "name": "117"},
            },
        ),
        (
            {"oauthClientId": "1089", "impersonation": False},
            {"id": "jo@example.com", "type": "user", "name": "117"},
        ),
    ],
)
def test_an_application_that_works_as_a_user_of_google_workspace_is_the_actor(
    application: dict[str, Any], actor: dict[str, Any]
) -> None:
    record = {
        "id": {"time": WHEN, "applicationName": "drive"},
        "actor": {
            "callerType": "USER",
            "email": "jo@example.com",
            "profileId": "117",
            "applicationInfo": application,
        },
        "name": "download",
    }
    event = mapped("gsuite", record)
    assert event["actor"] == actor
    assert event["context"].get("application") == application.get("oauthClientId")


@pytest.mark.parametrize(
    ("message", "action", "actor"),
    [
        (QUOTED + 'jo"', "keycloak.login", "jo"),
        (
            'operationType="UPDATE", userId="8e1c", resourceType="USER"',
            "keycloak.user.update",
            "8e1c",
        ),
    ],
)
def test_the_type_that_a_shipper_adds_to_a_line_is_not_that_of_the_event(
    message: str, action: str, actor: str
) -> None:
    event = mapped("keycloak", {**keycloak_line(message), "type": "log"})
    assert (event["action"], event["actor"]["id"]) == (action, actor)


def test_a_webhook_of_keycloak_that_names_both_types_is_of_the_administrator() -> None:
    record = {
        "type": "admin.USER-UPDATE",
        "operationType": "UPDATE",
        "resourceType": "USER",
        "resourcePath": "users/8e1c",
        "realmId": "r",
        "time": 1_700_000_000_000,
        "authDetails": {"userId": "1d00"},
    }
    event = mapped("keycloak", record)
    assert (event["action"], event["actor"]["id"]) == ("keycloak.user.update", "1d00")


@pytest.mark.parametrize("scope", [', impersonator=8e1c, \\"', "x\\", 'y\\"z', "x, impersonator="])
def test_a_quote_in_a_scope_of_keycloak_neither_names_nor_hides_who_impersonates(
    scope: str,
) -> None:
    message = (
        'type="TOKEN_EXCHANGE", realmId="r", clientId="cli", userId="1d00", ipAddress="192.0.2.1", '
        f'scope="{scope}", impersonator="support"'
    )
    event = mapped("keycloak", keycloak_line(message, "INFO"))
    if "\\" in scope:
        # The client that asked for the token: who asked for it can't be told.
        assert event["actor"] == {"id": "cli", "type": "client"}
    else:
        assert event["actor"]["id"] == "support"


def test_a_cookie_in_a_line_of_keycloak_is_no_pair_of_it() -> None:
    message = (
        'type="TOKEN_EXCHANGE", realmId="r", clientId="cli", userId="1d00", ipAddress="192.0.2.1", '
        'requestUri="/", cookies=[$Version=0;a=b, impersonator=root, code_id=7]'
    )
    event = mapped("keycloak", keycloak_line(message, "TRACE"))
    assert event["actor"] == {"id": "1d00", "type": "user"}


def test_what_administrators_of_keycloak_do_as_others_is_still_theirs_in_a_line() -> None:
    message = (
        'type="IMPERSONATE", realmId="r", clientId="null", userId="8e1c", ipAddress="192.0.2.1", '
        'impersonator_realm="master", impersonator="support"'
    )
    event = mapped("keycloak", keycloak_line(message, "INFO"))
    assert event["actor"]["id"] == "support"
    assert event["actor"]["on_behalf_of"]["id"] == "8e1c"
    assert event["outcome"] == "success"


def test_an_administrator_of_keycloak_succeeds_by_no_path_that_hides_the_error() -> None:
    message = (
        'operationType="UPDATE", realmId="r", clientId="c", userId="8e1c", ipAddress="192.0.2.1", '
        r'resourceType="USER", resourcePath="users/x\", y=\"z", error="not_found"'
    )
    event = mapped("keycloak", keycloak_line(message))
    assert (event["action"], event["outcome"]) == ("keycloak.user.update", "unknown")
    plain = mapped("keycloak", keycloak_line(message.replace(r"\", y=\"z", "")))
    assert plain["outcome"] == "failure"


@pytest.mark.parametrize(
    ("name", "record"),
    [
        (
            "keycloak",
            {
                "time": 1790000000123,
                "realmId": "r",
                "type": "LOGIN_ERROR",
                "error": "user_not_found",
                "details": {"username": TYPED},
            },
        ),
        (
            "gitlab",
            {
                "time": WHEN,
                "author_id": -1,
                "author_name": TYPED,
                "entity_type": "User",
                "failed_login": "STANDARD",
            },
        ),
        (
            "okta",
            {
                "published": WHEN,
                "eventType": "user.session.start",
                "actor": {"id": "unknown", "type": "User", "alternateId": TYPED},
                "outcome": {"result": "FAILURE"},
            },
        ),
    ],
)
def test_a_name_that_was_typed_is_no_user_even_if_it_is_the_id_of_one(
    name: str, record: dict[str, Any]
) -> None:
    event = mapped(name, record)
    assert event["outcome"] == "failure"
    assert (event["actor"]["type"], event["actor"]["id"]) == ("username", TYPED)


def test_the_request_of_a_caller_whom_google_does_not_name_names_nobody() -> None:
    payload = {
        "methodName": "google.example.v1.List",
        "serviceName": "example.googleapis.com",
        "status": {"code": 7},
        "request": {"username": "jo@example.com"},
    }
    assert mapped("gcp", {"timestamp": WHEN, "protoPayload": payload})["actor"] == {"id": "unknown"}
    payload["serviceName"] = "us-central1-ssh-serialport.googleapis.com"
    event = mapped("gcp", {"timestamp": WHEN, "protoPayload": payload})
    assert event["actor"] == {"id": "jo@example.com"}


VAULT = {
    "type": "response",
    "time": WHEN,
    "request": {"id": "r1", "operation": "update", "path": "auth/token/create/clerk"},
    "response": {
        "auth": {"entity_id": "7c9e", "display_name": "token-jo", "accessor": "hmac-sha256:2"}
    },
}


def test_who_makes_a_token_of_vault_for_another_is_the_actor() -> None:
    auth = {"client_token": "hmac-sha256:0", "accessor": "hmac-sha256:1", "display_name": "root"}
    event = mapped("vault", {**VAULT, "auth": auth})
    assert event["actor"] == {
        "id": "root",
        "type": "token",
        "name": "root",
        "credential": "hmac-sha256:1",
    }
    nameless = {"client_token": "hmac-sha256:0"}
    event = mapped("vault", {**VAULT, "auth": nameless})
    assert event["actor"] == {"id": "unknown"}
    came_in = mapped("vault", VAULT)
    assert came_in["actor"]["id"] == "7c9e"
    assert came_in["actor"]["credential"] == "hmac-sha256:2"


TELEPORT = {"time": WHEN, "cluster_name": "c"}


@pytest.mark.parametrize(
    ("record", "actor", "outcome"),
    [
        (
            {"event": "access_request.review", "code": "T5002I", "reviewer": "boss", "user": "jo"},
            {"id": "boss"},
            "success",
        ),
        (
            {
                "event": "access_request.update",
                "code": "T5001I",
                "updated_by": "plugin",
                "delegator": "boss",
                "user": "jo",
            },
            {"id": "plugin", "on_behalf_of": {"id": "boss"}},
            "success",
        ),
        (
            {"event": "exec", "code": "T3002I", "user": "jo", "exitCode": "0"},
            {"id": "jo"},
            "success",
        ),
        (
            {"event": "exec", "code": "T3002I", "user": "jo", "exitCode": "1"},
            {"id": "jo"},
            "failure",
        ),
    ],
)
def test_who_decides_about_access_of_teleport_and_how_a_command_ended(
    record: dict[str, Any], actor: dict[str, Any], outcome: str
) -> None:
    event = mapped("teleport", {**TELEPORT, **record})
    assert (event["actor"], event["outcome"]) == (actor, outcome)


def test_a_new_service_of_windows_is_not_made_by_the_account_that_it_runs_as() -> None:
    system = {
        "EventID": 7045,
        "Channel": "System",
        "TimeCreated": {"#attributes": {"SystemTime": WHEN}},
        "Security": {"#attributes": {"UserID": "S-1-5-21-1-2-3-1001"}},
        "Computer": "pc-1",
    }
    data = {"ServiceName": "new", "AccountName": "LocalSystem"}
    event = mapped("windows", {"Event": {"System": system, "EventData": data}})
    assert event["actor"] == {"id": "S-1-5-21-1-2-3-1001", "type": "user"}
    assert "record_number" not in event["context"]


def test_any_program_may_write_a_field_of_the_service_manager_and_only_it_is_believed() -> None:
    entry = {
        "__REALTIME_TIMESTAMP": "1790000000123456",
        "_UID": "1000",
        "_PID": "77",
        "_COMM": "a",
        "_HOSTNAME": "web-1",
        "SYSLOG_IDENTIFIER": "systemd",
        "UNIT": "sshd.service",
        "JOB_RESULT": "done",
    }
    event = mapped("journald", entry)
    assert event["outcome"] == "unknown"
    assert "targets" not in event
    event = mapped("journald", {**entry, "_UID": "0", "_PID": "1"})
    assert event["outcome"] == "success"
    assert event["targets"] == [{"id": "sshd.service", "type": "unit"}]


def test_a_caller_of_kubernetes_who_gives_a_request_the_id_of_another_hides_none(
    tmp_path: Path,
) -> None:
    def record(stage: str, verb: str, at: str) -> dict[str, Any]:
        return {
            "kind": "Event",
            "auditID": "chosen",
            "stage": stage,
            "verb": verb,
            "user": {"username": "jo"},
            "requestReceivedTimestamp": at,
        }

    records = [
        record("ResponseComplete", "get", "2026-11-25T02:03:36.000001Z"),
        record("ResponseStarted", "create", "2026-11-25T02:03:37.000001Z"),
        record("RequestReceived", "watch", "2026-11-25T02:03:38.000001Z"),
    ]
    file = tmp_path / "audit.log"
    file.write_text("\n".join(map(json.dumps, records)))
    format_ = load_format("kubernetes")
    stages = LastStages(format_.stage)
    kept = [*stages.select(format_.read(file)), *stages.held()]
    assert [json.loads(each.raw)["verb"] for each in kept] == ["get", "create", "watch"]


def test_the_number_that_stands_for_all_strangers_of_google_is_no_person() -> None:
    actor = {"email": "", "profileId": "105250506097979753968"}
    record = {"id": {"time": WHEN, "applicationName": "drive"}, "actor": actor, "name": "view"}
    assert mapped("gsuite", record)["actor"] == {"id": "anonymous", "type": "anonymous"}


@pytest.mark.parametrize(
    "status",
    [
        {"resultType": "Failure", "resultSignature": "Failed.Forbidden"},
        {"status": {"value": "Failed"}, "subStatus": {"value": "Forbidden"}},
        {"resultType": "Failure", "properties": {"statusCode": "Unauthorized"}},
    ],
)
def test_what_azure_forbids_is_denied_and_a_user_in_a_group_is_no_group(
    status: dict[str, Any],
) -> None:
    claims = {"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn": "jo@example.com"}
    evidence = {"principalType": "Group", "principalId": "6b6d"}
    identity = {"claims": claims, "authorization": {"evidence": evidence}}
    record = {"time": WHEN, "operationName": "A/B/write", "identity": identity, **status}
    event = mapped("azure", record)
    assert (event["actor"], event["outcome"]) == ({"id": "jo@example.com"}, "denied")
