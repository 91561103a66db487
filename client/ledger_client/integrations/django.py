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
`bulk_` methods of a query set, SQL, and what the deletion of another row sets to NULL or a default.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import AppConfig
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models import Model
from django.db.models.signals import pre_delete
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from ledger_client.integrations.django_models import id_text, record_models
from ledger_client.integrations.django_settings import REQUEST_SETTINGS, ledger_settings
from ledger_client.integrations.django_settings import ledger_recorder as ledger_recorder
from ledger_client.integrations.proxies import parse_peer
from ledger_client.integrations.request_info import (
    UNKNOWN,
    AsyncIterateInContext,
    IterateInContext,
    RequestReader,
    actor_of,
)
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import AuditContext, audit_context, current_scope, restored

_USER: Final = "_ledger_user"
_DELETED_KEY: Final = "_ledger_deleted_key"

_log = logging.getLogger("ledger_client.integrations")


class LedgerMiddleware:
    """Sets the audit context of each request."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        """Make the recorder too: a wrong setting stops the start of the server.

        Raises: ImproperlyConfigured, and what `Recorder` raises.
        """
        chosen = ledger_settings()
        ledger_recorder()
        self._get_response: Final = get_response
        self._reader: Final = RequestReader(
            **{name: chosen[name.upper()] for name in REQUEST_SETTINGS if name.upper() in chosen}
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
    known = UNKNOWN if key is None else {"id": id_text(key)}
    return {**known, "type": "user", "name": user.get_username()}


class LedgerConfig(AppConfig):
    """The application: listens to the signals."""

    name = "ledger_client.integrations.django"
    label = "witnessed_ledger"
    verbose_name = "Audit ledger"

    def ready(self) -> None:
        """Connect. Raises: ImproperlyConfigured for a model or field that there is not."""
        record_models(ledger_settings().get("MODELS", {}))
        user_logged_in.connect(_record_login, dispatch_uid=_record_login)
        user_logged_out.connect(_record_logout, dispatch_uid=_record_logout)
        user_login_failed.connect(_record_login_failed, dispatch_uid=_record_login_failed)
        pre_delete.connect(_keep_key, sender=get_user_model(), dispatch_uid=_keep_key)


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
