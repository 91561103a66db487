"""The route table: the requests that are served, their parameters and their answers.

Each module of `ledger.service.routes` lists its `Route`s. The server finds the handler of a request
in them and reads its parameters by them, and the OpenAPI document is printed from them, so the
three can't disagree.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import unquote_plus

from aiohttp import web

from ledger.service.http.parameters import Parameter
from ledger.service.http.problems import ProblemError
from ledger.store.tokens import TokenScope
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

QUERY_PARAMETERS_MAX: Final = 16

_ROUTE_PATH: Final = web.RequestKey("ledger.route_path", str)

Handler = Callable[..., Awaitable[web.StreamResponse]]
"""Called with the context, the request, and the parsed parameters as keyword arguments."""


TEXT_SCHEMA: Final = {"type": "string"}
BYTES_SCHEMA: Final = {"type": "string", "format": "binary"}

Contents = Mapping[str, Any]
"""By media type, the form of a body: a msgspec type, a tuple of them, or a JSON Schema."""


class Success(NamedTuple):
    """An answer that is not a plain problem document."""

    help: str
    contents: Contents
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path. GET routes answer HEAD too."""

    method: Literal["GET", "POST", "DELETE"] = "GET"
    path: str
    handler: Handler
    summary: str
    scope: TokenScope | None = None
    other_scope: TokenScope | None = None
    """A scope that does as well."""
    parameters: Sequence[Parameter] = ()
    bodies: Contents = field(default_factory=dict)
    successes: Sequence[Success]
    problems: Sequence[str] = ()
    is_streamed: bool = False
    """The answer is written while it is found, and may take days."""
    is_write: bool = False
    """It appends to the log: a mirror refuses it."""
    query: Mapping[str, Parameter] = field(init=False)
    required: Sequence[Parameter] = field(init=False)
    """The parameters that each request has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "required", [each for each in self.parameters if each.required])
        query = {each.name: each for each in self.parameters if each.place == "query"}
        object.__setattr__(self, "query", query)

    @property
    def scopes(self) -> tuple[TokenScope, ...]:
        """The scopes of which a token needs one; none when it needs no token."""
        return tuple(each for each in (self.scope, self.other_scope) if each is not None)

    def pattern(self) -> re.Pattern[str]:
        """The pattern that the percent-decoded path of a request matches."""
        path = re.escape(self.path)
        for each in self.parameters:
            if each.place == "path":
                path = path.replace(rf"\{{{each.name}\}}", f"(?P<{each.name}>{each.pattern})")
        return re.compile(path)


def route_path(request: web.BaseRequest) -> str:
    """The path of a request as its route has it, which holds no value: `/v1/events/{ref}`."""
    path: str = request.get(_ROUTE_PATH, "")
    return path


class ReadNote(NamedTuple):
    """The facts about an answer that holds events, for the log: their number, and the question."""

    rows: int = 0
    query: str = ""
    field: str = ""


_READ: Final = web.RequestKey("ledger.read", ReadNote)


def note_read(request: web.BaseRequest, rows: int, query: str = "", field: str = "") -> None:
    """Keep for `read_note` how many events an answer holds; streams add to it."""
    before = request.get(_READ, ReadNote())
    request[_READ] = ReadNote(before.rows + rows, query or before.query, field or before.field)


def read_note(request: web.BaseRequest) -> ReadNote:
    """What `note_read` kept."""
    note: ReadNote = request.get(_READ, ReadNote())
    return note


class RouteMatch(NamedTuple):
    """The route of a request, and the values of its path's parameters."""

    route: Route
    values: Mapping[str, str]


class Router:
    """Finds the route of a request; a path without parameters takes one look-up in a dict."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        patterns: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in routes:
            if "{" in route.path:
                patterns.setdefault(route.pattern(), {}).update(_methods(route))
            else:
                self._fixed.setdefault(route.path, {}).update(_methods(route))
        self._patterns = list(patterns.items())

    def match(self, request: web.BaseRequest) -> RouteMatch:
        """The route of a request, kept for `route_path`. Raises: as `find`."""
        match = self.find(request.method, request.path)
        request[_ROUTE_PATH] = match.route.path
        return match

    def find(self, method: str, path: str) -> RouteMatch:
        """The route. Raises: ProblemError with 404, or 405 and Allow."""
        values: Mapping[str, str] = {}
        methods = self._fixed.get(path)
        if methods is None:
            methods, values = self._match(path)
        route = methods.get(method)
        if route is None:
            allow = ", ".join(sorted(methods))
            raise ProblemError(
                "method-not-allowed", f"this path takes {allow}", headers={"Allow": allow}
            )
        return RouteMatch(route, values)

    def _match(self, path: str) -> tuple[dict[str, Route], Mapping[str, str]]:
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        raise ProblemError("not-found", "there is nothing at this path")


def read_parameters(match: RouteMatch, raw_query: str) -> dict[str, Any]:
    """The parameters of a request, parsed, by name. `raw_query` is the query as it was sent.

    Raises: ProblemError for one that is unknown, repeated, missing or malformed.
    """
    route = match.route
    arguments: dict[str, Any] = dict(match.values)
    if raw_query:
        arguments |= _read_query(route, raw_query)
    for each in route.required:
        if each.argument not in arguments:
            raise ProblemError("bad-parameter", "is required", field=each.name)
    return arguments


def _methods(route: Route) -> dict[str, Route]:
    return {"GET": route, "HEAD": route} if route.method == "GET" else {route.method: route}


def _read_query(route: Route, raw_query: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    pieces = raw_query.split("&")
    if len(pieces) > QUERY_PARAMETERS_MAX:
        raise ProblemError(
            "bad-parameter",
            f"at most {QUERY_PARAMETERS_MAX} parameters are read",
            limit=QUERY_PARAMETERS_MAX,
            got=len(pieces),
        )
    for piece in pieces:
        name, _, text = piece.partition("=")
        try:
            name, text = unquote_plus(name, errors="strict"), unquote_plus(text, errors="strict")
        except UnicodeDecodeError:
            raise ProblemError("bad-parameter", "the query is not UTF-8") from None
        parameter = route.query.get(name)
        if parameter is None:
            raise ProblemError("bad-parameter", f"there is no parameter {excerpt(name)}")
        if parameter.argument in arguments:
            raise ProblemError("bad-parameter", "stands twice", field=name)
        try:
            arguments[parameter.argument] = parameter.parse(text)
        except MalformedError as error:
            raise ProblemError("bad-parameter", str(error), field=name) from None
    return arguments
