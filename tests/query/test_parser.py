"""Query text parses to the expression that it says, or to an error with its place."""

from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, assume, given, settings

from ledger_core.query import ast
from ledger_core.query.ast import Expression, format_query
from ledger_core.query.parser import CONDITIONS_MAX, NESTING_MAX, QueryError, parse_query
from tests.query.queries import QUERIES

HOUR = -3_600_000_000

U5, LOGIN = ast.Is("actor", "u_5"), ast.Is("action", "login.", is_prefix=True)
MEANINGS: dict[str, Expression] = {
    "": ast.EVERYTHING,
    "actor:u_5": U5,
    "actor.id:u_5": U5,
    "actor:u_5 action:login.*": ast.And((U5, LOGIN)),
    "actor:u_5 AND action:login.*": ast.And((U5, LOGIN)),
    "actor:u_5 OR NOT action:login.*": ast.Or((U5, ast.Not(LOGIN))),
    "(actor:u_5 OR action:login.*) actor:u_5": ast.And((ast.Or((U5, LOGIN)), U5)),
    "NOT (actor:u_5 action:login.*)": ast.Not(ast.And((U5, LOGIN))),
    "outcome:failure,denied": ast.Or((ast.Is("outcome", "failure"), ast.Is("outcome", "denied"))),
    r'target:"a \"b\" \\ c"*': ast.Is("target", r'a "b" \ c', is_prefix=True),
    "context.region:eu": ast.Is("context", "eu", key="region"),
    'context."a b":eu': ast.Is("context", "eu", key="a b"),
    "context.request_id:r-1": ast.Is("request", "r-1"),
    'reason:"legal HOLD"': ast.Words("reason", ("legal", "hold")),
    "refund*": ast.Words("", ("refund",), is_prefix=True),
    "source:203.0.113.*": ast.InNetwork(ip_network("203.0.113.0/24")),
    "source:2001:db8::/32": ast.InNetwork(ip_network("2001:db8::/32")),
    "index:100..199": ast.IndexBetween(100, 200),
    "since:-1h": ast.Between("time", ast.Moment(HOUR, relative=True, whole_minutes=True), None),
    "received:..now": ast.Between("received", None, ast.Moment(0, relative=True)),
    "time:1970-01-01": ast.Between("time", ast.Moment(0), ast.Moment(-24 * HOUR)),
    "until:1970-01-01T00:30+00:30": ast.Between("time", None, ast.Moment(60_000_000)),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_a_query_means_what_the_documentation_says(text: str) -> None:
    assert parse_query(text) == MEANINGS[text]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=QUERIES)
def test_a_query_written_as_text_reads_back_as_the_same(query: Expression) -> None:
    text = format_query(query)
    try:
        parsed = parse_query(text)
    except QueryError:
        # An expression can say what the language cannot: every event within `OR`, an empty range.
        assume(False)
    assert parsed == query
    assert format_query(parsed) == text


@pytest.mark.parametrize(
    ("text", "position", "length", "message"),
    [
        ("actor:u_5 outcom:failure", 10, 6, "there is no field outcom"),
        ("actor:u_5)", 9, 1, "no parenthesis is open here"),
        ("(actor:u_5", 0, 1, "this parenthesis is never closed"),
        ("actor:u_5 OR", 12, 0, "a condition is missing"),
        ("actor:u_5 OR )", 13, 0, "a condition is missing"),
        ("NOT", 3, 0, "a condition is missing"),
        ("actor:", 6, 0, "a value is missing"),
        ("actor:u_5,", 10, 0, "a value is missing"),
        ("-actor:u_5", 0, 6, "there is no field -actor"),
        ("-failure", 0, 1, "a minus does not negate"),
        ("actor:u*5", 7, 1, "a star stands at the end of a value"),
        ("outcome:fail", 8, 4, "not an outcome"),
        ("source:1.2.3", 7, 5, "neither an address nor a network"),
        ("index:3..2", 6, 4, "the range ends before it begins"),
        ("since:2026-11-24T10:00", 6, 16, "a time of day needs its zone"),
        ("reason:--", 7, 2, "there is no word in it"),
    ],
)
def test_a_mistake_has_its_place(text: str, position: int, length: int, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(text)
    found = refused.value
    assert (found.position, found.length, found.message) == (position, length, message)


def test_a_near_name_is_suggested() -> None:
    for text, nearest in (("outcom:x", "outcome"), ("contxt.a:b", "context.KEY")):
        with pytest.raises(QueryError) as refused:
            parse_query(text)
        assert refused.value.nearest == nearest
    with pytest.raises(QueryError) as refused:
        parse_query("outcome:failed")
    assert refused.value.nearest == "failure"


def test_conditions_and_their_nesting_are_bounded() -> None:
    parse_query("a " * CONDITIONS_MAX)
    parse_query("(" * (NESTING_MAX - 1) + "a" + ")" * (NESTING_MAX - 1))
    for text in ("a " * (CONDITIONS_MAX + 1), "(" * NESTING_MAX + "a" + ")" * NESTING_MAX):
        with pytest.raises(QueryError):
            parse_query(text)


@pytest.mark.parametrize(
    ("query", "at"),
    [("actor=u_1", 5), ("outcome != success", 8), ("a AND context.amount>5", 20), ("actor==u", 5)],
)
def test_an_operator_behind_a_field_is_refused_with_the_right_form(query: str, at: int) -> None:
    with pytest.raises(QueryError, match="a colon joins") as refused:
        parse_query(query)
    assert refused.value.position == at
    assert refused.value.expected[0].endswith(":VALUE")


@pytest.mark.parametrize("query", ["a=b", "rate=5", '"actor=u_1"'])
def test_other_text_with_an_equals_sign_is_words(query: str) -> None:
    assert parse_query(query)
