"""`diff` and `snapshot`: the `changes` of an event, from two states of an object.

    before = snapshot(user)
    user.role = "admin"
    recorder.record("user.role_changed", changes=diff(before, user), …)

A state is a mapping, a dataclass, a Django model, a SQLAlchemy instance, or None before the object
was created or after it was deleted. Django and SQLAlchemy are never imported here; their instances
are recognised by class. Nothing is loaded from a database: an attribute that an instance has not
loaded is no part of its state.
"""

import dataclasses
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from ledger_client.recording.jsonable import LEVELS_MAX, jsonable, key_text
from ledger_core.event.model import LIMITS

CHANGES_MAX: Final = LIMITS["changes"].most
PATH_CHARS_MAX: Final = LIMITS["name"].most

_ABSENT: Final = object()


def snapshot(value: object) -> dict[str, Any]:
    """Copy the state of an object as JSON, which later changes of the object don't alter.

    Raises: TypeError for an object whose state is unknown.
    """
    return {name: jsonable(member, LEVELS_MAX) for name, member in _state(value).items()}


def diff(before: object, after: object, *, exclude: Collection[str] = ()) -> list[dict[str, Any]]:
    """List the differences: a JSON Pointer each, with the values before and after.

    A side that lacks the value lacks the key `before` or `after`. Mappings inside are compared key
    by key, anything else as a whole. `exclude` names top-level keys to leave out. More than 256
    changes are cut, and the last one counts the omitted ones.

    Raises: TypeError for an object whose state is unknown.
    """
    left, right = (
        {name: member for name, member in snapshot(state).items() if name not in exclude}
        for state in (before, after)
    )
    changes = list(_compare(left, right, ""))
    if len(changes) > CHANGES_MAX:
        omitted = len(changes) - CHANGES_MAX + 1
        changes[CHANGES_MAX - 1 :] = [{"path": "", "after": {"changes_omitted": omitted}}]
    return changes


def _compare(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, _ABSENT), after.get(name, _ABSENT)
        here = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _compare(old, new, here)
        elif _differ(old, new):
            change: dict[str, Any] = {"path": here[:PATH_CHARS_MAX]}
            if old is not _ABSENT:
                change["before"] = old
            if new is not _ABSENT:
                change["after"] = new
            yield change


def _differ(old: object, new: object) -> bool:
    # To Python, 1 == True == 1.0, and to a reader of the log they are not.
    return old != new or type(old) is not type(new)


def _state(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {key_text(key): member for key, member in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    state = _django_state(value)
    if state is None:
        state = _sqlalchemy_state(value)
    if state is None:
        raise TypeError(
            f"a {type(value).__qualname__} has no state that is known here: pass a mapping of it"
        )
    return state


def _django_state(value: object) -> Mapping[str, object] | None:
    models = sys.modules.get("django.db.models")
    if models is None or not isinstance(value, models.Model):
        return None
    model: Any = value
    deferred = model.get_deferred_fields()
    return {
        field.attname: field.value_from_object(value)
        for field in model._meta.concrete_fields  # noqa: SLF001 - its documented name
        if field.attname not in deferred
    }


def _sqlalchemy_state(value: object) -> Mapping[str, object] | None:
    sqlalchemy = sys.modules.get("sqlalchemy")
    if sqlalchemy is None:
        return None
    state = sqlalchemy.inspect(value, raiseerr=False)
    mapper = getattr(state, "mapper", None)
    if mapper is None or isinstance(value, type):
        return None
    loaded = state.dict
    return {
        attribute.key: loaded[attribute.key]
        for attribute in mapper.column_attrs
        if attribute.key in loaded
    }
