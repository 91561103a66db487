"""The OpenAPI 3.1 document, printed from the route table and the types of answers.

Source: spec.openapis.org/oas/v3.1.1.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec

from ledger.service.http.parameters import Parameter
from ledger.service.http.problems import PROBLEMS
from ledger.service.http.responses import PROBLEM_MEDIA
from ledger.service.http.router import Contents, Route
from ledger.service.routes import ROUTES
from ledger_core.api import AllRefused, Problem, Refused, Result, Unproven
from ledger_core.event.model import Event
from ledger_core.status import NotReady

REF_TEMPLATE: Final = "#/components/schemas/{name}"

_ALWAYS: Final = ("bad-parameter", "target-too-long", "header-too-long", "internal")
_WITH_TOKEN: Final = (
    "token-missing",
    "token-unknown",
    "scope-missing",
    "wrong-network",
    "rate-exceeded",
)
_RETRIED: Final = frozenset(
    {
        "rate-exceeded",
        "queue-full",
        "too-busy",
        "not-yet-published",
        "writing-stopped",
        "unavailable",
    }
)

_PROBLEM_DOCUMENTS: Final = frozenset(
    each.__name__ for each in (Problem, AllRefused, Unproven, NotReady)
)
_ALWAYS_SENT: Final = ("type", "title", "status", "detail")

_DESCRIPTION: Final = """\
An append-only log of audit events whose every answer can be checked without trusting this service:
events are leaves of an RFC 6962 Merkle tree whose heads are signed.

Every path with GET answers HEAD. Every refusal is a problem document (RFC 9457) of the table at
`/v1/problems`. Numbers in paths and queries are ASCII digits without sign or leading zero, below
2^63; a parameter that is unknown or stands twice is refused. Bytes in JSON are base64.
"""


def make_openapi() -> bytes:
    """The document as JSON."""
    schemas, components = _schemas()
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in ROUTES:
        paths[route.path][route.method.lower()] = _operation(route, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "witnessed-ledger",
            "version": version("witnessed-ledger"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `ledger token create`.",
                }
            },
        },
    }
    return msgspec.json.encode(document)


def route_rows() -> list[tuple[str, str, str]]:
    """The routes for the documentation: method and path, the scope needed, what it does."""
    return [(f"`{route.method} {route.path}`", _scopes(route), route.summary) for route in ROUTES]


def _scopes(route: Route) -> str:
    return " or ".join(f"`{each}`" for each in route.scopes)


def _schemas() -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """The schema of every type that the routes name, and the components that they refer to."""
    types = [*dict.fromkeys(_types()), Problem, Event, Result, Refused]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    return dict(zip(types, schemas, strict=True)), {
        name: _as_sent(component) for name, component in components.items()
    }


def _as_sent(component: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type as this service encodes it.

    An answer leaves a member without a value out instead of sending null, and a problem document
    always has the members that a decoder of foreign ones must do without.
    """
    properties = component.get("properties", {})
    for name, schema in properties.items():
        if schema.get("default", "") is None:
            (properties[name],) = (each for each in schema["anyOf"] if each != {"type": "null"})
    if component["title"] in _PROBLEM_DOCUMENTS:
        for name in _ALWAYS_SENT:
            properties[name].pop("default")
        component["required"] = [*_ALWAYS_SENT, *component["required"]]
    return component


def _types() -> Iterator[Any]:
    for route in ROUTES:
        for contents in (route.bodies, *(each.contents for each in route.successes)):
            for form in contents.values():
                if not isinstance(form, Mapping):
                    yield from form if isinstance(form, tuple) else (form,)


def _operation(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [_parameter(each) for each in route.parameters],
        "responses": _responses(route, schemas),
        "security": [{"token": []}] if route.scope else [],
    }
    if route.scope:
        operation["description"] = f"Needs a token with the scope {_scopes(route)}."
    if route.bodies:
        operation["requestBody"] = {"required": True, "content": _contents(route.bodies, schemas)}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "description": parameter.help,
        "schema": dict(parameter.schema),
    }


def _responses(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for success in route.successes:
        responses[str(success.status)] = {
            "description": success.help,
            "content": _contents(success.contents, schemas),
        }
    slugs = (*_ALWAYS, *(_WITH_TOKEN if route.scope else ()), *route.problems)
    by_status: dict[int, list[str]] = defaultdict(list)
    for slug in dict.fromkeys(slugs):
        by_status[PROBLEMS[slug].status].append(slug)
    for status, named in sorted(by_status.items()):
        _add_problems(responses, status, named)
    return responses


def _add_problems(responses: dict[str, Any], status: int, slugs: Sequence[str]) -> None:
    """Document the problems of one status, beside a success that has the same."""
    meanings = "\n".join(f"* `{slug}`: {PROBLEMS[slug].meaning}" for slug in slugs)
    problem = {"$ref": REF_TEMPLATE.format(name="Problem")}
    known = responses.get(str(status))
    response: dict[str, Any] = {
        "description": meanings,
        "content": {PROBLEM_MEDIA: {"schema": problem}},
    }
    if known is not None:
        response["description"] = f"{known['description']}\n\n{meanings}"
        shared = known["content"][PROBLEM_MEDIA]["schema"]
        response["content"][PROBLEM_MEDIA]["schema"] = {"anyOf": [shared, problem]}
    if _RETRIED.intersection(slugs):
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    responses[str(status)] = response


def _contents(contents: Contents, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    return {media: {"schema": _schema(form, schemas)} for media, form in contents.items()}


def _schema(form: Any, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    if isinstance(form, tuple):
        return {"anyOf": [schemas[each] for each in form]}
    return dict(form if isinstance(form, Mapping) else schemas[form])
