"""Records writes of many rows that send no signal: `update`, `bulk_create` and `bulk_update`.

    class Order(models.Model):
        objects = AuditedManager()

        class Meta:
            base_manager_name = "objects"  # used by `customer.order_set.add(order)`

    audited_rows(User.objects.filter(is_active=False)).update(is_staff=False)

A model that `LEDGER["MODELS"]` names gets the manager; `audited_rows` does the same once, for the
query set of somebody else's model. One event has the number of rows as `context.rows`, and the
first 32 rows as its targets. A value before or after is shown if it is known and all rows have it.
"""
# ruff: noqa: SLF001 - _meta and _base_manager are Django's documented names

from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import transaction
from django.db.models import Manager, Model, QuerySet

from ledger_client.integrations.django_models import (
    TARGETS_MAX,
    is_deleting,
    record_rows,
    recorded_as,
)
from ledger_client.recording.jsonable import jsonable
from ledger_client.recording.named_values import NOT_SHOWN, masked_value, names_of
from ledger_core.event.secrets import is_name_key

if TYPE_CHECKING:
    from ledger_client.integrations.django_fields import RecordedModel

M = TypeVar("M", bound=Model)
T = TypeVar("T")

_is_inside: ContextVar[bool] = ContextVar("ledger_bulk", default=False)
"""Whether a recorded write is under way, which calls others of these methods."""


class AuditedQuerySet(QuerySet[M]):
    """A query set whose writes of many rows are recorded."""

    def update(self, **values: Any) -> int:
        """Change the rows, as `QuerySet.update` does. The first 32 are read before."""
        models = self._recorded()
        if not models or self.query.is_sliced or self.query.combinator:
            return super().update(**values)
        self._for_write = True
        with transaction.atomic(self.db, savepoint=False):
            keys = [*self.order_by().values_list("pk", flat=True)[: TARGETS_MAX + 1]]
            rows = self._rows(keys)
            count = _inside(lambda: super(AuditedQuerySet, self).update(**values))
            changes = [
                (self._column(name), _common(rows, keys, self._column(name)), _shown(value))
                for name, value in values.items()
            ]
            self._record(models, "updated", rows, count, changes)
        return count

    def bulk_create(self, objs: Iterable[M], *args: Any, **options: Any) -> list[M]:
        """Insert the rows, as `QuerySet.bulk_create` does."""
        models = self._recorded()
        self._for_write = True
        with transaction.atomic(self.db, savepoint=False):
            made = _inside(lambda: super(AuditedQuerySet, self).bulk_create(objs, *args, **options))
            for recorded in models if made else ():
                # Without a key it is not known which row it is, or whether it was inserted at all.
                rows = [row for row in made[:TARGETS_MAX] if row.pk is not None]
                record_rows(recorded, "created", rows, len(made), [], self.db)
        return made

    def bulk_update(
        self, objs: Iterable[M], fields: Iterable[str], *args: Any, **options: Any
    ) -> int:
        """Change these fields of the rows, as `QuerySet.bulk_update` does."""
        models, new, names = self._recorded(), [*objs], [*fields]
        if not models:
            return super().bulk_update(new, names, *args, **options)
        self._for_write = True
        with transaction.atomic(self.db, savepoint=False):
            keys = [row.pk for row in new]
            rows = self._rows(keys)
            count = _inside(
                lambda: super(AuditedQuerySet, self).bulk_update(new, names, *args, **options)
            )
            columns = [self._column(name) for name in names]
            changes = [
                (column, _common(rows, keys, column), _common(new, keys, column, most=len(new)))
                for column in columns
            ]
            self._record(models, "updated", rows, count, changes)
        return count

    def _recorded(self) -> "list[RecordedModel]":
        return [] if _is_inside.get() or is_deleting() else recorded_as(self.model)

    def _rows(self, keys: list[Any]) -> list[M]:
        found = self.model._base_manager.using(self.db).in_bulk(keys[:TARGETS_MAX])
        return [found[key] for key in keys[:TARGETS_MAX] if key in found]

    def _column(self, name: str) -> str:
        field: Any = self.model._meta.pk if name == "pk" else self.model._meta.get_field(name)
        return str(field.attname)

    def _record(
        self,
        models: "list[RecordedModel]",
        what: str,
        rows: list[M],
        count: int,
        changes: list[tuple[str, Any, Any]],
    ) -> None:
        for recorded in models if count else ():
            named = _names(self.model, rows, count, changes)
            shown = [
                {
                    "path": f"/{column}",
                    "before": masked_value(column, before, named),
                    "after": masked_value(column, after, named),
                }
                for column, before, after in changes
                if column in recorded.columns
            ]
            if shown:
                record_rows(recorded, what, rows, count, shown, self.db)


class AuditedManager(Manager.from_queryset(AuditedQuerySet)):  # type: ignore[misc] # made at run time
    """A manager whose query sets record their writes of many rows."""


def audited_rows(rows: "QuerySet[M]") -> "AuditedQuerySet[M]":
    """Give the same query set, whose writes of many rows are recorded."""
    audited: Any = rows._chain()  # type: ignore[attr-defined] # how Django copies a query set
    kind = type(audited)
    audited.__class__ = type(f"Audited{kind.__name__}", (AuditedQuerySet, kind), {})
    found: AuditedQuerySet[M] = audited
    return found


def unaudited_managers(model: type[Model]) -> Collection[str]:
    """The names of the managers of a model whose writes of many rows are not recorded."""
    managers = {each.name: each for each in model._meta.managers}
    managers["_base_manager"] = model._base_manager
    return [
        name
        for name, each in managers.items()
        if not issubclass(getattr(each, "_queryset_class", QuerySet), AuditedQuerySet)
    ]


def _inside(write: Callable[[], T]) -> T:
    token = _is_inside.set(True)
    try:
        return write()
    finally:
        _is_inside.reset(token)


def _names(
    model: type[Model], rows: list[Any], count: int, changes: list[tuple[str, Any, Any]]
) -> list[str] | None:
    """The names beside the values of all rows; None where those of some rows are unknown."""
    own = [column.attname for column in model._meta.concrete_fields if is_name_key(column.attname)]
    if own and count > len(rows):
        return None
    states = [{name: getattr(row, name) for name in own} for row in rows]
    return [model.__name__, *names_of(*states, {column: after for column, _, after in changes})]


def _common(rows: Collection[Model], keys: list[Any], column: str, most: int = TARGETS_MAX) -> Any:
    """The value that all rows have in this column, if it is known."""
    values = [_shown(getattr(row, column)) for row in rows]
    is_known = len(keys) <= most and all(value == values[0] for value in islice(values, 1, None))
    return values[0] if values and is_known else NOT_SHOWN


def _shown(value: Any) -> Any:
    if isinstance(value, Model):
        return jsonable(value.pk)
    if hasattr(value, "resolve_expression"):  # Its text may hold a secret.
        return {"expression": type(value).__name__}
    return jsonable(value)
