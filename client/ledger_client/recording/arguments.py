"""What an application says, as the fields of an event.

An actor or a target may be said in several ways:

    "u_1"                          an id
    ("user", "u_1")                type and id
    ("user", "u_1", "Jo")          and name
    {"type": "user", "id": "u_1", "session": "s_9"}

Ids may be integers and UUIDs, which become texts. Times may be `datetime` with a zone.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from ledger_core.event.model import EventError
from ledger_core.event.model import Principal as ModelPrincipal

Principal = str | int | UUID | tuple[Any, ...] | Mapping[str, Any] | ModelPrincipal
Source = str | Mapping[str, Any]
Changes = Iterable[Mapping[str, Any]]
Time = str | datetime

CONTEXT_WORDS: Final = ("request_id", "trace_id")
"""What is said beside `context` and stands in it."""

_AS_THEY_ARE: Final[tuple[str, ...]] = ("outcome", "reason", "tenant")
_PAIR: Final = 2
_TRIPLE: Final = 3


def event_of(scope: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event, its action aside, from what `record` was told and what held around.

    The outcome is a success unless told otherwise.

    Raises: EventError for what can't be an actor, a target, or a time; the event itself is not
    checked here.
    """
    merged = dict(scope)
    merged.update([item for item in said.items() if item[1] is not None])
    event: dict[str, Any] = {"outcome": "success"}
    for word in _AS_THEY_ARE:
        if word in merged:
            event[word] = merged[word]
    actor = merged.get("actor")
    if callable(actor):
        actor = _ask(actor)
    if actor is not None:
        event["actor"] = principal(actor, "actor")
    if "target" in merged or "targets" in merged:
        event["targets"] = _targets(merged)
    if "source" in merged:
        event["source"] = _members(scope, merged["source"], "source")
    context = _context(scope, merged)
    if context:
        event["context"] = context
    if "changes" in merged:
        event["changes"] = _changes(merged["changes"])
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
    elif type(value) is dict or isinstance(value, Mapping):
        said = dict(value)
        if type(said.get("id", "")) is not str:
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
    for value in more:
        targets.append(principal(value, f"targets[{len(targets)}]"))
    return targets


def _changes(said: Any) -> list[dict[str, Any]]:
    try:
        return [dict(change) for change in said]
    except (TypeError, ValueError):
        raise EventError("want mappings", rule="wrong-type", field="changes") from None


def _ask(actor: Callable[[], Principal | None]) -> Principal | None:
    try:
        return actor()
    except Exception as error:
        raise EventError(
            f"the function that was to say it raised {type(error).__name__}",
            rule="missing-field",
            field="actor",
        ) from error


def _context(scope: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    context = _members(scope, merged["context"], "context") if "context" in merged else {}
    for word in CONTEXT_WORDS:
        if word in merged:
            context[word] = merged[word]
    return context


def _members(scope: Mapping[str, Any], said: Any, name: str) -> dict[str, Any]:
    """What is said, over what holds around it."""
    if name == "source" and isinstance(said, str):
        said = {"ip": said}
    if type(said) is not dict and not isinstance(said, Mapping):
        raise EventError("want a mapping", rule="wrong-type", field=name)
    return {**scope[name], **said} if name in scope else dict(said)
