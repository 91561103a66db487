"""Records the changes of Django models, by the signals that saves and deletions send."""
# ruff: noqa: SLF001 - _meta and _base_manager are Django's documented names, _getframe Python's

import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import CodeType, FrameType
from typing import Any, Final, Unpack

from django.db import transaction
from django.db.models import Model, QuerySet
from django.db.models.deletion import Collector
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from ledger_client.integrations.django_fields import (
    RecordedModel,
    concrete,
    key_of,
    read_models,
)
from ledger_client.integrations.django_settings import ledger_recorder
from ledger_client.recording.context import pinned_scope, restored
from ledger_client.recording.diff import compare
from ledger_client.recording.recorder import RecordArguments
from ledger_core.event.model import LIMITS

TARGETS_MAX: Final = LIMITS["targets"].most

_SIDES: Final = {"post_add": "after", "pre_remove": "before", "pre_clear": "before"}
"""What of a many-to-many field's changes is recorded, and which side of a change it is."""

_ASKING: Final = frozenset({"is_deleting", "_recorded", "update"})
"""The names of the functions between Django's deletion and the question whether it writes."""

_recorded: dict[type[Model], RecordedModel] = {}
"""The models that are recorded."""

_calls = threading.local()
"""Has `pending`: the frames in which this thread saves and deletes, by their key."""


def record_models(setting: Any) -> None:
    """Record the models of the setting from here on.

    Raises: ImproperlyConfigured for a model or field that there is not.
    """
    _recorded.update({each.model: each for each in read_models(setting)})
    if _recorded:
        pre_save.connect(_keep_before, dispatch_uid=_keep_before)
        post_save.connect(_record_save, dispatch_uid=_record_save)
        pre_delete.connect(_keep_deleted, dispatch_uid=_keep_deleted)
        post_delete.connect(_record_delete, dispatch_uid=_record_delete)
        m2m_changed.connect(_record_members, dispatch_uid=_record_members)


def recorded_as(model: type[Model]) -> list[RecordedModel]:
    """The models by which a change of this one is recorded: itself, or those of its parents.

    A child of a recorded parent has the parent's columns too.
    """
    model = concrete(model)
    found = [model] if model in _recorded else model._meta.get_parent_list()
    return [_recorded[each] for each in found if each in _recorded]


def is_deleting() -> bool:
    """Whether the `update` that asks is Django's own, of what refers to the rows that it deletes.

    A handler of a deletion's signals may write too. An application's own `update` may stand between
    Django and the one that asks.
    """
    for code, _ in _frames():
        if code.co_name not in _ASKING:
            return _deletes(code)
    return False


@dataclass(slots=True)
class _Call:
    """A save or a deletion that Django is in, of a row of one recorded model."""

    recorded: RecordedModel
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
        key = self.key()
        if key is None:
            return None
        names = dict.fromkeys([*self.recorded.columns, *filter(None, [self.recorded.subject])])
        rows = self.recorded.model._base_manager.using(self.using).filter(pk=key)
        row: Mapping[str, Any] | None = rows.values(*names).first()
        return row

    def key(self) -> Any:
        """The key of the row."""
        return key_of(self.recorded.model, self.instance)

    def record(self, row: Mapping[str, Any] | None) -> None:
        """Record what changed since `before`, which is this row then."""
        # Read back: an instance may hold an expression, or "5" for a number.
        kind = self.recorded.model.__name__
        changes = compare(self.before, row, exclude=self.recorded.excluded, kind=kind)
        if changes:
            what = "created" if self.before is None else "updated" if row else "deleted"
            recorded, key = self.recorded, self.key()
            changes = recorded.protected(changes, row or self.before or {}, key)
            target = recorded.target(self.instance, key)
            record = recording(recorded, what, targets=[target], changes=changes)
            if self.events is None:
                record()
            else:
                self.events.append(record)
        self.before = row

    def is_of_row(self, other: "_Call") -> bool:
        """Whether both calls are about one row, also through two instances."""
        key = self.key()
        same = self.recorded is other.recorded and self.using == other.using
        return same and key is not None and key == other.key()


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame in which Django saves or deletes. It is not held: it has the locals of all callers.

    Its id may be that of a later frame once it has ended. The key of a frame is its id and that of
    its owner, which is held here, so that nothing later has the same two.
    """

    owner: object
    """What is saved, or Django's collector of what is deleted."""
    calls: dict[int, list[_Call]]
    """By the id of the instance, which they hold."""


def _keep_before(sender: type[Model], *, instance: Model, using: str, **_: Any) -> None:
    _keep_calls(recorded_as(sender), instance, using)


def _keep_deleted(sender: type[Model], *, instance: Model, using: str, **_: Any) -> None:
    # Django sends the signals for the rows of the parents as well.
    model = concrete(sender)
    _keep_calls([_recorded[model]] if model in _recorded else [], instance, using)
    _record_references(instance, using)


def _keep_calls(models: list[RecordedModel], instance: Model, using: str) -> None:
    if not models:
        return
    owners = _signalling_frames(instance)
    # What is no longer on the stack has failed.
    pending = {key: frame for key, frame in _pending().items() if key in owners}
    here, owner = next(iter(owners.items()))
    frame = pending.pop(here, None) or _Frame(owner, {})
    begun = [_Call(each, instance, using) for each in models]
    for call in begun:
        call.begin()
        for outer in _calls_of_row(pending, call):
            outer.record(call.before)  # A handler of it saves again: its own change comes first.
    frame.calls[id(instance)] = begun
    _calls.pending = {**pending, here: frame}


def _record_save(*, instance: Model, **_: Any) -> None:
    for call in _ended_calls(instance):
        row = call.row()
        call.record(row)
        for outer in _calls_of_row(_pending(), call):
            outer.before = row


def _record_delete(*, instance: Model, **_: Any) -> None:
    for call in _ended_calls(instance):
        call.record(None)


def _ended_calls(instance: Model) -> list[_Call]:
    pending = _pending()
    if not pending:
        return []
    here = next(iter(_signalling_frames(instance)))
    calls = pending[here].calls if here in pending else {}
    ended = calls.pop(id(instance), [])
    if not calls:
        pending.pop(here, None)
    return ended


def _pending() -> dict[tuple[int, int], _Frame]:
    pending: dict[tuple[int, int], _Frame] = _calls.__dict__.setdefault("pending", {})
    return pending


def _calls_of_row(pending: Mapping[Any, _Frame], call: _Call) -> list[_Call]:
    calls = (each for frame in pending.values() for found in frame.calls.values() for each in found)
    return [each for each in calls if each.is_of_row(call)]


def _record_references(instance: Model, using: str) -> None:
    """Record what a deletion sets in rows that refer to the deleted ones, as SET_NULL does.

    Django sends no signal for these. The collector of a deletion has them; it sends its first
    signal before it changes anything.
    """
    collector = next((it.f_locals["self"] for code, it in _frames() if _deletes(code)), None)
    if collector is None:
        return
    # Django sends no signal for rows between two ends of a many-to-many field.
    first = next(row for row in collector.instances_with_model() if not row[0]._meta.auto_created)
    if first[1] is not instance:
        return
    _record_ended_members(collector.data, using)
    for (field, value), found in collector.field_updates.items():
        for recorded in recorded_as(field.model):
            if field.attname in recorded.columns:
                _record_reference(recorded, field, value, found, using)


def _record_reference(
    recorded: RecordedModel, field: Any, value: Any, found: Iterable[Any], using: str
) -> None:
    """Record one event for each deleted row that the field referred to."""
    rows_by_before: dict[Any, list[Model]] = {}
    for rows in found:
        # Django uses the query set itself, and would work otherwise if it were evaluated.
        for row in rows.all() if isinstance(rows, QuerySet) else rows:
            rows_by_before.setdefault(getattr(row, field.attname), []).append(row)
    after = value.pk if isinstance(value, Model) else value
    for before, rows in rows_by_before.items():
        change = {"path": f"/{field.attname}", "before": before, "after": after}
        record_rows(recorded, "updated", rows, len(rows), [change], using)


def record_rows(
    recorded: RecordedModel,
    what: str,
    rows: Iterable[Model],
    count: int,
    changes: list[dict[str, Any]],
    using: str,
) -> None:
    """Record one event for a change of many rows, of which the first ones are targets."""
    targets = [recorded.target(row) for row in itertools.islice(rows, TARGETS_MAX)]
    record = recording(
        recorded,
        what,
        targets=targets,
        changes=recorded.masked_changes(changes),
        context={"rows": count},
    )
    transaction.on_commit(record, using=using, robust=True)


def _deletes(code: CodeType) -> bool:
    return code is Collector.delete.__code__


def _frames() -> Iterator[tuple[CodeType, FrameType]]:
    """The frames in which this thread is, with their code, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code, frame
        frame = frame.f_back


def _signalling_frames(instance: Model) -> dict[tuple[int, int], object]:
    """The owners of the frames in which Django saves or deletes, by key, the innermost first.

    Both signals of a call come from one frame, and those of all rows of a deletion. Nothing else
    that Django passes tells one call from another on the same instance, which a handler may make in
    the middle of the first.
    """
    codes = {Model.save_base.__code__, Collector.delete.__code__}
    found = [(id(frame), frame.f_locals["self"]) for code, frame in _frames() if code in codes]
    found = found or [(0, instance)]  # Somebody else may send Django's signals.
    return {(number, id(owner)): owner for number, owner in found}


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
    here, there = concrete(type(instance)), concrete(model)
    owner = there if reverse else here
    if action not in _SIDES or (here not in _recorded and there not in _recorded):
        return
    fields = [field for field in owner._meta.many_to_many if field.remote_field.through is sender]
    if not fields or (owner in _recorded and fields[0].name in _recorded[owner].excluded):
        return
    name = str(fields[0].remote_field.get_accessor_name()) if reverse else fields[0].name
    if action != "post_add":  # Of all that are removed, or None for all, those that are there.
        members = getattr(instance, name).using(using)
        members = members if pk_set is None else members.filter(pk__in=pk_set)
        pk_set = set(members.values_list("pk", flat=True))
    if pk_set:
        _record_membership(instance, there, name, _SIDES[action], pk_set, using)


def _record_ended_members(deleted: Mapping[Any, Iterable[Model]], using: str) -> None:
    """Record the memberships that end with a row at one of their ends, as if it was cleared first.

    `deleted` is all that a deletion deletes: the rows between the ends of the fields as well, which
    Django deletes without a signal.
    """
    for through, links in deleted.items():
        if not through._meta.auto_created:
            continue
        owner = concrete(through._meta.auto_created)
        field = next(it for it in owner._meta.many_to_many if it.remote_field.through is through)
        member = concrete(field.remote_field.model)
        if owner not in _recorded and member not in _recorded:
            continue
        if owner in _recorded and field.name in _recorded[owner].excluded:
            continue
        to_owner, to_member = (
            through._meta.get_field(name).attname
            for name in (field.m2m_field_name(), field.m2m_reverse_field_name())
        )
        owners = {row.pk: row for row in deleted.get(owner, ())}
        members = {row.pk: row for row in deleted.get(member, ())}
        ended: dict[tuple[bool, Any], set[Any]] = {}
        for link in links:
            of_owner, of_member = getattr(link, to_owner), getattr(link, to_member)
            if of_owner in owners:
                ended.setdefault((False, of_owner), set()).add(of_member)
            elif of_member in members and not field.remote_field.symmetrical:  # Or there are two.
                ended.setdefault((True, of_member), set()).add(of_owner)
        accessor = str(field.remote_field.get_accessor_name())
        for (is_reverse, key), others in ended.items():
            if is_reverse:
                _record_membership(members[key], owner, accessor, "before", others, using)
            else:
                _record_membership(owners[key], member, field.name, "before", others, using)


def _record_membership(
    instance: Model, there: type[Model], name: str, side: str, others: set[Any], using: str
) -> None:
    """Record which rows of the model `there` became members of an instance, or no longer are."""
    keys = sorted(others, key=str)
    here = concrete(type(instance))
    one, other = (_recorded.get(each, RecordedModel(each)) for each in (here, there))
    found = there._base_manager.using(using).in_bulk(keys[:TARGETS_MAX])
    targets = [one.target(instance)]
    targets += [
        other.target(found[key]) if key in found else (other.label, other.id_text(key))
        for key in keys
    ]
    shown = [other.id_text(key) for key in keys] if other.is_key_masked else keys
    changes = [{"path": f"/{name}", side: shown}]
    record = recording(one, "updated", targets=targets, changes=changes)
    transaction.on_commit(record, using=using, robust=True)


def recording(
    recorded: RecordedModel, what: str, **arguments: Unpack[RecordArguments]
) -> Callable[[], None]:
    """A function that records this change as of now; call it once the change is committed."""
    recorder = ledger_recorder()
    # At the commit the block may be over, and the user logged out.
    scope = pinned_scope()
    at = datetime.now(UTC)

    event: RecordArguments = {**arguments, "time": at}

    def record() -> None:
        with restored(scope):
            recorder.record_quietly(f"{recorded.label}.{what}", **event)

    return record
