"""The JSON Schema says what the reader says, as far as a schema can."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings

from ledger_core.event.canonical import decode_event
from ledger_core.event.model import LIMITS
from ledger_core.event.schema import event_schema
from tests.event.cases import ACCEPTED, REFUSED
from tests.event.strategies import events
from tests.event.test_refused import EVENT, LIMITED

SCHEMA = jsonschema_rs.validator_for(event_schema(), validate_formats=True)


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: str(vector["what"]))
def test_the_schema_accepts_what_the_reader_accepts(vector: dict[str, Any]) -> None:
    SCHEMA.validate(json.loads(vector["text"]))
    SCHEMA.validate(json.loads(vector["canonical"]))


@settings(deadline=None)
@given(events)
def test_the_schema_accepts_any_event(value: dict[str, Any]) -> None:
    decode_event(json.dumps(value).encode())
    SCHEMA.validate(value)


@pytest.mark.parametrize(
    "vector",
    [vector for vector in REFUSED if vector["schema_refuses"] is not None],
    ids=lambda vector: str(vector["fault"]),
)
def test_the_schema_refuses_what_the_table_says_it_does(vector: dict[str, Any]) -> None:
    assert SCHEMA.is_valid(json.loads(vector["text"])) is not vector["schema_refuses"]


@pytest.mark.parametrize("limited", LIMITED, ids=lambda limited: str(limited[1]))
def test_the_schema_has_the_limits_of_the_table(limited: Any) -> None:
    name, _, _, build = limited
    most = LIMITS[name].most
    assert SCHEMA.is_valid({**EVENT, **build(most)})
    assert not SCHEMA.is_valid({**EVENT, **build(most + 1)})


def test_every_part_is_described_and_closed() -> None:
    for name, part in event_schema()["$defs"].items():
        assert part["description"], name
        assert name == "Value" or part["additionalProperties"] is False
