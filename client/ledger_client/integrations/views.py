"""Finds the `@audited` of the view that a framework has chosen; knows redirects to a login page.

A view is a function, also below decorators that use `functools.wraps`, or a class with a method for
each HTTP method: of Django, DRF (view sets and `@api_view` too), Flask, Starlette and aiohttp.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, Final
from urllib.parse import urlsplit

from ledger_client.recording.decorator import audit_of
from ledger_client.recording.view_request import ChosenView

LOGIN_PATHS: Final = ("/login",)
"""Where a redirect is a refusal, unless the setting `login_paths` says otherwise."""


def chosen_view(view: object, method: str, arguments: Mapping[str, Any]) -> ChosenView | None:
    """The audited function that answers this HTTP method; None when it is not audited."""
    for each in _functions(view, method.lower()):
        audit = audit_of(each)
        if audit is not None:
            return ChosenView(audit, arguments)
    return None


def login_check(paths: Iterable[str]) -> Callable[[str], bool]:
    """A function that tells whether a redirect to this address leads to one of the login pages.

    A path is on any host; `https://login.example.com/start` is on its own host alone. What is no
    address, as `//[`, leads nowhere: an application may redirect to what a stranger typed.
    """
    known = {_without_slash(path) for path in paths}

    def is_login(location: str) -> bool:
        try:
            parts = urlsplit(location)
        except ValueError:
            return False
        path = _without_slash(parts.path)
        return path in known or f"{parts.scheme}://{parts.netloc}{path}" in known

    return is_login


def _functions(view: object, method: str) -> Iterator[object]:
    yield view
    kind = getattr(view, "cls", None) or getattr(view, "view_class", None) or view
    if isinstance(kind, type):
        actions = getattr(view, "actions", None) or {}  # Of a view set of DRF.
        function = getattr(kind, actions.get(method, method), None)
        yield function
        if isinstance(function, FunctionType):
            yield from _api_view_function(function)
        yield getattr(kind, "dispatch", None)


def _api_view_function(method: FunctionType) -> Iterator[object]:
    """The function below `@api_view` of DRF, which calls it from a method that doesn't name it.

    Closures of other methods hold objects of the application, and functions that are not the view.
    """
    if method.__qualname__.startswith("api_view.<locals>."):
        cells = dict(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
        if "func" in cells:
            yield cells["func"].cell_contents


def _without_slash(path: str) -> str:
    return path.rstrip("/") or "/"
