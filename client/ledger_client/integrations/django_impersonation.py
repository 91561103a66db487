"""Who works as another user in Django, by the packages that let administrators do so.

    django-hijack, django-su, django-loginas    the session is the user's, and names who began it
    django-impersonate                          the request names who began it

The actor of an event is who began it, and `on_behalf_of` the user. Of a chain of them, the first
one is the actor. These packages log in as the user without his password, so their logins are of who
asked for them too.
"""

from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest

from ledger_client.integrations.django_fields import id_text

ASKED: Final = "_ledger_asked"
"""The attribute of a request for its actor before a view of these packages logs in as another."""

_PACKAGES: Final = frozenset({"hijack", "django_su", "loginas"})


def switches_user(view: Callable[..., Any]) -> bool:
    """Whether a view is one of the packages that log in as another user, or back again."""
    return str(getattr(view, "__module__", "")).partition(".")[0] in _PACKAGES


def impersonator_key(request: HttpRequest, user: Any) -> str | None:
    """The key of who works as this user of the request; None for a user who works himself."""
    first = getattr(getattr(request, "impersonator", None), "pk", None)
    if first is not None and getattr(user, "is_impersonate", False):
        return id_text(first)
    session, model = getattr(request, "session", None), getattr(user, "_meta", None)
    # A request with a session may have its user from elsewhere, as from a token. One that was not
    # read yet is left alone: to read it may take a query, and makes the response vary by cookie.
    if session is None or model is None or not session.accessed:
        return None
    if session.get(SESSION_KEY) != model.pk.value_to_string(user):
        return None
    return _first_of(session)


def _first_of(session: Any) -> str | None:
    match session.get("hijack_history"):
        case [str() | int() as key, *_]:
            return str(key)
    match session.get("exit_users_pk"):
        case [[str() | int() as key, *_], *_]:
            return str(key)
    flag = getattr(settings, "LOGINAS_FROM_USER_SESSION_FLAG", "loginas_from_user")
    signed = session.get(flag)
    # A key, the time and the signature. The session is the server's own, or signed itself.
    return signed.rsplit(":", 2)[0] if isinstance(signed, str) else None
