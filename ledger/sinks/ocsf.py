"""A record as an event of the Open Cybersecurity Schema Framework, version 1.8.

| an action such as | class |
|---|---|
| `login.failed`, `logout`, `session.ended`, `auth.…` | Authentication |
| `user.…`, `account.…`, `password.…`, `mfa.…`, `….role_changed` | Account Change |
| a call, `iam.CreateUser`, or `api.…`, that came from an address | API Activity |
| any other | Entity Management |

`raw_data` is the leaf, `raw_data_hash` its SHA-256; `unmapped` has `index`, `leaf_hash` and
`origin`: version 1.8 has no attribute for the integrity of a record.

Source: schema.ocsf.io/1.8.0.
"""

import hashlib
from typing import Any, Final

import msgspec

from ledger.sinks.record import Record
from ledger_core.event.model import Event, Principal
from ledger_core.event.times import parse_time

VERSION: Final = "1.8.0"
OTHER: Final = 99
SHA_256: Final = 3
AUTHENTICATION: Final = 3002
ACCOUNT_CHANGE: Final = 3001
ENTITY_MANAGEMENT: Final = 3004
API_ACTIVITY: Final = 6003

_AUTHENTICATION_WORDS: Final = frozenset({"login", "logon", "logout", "logoff", "session", "auth"})
_ACCOUNT_WORDS: Final = frozenset({"user", "account", "password", "mfa", "credential"})

# The first entry whose word is in the last part of the action says the activity.
_LOGON: Final = {"logout": 2, "logoff": 2, "ended": 2, "switch": 7, "login": 1, "logon": 1}
_ACCOUNT: Final = {
    "password_reset": 4,
    "reset": 4,
    "password": 3,
    "mfa_disabled": 11,
    "mfa": 10,
    "unlock": 12,
    "lock": 9,
    "create": 1,
    "enable": 2,
    "disable": 5,
    "delete": 6,
    "revoke": 8,
    "role": 7,
    "grant": 7,
}
_CALL: Final = {
    "create": 1, "add": 1, "put": 3, "update": 3, "set": 3, "get": 2, "list": 2, "describe": 2,
    "read": 2, "delete": 4, "remove": 4,
}  # fmt: skip
_ENTITY: Final = {
    "create": 1, "add": 1, "view": 2, "read": 2, "export": 2, "update": 3, "change": 3, "delete": 4,
    "remove": 4, "move": 5, "disable": 9, "enable": 8,
}  # fmt: skip
_STATUS: Final = {"success": 1, "failure": 2, "denied": 2}
_SEVERITY: Final = {"failure": 2, "denied": 3}
_INFORMATIONAL: Final = 1


def to_ocsf(record: Record) -> Record:
    """The same record with its JSON as an event of OCSF."""
    content = record.content()
    event = content.event
    class_uid = _class_of(event)
    activity = _activity_of(event.action, class_uid)
    made: dict[str, Any] = {
        "metadata": _drop_unset(
            {
                "version": VERSION,
                "product": {"name": "witnessed-ledger", "vendor_name": "witnessed-ledger"},
                "uid": event.id,
                "log_name": record.origin,
                "event_code": event.action,
                "sequence": record.index,
                "logged_time": parse_time(content.received.time) // 1000,
                "log_provider": content.received.by,
                "tenant_uid": event.tenant,
            }
        ),
        "category_uid": class_uid // 1000,
        "class_uid": class_uid,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "severity_id": _SEVERITY.get(event.outcome, _INFORMATIONAL),
        "status_id": _STATUS.get(event.outcome, 0),
        "status": event.outcome,
        "time": parse_time(str(event.time)) // 1000,
        "message": event.action,
        "actor": {"user": _user(event.actor)},
        "raw_data": record.leaf.decode(),
        "raw_data_hash": {
            "algorithm_id": SHA_256,
            "algorithm": "SHA-256",
            "value": hashlib.sha256(record.leaf).hexdigest(),
        },
        "unmapped": {
            "index": record.index,
            "leaf_hash": record.leaf_hash,
            "origin": record.origin,
        },
        **_of_class(event, class_uid, record.origin),
    }
    if activity == OTHER:
        made["activity_name"] = event.action
    if event.actor.session:
        made["actor"]["session"] = {"uid": event.actor.session}
    if event.reason:
        made["status_detail"] = event.reason
    if endpoint := _endpoint(event):
        made["src_endpoint"] = endpoint
    return Record(
        record.index, record.leaf_hash, record.origin, record.leaf, msgspec.json.encode(made)
    )


def _class_of(event: Event) -> int:
    first, *_, last = ("", *event.action.split("."))[1:] * 2
    if first in _AUTHENTICATION_WORDS:
        return AUTHENTICATION
    if first in _ACCOUNT_WORDS or last == "role_changed":
        return ACCOUNT_CHANGE
    if (first == "api" or last[:1].isupper()) and event.source and event.source.ip:
        return API_ACTIVITY
    return ENTITY_MANAGEMENT


def _activity_of(action: str, class_uid: int) -> int:
    table = {
        AUTHENTICATION: _LOGON,
        ACCOUNT_CHANGE: _ACCOUNT,
        API_ACTIVITY: _CALL,
        ENTITY_MANAGEMENT: _ENTITY,
    }[class_uid]
    # `password.reset` and `login.failed` name the activity in their first part.
    text = action.lower() if class_uid in {AUTHENTICATION, ACCOUNT_CHANGE} else _last(action)
    return next((activity for word, activity in table.items() if word in text), OTHER)


def _last(action: str) -> str:
    return action.rpartition(".")[2].lower()


def _of_class(event: Event, class_uid: int, origin: str) -> dict[str, Any]:
    target = event.targets[0] if event.targets else None
    if class_uid == AUTHENTICATION:
        service = (event.source and event.source.service) or origin
        return {"user": _user(event.actor), "service": {"name": service}}
    if class_uid == ACCOUNT_CHANGE:
        return {"user": _user(target or event.actor)}
    if class_uid == API_ACTIVITY:
        return {
            "api": {"operation": event.action.rpartition(".")[2]},
            "resources": [_resource(each) for each in event.targets or ()],
        }
    return {"entity": _resource(target or event.actor)}


def _user(principal: Principal) -> dict[str, Any]:
    return _drop_unset({"uid": principal.id, "name": principal.name or principal.id})


def _resource(principal: Principal) -> dict[str, Any]:
    return _drop_unset({"uid": principal.id, "name": principal.name, "type": principal.type})


def _endpoint(event: Event) -> dict[str, Any]:
    source = event.source
    if not source:
        return {}
    return _drop_unset({"ip": source.ip, "port": source.port, "svc_name": source.service})


def _drop_unset(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not msgspec.UNSET}
