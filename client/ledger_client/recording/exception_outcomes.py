"""The outcome of an action that raised an exception: denied, failure, success or unknown.

The frameworks' exceptions are looked up among the loaded modules, and nothing is imported. They are
recognised by class, not by an attribute: the `status_code` of an HTTP client's error is the answer
of another service, and no denial by this application.
"""

import sys
from typing import Final, Literal

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
            return _outcome_of_status(getattr(error, attribute, None))
    return "failure" if isinstance(error, Exception) else "unknown"


def _outcome_of_status(status: object) -> Outcome:
    if not isinstance(status, int):
        return "failure"
    if status in DENIED_STATUSES:
        return "denied"
    return "failure" if status >= ERROR_STATUS_MIN else "success"


def _is_a(error: BaseException, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)
