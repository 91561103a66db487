"""The setting `LEDGER["MODELS"]`: which models are recorded, and what of their fields is shown.

"MODELS": {
    "shop.Order": ["updated_at"],                 # the fields that are left out
    "shop.Customer": {
        "exclude": ["updated_at"],
        "private": ["email", "address"],          # commitments, whose values can be erased
        "masked": ["iban"],                       # only that they changed
        "subject": "user",                        # whose private values these are
    },
    "authtoken.Token": {"masked": ["key"]},
}

A primary key that is masked is not shown as the id of a target either: a keyed digest is, the same
for each event of the row. One that is a secret has to be named, as here and for `sessions.Session`.

Django deletes rows without reading them where nobody listens for it. While there are `MODELS`, it
reads the rows of all models that it deletes, also of those that are not named.
"""
# ruff: noqa: SLF001 - _meta is Django's documented name

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db.models import Model

from ledger_client.event_values import private
from ledger_client.recording.arguments import Principal

MASKED: Final = {"masked": "setting"}
"""Stands for a value of a field that is masked by the setting."""

_OPTIONS: Final = frozenset({"exclude", "private", "masked", "subject"})
_SIDES: Final = ("before", "after")


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """A model that is recorded, and the columns of it that are hidden in some way."""

    model: type[Model]
    excluded: frozenset[str] = field(default_factory=frozenset)
    private: frozenset[str] = field(default_factory=frozenset)
    masked: frozenset[str] = field(default_factory=frozenset)
    subject: str | None = None
    """The column that says whose private values a row has; None where it is the row itself."""

    @property
    def label(self) -> str:
        """The type of the targets, and the beginning of the actions."""
        return self.model._meta.label_lower

    @property
    def columns(self) -> list[str]:
        """The columns that are recorded."""
        names = [column.attname for column in self.model._meta.concrete_fields]
        return [name for name in names if name not in self.excluded]

    def protected(
        self, changes: Iterable[Mapping[str, Any]], row: Mapping[str, Any], key: Any
    ) -> list[dict[str, Any]]:
        """The changes of a row with this key, without what is private or masked."""
        return [self._protect(dict(change), row, key) for change in changes]

    def masked_changes(self, changes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The changes of many rows: what is private is masked too, as it has many subjects."""
        hidden = dataclasses.replace(self, masked=self.masked | self.private)
        return hidden.protected(changes, {}, None)

    def target(self, instance: Model, key: Any = None) -> Principal:
        """A row as a target, with its name."""
        key = key_of(self.model, instance) if key is None else key
        known = self.label, self.id_text(key)
        name = self._name(instance)
        return known if name is None else (*known, name)

    @property
    def is_key_masked(self) -> bool:
        """Whether the primary key, or a part of it, is masked by the setting."""
        return any(each.attname in self.masked for each in self.model._meta.pk_fields)

    def id_text(self, key: object) -> str:
        """The id of the row with this key: a digest where the key is masked."""
        text = id_text(key)
        return _masked_id(text) if self.is_key_masked else text

    def _protect(self, change: dict[str, Any], row: Mapping[str, Any], key: Any) -> dict[str, Any]:
        column = change["path"].removeprefix("/").partition("/")[0]
        for side in _SIDES:
            if side not in change:
                continue
            if column in self.masked:
                change[side] = MASKED
            elif column in self.private and change[side] is not None:
                change[side] = private(change[side], self._subject_of(row, key))
        return change

    def _subject_of(self, row: Mapping[str, Any], key: Any) -> str:
        value = None if self.subject is None else row.get(self.subject)
        if self.subject is None or value is None:
            return f"{self.label}:{self.id_text(key)}"
        related: Any = self.model._meta.get_field(self.subject).related_model
        return str(value) if related is None else f"{related._meta.label_lower}:{value}"

    def _name(self, instance: Model) -> str | None:
        """The application's text for the row; None where that is no name or shows too much."""
        if type(instance).__str__ is Model.__str__:
            return None  # "Order object (1)"
        if any(hasattr(value, "resolve_expression") for value in instance.__dict__.values()):
            return None  # F("total") + 1: only the database knows the value.
        try:
            name = str(instance)
            hidden = {*self.excluded, *self.private, *self.masked} & instance.__dict__.keys()
            values = {str(instance.__dict__[each]) for each in hidden} - {"", "None"}
        except Exception:  # noqa: BLE001 - the application's code, and a name is no necessity
            return None
        return None if any(value in name for value in values) else name


def read_models(setting: Any) -> list[RecordedModel]:
    """The models of the setting. Raises: ImproperlyConfigured for a model or field that is none."""
    if not isinstance(setting, Mapping):
        raise ImproperlyConfigured('LEDGER["MODELS"]: want a mapping of models to their fields')
    return [_read_model(label, options) for label, options in setting.items()]


def id_text(key: object) -> str:
    """A key as the id of a principal; a composite key is a tuple."""
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)


def key_of(model: type[Model], instance: Model) -> Any:
    """The key of an instance's row in the table of its model, or of a parent of that."""
    return getattr(instance, model._meta.pk.attname)


def _masked_id(text: str) -> str:
    # Imported late: a process whose keys are no secrets needs no patterns.
    from ledger_client.fork_safe_masking import keyed_rules

    # The key of the recorder's digests. One that the application made has a token of its own.
    recorder = getattr(settings, "LEDGER", {}).get("RECORDER") or {}
    rules = keyed_rules(recorder.get("token") or settings.SECRET_KEY)
    return rules.masked_id(MASKED["masked"], text)


def concrete(model: type[Model]) -> type[Model]:
    """The model itself, of one that may be a proxy."""
    return model._meta.concrete_model or model


def _read_model(label: str, options: Any) -> RecordedModel:
    if not isinstance(options, Mapping):
        options = {"exclude": options}
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ImproperlyConfigured(
            f'LEDGER["MODELS"]["{label}"] has {unknown}; it may have {sorted(_OPTIONS)}'
        )
    try:
        model = apps.get_model(label)
        subject = options.get("subject")
        recorded = RecordedModel(
            model,
            excluded=_columns(model, options.get("exclude", ())),
            private=_columns(model, options.get("private", ())),
            masked=_columns(model, options.get("masked", ())),
            subject=None if subject is None else _column(model, subject),
        )
        if recorded.is_key_masked:
            _masked_id("")  # Without a key for digests the start fails, and not a save.
    except (LookupError, OSError, ValueError, FieldDoesNotExist) as error:
        raise ImproperlyConfigured(f'LEDGER["MODELS"]: {error}') from error
    return recorded


def _columns(model: type[Model], names: Collection[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise ImproperlyConfigured(
            f'LEDGER["MODELS"]: want a list of fields for {model._meta.label}, got {names!r}'
        )
    return frozenset(_column(model, name) for name in names)


def _column(model: type[Model], name: str) -> str:
    return str(getattr(model._meta.get_field(name), "attname", name))
