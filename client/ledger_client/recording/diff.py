"""`diff` and `snapshot`: the `changes` of an event, from two states of an object.

    before = snapshot(user)
    user.role = "admin"
    recorder.record("user.role_changed", changes=diff(before, user), …)

A state is a mapping, a dataclass, an instance of attrs, pydantic, msgspec, Django or SQLAlchemy, or
None before the object was created or after it was deleted. These libraries are never imported
here; their instances are recognised by class. Nothing is loaded from a database: an attribute that
an instance has not loaded is unknown, and is not compared.
"""

import dataclasses
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from ledger_client.recording.frozen_value import FrozenValue, freeze, is_plain
from ledger_client.recording.jsonable import unique_items
from ledger_client.recording.named_values import masked_value, names_of
from ledger_core.event.model import LIMITS
from ledger_core.event.secrets import is_value_key

CHANGES_MAX: Final = LIMITS["changes"].most
PATH_CHARS_MAX: Final = LIMITS["name"].most

_FIELD_LISTS: Final = ("__attrs_attrs__", "__pydantic_fields__", "__struct_fields__")
"""Where the classes of attrs, pydantic and msgspec name their fields."""


class Snapshot(dict[str, Any]):
    """The state of an object as JSON, with the values behind it, which `diff` compares."""

    def __init__(self, value: object) -> None:
        self.kind = _kind(value)
        self.values_by_name, self.not_loaded = _values(value)
        super().__init__(
            {
                name: member.show() if type(member) is FrozenValue else member
                for name, member in self.values_by_name.items()
            }
        )


def snapshot(value: object) -> Snapshot:
    """Copy the state of an object as JSON, which later changes of the object don't alter.

    Raises: TypeError for an object whose state is unknown.
    """
    return Snapshot(value)


def diff(before: object, after: object, *, exclude: Collection[str] = ()) -> list[dict[str, Any]]:
    """List the differences: a JSON Pointer each, with the values before and after.

    A side that lacks the value lacks the key `before` or `after`. Mappings inside are compared key
    by key, anything else as a whole. If two values differ and look the same, each has a `hash`,
    with a key of this process. `exclude` names top-level keys to leave out. More than 256 changes
    are cut, and the last one counts the omitted ones. What one side has not loaded is not compared,
    and a last change lists it as `not_loaded`. A member `value` beside a name such as `api_key`, or
    of a class such as `ApiKey`, is masked.

    Raises: TypeError for an object whose state is unknown.
    """
    return compare(before, after, exclude=exclude, kind=_kind(after) or _kind(before))


def compare(
    before: object, after: object, *, exclude: Collection[str] = (), kind: str = ""
) -> list[dict[str, Any]]:
    """As `diff`, of states whose class has the name `kind`."""
    (old, old_unknown), (new, new_unknown) = (
        (state.values_by_name, state.not_loaded) if isinstance(state, Snapshot) else _values(state)
        for state in (before, after)
    )
    unknown = sorted(((old_unknown & new.keys()) | (new_unknown & old.keys())).difference(exclude))
    left_out = {*exclude, *unknown}
    names = [
        name
        for name in {**old, **new}
        if not _is_plainly_same(old.get(name, _ABSENT), new.get(name, _ABSENT))
        and name not in left_out
    ]
    before, after = (
        {name: _frozen(side[name]) for name in names if name in side} for side in (old, new)
    )
    named = [kind, *_names(old, new)] if any(map(is_value_key, names)) else []
    changes = list(_compare(before, after, "", named))
    if unknown:
        changes.append({"path": "", "after": {"not_loaded": unknown}})
    if len(changes) > CHANGES_MAX:
        omitted = len(changes) - CHANGES_MAX + 1
        changes[CHANGES_MAX - 1 :] = [{"path": "", "after": {"changes_omitted": omitted}}]
    return changes


_Values = Mapping[str, object]
"""By name: what never alters and JSON holds exactly as it is, and anything else as FrozenValue."""

_ABSENT: Final = object()


def _values(value: object) -> tuple[_Values, frozenset[str]]:
    """The values of an object, and the names of those that aren't loaded. Raises: TypeError."""
    state, not_loaded = _state(value)
    values = {
        name: member if is_plain(member) else freeze(member, _nested_state)
        for name, member in state.items()
    }
    return values, not_loaded


def _is_plainly_same(old: object, new: object) -> bool:
    """Whether two values are plain and the same; most of an object's are."""
    return type(old) is type(new) is not FrozenValue and old == new


def _frozen(value: object) -> FrozenValue:
    return value if type(value) is FrozenValue else freeze(value, _nested_state)


def _nested_state(value: object) -> Mapping[str, object] | None:
    """The loaded attributes of an object; None when its state is unknown."""
    try:
        return _state(value)[0]
    except TypeError:
        return None


def _kind(value: object) -> str:
    if isinstance(value, Snapshot):
        return value.kind
    return "" if value is None or isinstance(value, Mapping) else type(value).__name__


def _names(*states: Mapping[str, object]) -> list[str]:
    """The names that may tell what a `value` of these states is."""
    return names_of(
        *(
            {key: each.shown if type(each) is FrozenValue else each for key, each in state.items()}
            for state in states
        )
    )


def _compare(
    before: Mapping[str, FrozenValue],
    after: Mapping[str, FrozenValue],
    path: str,
    named: Collection[str],
) -> Iterator[dict[str, Any]]:
    """Yield the changes. `named` are the names beside the values here."""
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        here = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if old is not None and new is not None:
            if old.is_same(new):
                continue
            if isinstance(old.members, dict) and isinstance(new.members, dict):
                inside = _names(old.members, new.members)
                yield from _compare(old.members, new.members, here, inside)
                continue
        looks_same = old is not None and new is not None and old.looks_as(new)
        change: dict[str, Any] = {"path": here[:PATH_CHARS_MAX]}
        for side, value in (("before", old), ("after", new)):
            if value is not None:
                shown = value.show_hashed() if looks_same else value.show()
                change[side] = masked_value(name, shown, named)
        yield change


_State = tuple[Mapping[str, object], frozenset[str]]
"""The loaded attributes, and the names of those that aren't loaded."""


def _state(value: object) -> _State:
    """Raises: TypeError."""
    state, cause = None, None
    try:
        state = _known_state(value)
    except Exception as error:  # noqa: BLE001 - the application's attributes, which may fail in any way
        cause = error
    if state is None:
        raise TypeError(
            f"a {type(value).__qualname__} has no state that is known here: pass a mapping of it"
        ) from cause
    return state


def _known_state(value: object) -> _State | None:
    if value is None:
        return {}, frozenset()
    if isinstance(value, Mapping):
        return dict(unique_items(value)), frozenset()
    state = None if isinstance(value, type) else _state_of_fields(value)
    return state or _django_state(value) or _sqlalchemy_state(value)


def _state_of_fields(value: object) -> _State | None:
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        fields = [getattr(type(value), name, None) for name in _FIELD_LISTS]
        found = next((each for each in fields if isinstance(each, tuple | dict)), None)
        if found is None:
            return None
        names = [str(getattr(field, "name", field)) for field in found]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}, frozenset()


def _django_state(value: object) -> _State | None:
    models = sys.modules.get("django.db.models")
    if models is None or not isinstance(value, models.Model):
        return None
    model: Any = value
    deferred = frozenset(model.get_deferred_fields())
    fields = model._meta.concrete_fields  # noqa: SLF001 - its documented name
    loaded = [field for field in fields if field.attname not in deferred]
    return {field.attname: field.value_from_object(value) for field in loaded}, deferred


def _sqlalchemy_state(value: object) -> _State | None:
    sqlalchemy = sys.modules.get("sqlalchemy")
    if sqlalchemy is None:
        return None
    state = sqlalchemy.inspect(value, raiseerr=False)
    mapper = getattr(state, "mapper", None)
    if mapper is None or isinstance(value, type):
        return None
    names = [attribute.key for attribute in mapper.column_attrs]
    loaded = {name: state.dict[name] for name in names if name in state.dict}
    # A new instance has no value yet where nothing was set; it was not loaded without one.
    not_loaded = frozenset(names) - loaded.keys() if state.has_identity else frozenset()
    return loaded, not_loaded
