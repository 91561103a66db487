"""Users of Django: who acts, and the events of logins, logouts and refusals."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Model
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch

from ledger_client.integrations.django_fields import id_text
from ledger_client.integrations.django_impersonation import ASKED, impersonator_key
from ledger_client.integrations.django_settings import ledger_recorder
from ledger_client.integrations.request_info import UNKNOWN
from ledger_client.integrations.views import login_check

LOADED_USER: Final = "_ledger_user"
"""The attribute of a request for its lazy user, and the user that was loaded for it."""

_DELETED_KEY: Final = "_ledger_deleted_key"
_ADMIN: Final = "admin"
_ADMIN_LOGIN: Final = "admin:login"
_FORBIDDEN: Final = 403
_HASH_CHARS: Final = 32


def user_actor(request: HttpRequest) -> dict[str, Any] | None:
    """The user that Django's AuthenticationMiddleware, or a login since, has found."""
    user = getattr(request, "user", None)
    lazy, loaded = getattr(request, LOADED_USER, (None, None))
    if user is not None and user is lazy:
        user = loaded
    if user is None or not user.is_authenticated:
        return None
    return _actor_of(user, request)


def keep_asked(request: HttpRequest) -> None:
    """Keep who asks for a request that will log in as another user."""
    setattr(request, ASKED, user_actor(request))


def principal_of(user: Any) -> dict[str, Any]:
    """A user as an actor or a target, also after its row was deleted."""
    key = getattr(user, _DELETED_KEY, None) if user.pk is None else user.pk
    known = UNKNOWN if key is None else {"id": id_text(key)}
    return {**known, "type": "user", "name": user.get_username()}


def session_hash(request: HttpRequest | None) -> str | None:
    """A hash of the session's key: it tells sessions apart, and opens none.

    The first 32 hexadecimal digits of SHA-256.
    """
    key = getattr(getattr(request, "session", None), "session_key", None)
    return hashlib.sha256(key.encode()).hexdigest()[:_HASH_CHARS] if key else None


def record_login(*, user: Any, request: HttpRequest | None = None, **_: Any) -> None:
    """Record `user.login`, with who was logged in before in this session.

    A login by a package for impersonation is of who asked for it.
    """
    actor, asked = _actor_of(user, request), getattr(request, ASKED, None)
    if asked is not None and asked["id"] != actor["id"]:
        who = {name: asked[name] for name in ("type", "id", "name") if name in asked}
        session = {name: actor[name] for name in ("session",) if name in actor}
        actor = {**who, **session, "on_behalf_of": principal_of(user)}
    before = None if asked is not None else _user_before(request)
    ledger_recorder().record_quietly(
        "user.login",
        actor=actor,
        context=None
        if before is None or before.pk == user.pk
        else {"logged_in_before": principal_of(before)},
    )


def record_logout(*, user: Any | None, request: HttpRequest | None = None, **_: Any) -> None:
    """Record `user.logout`, if somebody was logged in."""
    if user is not None:
        ledger_recorder().record_quietly("user.logout", actor=_actor_of(user, request))


def keep_deleted_key(*, instance: Model, **_: Any) -> None:
    """Keep the key of a user, which `delete` sets to None: its request may record more events."""
    setattr(instance, _DELETED_KEY, instance.pk)


def record_login_failed(*, credentials: Mapping[str, Any], **_: Any) -> None:
    """Record a refused `user.login`, with the name that was typed."""
    name = credentials.get(str(get_user_model().USERNAME_FIELD)) or credentials.get("username")
    ledger_recorder().record_quietly(
        "user.login",
        outcome="failure",
        # What was typed is no id of a user; nobody may have that name.
        target=("username", name) if name and isinstance(name, str) else None,
    )


def login_paths() -> Iterator[str]:
    """The login pages of the project, and of Django's admin if it is used."""
    for name in (settings.LOGIN_URL, _ADMIN_LOGIN):
        with suppress(NoReverseMatch):
            yield resolve_url(name)


def record_refusals(request: HttpRequest, response: HttpResponseBase) -> None:
    """Record what no signal tells: a refused page of the admin, a login that was not allowed.

    The admin sends a user who is no member of the staff to its login page, and refuses a member
    without the permission with 403. A login form refuses a user with the right password, who is
    not active or no member of the staff, only after Django has authenticated him.
    """
    # This imports models, which Django has not loaded when it imports the application.
    from django.contrib.auth.forms import AuthenticationForm

    form = (getattr(response, "context_data", None) or {}).get("form")
    if isinstance(form, AuthenticationForm) and form.is_bound and form.errors:
        user = form.get_user()
        if user is not None:
            ledger_recorder().record_quietly(
                "user.login", outcome="denied", target=principal_of(user)
            )
    match = request.resolver_match
    if match is not None and _ADMIN in match.app_names and _is_refused(request, response):
        target = {"type": "admin.page", "id": request.path}
        ledger_recorder().record_quietly("admin.opened", outcome="denied", target=target)


def _actor_of(user: Any, request: HttpRequest | None) -> dict[str, Any]:
    own, hashed = principal_of(user), session_hash(request)
    session = {} if hashed is None else {"session": hashed}
    other = None if request is None else impersonator_key(request, user)
    if other is None or other == own["id"]:
        return {**own, **session}
    return {"type": "user", "id": other, **session, "on_behalf_of": own}


def _user_before(request: HttpRequest | None) -> Any | None:
    """Who was logged in when the request came, if Django has asked for that."""
    for name in ("_cached_user", "_acached_user"):  # Of `get_user` and `aget_user`.
        user = getattr(request, name, None)
        if user is not None and user.is_authenticated:
            return user
    return None


def _is_refused(request: HttpRequest, response: HttpResponseBase) -> bool:
    if response.status_code == _FORBIDDEN:
        return True
    location = response.headers.get("Location")
    user = getattr(request, "user", None)
    # A stranger who has not logged in is only asked to.
    if location is None or user is None or not user.is_authenticated:
        return False
    with suppress(NoReverseMatch):
        return login_check([resolve_url(_ADMIN_LOGIN)])(location)
    return False
