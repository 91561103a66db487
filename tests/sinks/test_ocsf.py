"""OCSF: each event is valid by the schema of its class, in version 1.8."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from tests.sinks.sinking import ORIGIN, Folder, deliver

SOURCE = {"ip": "203.0.113.9", "port": 4711, "service": "shop"}
FULL = {
    "source": SOURCE,
    "reason": "wrong password",
    "tenant": "acme",
    "targets": [{"type": "user", "id": "u_2", "name": "Jo"}],
    "actor": {"type": "user", "id": "u_1", "session": "s_1"},
}


@cache
def validator(class_uid: int) -> jsonschema.Draft202012Validator:
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))
    name = schemas.lookup_class_name_from_uid(class_uid=class_uid)
    return jsonschema.Draft202012Validator(schemas.get_class_schema(class_name=name, profiles=[]))


@pytest.mark.parametrize(
    ("action", "class_uid", "activity"),
    [
        ("login.failed", 3002, 1),
        ("logout", 3002, 2),
        ("auth.token_refused", 3002, 99),
        ("user.created", 3001, 1),
        ("user.role_changed", 3001, 7),
        ("tenant.role_changed", 3001, 7),
        ("password.reset", 3001, 4),
        ("iam.CreateUser", 6003, 1),
        ("api.called", 6003, 99),
        ("record.viewed", 3004, 2),
        ("record.deleted", 3004, 4),
        ("invoice.approved", 3004, 99),
    ],
)
def test_an_event_is_valid_in_its_class(
    folder: Folder, tmp_path: Path, action: str, class_uid: int, activity: int
) -> None:
    outcomes = ("success", "failure", "denied", "unknown")
    folder.append(*({**FULL, "action": action, "outcome": outcome} for outcome in outcomes))
    folder.append({"action": action})  # No source: it can't be API Activity.
    out = tmp_path / "out.jsonl"
    folder.add("ocsf", type="file", path=str(out), form="ocsf")
    deliver(folder, "ocsf")
    events: list[dict[str, Any]] = [json.loads(line) for line in out.read_bytes().splitlines()]
    for event in events:
        validator(event["class_uid"]).validate(event)
    assert [event["class_uid"] for event in events[:4]] == [class_uid] * 4
    first = events[0]
    assert first["activity_id"] == activity
    assert first["type_uid"] == class_uid * 100 + activity
    assert [event["status_id"] for event in events[:4]] == [1, 2, 2, 0]
    assert first["unmapped"] == {
        "index": 0,
        "leaf_hash": folder.leaf_hashes()[0],
        "origin": ORIGIN,
    }
    raw = first["raw_data"].encode()
    assert hashlib.sha256(b"\0" + raw).hexdigest() == folder.leaf_hashes()[0]
    assert hashlib.sha256(raw).hexdigest() == first["raw_data_hash"]["value"]
