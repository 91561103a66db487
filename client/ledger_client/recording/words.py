"""What an application says, as the fields of an event.

An actor or a target may be said in several ways:

    "u_1"                          an id
    ("user", "u_1")                type and id
    ("user", "u_1", "Jo")          and name
    {"type": "user", "id": "u_1", "session": "s_9"}

Ids may be integers and UUIDs, which become texts. Times may be `datetime` with a zone.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from ledger.event.model import EventError
from ledger.event.model import Principal as ModelPrincipal

Principal = str | int | UUID | tuple[Any, ...] | Mapping[str, Any] | ModelPrincipal
Source = str | Mapping[str, Any]
Changes = Iterable[Mapping[str, Any]]
Time = str | datetime

CONTEXT_WORDS: Final = ("request_id", "trace_id")
"""What is said beside `context` and stands in it."""

_PAIR: Final = 2
_TRIPLE: Final = 3


def event_of(scope: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event from what `record` was told and what held around it.

    Raises: EventError for what can't be an actor, a target, or a time; the event itself is not
    checked here.
    """
    event: dict[str, Any] = {}
    for name in ("actor", "action", "outcome", "reason", "tenant"):
        value = said.get(name)
        if value is None:
            value = scope.get(name)
        if value is not None:
            event[name] = value
    if "actor" in event:
        actor = event.pop("actor")
        actor = actor() if callable(actor) else actor
        if actor is not None:
            event["actor"] = principal(actor, "actor")
    targets = _targets(said.get("target"), said.get("targets"))
    if targets:
        event["targets"] = targets
    source = _members(scope, said, "source")
    if source:
        event["source"] = source
    context = _members(scope, said, "context")
    context.update((name, said[name]) for name in CONTEXT_WORDS if said.get(name) is not None)
    if context:
        event["context"] = context
    changes = said.get("changes")
    if changes is not None:
        event["changes"] = [dict(change) for change in changes]
    return event


def principal(value: Principal, field: str) -> dict[str, Any]:
    """An actor or a target. Raises: EventError."""
    if isinstance(value, str):
        return {"id": value}
    if isinstance(value, tuple):
        if len(value) == _PAIR:
            return {"type": value[0], "id": _id(value[1])}
        if len(value) == _TRIPLE:
            return {"type": value[0], "id": _id(value[1]), "name": value[2]}
    elif isinstance(value, Mapping):
        said = dict(value)
        if "id" in said:
            said["id"] = _id(said["id"])
        return said
    elif isinstance(value, ModelPrincipal):
        built: dict[str, Any] = msgspec.to_builtins(value)
        return built
    elif isinstance(value, int | UUID) and not isinstance(value, bool):
        return {"id": _id(value)}
    raise EventError(
        "want an id, (type, id), (type, id, name) or a mapping",
        rule="wrong-type",
        field=field,
    )


def time_text(value: Time) -> str:
    """A time as RFC 3339. Raises: EventError for one without a zone."""
    if isinstance(value, str):
        return value
    if value.tzinfo is None:
        raise EventError("a datetime without a zone is no moment", rule="time", field="time")
    return value.isoformat()


def _id(value: object) -> object:
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    return value


def _targets(target: Principal | None, targets: Sequence[Principal] | None) -> list[dict[str, Any]]:
    said = [] if target is None else [principal(target, "targets[0]")]
    for value in targets or ():
        said.append(principal(value, f"targets[{len(said)}]"))
    return said


def _members(scope: Mapping[str, Any], said: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = said.get(name)
    if inner is None:
        return dict(scope[name]) if name in scope else {}
    if name == "source" and isinstance(inner, str):
        inner = {"ip": inner}
    if not isinstance(inner, Mapping):
        raise EventError("want a mapping", rule="wrong-type", field=name)
    return {**scope.get(name, {}), **inner}
