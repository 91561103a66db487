"""Django: a middleware, the signals of `django.contrib.auth`, and those of the models you name.

    INSTALLED_APPS = [..., "ledger_client.integrations.django.LedgerConfig"]
    MIDDLEWARE = ["ledger_client.integrations.django.LedgerMiddleware", ...]
    LEDGER = {
        "RECORDER": {"url": …, "token": …, "spool": …, "policy": …, "service": "shop"},
        "PROXIES": ["10.0.0.0/8"],
        "MODELS": {"shop.Order": [], "auth.User": ["last_login"]},
    }

The middleware goes first, so that it is the outermost. It works under WSGI and ASGI, around sync
and async views. `user.login` and `user.logout` are recorded by themselves, refused logins too.

Each change of a model in `MODELS` is recorded once it is committed, as `shop.order.created`,
`.updated` or `.deleted`, with what changed but for the fields listed there. A save costs two more
queries then, of the row before and after it. What sends no signal is not seen: `update` and the
`bulk_` methods of a query set, and SQL.
"""
# ruff: noqa: SLF001 - _meta and _base_manager are Django's documented names

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from ledger_client.integrations.proxies import parse_peer
from ledger_client.integrations.request_info import (
    UNKNOWN,
    AsyncIterateInContext,
    IterateInContext,
    RequestReader,
    RequestSettings,
    actor_of,
)
from ledger_client.recording.arguments import Changes, Principal
from ledger_client.recording.context import AuditContext, audit_context, current_scope, restored
from ledger_client.recording.diff import diff
from ledger_client.recording.recorder import Recorder, current_recorder, use_recorder

PROCESS: Final = {"type": "process", "id": "django"}
"""The actor outside of any request, unless `RECORDER` names one: a command, a worker."""

_OWN_SETTINGS: Final = frozenset({"RECORDER", "MODELS", "ACTOR"})
_REQUEST_SETTINGS: Final = tuple(RequestSettings.__annotations__)
_SIDES: Final = {"post_add": "after", "post_remove": "before", "pre_clear": "before"}
"""What of a many-to-many field's changes is recorded, and which side of a change it is."""

_BEFORE: Final = "_ledger_before"
_USER: Final = "_ledger_user"
_DELETED_KEY: Final = "_ledger_deleted_key"

_lock = threading.Lock()
_excluded: dict[type[Model], frozenset[str]] = {}
"""The models that are recorded, with the columns that are not."""
_log = logging.getLogger("ledger_client.integrations")


def ledger_recorder() -> Recorder:
    """The recorder in use; made from `LEDGER["RECORDER"]` on first use when there is none.

    Raises: ImproperlyConfigured, and what `Recorder` raises.
    """
    with _lock:
        try:
            return current_recorder()
        except RuntimeError:
            options = _ledger_settings().get("RECORDER")
        if options is None:
            raise ImproperlyConfigured('neither LEDGER["RECORDER"] nor use_recorder() was given')
        return use_recorder(Recorder(**{"actor": PROCESS, **options}))


class LedgerMiddleware:
    """Sets the audit context of each request."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        """Make the recorder too: a wrong setting stops the start of the server.

        Raises: ImproperlyConfigured, and what `Recorder` raises.
        """
        chosen = _ledger_settings()
        ledger_recorder()
        self._get_response: Final = get_response
        self._reader: Final = RequestReader(
            **{name: chosen[name.upper()] for name in _REQUEST_SETTINGS if name.upper() in chosen}
        )
        self._actor: Final[Callable[[HttpRequest], Principal | None]] = (
            import_string(chosen["ACTOR"]) if "ACTOR" in chosen else user_actor
        )
        self._is_async: Final = iscoroutinefunction(get_response)
        self.process_view: Final = _load_user_async if self._is_async else _load_user
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Answer one request."""
        if self._is_async:
            return self._respond_async(request)
        with audit_context(fresh=True, **self._read(request)):
            response = self._get_response(request)
            return _streaming_within(current_scope(), response)

    async def _respond_async(self, request: HttpRequest) -> HttpResponseBase:
        with audit_context(fresh=True, **self._read(request)):
            response = await self._get_response(request)
            return _streaming_within(current_scope(), response)

    def _read(self, request: HttpRequest) -> dict[str, Any]:
        host = request.META.get("REMOTE_ADDR") or ""
        peer = parse_peer(host, request.META.get("REMOTE_PORT"))  # The port in ASGI alone.
        arguments = self._reader.read(peer, lambda name: _header(request, name))
        return {**arguments, "actor": actor_of(lambda: self._actor(request))}


def user_actor(request: HttpRequest) -> Principal | None:
    """The user that Django's AuthenticationMiddleware, or a login since, has found."""
    user = getattr(request, "user", None)
    lazy, loaded = getattr(request, _USER, (None, None))
    if user is not None and user is lazy:
        user = loaded
    if user is None or not user.is_authenticated:
        return None
    return principal_of(user)


def principal_of(user: Any) -> Principal:
    """A user as an actor or a target, also after its row was deleted."""
    key = getattr(user, _DELETED_KEY, None) if user.pk is None else user.pk
    known = UNKNOWN if key is None else {"id": _id_text(key)}
    return {**known, "type": "user", "name": user.get_username()}


class LedgerConfig(AppConfig):
    """The application: listens to the signals."""

    name = "ledger_client.integrations.django"
    label = "witnessed_ledger"
    verbose_name = "Audit ledger"

    def ready(self) -> None:
        """Connect. Raises: ImproperlyConfigured for a model or field that there is not."""
        for label, fields in _ledger_settings().get("MODELS", {}).items():
            model, columns = _columns(label, fields)
            _excluded[model] = columns
        user_logged_in.connect(_record_login, dispatch_uid=_record_login)
        user_logged_out.connect(_record_logout, dispatch_uid=_record_logout)
        user_login_failed.connect(_record_login_failed, dispatch_uid=_record_login_failed)
        pre_delete.connect(_keep_key, sender=get_user_model(), dispatch_uid=_keep_key)
        if _excluded:
            pre_save.connect(_keep_before, dispatch_uid=_keep_before)
            post_save.connect(_record_save, dispatch_uid=_record_save)
            pre_delete.connect(_keep_before, dispatch_uid=_keep_before)
            post_delete.connect(_record_delete, dispatch_uid=_record_delete)
            m2m_changed.connect(_record_members, dispatch_uid=_record_members)


def _ledger_settings() -> Mapping[str, Any]:
    chosen: Mapping[str, Any] = getattr(settings, "LEDGER", {})
    known = _OWN_SETTINGS.union(name.upper() for name in _REQUEST_SETTINGS)
    unknown = sorted(set(chosen) - known)
    if unknown:
        raise ImproperlyConfigured(f"LEDGER has {unknown}; it may have {sorted(known)}")
    return chosen


def _header(request: HttpRequest, name: str) -> list[str]:
    value = request.headers.get(name)
    return [] if value is None else [value]


def _load_user(request: HttpRequest, view: Callable[..., Any], *_: Any) -> None:
    """Find out who it is before an async view, which may not ask: its loop must not wait.

    Django calls this before each view.
    """
    if _may_need_user(request, view):
        with _noting_failure():
            bool(request.user.is_authenticated)


async def _load_user_async(request: HttpRequest, view: Callable[..., Any], *_: Any) -> None:
    """As `_load_user`, in an application that runs asynchronously."""
    if _may_need_user(request, view):
        with _noting_failure():
            lazy = request.user
            setattr(request, _USER, (lazy, await request.auser()))


def _may_need_user(request: HttpRequest, view: Callable[..., Any]) -> bool:
    return (
        iscoroutinefunction(view)
        and settings.SESSION_COOKIE_NAME in request.COOKIES
        # Both are set by AuthenticationMiddleware; one of one's own may set the first alone.
        and hasattr(request, "user")
        and hasattr(request, "auser")
    )


@contextmanager
def _noting_failure() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a view that needs no user must not fail at this
        _log.error("user_not_loaded error=%s", type(error).__name__)


def _streaming_within(scope: AuditContext, response: HttpResponseBase) -> HttpResponseBase:
    # Of a FileResponse the server sends the file itself.
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
        content: Any = response.streaming_content
        response.streaming_content = (
            AsyncIterateInContext(scope, content)
            if response.is_async
            else IterateInContext(scope, content)
        )
        close = response.close

        def close_within() -> None:
            # This ends the body of a client that has gone, which may record something.
            with restored(scope):
                close()

        response.close = close_within  # type: ignore[method-assign] # the server calls it
    return response


def _record_login(*, user: Any, **_: Any) -> None:
    ledger_recorder().record_quietly("user.login", actor=principal_of(user))


def _record_logout(*, user: Any | None, **_: Any) -> None:
    if user is not None:
        ledger_recorder().record_quietly("user.logout", actor=principal_of(user))


def _keep_key(*, instance: Model, **_: Any) -> None:
    """Keep the key of a user, which `delete` sets to None: its request may record more events."""
    setattr(instance, _DELETED_KEY, instance.pk)


def _record_login_failed(*, credentials: Mapping[str, Any], **_: Any) -> None:
    name = credentials.get(str(get_user_model().USERNAME_FIELD)) or credentials.get("username")
    ledger_recorder().record_quietly(
        "user.login",
        outcome="failure",
        # What was typed is no id of a user; nobody may have that name.
        target=("username", name) if name and isinstance(name, str) else None,
    )


def _columns(label: str, fields: Any) -> tuple[type[Model], frozenset[str]]:
    try:
        model = apps.get_model(label)
        if isinstance(fields, str):
            raise ImproperlyConfigured(f"want a list of fields for {label}, got {fields!r}")
        names = frozenset(model._meta.get_field(name).attname for name in fields)
    except (LookupError, ValueError, FieldDoesNotExist) as error:
        raise ImproperlyConfigured(f'LEDGER["MODELS"]: {error}') from error
    return model, names


def _keep_before(sender: type[Model], *, instance: Model, using: str, **_: Any) -> None:
    model = _concrete(sender)
    if model in _excluded:
        setattr(instance, _BEFORE, _row(model, instance, using))


def _record_save(
    sender: type[Model], *, instance: Model, created: bool, using: str, **_: Any
) -> None:
    model = _concrete(sender)
    if model in _excluded:
        # Read back: an instance may hold an expression, or "5" for a number.
        changes = diff(instance.__dict__.pop(_BEFORE, None), _row(model, instance, using))
        if created or changes:
            what = "created" if created else "updated"
            _record_change(model, what, [_target(instance)], changes, using)


def _record_delete(sender: type[Model], *, instance: Model, using: str, **_: Any) -> None:
    model = _concrete(sender)
    if model in _excluded:
        changes = diff(instance.__dict__.pop(_BEFORE, None), None)
        _record_change(model, "deleted", [_target(instance)], changes, using)


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
    if pk_set is None:  # All of them.
        pk_set = set(getattr(instance, name).using(using).values_list("pk", flat=True))
    if pk_set:
        keys = sorted(pk_set, key=str)
        label = there._meta.label_lower
        targets = [_target(instance), *((label, _id_text(key)) for key in keys)]
        changes = [{"path": f"/{name}", _SIDES[action]: keys}]
        _record_change(here, "updated", targets, changes, using)


def _row(model: type[Model], instance: Model, using: str) -> Mapping[str, Any] | None:
    """The row of an instance as it is stored, None when there is none."""
    if instance.pk is None:
        return None
    names = [field.attname for field in model._meta.concrete_fields]
    names = [name for name in names if name not in _excluded[model]]
    rows = model._base_manager.using(using).filter(pk=instance.pk)
    row: Mapping[str, Any] | None = rows.values(*names).first()
    return row


def _record_change(
    model: type[Model], what: str, targets: list[Principal], changes: Changes, using: str
) -> None:
    recorder = ledger_recorder()
    # Of the moment of the change: at the commit the block may be over, and the user logged out.
    scope = dict(current_scope())
    if callable(scope.get("actor")):
        scope["actor"] = actor_of(scope["actor"])()
    at = datetime.now(UTC)

    def record() -> None:
        with restored(scope):
            recorder.record_quietly(
                f"{model._meta.label_lower}.{what}", targets=targets, changes=changes, time=at
            )

    transaction.on_commit(record, using=using, robust=True)


def _target(instance: Model) -> Principal:
    return _concrete(type(instance))._meta.label_lower, _id_text(instance.pk)


def _concrete(model: type[Model]) -> type[Model]:
    """The model itself, of one that may be a proxy."""
    return model._meta.concrete_model or model


def _id_text(key: object) -> str:
    # A composite key is a tuple.
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)
