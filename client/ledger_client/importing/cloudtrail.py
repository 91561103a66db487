"""AWS CloudTrail records as events of ours.

| event | from the record |
|---|---|
| `id` | derived from the whole record: an `eventID` is not unique in what people export |
| `time` | `eventTime`, else `p_event_time`; without a zone it is UTC, as CloudTrail's times are |
| `actor.id` | of `userIdentity`: ARN, else principal id, user name, `invokedBy`, account |
| `actor.type`, `name`, `credential` | `type`, `userName`, `accessKeyId` |
| `actor.session` | what follows the colon of a principal id |
| `actor.on_behalf_of` | `sessionContext.sessionIssuer`, which lent the session its rights |
| `action` | `eventSource` without `.amazonaws.com`, and `eventName`: `iam.CreateUser` |
| `targets` | `resources`, and each `…Name`, `…Id`, `…Arn`, `…Identifier` of `requestParameters` |
| `source.ip`, `source.service` | `sourceIPAddress`, if it is an address, and if not; `invokedBy` |
| `source.user_agent` | `userAgent` |
| `outcome` | `denied` or `failure` by `errorCode`, and by what the console answered |
| `reason` | `errorCode: errorMessage` |
| `context.request_id` | `requestID` |
| `context.original` | the record itself, untouched |

Keys are read without regard to case, because some exports lower them.

What can't be taken as it stands is noted in `context.import_notes`: texts that `fitting` altered,
targets beyond the 32, a record that names no actor or whose time is missing or unreadable. Such a
record stands at 1970-01-01: the time of the import would be a lie, and another at the next import.

A record that nests too deep for `context.original`, or holds what no event holds, is kept as its
JSON text in `context.original_text`. Only where the leaf would be too long is it left out, and
`context.original_omitted` says so.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ledger.event.canonical import (
    LEAF_BYTES_MAX,
    canonical_ip,
    decode_event_object,
    format_time,
    parse_time,
)
from ledger.event.checking import parse_json
from ledger.event.ids import derived_id
from ledger.event.model import LIMITS, EventError
from ledger_client.importing.fitting import Fitter, without_empty

UNKNOWN_TIME = "1970-01-01T00:00:00.000000Z"
RECEIVED_BYTES_MAX = 2048
"""Left free in the leaf for what the server adds: `by` of 256 characters, each an escape."""
INTEGER_CHARS_MAX = 1000
PARAMETERS_DEPTH_MAX = 8

_Fields = Mapping[str, Any]

_is_zone = re.compile(r"[Zz]|[+-][0-9]{2}:[0-9]{2}").fullmatch
_not_in_action = re.compile(r"[^A-Za-z0-9_.-]")
_speaks_of_access = re.compile(
    "AccessDenied|Unauthorized|NotAuthorized|AuthFailure|Forbidden"
).search
# Letters and digits alone: keys with colons are the conditions of a policy.
_names_target = re.compile(
    r"([A-Za-z0-9]*?)(?:Name|Id|ID|Arn|ARN|Identifier)|name|id|arn"
).fullmatch
_NOT_TARGETS = frozenset({"attributeName", "roleSessionName"})


def map_json(raw: bytes) -> dict[str, Any]:
    """Read a record and map it.

    Raises: EventError.
    """
    record = parse_json(raw, read_object=_read_object, read_integer=_read_integer)
    if not isinstance(record, dict):
        raise EventError("a CloudTrail record is a JSON object", rule="wrong-type")
    return map_record(record)


def map_record(record: dict[str, Any]) -> dict[str, Any]:
    """Map a record to an event that the ledger takes.

    Raises: EventError for a record without an `eventName`, or with what JSON has no form for.
    """
    text = _canonical_text(record)
    fields = _lower_keys(record)
    fitter = Fitter()
    event = {
        "id": derived_id("cloudtrail", text.encode()),
        "time": _time(fields, fitter),
        "actor": _actor(fields, fitter),
        "action": _action(fields, fitter),
        "targets": _targets(fields, fitter),
        "source": _source(fields, fitter),
        "outcome": _outcome(fields),
        "reason": _reason(fields, fitter),
    }
    context = {
        "request_id": fitter.id(_text(fields, "requestid"), field="context.request_id"),
        "import_notes": fitter.notes,
    }
    return _add_original(
        without_empty(event), context=without_empty(context), record=record, text=text
    )


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise EventError("a key stands twice in one object", rule="repeated-key")
    return members


def _read_integer(digits: str) -> int:
    if len(digits) > INTEGER_CHARS_MAX:
        raise EventError(
            f"a number has {len(digits)} digits",
            rule="number",
            limit=INTEGER_CHARS_MAX,
            got=len(digits),
        )
    return int(digits)


def _canonical_text(record: dict[str, Any]) -> str:
    """Write a record as ASCII with sorted keys: the same record always gives the same text."""
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise EventError("the record nests too deep to be written", rule="too-deep") from None
    except ValueError:
        raise EventError("a number is out of JSON's range", rule="number") from None


def _add_original(
    event: dict[str, Any], *, context: dict[str, Any], record: dict[str, Any], text: str
) -> dict[str, Any]:
    """Add the context with the record in the first of its forms that the limits allow."""
    for original in ({"original": record}, {"original_text": text}):
        whole = {**event, "context": {**context, **original}}
        try:
            _, event_json = decode_event_object(whole)
        except EventError as error:
            if error.rule != "leaf-too-large" and not error.field.startswith("context.original"):
                raise
            continue
        if len(event_json) <= LEAF_BYTES_MAX - RECEIVED_BYTES_MAX:
            return whole
    omitted = f"the record has {len(text)} bytes, too many for a leaf of {LEAF_BYTES_MAX}"
    whole = {**event, "context": {**context, "original_omitted": omitted}}
    decode_event_object(whole)
    return whole


def _time(fields: _Fields, fitter: Fitter) -> str:
    for name in ("eventtime", "p_event_time"):
        text = _text(fields, name).replace(" ", "T", 1)
        # Behind the seconds and their decimals.
        zone = "" if _is_zone(text[19:].lstrip(".0123456789")) else "Z"
        try:
            return format_time(parse_time(f"{text}{zone}"))
        except EventError:
            continue
    fitter.note("time", "the record has none that can be read, 1970-01-01 stands in for it")
    return UNKNOWN_TIME


def _actor(fields: _Fields, fitter: Fitter) -> dict[str, Any]:
    identity = _lower_keys(fields.get("useridentity"))
    actor_id = _first_text(identity, "arn", "principalid", "username", "invokedby", "accountid")
    if not actor_id:
        fitter.note("actor", "the record names none")
        return {"id": "unknown"}
    issuer = _lower_keys(_lower_keys(identity.get("sessioncontext")).get("sessionissuer"))
    actor = fitter.principal(
        field="actor",
        of_id=actor_id,
        of_type=_text(identity, "type"),
        name=_text(identity, "username"),
    )
    _, _, session = _text(identity, "principalid").partition(":")
    actor["session"] = fitter.id(session, field="actor.session")
    actor["credential"] = fitter.id(_text(identity, "accesskeyid"), field="actor.credential")
    if issuer_id := _first_text(issuer, "arn", "principalid", "username"):
        actor["on_behalf_of"] = fitter.principal(
            field="actor.on_behalf_of",
            of_id=issuer_id,
            of_type=_text(issuer, "type"),
            name=_text(issuer, "username"),
        )
    return without_empty(actor)


def _action(fields: _Fields, fitter: Fitter) -> str:
    name = _text(fields, "eventname")
    if not name:
        raise EventError("a CloudTrail record has it", rule="missing-field", field="eventName")
    service = _text(fields, "eventsource").removesuffix(".amazonaws.com")
    full = f"{service}.{name}" if service else name
    segments = _not_in_action.sub("_", full)[: LIMITS["action"].most].split(".")
    action = ".".join(segment for segment in segments if segment)
    if action != full:
        fitter.note("action", "cut, or written with other characters, to be one")
    return action


def _targets(fields: _Fields, fitter: Fitter) -> list[dict[str, Any]]:
    named: dict[str, str] = {}
    for target_id, target_type in (
        *_resources(fields.get("resources")),
        *_parameters(fields.get("requestparameters"), depth=1),
    ):
        named.setdefault(target_id, target_type)
    targets_max = LIMITS["targets"].most
    if len(named) > targets_max:
        fitter.note("targets", f"the first {targets_max} of {len(named)}")
    return [
        fitter.principal(field=f"targets[{index}]", of_id=target_id, of_type=target_type, name="")
        for index, (target_id, target_type) in enumerate([*named.items()][:targets_max])
    ]


def _resources(resources: object) -> Iterator[tuple[str, str]]:
    """Give the id and the type of each resource."""
    for resource in resources if isinstance(resources, list) else ():
        members = _lower_keys(resource)
        if target_id := _first_text(members, "arn", "resourcename"):
            yield target_id, _first_text(members, "type", "resourcetype")


def _parameters(parameters: object, *, depth: int) -> Iterator[tuple[str, str]]:
    """Give the id and the type of what the parameters of a request name, inner ones too.

    `{"userName": "jo"}` names a `user`. A plain `name`, `id` or `arn` says what is meant only among
    the request's own parameters: further in it is mostly that of a filter.
    """
    if depth > PARAMETERS_DEPTH_MAX:
        return
    if isinstance(parameters, list):
        for item in parameters:
            yield from _parameters(item, depth=depth + 1)
    elif isinstance(parameters, dict):
        for name, value in parameters.items():
            match = _names_target(name)
            if match and isinstance(value, str) and value and name not in _NOT_TARGETS:
                target_type = match[1] or ""
                if target_type or depth == 1:
                    yield value, target_type
            else:
                yield from _parameters(value, depth=depth + 1)


def _source(fields: _Fields, fitter: Fitter) -> dict[str, Any]:
    address = _text(fields, "sourceipaddress")
    service = _text(_lower_keys(fields.get("useridentity")), "invokedby")
    try:
        ip = canonical_ip(address)
    except EventError:
        ip, service = "", address or service
    source = {
        "ip": ip,
        "service": fitter.id(service, field="source.service"),
        "user_agent": fitter.text(
            _text(fields, "useragent"),
            field="source.user_agent",
            chars_max=LIMITS["user_agent"].most,
        ),
    }
    return without_empty(source)


def _outcome(fields: _Fields) -> str:
    error_code = _text(fields, "errorcode")
    if _speaks_of_access(error_code):
        return "denied"
    # The console answers {"ConsoleLogin": "Failure"}: the action's own name, and how it ended.
    answer = _lower_keys(fields.get("responseelements"))
    answered = _text(answer, _text(fields, "eventname").lower())
    if error_code or _text(fields, "errormessage") or answered == "Failure":
        return "failure"
    return "success"


def _reason(fields: _Fields, fitter: Fitter) -> str:
    parts = (_text(fields, "errorcode"), _text(fields, "errormessage"))
    reason = ": ".join(part for part in parts if part)
    return fitter.text(reason, field="reason", chars_max=LIMITS["reason"].most)


def _lower_keys(value: object) -> _Fields:
    """View an object by its keys in lower case; what is no object has none."""
    return {key.lower(): member for key, member in value.items()} if isinstance(value, dict) else {}


def _text(fields: _Fields, name: str) -> str:
    """Read a text, or a number as its digits; empty when there is none."""
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _first_text(fields: _Fields, *names: str) -> str:
    return next((text for name in names if (text := _text(fields, name))), "")
