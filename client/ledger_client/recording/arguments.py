"""The arguments of `record`, as the fields of an event.

An actor or a target may be written in several ways:

    "u_1"                          an id
    ("user", "u_1")                type and id
    ("user", "u_1", "Jo")          and name
    {"type": "user", "id": "u_1", "session": "s_9"}

Ids may be integers and UUIDs, which become texts. Times may be `datetime` with a zone.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

import msgspec

from ledger_client.recording.jsonable import VALUES_MAX, copy_members
from ledger_core.event.model import EventError
from ledger_core.event.model import Principal as ModelPrincipal

Principal = str | int | UUID | tuple[Any, ...] | list[Any] | Mapping[str, Any] | ModelPrincipal
Source = str | Mapping[str, Any]
Changes = Iterable[Mapping[str, Any]]
Time = str | datetime

CONTEXT_MEMBERS: Final = ("request_id", "trace_id")
"""Arguments of their own that become members of `context`."""

_COPIED: Final = ("outcome", "reason", "tenant")
_PAIR: Final = ("type", "id")
_PLAIN: Final = frozenset({str, tuple, dict})


def event_fields(scope: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make the fields of an event, its action aside, from the audit context and the arguments.

    The default outcome is `success`.

    Raises: EventError for an invalid actor, target or time; the event itself is not checked here.
    """
    merged = {**scope, **{name: value for name, value in arguments.items() if value is not None}}
    event: dict[str, Any] = {"outcome": "success"}
    for name in _COPIED:
        if name in merged:
            event[name] = merged[name]
    if "actor" in merged:
        actor = resolve_actor(merged["actor"])
        if actor is not None:
            event["actor"] = actor
    if "targets" in merged:
        event["targets"] = _targets(merged)
    elif "target" in merged:
        event["targets"] = [principal(merged["target"], "targets[0]")]
    if "source" in merged:
        event["source"] = _members(scope, merged["source"], "source")
    context = _context(scope, merged)
    if context:
        event["context"] = context
    if "changes" in merged:
        event["changes"] = _changes(merged["changes"])
    return event


def resolve_actor(actor: Any) -> dict[str, Any] | None:
    """Make the actor of an event, calling a function that returns it. Raises: EventError."""
    if type(actor) not in _PLAIN and callable(actor):
        try:
            actor = actor()
        except Exception as error:
            message = f"the function that was to return it raised {type(error).__name__}"
            raise EventError(message, rule="missing-field", field="actor") from error
    return None if actor is None else principal(actor, "actor")


def principal(value: Any, field: str) -> dict[str, Any]:
    """Make an actor or a target as it stands in an event. Raises: EventError."""
    # The usual forms first: a class pattern costs more than all of this.
    kind = type(value)
    if kind is tuple and len(value) == len(_PAIR) and type(value[1]) is str:
        return {"type": value[0], "id": value[1]}
    if kind is dict and type(value.get("id")) is str:
        return dict(value)
    match value:
        case str():
            return {"id": value}
        # A list is a tuple after a trip through JSON.
        case [kind, id_]:
            return {"type": kind, "id": _id(id_)}
        case [kind, id_, name]:
            return {"type": kind, "id": _id(id_), "name": name}
        case Mapping():
            members = copy_members(value)
            return {**members, "id": _id(members["id"])} if "id" in members else members
        case ModelPrincipal():
            built: dict[str, Any] = msgspec.to_builtins(value)
            return built
        case int() | UUID() if not isinstance(value, bool):
            return {"id": _id(value)}
    message = "want an id, (type, id), (type, id, name) or a mapping"
    raise EventError(message, rule="wrong-type", field=field)


def time_text(value: Time) -> str:
    """Write a time as RFC 3339. Raises: EventError for one without a zone."""
    if isinstance(value, str):
        return value
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise EventError("want a datetime with a zone, or a text", rule="time", field="time")
    return value.isoformat()


def _id(value: object) -> object:
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    return value


def _targets(merged: Mapping[str, Any]) -> list[dict[str, Any]]:
    targets = [principal(merged["target"], "targets[0]")] if "target" in merged else []
    more = merged.get("targets", ())
    if not isinstance(more, list | tuple):
        raise EventError("want a list or a tuple", rule="wrong-type", field="targets")
    for value in islice(more, VALUES_MAX):
        targets.append(principal(value, f"targets[{len(targets)}]"))
    return targets


def _changes(changes: Any) -> list[dict[str, Any]]:
    try:
        return [_change(change) for change in islice(changes, VALUES_MAX)]
    except (TypeError, ValueError):
        raise EventError("want mappings", rule="wrong-type", field="changes") from None


def _change(change: Any) -> dict[str, Any]:
    if isinstance(change, Mapping):
        return copy_members(change)
    return dict(islice(change, VALUES_MAX))


def _context(scope: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    context = _members(scope, merged["context"], "context") if "context" in merged else {}
    for name in CONTEXT_MEMBERS:
        if name in merged:
            context[name] = merged[name]
    return context


def _members(scope: Mapping[str, Any], members: Any, name: str) -> dict[str, Any]:
    """Make a field of members, those of the argument overriding those of the audit context."""
    if name == "source" and isinstance(members, str):
        members = {"ip": members}
    if type(members) is not dict and not isinstance(members, Mapping):
        raise EventError("want a mapping", rule="wrong-type", field=name)
    copied = copy_members(members)
    return {**scope[name], **copied} if name in scope else copied
