"""The outcome of an action that raised an exception or returned a response.

The frameworks' classes are looked up among the loaded modules, and nothing is imported. They are
recognised by class, not by an attribute: the `status_code` of an HTTP client's error or response is
the answer of another service, and no denial by this application.
"""

import sys
from typing import Any, Final, Literal

Outcome = Literal["success", "failure", "denied", "unknown"]

DENIED_STATUSES: Final = frozenset({401, 403})
ERROR_STATUS_MIN: Final = 400

_DENIALS: Final = (("django.core.exceptions", "PermissionDenied"),)
"""Classes that always mean a denial."""

_HTTP_ERRORS: Final = (
    ("aiohttp.web_exceptions", "HTTPException", "status_code"),
    ("falcon.http_error", "HTTPError", "status_code"),
    ("litestar.exceptions", "HTTPException", "status_code"),
    ("rest_framework.exceptions", "APIException", "status_code"),
    ("sanic.exceptions", "SanicException", "status_code"),
    ("starlette.exceptions", "HTTPException", "status_code"),
    ("tornado.web", "HTTPError", "status_code"),
    ("werkzeug.exceptions", "HTTPException", "code"),
)
"""Classes that stand for an HTTP response, and the attribute that holds its status."""

_RESPONSES: Final = (
    ("aiohttp.web_response", "StreamResponse", "status"),
    ("django.http.response", "HttpResponseBase", "status_code"),
    ("starlette.responses", "Response", "status_code"),
    ("werkzeug.sansio.response", "Response", "status_code"),
)
"""The responses of the frameworks that have an integration; DRF's are Django's."""


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of an action that raised this.

    A raised response below 400, such as a redirect, is a success. A `BaseException` that is no
    `Exception`, such as a task's cancellation or Ctrl-C, interrupted the action: unknown.
    """
    if isinstance(error, PermissionError):
        return "denied"
    if any(_is_a(error, module, name) for module, name in _DENIALS):
        return "denied"
    for module, name, attribute in _HTTP_ERRORS:
        if _is_a(error, module, name):
            # Werkzeug's may hold the response itself, as after `abort(response)`, and no code.
            is_holder = module == "werkzeug.exceptions"
            held = response_of(_read(error, "response")) if is_holder else None
            return outcome_of_status(_read(error, attribute) if held is None else held[0])
    return "failure" if isinstance(error, Exception) else "unknown"


def response_of(result: object) -> tuple[int, str | None] | None:
    """The status of a framework's response, and where it redirects; None for another value."""
    for module, name, attribute in _RESPONSES:
        if _is_a(result, module, name):
            status = _read(result, attribute)
            return (status, _location(result)) if isinstance(status, int) else None
    return None


def outcome_of_status(status: object) -> Outcome:
    """The outcome for the status of a response."""
    if not isinstance(status, int):
        return "failure"
    if status in DENIED_STATUSES:
        return "denied"
    return "failure" if status >= ERROR_STATUS_MIN else "success"


def _is_a(value: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    # The type is asked: `__class__` of the application's objects may raise.
    return isinstance(kind, type) and issubclass(type(value), kind)


def _read(value: object, attribute: str) -> Any:
    """An attribute of the application's object, which may raise; None then."""
    try:
        return getattr(value, attribute, None)
    except Exception:  # noqa: BLE001 - the application's code
        return None


def _location(response: Any) -> str | None:
    try:
        location: str | None = response.headers.get("Location")
    except Exception:  # noqa: BLE001 - the application's code
        return None
    return location
