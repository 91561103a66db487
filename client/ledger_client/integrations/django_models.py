"""Records the changes of Django models, by the signals that saves and deletions send."""
# ruff: noqa: SLF001 - _meta and _base_manager are Django's documented names, _getframe Python's

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import transaction
from django.db.models import Model
from django.db.models.deletion import Collector
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from ledger_client.integrations.django_settings import ledger_recorder
from ledger_client.recording.arguments import Changes, Principal
from ledger_client.recording.context import pinned_scope, restored
from ledger_client.recording.diff import diff

_SIDES: Final = {"post_add": "after", "pre_remove": "before", "pre_clear": "before"}
"""What of a many-to-many field's changes is recorded, and which side of a change it is."""

_excluded: dict[type[Model], frozenset[str]] = {}
"""The models that are recorded, with the columns that are not."""

_calls = threading.local()
"""Has `pending`: the saves and deletions that this thread is in, by the id of Django's frame."""


def record_models(chosen: Mapping[str, Any]) -> None:
    """Record these models from here on, each without the fields that are named.

    Raises: ImproperlyConfigured for a model or field that there is not.
    """
    _excluded.update(_columns(label, fields) for label, fields in chosen.items())
    if _excluded:
        pre_save.connect(_keep_before, dispatch_uid=_keep_before)
        post_save.connect(_record_save, dispatch_uid=_record_save)
        pre_delete.connect(_keep_deleted, dispatch_uid=_keep_deleted)
        post_delete.connect(_record_delete, dispatch_uid=_record_delete)
        m2m_changed.connect(_record_members, dispatch_uid=_record_members)


def id_text(key: object) -> str:
    """A key as the id of a principal; a composite key is a tuple."""
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _columns(label: str, fields: Any) -> tuple[type[Model], frozenset[str]]:
    try:
        model = apps.get_model(label)
        if isinstance(fields, str):
            raise ImproperlyConfigured(f"want a list of fields for {label}, got {fields!r}")
        names = frozenset(model._meta.get_field(name).attname for name in fields)
    except (LookupError, ValueError, FieldDoesNotExist) as error:
        raise ImproperlyConfigured(f'LEDGER["MODELS"]: {error}') from error
    return model, names


@dataclass(slots=True)
class _Call:
    """A save or a deletion that Django is in, of a row of one recorded model."""

    model: type[Model]
    instance: Model
    using: str
    before: Mapping[str, Any] | None = None
    events: list[Callable[[], None]] | None = None
    """Recorded at the commit; None outside of a transaction, where each save is committed."""

    def begin(self) -> None:
        """Keep the row, and the place of the call's events among those of the transaction.

        A handler may save again in a savepoint that is rolled back, which this change survives.
        """
        self.before = self.row()
        if transaction.get_connection(self.using).in_atomic_block:
            events: list[Callable[[], None]] = []
            self.events = events
            transaction.on_commit(
                lambda: [record() for record in events], using=self.using, robust=True
            )

    def row(self) -> Mapping[str, Any] | None:
        """The row as it is stored, None when there is none."""
        key = _key(self.model, self.instance)
        if key is None:
            return None
        names = [field.attname for field in self.model._meta.concrete_fields]
        names = [name for name in names if name not in _excluded[self.model]]
        rows = self.model._base_manager.using(self.using).filter(pk=key)
        row: Mapping[str, Any] | None = rows.values(*names).first()
        return row

    def record(self, row: Mapping[str, Any] | None) -> None:
        """Record what changed since `before`, which is this row then."""
        # Read back: an instance may hold an expression, or "5" for a number.
        changes = diff(self.before, row)
        if changes:
            what = "created" if self.before is None else "updated" if row else "deleted"
            targets = [_target(self.instance, self.model)]
            record = _recording(self.model, what, targets, changes)
            if self.events is None:
                record()
            else:
                self.events.append(record)
        self.before = row

    def is_of_row(self, other: "_Call") -> bool:
        """Whether both calls are about one row, also through two instances."""
        key = _key(self.model, self.instance)
        same = self.model is other.model and self.using == other.using
        return same and key is not None and key == _key(other.model, other.instance)


def _keep_before(sender: type[Model], *, instance: Model, using: str, **_: Any) -> None:
    model = _concrete(sender)
    # A child of a recorded parent has the parent's columns too.
    models = [model] if model in _excluded else [*_excluded.keys() & model._meta.get_parent_list()]
    _keep_calls(models, instance, using)


def _keep_deleted(sender: type[Model], *, instance: Model, using: str, **_: Any) -> None:
    # Django sends the signals for the rows of the parents as well.
    _keep_calls([model for model in (_concrete(sender),) if model in _excluded], instance, using)


def _keep_calls(models: list[type[Model]], instance: Model, using: str) -> None:
    if not models:
        return
    frames = _signalling_frames()
    # What is no longer on the stack has failed.
    pending = {frame: calls for frame, calls in _pending().items() if frame in frames}
    begun = [_Call(model, instance, using) for model in models]
    for call in begun:
        call.begin()
        for outer in _calls_of_row(pending, call):
            outer.record(call.before)  # A handler of it saves again: its own change comes first.
    _calls.pending = {**pending, frames[0]: begun}


def _record_save(**_: Any) -> None:
    for call in _ended_calls():
        row = call.row()
        call.record(row)
        for outer in _calls_of_row(_pending(), call):
            outer.before = row


def _record_delete(**_: Any) -> None:
    for call in _ended_calls():
        call.record(None)


def _ended_calls() -> list[_Call]:
    pending = _pending()
    return pending.pop(_signalling_frames()[0], []) if pending else []


def _pending() -> dict[int, list[_Call]]:
    pending: dict[int, list[_Call]] = _calls.__dict__.setdefault("pending", {})
    return pending


def _calls_of_row(pending: Mapping[int, list[_Call]], call: _Call) -> list[_Call]:
    return [each for calls in pending.values() for each in calls if each.is_of_row(call)]


def _signalling_frames() -> list[int]:
    """The ids of the frames in which Django saves or deletes, the innermost first.

    Both signals of a call come from one frame. Nothing else that Django passes tells one call from
    another on the same instance, which a handler may make in the middle of the first.
    """
    frames = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in (Model.save_base.__code__, Collector.delete.__code__):
            frames.append(id(frame))
        frame = frame.f_back
    return frames or [0]  # Somebody else sends Django's signals.


def _record_members(
    sender: type[Model],
    *,
    instance: Model,
    action: str,
    reverse: bool,
    model: type[Model],
    pk_set: set[Any] | None,
    using: str,
    **_: Any,
) -> None:
    """A many-to-many field, from whichever end it was changed."""
    here, there = _concrete(type(instance)), _concrete(model)
    owner = there if reverse else here
    if action not in _SIDES or (here not in _excluded and there not in _excluded):
        return
    fields = [field for field in owner._meta.many_to_many if field.remote_field.through is sender]
    if not fields or fields[0].name in _excluded.get(owner, ()):
        return
    name = str(fields[0].remote_field.get_accessor_name()) if reverse else fields[0].name
    if action != "post_add":  # Of all that are removed, or None for all, those that are there.
        members = getattr(instance, name).using(using)
        members = members if pk_set is None else members.filter(pk__in=pk_set)
        pk_set = set(members.values_list("pk", flat=True))
    if pk_set:
        keys = sorted(pk_set, key=str)
        label = there._meta.label_lower
        targets = [_target(instance), *((label, id_text(key)) for key in keys)]
        changes = [{"path": f"/{name}", _SIDES[action]: keys}]
        record = _recording(here, "updated", targets, changes)
        transaction.on_commit(record, using=using, robust=True)


def _recording(
    model: type[Model], what: str, targets: list[Principal], changes: Changes
) -> Callable[[], None]:
    """A function that records this change as of now; call it once the change is committed."""
    recorder = ledger_recorder()
    # At the commit the block may be over, and the user logged out.
    scope = pinned_scope()
    at = datetime.now(UTC)

    def record() -> None:
        with restored(scope):
            recorder.record_quietly(
                f"{model._meta.label_lower}.{what}", targets=targets, changes=changes, time=at
            )

    return record


def _target(instance: Model, model: type[Model] | None = None) -> Principal:
    model = model or _concrete(type(instance))
    return model._meta.label_lower, id_text(_key(model, instance))


def _key(model: type[Model], instance: Model) -> Any:
    """The key of an instance's row in the table of its model, or of a parent of that."""
    return getattr(instance, model._meta.pk.attname)


def _concrete(model: type[Model]) -> type[Model]:
    """The model itself, of one that may be a proxy."""
    return model._meta.concrete_model or model
