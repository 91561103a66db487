"""Records of products, in the shapes that their documentation or source gives: the whole events."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ledger_client.collect.importers import FileMapper, LastStages, load_format
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.model import EventError
from ledger_core.event.secrets import mask
from ledger_core.tlog.errors import MalformedError


def events_of(name: str, *files: Path) -> list[dict[str, Any]]:
    """The events of files, as an import maps them, without `id` and the originals."""
    format_ = load_format(name)
    stages = LastStages(format_.stage)
    records = [record for file in files for record in stages.select(format_.read(file))]
    mapper = FileMapper(format_)
    mapped = [each for record in [*records, *stages.held()] for each in mapper.explain(record.raw)]
    for each in mapped:
        decode_event_object(each.event)
        del each.event["id"]
        for key in ("original", "original_text"):
            each.event["context"].pop(key, None)
    return [each.event for each in mapped]


def events_in(name: str, folder: Path, content: str | bytes) -> list[dict[str, Any]]:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return events_of(name, file)


def lines_of(records: Iterable[object]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def short(event: dict[str, Any]) -> tuple[Any, ...]:
    """The actor, the action, the targets and the outcome."""
    targets = [target["id"] for target in event.get("targets", [])]
    return event["actor"]["id"], event["action"], targets, event["outcome"]


# The journal.


def exported(*fields: tuple[str, bytes]) -> bytes:
    """One entry in the export format: a value with a line break has its length before it."""
    parts = [
        b"%b\n%b%b\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
        if b"\n" in value or not value.isascii()
        else b"%b=%b\n" % (name.encode(), value)
        for name, value in fields
    ]
    return b"".join(parts) + b"\n"


ENTRY = (
    ("__CURSOR", b"s=1;i=2"),
    ("__REALTIME_TIMESTAMP", b"1790000000123456"),
    ("_HOSTNAME", b"web-1"),
    ("_UID", b"1000"),
    ("SYSLOG_IDENTIFIER", b"sshd"),
)


def test_the_export_format_of_the_journal_makes_the_events_that_its_json_makes(
    tmp_path: Path,
) -> None:
    messages = (b"Accepted key=1 for jo", b"two\nlines=2\n\nfor jo", "für".encode(), b"\xff\x00")
    content = b"".join(exported(*ENTRY, ("MESSAGE", message)) for message in messages)
    events = events_in("journald", tmp_path, content)
    assert [event["reason"] for event in events] == [
        "Accepted key=1 for jo",
        "two\nlines=2\n\nfor jo",
        "für",
        "\\xff�",
    ]
    fields: dict[str, Any] = {name: value.decode() for name, value in ENTRY}
    as_json = [
        fields | {"MESSAGE": message}
        for message in ("Accepted key=1 for jo", "two\nlines=2\n\nfor jo", "für", [255, 0])
    ]
    assert events_in("journald", tmp_path, lines_of(as_json)) == events
    assert events_in("journald", tmp_path, gzip.compress(content)) == events


def test_a_field_that_comes_several_times_is_a_list_of_its_values(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(exported(*ENTRY, ("A", b"1"), ("A", b"2"), ("A", b"\xff\n"), ("B", b"\xfe")))
    (record,) = load_format("journald").read(file)
    fields = json.loads(record.raw)
    assert fields["A"] == ["1", "2", [255, 10]]
    assert fields["B"] == [254]


@pytest.mark.parametrize("cut", [2, 10, 14])
def test_an_export_that_breaks_off_inside_a_value_is_damaged(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "journal"
    whole = exported(*ENTRY)
    file.write_bytes(whole + exported(("MESSAGE", b"two\nlines"))[:-cut])
    records = load_format("journald").read(file)
    assert json.loads(next(records).raw)["_UID"] == "1000"
    with pytest.raises(MalformedError, match="line 7: the file ends inside a value"):
        next(records)
    file.write_bytes(b"MESSAGE\n" + b"\xff" * 8 + b"x\n\n")
    with pytest.raises(MalformedError, match="line 1: a value of 18446744073709551615 bytes"):
        list(load_format("journald").read(file))


# Windows.

SCHEMA = "http://schemas.microsoft.com/win/2004/08/events/event"


def windows_xml(number: int, data: dict[str, str], *, keywords: str = "0x8020000000000000") -> str:
    named = "".join(f"<Data Name='{name}'>{value}</Data>" for name, value in data.items())
    return (
        f"<Event xmlns='{SCHEMA}'><System>"
        "<Provider Name='Microsoft-Windows-Security-Auditing' Guid='{54849625}'/>"
        f"<EventID>{number}</EventID><Version>0</Version><Level>0</Level><Task>12544</Task>"
        f"<Keywords>{keywords}</Keywords><TimeCreated SystemTime='2026-11-25T02:03:36.1234567Z'/>"
        "<EventRecordID>87418</EventRecordID><Channel>Security</Channel>"
        f"<Computer>dc-1.example.com</Computer><Security/></System><EventData>{named}</EventData>"
        "</Event>"
    )


LOGON = {
    "SubjectUserSid": "S-1-5-18",
    "SubjectUserName": "DC-1$",
    "SubjectDomainName": "EXAMPLE",
    "SubjectLogonId": "0x3e7",
    "TargetUserName": "jo",
    "TargetDomainName": "EXAMPLE",
    "Status": "0xc000006d",
    "LogonType": "3",
    "WorkstationName": "LAPTOP-7",
    "IpAddress": "192.0.2.9",
    "IpPort": "50123",
}
FAILURE = "0x8010000000000000"


def test_a_failed_logon_of_windows_is_of_the_account_that_tried(tmp_path: Path) -> None:
    (event,) = events_in("windows", tmp_path, windows_xml(4625, LOGON, keywords=FAILURE))
    assert event == {
        "time": "2026-11-25T02:03:36.123456Z",
        "actor": {"id": "EXAMPLE\\jo", "type": "user"},
        "action": "windows.logon",
        "targets": [
            {"id": "EXAMPLE\\jo", "type": "account"},
            {"id": "dc-1.example.com", "type": "host"},
        ],
        "source": {
            "ip": "192.0.2.9",
            "port": 50123,
            "service": "Microsoft-Windows-Security-Auditing",
        },
        "outcome": "failure",
        "context": {
            "event_id": "4625",
            "host": "dc-1.example.com",
            "channel": "Security",
            "record_number": "87418",
            "logon_type": "3",
            "status": "0xc000006d",
            "subject_sid": "S-1-5-18",
            "workstation": "LAPTOP-7",
        },
    }


def evtx_json(number: object, data: dict[str, str], keywords: str) -> dict[str, Any]:
    """An event as evtx_dump writes it."""
    system = {
        "Provider": {"#attributes": {"Name": "Microsoft-Windows-Security-Auditing"}},
        "EventID": number,
        "Level": 0,
        "Keywords": keywords,
        "TimeCreated": {"#attributes": {"SystemTime": "2026-11-25T02:03:36.123456Z"}},
        "EventRecordID": 87418,
        "Channel": "Security",
        "Computer": "dc-1.example.com",
        "Security": None,
    }
    return {"Event": {"#attributes": {"xmlns": SCHEMA}, "System": system, "EventData": data}}


def winlogbeat(number: object, data: dict[str, str]) -> dict[str, Any]:
    return {
        "@timestamp": "2026-11-25T02:03:36.123456Z",
        "event": {"code": str(number), "outcome": "failure"},
        "winlog": {
            "api": "wineventlog",
            "channel": "Security",
            "computer_name": "dc-1.example.com",
            "event_data": data,
            "event_id": number,
            "keywords": ["Audit Failure"],
            "provider_name": "Microsoft-Windows-Security-Auditing",
            "record_id": 87418,
        },
    }


def nxlog(number: object, data: dict[str, str]) -> dict[str, Any]:
    return {
        "EventTime": "2026-11-25T02:03:36.123456Z",
        "Hostname": "dc-1.example.com",
        "Keywords": -9218868437227405312,
        "EventType": "AUDIT_FAILURE",
        "Severity": "ERROR",
        "EventID": number,
        "SourceName": "Microsoft-Windows-Security-Auditing",
        "RecordNumber": 87418,
        "Channel": "Security",
        **data,
    }


def test_the_json_of_four_programs_makes_the_event_that_the_xml_makes(tmp_path: Path) -> None:
    records = [
        evtx_json(4625, LOGON, FAILURE),
        evtx_json({"#attributes": {"Qualifiers": 0}, "#text": 4625}, LOGON, FAILURE),
        evtx_json({"Qualifiers": "0", "Value": "4625"}, LOGON, FAILURE),
        winlogbeat(4625, LOGON),
        winlogbeat("4625", LOGON),
        nxlog(4625, LOGON),
    ]
    (expected,) = events_in("windows", tmp_path, windows_xml(4625, LOGON, keywords=FAILURE))
    for event in events_in("windows", tmp_path, lines_of(records)):
        assert event == expected


def test_events_of_windows_say_who_did_what_to_whom(tmp_path: Path) -> None:
    admin = {"SubjectUserName": "adm", "SubjectDomainName": "EXAMPLE", "SubjectLogonId": "0x1f"}
    none = {"SubjectUserName": "-", "SubjectDomainName": "-", "TargetUserName": "-"}
    new = {"TargetUserName": "kim", "TargetDomainName": "EXAMPLE"}
    group = {"MemberName": "CN=kim", "MemberSid": "S-1-5-21-7", "TargetUserName": "Ops"}
    file = {"ObjectType": "File", "ObjectName": r"C:\pay.xlsx"}
    cleared = windows_xml(1102, {}).replace(
        "<EventData></EventData>",
        "<UserData><LogFileCleared xmlns='http://manifests.microsoft.com/win/2004/08/windows/eventlog'>"
        "<SubjectUserName>adm</SubjectUserName><SubjectDomainName>EXAMPLE</SubjectDomainName>"
        "</LogFileCleared></UserData>",
    )
    texts = (
        windows_xml(4720, {**admin, **new}),
        windows_xml(4728, {**admin, **group}),
        windows_xml(4656, {**admin, **file}, keywords=FAILURE),
        windows_xml(4702, {**admin, "TaskName": r"\Backup"}),
        windows_xml(4608, none),
        cleared,
    )
    host = "dc-1.example.com"
    expected = [
        ("EXAMPLE\\adm", "windows.user_created", ["EXAMPLE\\kim", host], "success"),
        ("EXAMPLE\\adm", "windows.group_member_added", ["Ops", "CN=kim", host], "success"),
        ("EXAMPLE\\adm", "windows.handle_requested", [r"C:\pay.xlsx", host], "denied"),
        ("EXAMPLE\\adm", "windows.security.4702", [r"\Backup", host], "success"),
        (host, "windows.started", [host], "success"),
        ("EXAMPLE\\adm", "windows.log_cleared", [host], "success"),
    ]  # fmt: skip
    around = f"<?xml version='1.0' encoding='utf-8'?>\n<Events>{''.join(texts)}</Events>\n"
    for content in (
        "\n".join(texts),
        around,
        f"\ufeff{around}",
        around.encode("utf-16"),
        gzip.compress(around.encode()),
    ):
        events = events_in("windows", tmp_path, content)
        assert [short(event) for event in events] == expected


def test_an_event_of_another_log_of_windows_is_named_by_log_and_number() -> None:
    text = windows_xml(7045, {"ServiceName": "s", "ImagePath": "x"}, keywords="0x80")
    text = text.replace("<Channel>Security", "<Channel>System")
    (mapped,) = load_format("windows").explain(json.dumps({"xml": text}).encode())
    assert mapped.left_over == [
        *("System.Provider.Guid", "System.Version", "System.Task", "data.ImagePath"),
    ]
    host = "dc-1.example.com"
    assert short(mapped.event) == (host, "windows.system.7045", ["s", host], "unknown")


def test_xml_that_is_no_event_is_refused_and_the_events_around_it_are_read(tmp_path: Path) -> None:
    bomb = "<!DOCTYPE e [<!ENTITY a 'aaaa'>]><Event><System>&a;</System></Event>"
    good = windows_xml(4625, LOGON)
    deep = f"<Event>{'<a>' * 20}{'</a>' * 20}</Event>"
    texts = ["junk", good, "<Event><a></Event>", bomb, deep, good, "<Event><System>"]
    file = tmp_path / "log"
    file.write_text("\n".join(texts))
    format_ = load_format("windows")
    read = []
    for record in format_.read(file):
        try:
            read += [(record.line, event["action"]) for event in format_.map(record.raw)]
        except EventError as error:
            read.append((record.line, error.rule))
    assert read == [
        (1, "missing-field"),
        (2, "windows.logon"),
        (3, "missing-field"),
        (4, "missing-field"),
        (4, "missing-field"),
        (5, "missing-field"),
        (6, "windows.logon"),
        (7, "missing-field"),
    ]


# Keycloak.

REALM = "5f2b"
LOGIN_ERROR = {
    "id": "c1a5",
    "time": 1790000000123,
    "type": "LOGIN_ERROR",
    "realmId": REALM,
    "clientId": "shop",
    "userId": "8e1c",
    "sessionId": None,
    "ipAddress": "192.0.2.9",
    "error": "invalid_user_credentials",
    "details": {"auth_method": "openid-connect", "username": "jo", "redirect_uri": "https://a/cb"},
}


def test_events_of_keycloak_say_who_logged_in_and_what_an_administrator_changed(
    tmp_path: Path,
) -> None:
    admin = {
        "time": 1790000001000,
        "realmId": REALM,
        "authDetails": {
            "realmId": "master",
            "clientId": "security-admin-console",
            "userId": "1d00",
            "ipAddress": "192.0.2.4",
        },
        "operationType": "UPDATE",
        "resourceType": "USER",
        "resourcePath": "users/8e1c",
        "representation": '{"username":"jo","enabled":false}',
    }
    failed, changed = events_in("keycloak", tmp_path, json.dumps([LOGIN_ERROR, admin], indent=1))
    assert failed == {
        "time": "2026-09-21T14:13:20.123000Z",
        "actor": {"id": "8e1c", "type": "user", "name": "jo"},
        "action": "keycloak.login",
        "targets": [{"id": "shop", "type": "client"}],
        "source": {"ip": "192.0.2.9"},
        "outcome": "failure",
        "reason": "invalid_user_credentials",
        "context": {
            "request_id": "c1a5",
            "realm": REALM,
            "method": "openid-connect",
            "redirect_uri": "https://a/cb",
        },
    }
    assert short(changed) == ("1d00", "keycloak.user.update", ["users/8e1c", "8e1c"], "success")
    assert changed["context"]["representation"] == {"username": "jo", "enabled": False}
    assert changed["source"] == {"ip": "192.0.2.4"}


def test_the_json_log_of_keycloak_holds_the_event_in_its_message(tmp_path: Path) -> None:
    messages = {
        'type="LOGIN_ERROR", realmId="5f2b", clientId="shop", userId="null", '
        'ipAddress="192.0.2.9", error="user_not_found", username="jo, userId=admin"': (
            "jo, userId=admin", "keycloak.login", ["shop"], "failure",
        ),
        "type=LOGOUT, realmId=5f2b, clientId=shop, userId=8e1c, ipAddress=192.0.2.9, a='b c'": (
            "8e1c", "keycloak.logout", ["shop"], "success",
        ),
        "operationType=CREATE, realmId=5f2b, clientId=cli, userId=1d00, ipAddress=192.0.2.9, "
        "resourceType=CLIENT, resourcePath=clients/7": (
            "1d00", "keycloak.client.create", ["clients/7"], "success",
        ),
    }  # fmt: skip
    records = [
        {
            "timestamp": "2026-11-25T02:03:36.123Z",
            "sequence": 7,
            "loggerName": "org.keycloak.events",
            "level": "WARN",
            "message": message,
        }
        for message in messages
    ]
    events = events_in("keycloak", tmp_path, lines_of(records))
    assert [short(event) for event in events] == [*messages.values()]
    assert {event["source"]["ip"] for event in events} == {"192.0.2.9"}
    assert {event["time"] for event in events} == {"2026-11-25T02:03:36.123000Z"}


# Vault and OpenBao.

HMAC = f"hmac-sha256:{'3f' * 32}"


def vault(of_type: str, request_id: str, **others: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-25T02:03:36.123456789Z",
        "type": of_type,
        "auth": {
            "client_token": HMAC,
            "accessor": HMAC,
            "display_name": "userpass-jo",
            "policies": ["default", "ops"],
            "entity_id": "7c9e",
            "token_type": "service",
        },
        "request": {
            "id": request_id,
            "client_token": HMAC,
            "operation": "update",
            "mount_type": "kv",
            "namespace": {"id": "root"},
            "path": "secret/data/db",
            "data": {"password": HMAC, "data": {"api_key": HMAC}},
            "remote_address": "192.0.2.9",
            "remote_port": 50123,
        },
        **others,
    }


def test_a_request_to_vault_and_its_response_are_one_event_and_hashes_stay(tmp_path: Path) -> None:
    denied = {"error": "1 error occurred:\n\t* permission denied\n\n"}
    records = [
        vault("request", "r1"),
        vault("request", "r2", **denied),
        vault("response", "r1", response={"data": {"version": 1}}),
        vault("response", "r2", **denied),
        vault("response", "r3", error="unsupported path"),
        vault("request", "r4"),
    ]
    file = tmp_path / "audit.log"
    file.write_text(lines_of(records))
    events = events_of("vault", file)
    assert events[0] == {
        "time": "2026-11-25T02:03:36.123456Z",
        "actor": {"id": "7c9e", "type": "entity", "name": "userpass-jo", "credential": HMAC},
        "action": "vault.kv.update",
        "targets": [{"id": "secret/data/db", "type": "path"}],
        "source": {"ip": "192.0.2.9", "port": 50123},
        "outcome": "success",
        "context": {"request_id": "r1", "client_token": HMAC, "policies": ["default", "ops"]},
    }
    assert [(event["context"]["request_id"], event["outcome"]) for event in events] == [
        ("r1", "success"),
        ("r2", "denied"),
        ("r3", "failure"),
        ("r4", "unknown"),
    ]
    note = "stage: the response to the request was not found"
    assert events[3]["context"]["import_notes"] == [note]
    (whole,) = load_format("vault").map(json.dumps(records[2]).encode())
    assert mask(whole) == whole
    assert whole["context"]["original"] == records[2]


def test_a_login_to_vault_is_of_the_one_who_came_in(tmp_path: Path) -> None:
    record = vault("response", "r1", response={"auth": {"display_name": "userpass-jo"}})
    record["auth"] = {"token_type": "default"}
    record["request"] |= {"mount_type": "userpass", "path": "auth/userpass/login/jo"}
    (event,) = events_in("vault", tmp_path, json.dumps(record))
    assert short(event) == (
        "userpass-jo",
        "vault.userpass.update",
        ["auth/userpass/login/jo"],
        "success",
    )


# Kubernetes.


def kubernetes(stage: str, audit_id: str, **others: Any) -> dict[str, Any]:
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "auditID": audit_id,
        "stage": stage,
        "verb": "delete",
        "user": {"username": "jo"},
        "sourceIPs": ["192.0.2.4"],
        "objectRef": {"resource": "secrets", "namespace": "prod", "name": "db"},
        "requestReceivedTimestamp": "2026-11-25T02:03:36.123456Z",
        **others,
    }


def test_a_request_to_kubernetes_is_one_event_of_its_last_stage_even_over_two_files(
    tmp_path: Path,
) -> None:
    first = [
        kubernetes("RequestReceived", "a"),
        kubernetes("RequestReceived", "b"),
        kubernetes("ResponseComplete", "a", responseStatus={"code": 200}),
        kubernetes("ResponseStarted", "c", verb="watch"),
        kubernetes("RequestReceived", "a"),
    ]
    second = [
        kubernetes("Panic", "b", responseStatus={"code": 500}),
        {**kubernetes("", "d"), "stage": None},
        kubernetes("RequestReceived", "e"),
    ]
    files = [tmp_path / "1", tmp_path / "2"]
    for file, records in zip(files, (first, second), strict=True):
        file.write_text(lines_of(records))
    events = events_of("kubernetes", *files)
    assert [
        (event["context"]["request_id"], event["context"].get("stage"), event["outcome"])
        for event in events
    ] == [
        ("a", "ResponseComplete", "success"),
        ("b", "Panic", "failure"),
        ("d", None, "unknown"),
        ("c", "ResponseStarted", "unknown"),
        ("e", "RequestReceived", "unknown"),
    ]
    noted = [event for event in events if "import_notes" in event["context"]]
    assert [event["context"]["request_id"] for event in noted] == ["c", "e"]


def test_stages_that_wait_are_bounded_and_the_dropped_are_counted(tmp_path: Path) -> None:
    records = [kubernetes("RequestReceived", str(number)) for number in range(10)]
    records += [kubernetes("ResponseComplete", str(number)) for number in range(10)]
    file = tmp_path / "audit"
    file.write_text(lines_of(records))
    format_ = load_format("kubernetes")
    size = len(json.dumps(records[0]))
    stages = LastStages(format_.stage, held_bytes_max=4 * size)
    selected = [json.loads(record.raw) for record in stages.select(format_.read(file))]
    assert [(each["stage"], each["auditID"]) for each in selected] == [
        *(("RequestReceived", str(number)) for number in range(6)),
        *(("ResponseComplete", str(number)) for number in range(10)),
    ]
    assert stages.dropped == 4
    assert list(stages.held()) == []


# Office 365.

OFFICE = {
    "CreationTime": "2026-11-25T02:03:36",
    "Id": "5b9f1f2e-7a0e-4c8e-9a57-0d0f5c1c2b3a",
    "Operation": "Add member to role.",
    "OrganizationId": "0a1b",
    "RecordType": 8,
    "ResultStatus": "Success",
    "UserKey": "1003@example.com",
    "UserType": 0,
    "Version": 1,
    "Workload": "AzureActiveDirectory",
    "ClientIP": "192.0.2.9:50123",
    "ObjectId": "kim@example.com",
    "UserId": "jo@example.com",
    "ExtendedProperties": [{"Name": "UserAgent", "Value": "Mozilla/5.0"}],
    "ModifiedProperties": [
        {"Name": "Role.DisplayName", "NewValue": "Helpdesk Administrator", "OldValue": ""}
    ],
    "Target": [{"ID": "User_9d", "Type": 2}, {"ID": "kim@example.com", "Type": 5}],
}


def test_records_of_office_365_have_names_and_values_and_are_one_event_each(tmp_path: Path) -> None:
    (event,) = events_in("office365", tmp_path, json.dumps([OFFICE]))
    assert event == {
        "time": "2026-11-25T02:03:36.000000Z",
        "actor": {"id": "jo@example.com", "type": "user"},
        "action": "AzureActiveDirectory.Add_member_to_role",
        "targets": [
            {"id": "kim@example.com", "type": "target"},
            {"id": "kim@example.com", "type": "object"},
        ],
        "source": {
            "ip": "192.0.2.9",
            "port": 50123,
            "service": "AzureActiveDirectory",
            "user_agent": "Mozilla/5.0",
        },
        "outcome": "success",
        "changes": [{"path": "Role.DisplayName", "before": "", "after": "Helpdesk Administrator"}],
        "context": {
            "record_type": 8,
            "organization": "0a1b",
            "properties": {"UserAgent": "Mozilla/5.0"},
        },
    }
    format_ = load_format("office365")
    mapper = FileMapper(format_)
    delivered = [mapper.explain(json.dumps(OFFICE).encode())[0].event["id"] for _ in range(2)]
    assert len({*delivered}) == 1


def test_what_the_audit_search_of_office_365_exports_is_read(tmp_path: Path) -> None:
    data = json.dumps(OFFICE)
    quoted = data.replace('"', '""')
    rows = f'RecordId,CreationDate,AuditData\n{OFFICE["Id"]},2026-11-25T02:03:36,"{quoted}"\n'
    expected = events_in("office365", tmp_path, data)
    assert events_in("office365", tmp_path, rows) == expected
    assert events_in("office365", tmp_path, f"\ufeff{rows}") == expected
    shell = json.dumps([{"RecordType": 8, "CreationDate": "x", "AuditData": data}], indent=2)
    assert events_in("office365", tmp_path, shell.encode("utf-16")) == expected


def test_a_cmdlet_of_exchange_sets_its_parameters_and_a_failed_login_is_a_failure(
    tmp_path: Path,
) -> None:
    parameters = [
        {"Name": "Identity", "Value": "kim"},
        {"Name": "ForwardingSmtpAddress", "Value": "smtp:x@example.net"},
    ]
    exchange = {
        **{key: OFFICE[key] for key in ("CreationTime", "UserId")},
        "Id": "1",
        "Operation": "Set-Mailbox",
        "Workload": "Exchange",
        "ResultStatus": "True",
        "ObjectId": "kim",
        "Parameters": parameters,
        "ClientIP": "[2001:db8::7]:50123",
    }
    login = {**OFFICE, "Id": "2", "Operation": "UserLoginFailed", "LogonError": "InvalidPassword"}
    file = {**exchange, "Id": "3", "Operation": "FileDownloaded", "Workload": "SharePoint"}
    del file["ResultStatus"]
    cmdlet, failed, downloaded = events_in("office365", tmp_path, lines_of((exchange, login, file)))
    assert cmdlet["action"] == "Exchange.Set-Mailbox"
    assert cmdlet["changes"] == [{"path": "ForwardingSmtpAddress", "after": "smtp:x@example.net"}]
    assert cmdlet["source"]["ip"] == "2001:db8::7"
    assert cmdlet["context"]["parameters"]["Identity"] == "kim"
    assert (failed["outcome"], failed["reason"]) == ("failure", "InvalidPassword")
    assert downloaded["outcome"] == "success"


# GitLab.


def test_audit_events_of_gitlab_are_read_from_the_api_the_stream_and_the_file(
    tmp_path: Path,
) -> None:
    details = {
        "change": "visibility",
        "from": "Private",
        "to": "Public",
        "author_name": "Jo",
        "author_class": "User",
        "target_id": 6,
        "target_type": "Project",
        "target_details": "ops/deploy",
        "ip_address": "192.0.2.9",
        "entity_path": "ops/deploy",
    }
    api = {
        "id": 7,
        "author_id": 3,
        "entity_id": 6,
        "entity_type": "Project",
        "details": details,
        "created_at": "2026-11-25T02:03:36.123Z",
    }
    written = {
        "severity": "INFO",
        "time": "2026-11-25T02:03:36.123Z",
        "correlation_id": "01H",
        **{key: api[key] for key in ("author_id", "entity_id", "entity_type")},
        **details,
    }
    stream = {
        **api,
        "id": "9f",
        "event_type": "project_visibility_level_updated",
        **{key: details[key] for key in ("ip_address", "author_name", "entity_path")},
    }
    for name, records in (("file", lines_of([written])), ("api", json.dumps([api]))):
        (event,) = events_in("gitlab", tmp_path, records)
        assert short(event) == ("3", "gitlab.change.visibility", ["6"], "success"), name
        assert event["actor"] == {"id": "3", "type": "user", "name": "Jo"}
        assert event["targets"] == [{"id": "6", "type": "project", "name": "ops/deploy"}]
        assert event["changes"] == [{"path": "visibility", "before": "Private", "after": "Public"}]
        assert event["source"] == {"ip": "192.0.2.9"}
        assert event["time"] == "2026-11-25T02:03:36.123000Z"
    (event,) = events_in("gitlab", tmp_path, lines_of([stream]))
    assert event["action"] == "gitlab.project_visibility_level_updated"
    assert event["context"] == {"event_id": "9f", "entity": "ops/deploy"}


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (
            {"add": "user_access", "as": "Developer", "target_id": 9, "target_type": "User"},
            ("3", "gitlab.add.user_access", ["9", "6"], "success"),
        ),
        (
            {"failed_login": "STANDARD", "target_details": "jo"},
            ("3", "gitlab.login", ["jo", "6"], "failure"),
        ),
        (
            {"custom_message": {"protocol": "ssh", "action": "git-upload-pack"}},
            ("3", "gitlab.git-upload-pack", ["6"], "success"),
        ),
        (
            {"custom_message": "Signed in with two-factor"},
            ("3", "gitlab.custom", ["6"], "success"),
        ),
    ],
)
def test_the_details_of_gitlab_name_the_action(
    tmp_path: Path, details: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    record = {"author_id": 3, "entity_id": 6, "entity_type": "Group", "details": details}
    record["created_at"] = "2026-11-25T02:03:36.123Z"
    (event,) = events_in("gitlab", tmp_path, json.dumps(record))
    assert short(event) == expected


def test_nobody_who_logged_in_to_gitlab_is_known_by_the_name(tmp_path: Path) -> None:
    record = {
        "author_id": -1,
        "entity_id": 6,
        "entity_type": "User",
        "details": {"failed_login": "STANDARD", "author_name": "An unauthenticated user"},
        "created_at": "2026-11-25T02:03:36.123Z",
    }
    (event,) = events_in("gitlab", tmp_path, json.dumps(record))
    assert event["actor"]["id"] == "An unauthenticated user"


# PostgreSQL.

SESSION = "2026-11-25 02:03:00 UTC"
PG_COLUMNS = 26


def pg_row(message: str, **cells: str) -> dict[str, str]:
    return {
        "timestamp": "2026-11-25 02:03:36.123 UTC",
        "user": "clerk",
        "dbname": "shop",
        "remote_host": "192.0.2.9",
        "remote_port": "50123",
        "session_id": "6b0a0fde.44c5",
        "ps": "SELECT",
        "error_severity": "LOG",
        "state_code": "00000",
        "message": message,
        "application_name": "psql",
        "backend_type": "client backend",
        **cells,
    }


def pg_csv(row: dict[str, str]) -> str:
    cells = [""] * PG_COLUMNS
    peer = f"{row['remote_host']}:{row['remote_port']}" if "remote_port" in row else "[local]"
    values = {
        0: row["timestamp"],
        1: row.get("user", ""),
        2: row.get("dbname", ""),
        3: "17605",
        4: peer,
        5: row["session_id"],
        6: "5",
        7: row["ps"],
        8: SESSION,
        11: row["error_severity"],
        12: row["state_code"],
        13: row["message"],
        19: row.get("statement", ""),
        22: row["application_name"],
        23: row["backend_type"],
        25: "0",
    }
    for place, value in values.items():
        quoted = value.replace('"', '""')
        cells[place] = f'"{quoted}"' if value else ""
    return ",".join(cells)


def pg_json(row: dict[str, str]) -> dict[str, Any]:
    port = {"remote_port": int(row["remote_port"])} if "remote_port" in row else {}
    others = {key: value for key, value in row.items() if (key, value) != ("state_code", "00000")}
    return {**others, **port, "pid": 17605, "line_num": 5, "session_start": SESSION, "query_id": 0}


PG_ROWS = [
    (
        pg_row(
            "AUDIT: SESSION,4,1,READ,SELECT,TABLE,public.account,"
            '"select ""name""\n from account;",<none>'
        ),
        ("clerk", "pgaudit.select", ["public.account", "shop"], "unknown"),
    ),
    (
        pg_row("AUDIT: OBJECT,5,2,WRITE,UPDATE,TABLE,public.account,<not logged>,<not logged>,3"),
        ("clerk", "pgaudit.update", ["public.account", "shop"], "success"),
    ),
    (
        pg_row("AUDIT: SESSION,1,1,ROLE,CREATE ROLE,,,create role x,<none>", ps="CREATE ROLE"),
        ("clerk", "pgaudit.create_role", ["shop"], "unknown"),
    ),
    (
        pg_row(
            "permission denied for table account",
            error_severity="ERROR",
            state_code="42501",
            statement="select * from account;",
        ),
        ("clerk", "postgresql.select", ["shop"], "denied"),
    ),
    (
        pg_row(
            'password authentication failed for user "clerk"',
            ps="authentication",
            error_severity="FATAL",
            state_code="28P01",
        ),
        ("clerk", "postgresql.authentication", ["shop"], "failure"),
    ),
    (
        pg_row("connection authorized: user=clerk database=shop", ps="authentication"),
        ("clerk", "postgresql.connect", ["shop"], "success"),
    ),
    (
        pg_row("checkpoint starting: time", ps="", user="", dbname="", backend_type="checkpointer"),
        ("checkpointer", "postgresql.checkpointer", [], "unknown"),
    ),
]


def test_pgaudit_is_read_from_csvlog_and_jsonlog_alike(tmp_path: Path) -> None:
    rows = [row for row, _ in PG_ROWS]
    from_csv = events_in("pgaudit", tmp_path, "".join(f"{pg_csv(row)}\n" for row in rows))
    from_json = events_in("pgaudit", tmp_path, lines_of(map(pg_json, rows)))
    for events in (from_csv, from_json):
        assert [short(event) for event in events] == [expected for _, expected in PG_ROWS]
        assert events[0]["reason"] == 'select "name"\n from account;'
        assert events[0]["source"] == {"ip": "192.0.2.9", "port": 50123, "service": "psql"}
        assert events[0]["actor"]["session"] == "6b0a0fde.44c5"
        assert events[0]["context"]["class"] == "READ"
        assert events[1]["context"]["rows"] == "3"
        assert events[3]["context"]["statement"] == "select * from account;"
        assert {event["time"] for event in events} == {"2026-11-25T02:03:36.123000Z"}


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("2001:db8::7", {"ip": "2001:db8::7", "port": 50123}),
        ("::1", {"ip": "::1", "port": 50123}),
        (None, {}),
    ],
)
def test_the_address_of_a_client_of_postgresql_may_be_ipv6_or_a_socket(
    tmp_path: Path, host: str | None, source: dict[str, Any]
) -> None:
    row = pg_row("AUDIT: SESSION,4,1,MISC,SET,,,set a=1,<none>", remote_host=host or "[local]")
    if host is None:
        del row["remote_port"]
    (from_csv,) = events_in("pgaudit", tmp_path, pg_csv(row))
    (from_json,) = events_in("pgaudit", tmp_path, json.dumps(pg_json(row)))
    assert from_csv["source"] == from_json["source"] == {**source, "service": "psql"}


@pytest.mark.parametrize("columns", [23, 24, 25])
def test_csvlog_of_older_servers_has_fewer_columns(tmp_path: Path, columns: int) -> None:
    row = ",".join(pg_csv(pg_row("AUDIT: SESSION,4,1,MISC,SET,,,set a=1,<none>")).split(","))
    cells = row.rsplit(",", PG_COLUMNS - columns)[0]
    (event,) = events_in("pgaudit", tmp_path, cells)
    assert event["action"] == "pgaudit.set"


# CSV.


def test_rows_of_csv_have_the_names_of_the_first_row_and_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'a,b\r\n1,"x\n""y"""\r\n\r\n,2,3\r\n4,"bad" x\r\n5,"never closed\n6,7\n')
    read = load_format("office365").read(file)
    assert [(record.line, record.raw) for record in read] == [
        (2, b'{"a":"1","b":"x\\n\\"y\\""}'),
        (5, b'{"b":"2","column_3":"3"}'),
        (6, b'4,"bad" x'),
        (7, b'5,"never closed\n6,7\n'),
    ]


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    long = "x" * 200_000
    row = pg_row(f'AUDIT: SESSION,4,1,READ,SELECT,,,"select {long}",<none>')
    (event,) = events_in("pgaudit", tmp_path, pg_csv(row))
    assert event["action"] == "pgaudit.select"
    assert event["context"]["original_omitted"]
