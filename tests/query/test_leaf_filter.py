"""The quick test of a leaf's bytes turns away no leaf that matches, and most of the others."""

import random

import pytest
from hypothesis import given, settings

from ledger_core.query import predicate
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import Expression, resolve
from ledger_core.query.leaf_filter import make_filter
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import make_matcher
from tests.query.events import make_entries, random_event
from tests.query.queries import NOW_UNIX_US, QUERIES

ENTRIES = 120
OTHER: dict[str, object] = {
    "id": "00000000-0000-4000-8000-000000000001",
    "actor": {"id": "mallory", "type": "user"},
    "action": "bulk.add",
    "outcome": "success",
    "source": {"ip": "192.0.2.1"},
    "targets": [{"id": "r_1", "name": "one"}],
}

_RNG = random.Random(23)
EVENTS = [random_event(_RNG, number) for number in range(ENTRIES)]
LEAVES = [entry.leaf for entry in make_entries(EVENTS)]


@settings(max_examples=300, deadline=None)
@given(query=QUERIES)
def test_no_leaf_that_matches_is_turned_away(query: Expression) -> None:
    resolved = resolve(query, NOW_UNIX_US)
    may_match = make_filter(resolved)
    if may_match is None:
        return
    test = predicate._test(resolved)
    for index, leaf in enumerate(LEAVES):
        if test(index, decode_view(leaf)):
            assert may_match(leaf), (query, leaf)


MATCHING = (
    ({"actor": {"id": 'a"b\\c'}}, r'actor:"a\"b\\c"'),
    ({"actor": {"id": "a\tb"}}, 'actor:"a\tb"'),
    ({"actor": {"id": "ſ"}, "reason": "K"}, "k"),  # The Kelvin sign.
    ({"actor": {"id": "u"}, "reason": "ﬁle"}, "file"),
    ({"actor": {"id": "u"}, "action": "IAM.CreateUser"}, "action:iam.createuser"),
    ({"source": {"ip": "2001:db8::1"}}, '"2001:DB8:0::1"'),
    ({"source": {"ip": "192.0.2.9"}}, '"::ffff:192.0.2.9"'),
    ({"source": {"ip": "192.0.2.9"}}, "source:192.0.2.9"),
    ({"targets": [{"type": "User", "id": "a/b"}]}, "target:user/a/b"),
    ({"context": {"n": 5, "x": {"y": None}}}, "context.n:5 context.x.y:null"),
    ({"source": {"user_agent": "curl/8.0", "port": 80}}, "user_agent.family:curl port:80"),
)  # fmt: skip


@pytest.mark.parametrize(("fields", "query"), MATCHING)
def test_values_are_found_however_a_leaf_spells_them(fields: dict[str, object], query: str) -> None:
    (entry,) = make_entries([{**OTHER, **fields}])
    assert make_matcher(resolve(parse_query(query), NOW_UNIX_US))(0, entry.leaf)


@pytest.mark.parametrize(
    "query",
    [
        "actor:alice", "target:user/u_5", "action:iam.*", '"legal hold"', "legal OR holds",
        "context.region:eu", "source:203.0.113.9", 'target.name:"Q3 plan"', "actor.type:SERVICE",
        "actor:alice has:session since:2001-01-01", "actor:alice,bob", "reason:hold",
    ],
)  # fmt: skip
def test_a_leaf_without_a_value_is_not_decoded(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = make_entries([OTHER])
    matches = make_matcher(resolve(parse_query(query), NOW_UNIX_US))
    monkeypatch.delattr("ledger_core.query.predicate.decode_view")
    assert not matches(0, entry.leaf)
