"""The OpenAPI document: valid, complete, and true of the running service."""

import inspect
import json
from typing import Any, get_args

import jsonschema_rs
import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from requests.structures import CaseInsensitiveDict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ledger.service.http.openapi import make_openapi, route_rows
from ledger.service.http.problems import PROBLEMS
from ledger.service.routes import ROUTES
from tests.service.serving import Ledger

EXAMPLES = 12
DOCUMENT = json.loads(make_openapi())
# A stream has no end, and neither would its test: tests/service/test_tail.py reads it.
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT).exclude(path="/v1/events/stream")


def test_every_route_parameter_and_problem_is_in_the_document() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert [each["name"] for each in operation["parameters"]] == [
            each.name for each in route.parameters
        ]
        assert (operation["security"] == [{"token": []}]) is (route.scope is not None)
        for slug in route.problems:
            response = operation["responses"][str(PROBLEMS[slug].status)]
            assert f"`{slug}`" in response["description"]
            assert "application/problem+json" in response["content"]
        assert set(route.bodies) == set(operation.get("requestBody", {}).get("content", {}))
    assert len(route_rows()) == len(ROUTES)


def test_handlers_take_the_parameters_that_their_routes_name() -> None:
    for route in ROUTES:
        taken: list[str] = []
        for name, parameter in inspect.signature(route.handler).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                taken.append(name)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                (arguments,) = get_args(parameter.annotation)
                taken += arguments.__annotations__
        assert sorted(taken) == sorted(each.argument for each in route.parameters), route.path


def test_every_reference_in_the_document_leads_somewhere() -> None:
    references: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            references.extend(value for key, value in node.items() if key == "$ref")
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(DOCUMENT)
    assert references
    for reference in references:
        node: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_every_schema_is_a_json_schema(name: str) -> None:
    schema = {**DOCUMENT["components"]["schemas"][name], "components": DOCUMENT["components"]}
    jsonschema_rs.meta.validate(
        {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}
    )


def test_the_document_is_served(shared_ledger: Ledger) -> None:
    assert shared_ledger.ask("/v1/openapi.json", token=None).json() == DOCUMENT


@schemathesis.serializer("application/x-ndjson")
def _serialize_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return str(value).encode()


@schemathesis.serializer("application/x-protobuf")
def _serialize_protobuf(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.serializer("application/msgpack")
def _serialize_packed(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    # What has no MessagePack form, such as an integer of 65 bits, is sent as its text.
    return bytes(msgpack.packb(value, default=str))


def set_token(case: schemathesis.Case[Any], token: str | None) -> None:
    """Have a request come with a token, or none.

    The document says that it needs one, so it may have a made-up one, which would go first.
    """
    # Another dictionary: changes of the one that was generated are not sent.
    named = {name: text for name, text in case.headers.items() if name.lower() != "authorization"}
    given = {} if token is None else {"Authorization": f"Bearer {token}"}
    case.headers = CaseInsensitiveDict(named | given)


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_the_service_answers_as_the_document_says(
    case: schemathesis.Case[Any], shared_ledger: Ledger
) -> None:
    set_token(case, shared_ledger.tokens["admin"])
    answer = case.call(base_url=shared_ledger.url)
    assert answer.status_code != 401
    case.validate_response(
        answer,
        checks=[
            schemathesis.checks.not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
        ],
    )
