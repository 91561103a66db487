"""The table of query fields: its numbers are part of the index format and never change."""

import pytest

from ledger_core.query.ast import Is
from ledger_core.query.fields import DIMENSION_NUMBERS, DIMENSIONS, FACETS, FIELDS, LANGUAGE
from ledger_core.query.parser import parse_query
from ledger_core.query.scanner import QueryError


def test_the_numbers_of_dimensions_are_those_of_every_index_ever_made() -> None:
    assert dict(DIMENSION_NUMBERS) == {
        "action": 1,
        "action.family": 2,
        "actor": 3,
        "actor.on_behalf_of": 4,
        "actor.type": 5,
        "context": 6,
        "credential": 7,
        "field": 8,
        "hour": 9,
        "minute": 10,
        "outcome": 11,
        "reason": 12,
        "received": 13,
        "request": 14,
        "service": 15,
        "session": 16,
        "source": 17,
        "target": 18,
        "target.type": 19,
        "tenant": 20,
        "trace": 21,
        "word": 22,
        "actor.name": 23,
        "target.name": 24,
        "user_agent": 25,
        "user_agent.family": 26,
        "port": 27,
        "before": 28,
        "after": 29,
        "received.by": 30,
        "late": 31,
        "masked": 32,
        "recorder": 33,
        "actor.name.word": 34,
        "target.name.word": 35,
        "user_agent.word": 36,
        "target.several": 37,
        "folded": 40,
        "number": 41,
    }


def test_segments_store_dimensions_in_the_order_of_their_numbers() -> None:
    numbers = [DIMENSION_NUMBERS[name] for name in DIMENSIONS]
    assert numbers == sorted(set(numbers))


def test_every_field_of_the_language_has_an_example_that_can_be_read() -> None:
    for field in LANGUAGE:
        parse_query(field.example)
        for alias in field.aliases:
            parse_query(field.example.replace(field.name, alias, 1))


def test_every_facet_is_a_dimension_of_which_events_have_values() -> None:
    for name in FACETS:
        assert FIELDS[name].number is not None
        assert FIELDS[name].attribute or FIELDS[name].read_several


def test_a_path_of_the_context_may_be_called_as_the_documentation_writes_it() -> None:
    assert parse_query("context.KEY:a") == Is("context", "a", key="KEY")
    with pytest.raises(QueryError) as refused:
        parse_query("context:a")
    assert refused.value.nearest == "context.KEY"
