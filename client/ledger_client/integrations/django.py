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
`.updated` or `.deleted`, with what changed but for the fields listed there (`django_fields` has
more options). A save costs two more queries then, of the row before and after it. Writes of many
rows send no signal: `django_bulk` records them. SQL is not seen. `django_checks` has the system
checks.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.apps import AppConfig
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import pre_delete
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.functional import SimpleLazyObject
from django.utils.module_loading import import_string

from ledger_client.integrations.django_checks import (
    APP,
    check_ledger,
    is_app_installed,
    is_middleware_installed,
)
from ledger_client.integrations.django_fields import read_models
from ledger_client.integrations.django_impersonation import switches_user
from ledger_client.integrations.django_models import record_models
from ledger_client.integrations.django_settings import is_enabled, ledger_settings, request_settings
from ledger_client.integrations.django_settings import ledger_recorder as ledger_recorder
from ledger_client.integrations.django_users import (
    LOADED_USER,
    keep_asked,
    keep_deleted_key,
    login_paths,
    record_login,
    record_login_failed,
    record_logout,
    record_refusals,
    user_actor,
)
from ledger_client.integrations.proxies import environ_header, parse_peer, scope_header
from ledger_client.integrations.request_info import (
    AsyncIterateInContext,
    IterateInContext,
    RequestReader,
    actor_of,
)
from ledger_client.integrations.views import chosen_view, login_check
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import AuditContext, audit_context, current_scope, restored
from ledger_client.recording.view_request import ChosenView, ViewRequest, view_request

_OF_SESSION: Final = "django.contrib.auth.middleware"
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
        self._get_response: Final = get_response
        self._is_async: Final = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        self._is_enabled: Final = is_enabled(chosen)
        if not self._is_enabled:
            return
        read_models(chosen.get("MODELS", {}))
        ledger_recorder()
        if not is_app_installed():
            _log.warning("ledger_app_not_installed: INSTALLED_APPS lacks LedgerConfig of %s", APP)
        self._reader: Final = RequestReader(**request_settings(chosen))
        self._has_login_paths: Final = "LOGIN_PATHS" in chosen
        self._actor: Final[Callable[[HttpRequest], Principal | None]] = (
            import_string(chosen["ACTOR"]) if "ACTOR" in chosen else user_actor
        )
        self.process_view: Final = _load_user_async if self._is_async else _load_user

    def __call__(self, request: HttpRequest) -> Any:
        """Answer one request."""
        if self._is_async:
            return self._respond_async(request)
        if not self._is_enabled:
            with audit_context(fresh=True):  # For `extend_audit_context` in a view.
                return self._get_response(request)
        view = _view_of(request, self._is_login)
        with audit_context(fresh=True, **self._read(request)), view_request(view):
            return self._finish(request, view, self._get_response(request))

    async def _respond_async(self, request: HttpRequest) -> HttpResponseBase:
        if not self._is_enabled:
            with audit_context(fresh=True):
                passed: HttpResponseBase = await self._get_response(request)
                return passed
        view = _view_of(request, self._is_login)
        with audit_context(fresh=True, **self._read(request)), view_request(view):
            response = await self._get_response(request)
            return self._finish(request, view, response)

    def _finish(
        self, request: HttpRequest, view: ViewRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        view.respond(response.status_code, response.headers.get("Location"))
        with _noting_failure("refusal_not_recorded"):
            record_refusals(request, response)
        return _streaming_within(current_scope(), response)

    def _is_login(self, location: str) -> bool:
        if self._has_login_paths:
            return self._reader.is_login(location)
        # The language and the prefix of the request may be in these.
        return login_check(login_paths())(location)

    def _read(self, request: HttpRequest) -> dict[str, Any]:
        host = request.META.get("REMOTE_ADDR") or ""
        peer = parse_peer(host, request.META.get("REMOTE_PORT"))  # The port in ASGI alone.
        reader, scope = self._reader, getattr(request, "scope", None)

        def header(name: str) -> list[str]:
            if scope is not None:  # Under ASGI, before Django has joined names in META.
                return scope_header(scope, name)
            return environ_header(request.META, name, drops_underscores=reader.drops_underscores)

        arguments = reader.read(peer, header)
        return {**arguments, "actor": actor_of(lambda: self._actor(request))}


class LedgerConfig(AppConfig):
    """The application: listens to the signals."""

    name = APP
    label = "witnessed_ledger"
    verbose_name = "Audit ledger"

    def ready(self) -> None:
        """Connect.

        Raises: ImproperlyConfigured for a wrong setting, where no middleware is there to raise it:
        the system checks, which run later, list all that is wrong.
        """
        checks.register(check_ledger, "ledger")
        try:
            chosen = ledger_settings()
            if not is_enabled(chosen):
                return
            record_models(chosen.get("MODELS", {}))
        except ImproperlyConfigured as error:
            if not is_middleware_installed():
                raise
            _log.error("models_not_recorded reason=%s", error)
        user_logged_in.connect(record_login, dispatch_uid=record_login)
        user_logged_out.connect(record_logout, dispatch_uid=record_logout)
        user_login_failed.connect(record_login_failed, dispatch_uid=record_login_failed)
        with suppress(ImproperlyConfigured):  # A project may have no model of users.
            users = get_user_model()
            pre_delete.connect(keep_deleted_key, sender=users, dispatch_uid=keep_deleted_key)


def _view_of(request: HttpRequest, is_login: Callable[[str], bool]) -> ViewRequest:
    def choose() -> ChosenView | None:
        match = request.resolver_match
        if match is None:
            return None
        return chosen_view(match.func, request.method or "", {"request": request, **match.kwargs})

    return ViewRequest(choose, is_login)


def _load_user(request: HttpRequest, view: Callable[..., Any], *_: Any) -> None:
    """Find out who it is before an async view, which may not ask: its loop must not wait.

    Django calls this before each view.
    """
    with _noting_failure("user_not_loaded"):
        if not iscoroutinefunction(view):
            if switches_user(view):
                keep_asked(request)
        elif not _is_of_session(request) or settings.SESSION_COOKIE_NAME in request.COOKIES:
            _evaluate_user(request)


async def _load_user_async(request: HttpRequest, view: Callable[..., Any], *_: Any) -> None:
    """As `_load_user`, in an application that runs asynchronously."""
    with _noting_failure("user_not_loaded"):
        if not iscoroutinefunction(view):
            if switches_user(view):
                await sync_to_async(keep_asked)(request)
        elif _is_of_session(request):
            if settings.SESSION_COOKIE_NAME in request.COOKIES:
                lazy = request.user
                setattr(request, LOADED_USER, (lazy, await request.auser()))
        elif _lazy_user(request) is not None:
            await sync_to_async(_evaluate_user)(request)


def _evaluate_user(request: HttpRequest) -> None:
    hasattr(_lazy_user(request), "is_authenticated")  # Any attribute of a lazy object will do.


def _lazy_user(request: HttpRequest) -> Any | None:
    user: Any = getattr(request, "user", None)
    return user if type(user) is SimpleLazyObject else None


def _is_of_session(request: HttpRequest) -> bool:
    """Whether the user is that of AuthenticationMiddleware, whom `auser` gives too.

    A middleware behind it may have put another one in its place, as the owner of a token.
    """
    find = getattr(_lazy_user(request), "__dict__", {}).get("_setupfunc")
    return getattr(find, "__module__", None) == _OF_SESSION and hasattr(request, "auser")


@contextmanager
def _noting_failure(event: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a request must not fail at what the ledger needs
        _log.error("%s error=%s", event, type(error).__name__)


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
