"""The route table: which requests there are, what they take and what they answer.

Each resource's module lists its `Route`s. The server finds the handler of a request in them, reads
its parameters by them, and the OpenAPI document is printed from them, so the three can't disagree.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import unquote_plus

from aiohttp import web

from ledger.service.http.problems import ProblemError
from ledger.store.tokens import TokenScope
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.text import excerpt, parse_size

QUERY_PARAMETERS_MAX: Final = 16

Handler = Callable[..., Awaitable[web.StreamResponse]]
"""Called with the service, the request, and the parameters given, as keyword arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the path or the query."""

    name: str
    place: Literal["path", "query"]
    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    help: str
    required: bool = False
    pattern: str = "[^/]+"
    """What it may look like in a path."""

    @property
    def argument(self) -> str:
        """The name under which a handler gets it: `from` can't be one in Python."""
        return f"{self.name}_" if iskeyword(self.name) else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A body, as one media type has it: a msgspec type, a tuple of such, or a JSON Schema."""

    media: str
    type: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """An answer that is no problem document."""

    status: int = 200
    help: str
    contents: Sequence[Content]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path. GET routes answer HEAD too."""

    method: Literal["GET", "POST"] = "GET"
    path: str
    handler: Handler
    summary: str
    scope: TokenScope | None = None
    parameters: Sequence[Parameter] = ()
    bodies: Sequence[Content] = ()
    successes: Sequence[Success]
    problems: Sequence[str] = ()
    query: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self) -> None:
        query = {each.name: each for each in self.parameters if each.place == "query"}
        object.__setattr__(self, "query", query)

    def pattern(self) -> re.Pattern[str]:
        """What the path of a request looks like, percent-decoded."""
        path = re.escape(self.path)
        for each in self.parameters:
            if each.place == "path":
                path = path.replace(rf"\{{{each.name}\}}", f"(?P<{each.name}>{each.pattern})")
        return re.compile(path)


class Found(NamedTuple):
    """The route of a request, and the values of its path's parameters."""

    route: Route
    values: Mapping[str, str]


class Router:
    """Finds the route of a request: by one look-up for paths without parameters."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        for route in routes:
            if "{" in route.path:
                self._patterns.append((route.pattern(), _methods(route)))
            else:
                self._fixed.setdefault(route.path, {}).update(_methods(route))

    def find(self, method: str, path: str) -> Found:
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
        return Found(route, values)

    def _match(self, path: str) -> tuple[dict[str, Route], Mapping[str, str]]:
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        raise ProblemError("not-found", "there is nothing at this path")


def read_parameters(route: Route, values: Mapping[str, str], query_string: str) -> dict[str, Any]:
    """The parameters of a request, parsed, by name.

    Raises: ProblemError for one that is unknown, repeated, missing or malformed.
    """
    given: dict[str, Any] = dict(values)
    if query_string:
        _read_query(route, query_string, given)
    for each in route.parameters:
        if each.required and each.argument not in given:
            raise ProblemError("bad-parameter", "is required", field=each.name)
    return given


def size_parameter(name: str, help_: str, *, required: bool = False) -> Parameter:
    """A tree size or an index in the query."""
    return Parameter(
        name=name,
        place="query",
        parse=parse_size,
        schema={"type": "integer", "minimum": 0, "maximum": SIZE_MAX},
        help=help_,
        required=required,
    )


def choice_parameter(name: str, choices: Sequence[str], help_: str) -> Parameter:
    """One of a few words in the query."""

    def parse(text: str) -> str:
        if text not in choices:
            raise MalformedError(f"not one of {', '.join(choices)}: {excerpt(text)}")
        return text

    return Parameter(
        name=name,
        place="query",
        parse=parse,
        schema={"type": "string", "enum": list(choices)},
        help=help_,
    )


def flag_parameter(name: str, help_: str) -> Parameter:
    """1 or 0 in the query."""

    def parse(text: str) -> bool:
        if text not in ("0", "1"):
            raise MalformedError(f"not 0 or 1: {excerpt(text)}")
        return text == "1"

    return Parameter(
        name=name,
        place="query",
        parse=parse,
        schema={"type": "string", "enum": ["0", "1"]},
        help=help_,
    )


def path_parameter(
    name: str, help_: str, *, pattern: str = "[^/]+", schema: Mapping[str, Any] | None = None
) -> Parameter:
    """A part of the path."""
    return Parameter(
        name=name,
        place="path",
        parse=str,
        schema=schema or {"type": "string"},
        help=help_,
        required=True,
        pattern=pattern,
    )


def _methods(route: Route) -> dict[str, Route]:
    return {"GET": route, "HEAD": route} if route.method == "GET" else {route.method: route}


def _read_query(route: Route, query_string: str, given: dict[str, Any]) -> None:
    pieces = query_string.split("&")
    if len(pieces) > QUERY_PARAMETERS_MAX:
        raise ProblemError(
            "bad-parameter",
            f"at most {QUERY_PARAMETERS_MAX} parameters are read",
            limit=QUERY_PARAMETERS_MAX,
            got=len(pieces),
        )
    for piece in pieces:
        name, _, text = piece.partition("=")
        name, text = unquote_plus(name), unquote_plus(text)
        parameter = route.query.get(name)
        if parameter is None:
            raise ProblemError("bad-parameter", f"there is no parameter {excerpt(name)}")
        if parameter.argument in given:
            raise ProblemError("bad-parameter", "stands twice", field=name)
        try:
            given[parameter.argument] = parameter.parse(text)
        except MalformedError as error:
            raise ProblemError("bad-parameter", str(error), field=name) from None
