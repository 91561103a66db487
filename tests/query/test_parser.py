"""Query text parses to the expression that it says, or to an error with its place."""

from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ledger_core.near_names import near_names
from ledger_core.query import ast
from ledger_core.query.ast import Expression, format_query, query_fields
from ledger_core.query.fields import FIELDS
from ledger_core.query.mistakes import USUAL
from ledger_core.query.parser import (
    CONDITIONS_MAX,
    LONG_CHARS_MAX,
    LONG_CONDITIONS_MAX,
    NESTING_MAX,
    QUERY_CHARS_MAX,
    parse_query,
)
from ledger_core.query.scanner import QueryError
from ledger_core.query.words import words_of
from ledger_core.tlog.hashing import SIZE_MAX
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
    'reason:"legal HOLD"': ast.Words("reason", "legal HOLD"),
    "refund*": ast.Words("", "refund", is_prefix=True),
    "source:203.0.113.*": ast.InNetwork(ip_network("203.0.113.0/24")),
    "source:2001:db8::/32": ast.InNetwork(ip_network("2001:db8::/32")),
    "index:100..199": ast.IndexBetween(100, 200),
    "outcome:(Failure OR denied)": ast.Or(
        (ast.Is("outcome", "failure"), ast.Is("outcome", "denied"))
    ),
    "action:(login.* AND NOT login.failed)": ast.And(
        (LOGIN, ast.Not(ast.Is("action", "login.failed")))
    ),
    "actor:(u_5)": U5,
    "has:session": ast.Has("session"),
    'has:(context."a b" OR credential)': ast.Or((ast.Has("context", "a b"), ast.Has("credential"))),
    "reason:*": ast.Has("reason"),
    "context.n:5..10": ast.NumberBetween("context", Decimal(5), Decimal(10), key="n"),
    "context.n:>-0.5": ast.NumberBetween(
        "context", Decimal("-0.5"), None, is_above_low=True, key="n"
    ),
    "context.n:<=1e3": ast.NumberBetween("context", None, Decimal(1000), key="n"),
    'context.n:"5..10"': ast.Is("context", "5..10", key="n"),
    "index:>100": ast.IndexBetween(101, SIZE_MAX),
    "index:<=100": ast.IndexBetween(0, 101),
    "time:>1970-01-01": ast.Between("time", ast.Moment(-24 * HOUR), None),
    "time:>=1970-01-02": ast.Between("time", ast.Moment(-24 * HOUR), None),
    "received:<1970-01-02": ast.Between("received", None, ast.Moment(-24 * HOUR)),
    "time:<=1970-01-01": ast.Between("time", None, ast.Moment(-24 * HOUR)),
    '"and"': ast.Words("", "and"),
    'actor:u_5 OR "refund"': ast.Or((U5, ast.Words("", "refund"))),
    "O'Brien": ast.Words("", "O'Brien"),
    '"access   Review"': ast.Words("", "access Review"),
    "user_agent:curl/8*": ast.Words("user_agent", "curl/8", is_prefix=True),
    'user_agent:"curl/8.5.0"': ast.Is("user_agent", "curl/8.5.0"),
    'source.user_agent:"curl/"*': ast.Is("user_agent", "curl/", is_prefix=True),
    "user_agent:*": ast.Has("user_agent"),
    "after:owner": ast.Is("after", "owner"),
    "after.role:owner*": ast.Is("after", "owner", is_prefix=True, key="role"),
    'before."/Limits/daily":5': ast.Is("before", "5", key="limits.daily"),
    "has:after.role": ast.Has("after", "role"),
    "late:>1h": ast.NumberBetween("late", Decimal(3600), None, is_above_low=True),
    "late:-0.5..1m": ast.NumberBetween("late", Decimal("-0.5"), Decimal(60)),
    "late:<0": ast.NumberBetween("late", None, Decimal(0), is_below_high=True),
    "port:443": ast.Is("port", "443"),
    "port:>=1024": ast.NumberBetween("port", Decimal(1024), None),
    "source:::ffff:203.0.113.0/120": ast.InNetwork(ip_network("203.0.113.0/24")),
    "source:::ffff:0:0/96": ast.InNetwork(ip_network("0.0.0.0/0")),
    "source:::ffff:0:0/95": ast.InNetwork(ip_network("::fffe:0:0/95")),
    "target:auth0|5f7": ast.Is("target", "auth0|5f7"),
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
        ("-actor:u_5", 0, 1, "a minus does not negate"),
        ("-failure", 0, 1, "a minus does not negate"),
        ("actor:u*5", 7, 1, "a star stands at the end of a value"),
        ("outcome:fail", 8, 4, "not an outcome"),
        ("source:1.2.3", 7, 5, "neither an address nor a network"),
        ("index:3..2", 6, 4, "the range ends before it begins"),
        ("since:2026-11-24T10:00", 6, 16, "a time of day needs its zone"),
        ("reason:--", 7, 2, "there is no word in it"),
        ("port:65536", 5, 5, "not a port, 0 to 65535"),
        ("port:9..8", 5, 4, "the range ends before it begins"),
        ("late:soon", 5, 4, "not a number of seconds"),
        ("late:1h*", 5, 3, "neither a number nor a range"),
        ("has:late", 4, 4, "every event has late"),
    ],
)
def test_a_mistake_has_its_place(text: str, position: int, length: int, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(text)
    found = refused.value
    assert (found.position, found.length, found.message) == (position, length, message)


def test_a_near_name_is_suggested() -> None:
    for text, nearest in (
        ("outcom:x", "outcome"),
        ("contxt.a:b", "context.KEY"),
        ("acter:u_4", "actor"),
        ("actr:u_4", "actor"),
        ("afer:x", "after"),
    ):
        with pytest.raises(QueryError) as refused:
            parse_query(text)
        assert refused.value.nearest == nearest
        assert str(refused.value).endswith(f"; did you mean {nearest}?")
    with pytest.raises(QueryError) as refused:
        parse_query("qqqqqqq:x")
    assert refused.value.nearest is None
    assert str(refused.value) == "at character 1: there is no field qqqqqqq"
    with pytest.raises(QueryError) as refused:
        parse_query("outcome:failed")
    assert refused.value.nearest == "failure"


def test_of_names_as_near_as_each_other_the_one_that_begins_alike_comes_first() -> None:
    known = ("after", "late", "actor", "time")
    assert near_names("acter", known, count=3) == ["actor", "after", "late"]
    assert near_names("acter", known, count=1) == ["actor"]
    assert near_names("after", known[::-1], count=1) == ["after"]
    assert near_names("ab", ("bb", "xb", "ab"), count=3, cutoff=0.5) == ["ab", "bb", "xb"]
    assert near_names("ab", ("ac",), count=3) == []
    assert near_names("", known, count=3) == []


def test_a_message_has_the_first_64_characters_of_a_name() -> None:
    for length in (64, 65):
        with pytest.raises(QueryError, match="there is no field") as refused:
            parse_query("q" * length + ":x")
        assert refused.value.message == f"there is no field {'q' * 64}"
        assert refused.value.expected[0] == f"context.{'q' * 64}"


def test_the_limits_of_a_query_are_those_of_the_manual() -> None:
    manual = Path(__file__).parents[2] / "docs" / "searching.md"
    assert (
        f"up to {LONG_CHARS_MAX:,} characters and {LONG_CONDITIONS_MAX:,} conditions,"
        f" instead of {QUERY_CHARS_MAX:,} and {CONDITIONS_MAX:,}"
    ) in manual.read_text(encoding="utf-8")
    parse_query("a" * QUERY_CHARS_MAX)
    with pytest.raises(QueryError):
        parse_query("a" * (QUERY_CHARS_MAX + 1))


def test_conditions_and_their_nesting_are_bounded() -> None:
    parse_query("a " * CONDITIONS_MAX)
    parse_query("(" * (NESTING_MAX - 1) + "a" + ")" * (NESTING_MAX - 1))
    for text in ("a " * (CONDITIONS_MAX + 1), "(" * NESTING_MAX + "a" + ")" * NESTING_MAX):
        with pytest.raises(QueryError):
            parse_query(text)


HABITS = {
    "actor=u_1": (5, 1, "actor:u_1"),
    "outcome != success": (8, 2, "NOT outcome:success"),
    "a AND context.amount>5": (20, 1, "context.amount:>5"),
    "actor==u": (5, 2, "actor:u"),
    "actor > u_5": (6, 1, "actor:u_5"),
    "actor ~ ad": (6, 1, "actor:ad*"),
    "rate=5": (4, 1, "context.rate:5"),
    "actor:=u_5": (6, 1, "actor:u_5"),
    "actor:!u_5": (6, 1, "NOT actor:u_5"),
    "actor:>u_5": (6, 4, "context.amount:>=1000"),
    "context.n:>abc": (10, 4, "200..299"),
    "context.n:a..b": (10, 4, "200..299"),
    "actor:a..b": (6, 4, 'actor:"a..b"'),
    "since:>2026-11-24": (6, 11, "time:2026-11-24..2026-11-25"),
    "actor :u_5": (5, 2, "actor:u_5"),
    "actor : u_5": (5, 3, "actor:u_5"),
    "actor: u_5": (6, 0, "actor:u_5"),
    "actor:u_5, u_6": (10, 0, "actor:u_5,u_6"),
    "actor:u_5,action:login": (10, 1, "actor:… action:…"),
    "actor:u_5 and outcome:denied": (10, 3, "AND"),
    "actor:u_5 Or outcome:denied": (10, 2, "OR"),
    "actor:(a or b)": (9, 2, "OR"),
    "actor:(a b)": (9, 0, "(a OR b)"),
    "not outcome:denied": (0, 3, "NOT"),
    "a && b": (2, 2, "AND"),
    "a || b": (2, 2, "OR"),
    "!actor:u_5": (0, 1, "NOT actor:u_5"),
    "+actor:u_5": (0, 1, "actor:u_5"),
    "'hello'": (0, 7, '"hello"'),
    "actor:'u_5'": (6, 5, 'actor:"u_5"'),
    "actor:“u_5”": (6, 5, 'actor:"u_5"'),
    "time:[2026-11-24 TO 2026-11-25]": (5, 26, "time:2026-11-24..2026-11-25"),
    "[a]": (0, 3, "A,B"),
    ":x": (0, 1, "FIELD:x"),
    '"actor":u_5': (7, 1, "a blank"),
    "action='x'": (6, 1, 'action:"x"'),
    "session!='a b'": (7, 2, 'NOT session:"a b"'),
    "ip=203.0.113.7": (2, 1, "source:203.0.113.7"),
    "user='u_1'": (4, 1, 'actor:"u_1"'),
    "level='high'": (5, 1, 'context.level:"high"'),
    "exists(actor.session)": (0, 7, "has:actor.session"),
    "NOT isnull(session)": (4, 7, "NOT has:session"),
    "foo(bar)": (0, 4, "foo ("),
    "actor is not null": (0, 17, "has:actor"),
    "actor in (u_1, 'u_2')": (0, 21, "actor:u_1,u_2"),
    "count by action": (0, 15, "ledger query … --count action"),
    "a | count by action": (2, 1, "OR"),
    "order by time desc": (0, 18, "ledger query … --order oldest"),
    "actor:u_?": (8, 1, 'actor:"u_?"'),
    "u_?": (2, 1, '"u_?"'),
    "*foo": (0, 1, '"*foo"'),
    "*": (0, 1, "no query"),
    '"access rev*"': (0, 13, '"access rev"*'),
    "actor:u_1 OR u_2": (13, 3, "field:(a OR b)"),
    'actor:"x"y': (9, 1, "a blank"),
    "actor:x(y)": (7, 1, "a blank"),
    "has:time": (4, 4, "has:actor.session"),
    "foo, bar": (3, 1, "field:a,b"),
    "time:<1970-01-01": (5, 11, "2026-11-24"),
}


@pytest.mark.parametrize("query", HABITS)
def test_what_other_languages_write_is_refused_with_the_right_form(query: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(query)
    error = refused.value
    assert (error.position, error.length, error.expected[0]) == HABITS[query]
    for expected in error.expected:
        if "'" in query and ":" in expected:
            parse_query(expected)


@pytest.mark.parametrize("query", HABITS)
def test_a_refused_form_is_text_in_quotes(query: str) -> None:
    quoted = query.replace('"', "").replace("*", "")
    if any(char.isalnum() for char in quoted):
        assert "text" in query_fields(parse_query(f'"{quoted}"'))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (r"CORP\alice", "corp alice"),
        ("rv:128.0", "rv 128 0"),
        ("1..2", "1 2"),
        ("::ffff:1.2.3.4/100", "ffff 1 2 3 4 100"),
        ("a...b:*", "a b"),
    ],
)
@pytest.mark.parametrize("field", ["actor.name", "target.name", "user_agent"])
def test_words_of_a_name_are_words_in_the_text_of_the_query_too(
    field: str, written: str, words: str
) -> None:
    """In quotes they would be the whole name, and find nothing."""
    parsed = parse_query(f"{field}:{written}")
    assert isinstance(parsed, ast.Words)
    assert words_of(parsed.text) == words.split()
    assert parsed.is_prefix == written.endswith("*")
    assert parse_query(format_query(parsed)) == parsed
    made = format_query(ast.Words(field, written.removesuffix("*"), parsed.is_prefix))
    assert parse_query(made) == parsed


@given(text=st.text(alphabet="actor:=<>!~'\"[](){}?*,.& |-_019 \n“”ANDOR", max_size=24))
def test_every_text_is_read_or_refused_with_a_place_in_it(text: str) -> None:
    error = None
    try:
        expression = parse_query(text)
    except QueryError as refused:
        error = refused
    if error is None:
        assert parse_query(format_query(expression)) == expression
    else:
        assert 0 <= error.position <= len(text)
        assert 0 <= error.length <= len(text) - error.position


NEAR = {
    "since:24h": "-24h",
    "exists:actor": "has",
    "ip:203.0.113.7": "source",
    "user:u_1": "actor",
    "UserName:u_1": "actor",
}


@pytest.mark.parametrize("query", NEAR)
def test_a_near_form_is_named(query: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(query)
    assert refused.value.nearest == NEAR[query]


def test_each_usual_name_stands_for_a_field_and_is_none_itself() -> None:
    for name, field in USUAL.items():
        assert field in FIELDS
        with pytest.raises(QueryError):
            parse_query(f"{name}:x")


def test_a_query_in_a_body_may_have_a_long_list() -> None:
    text = "actor:" + ",".join(f"u_{n}" for n in range(LONG_CONDITIONS_MAX))
    assert format_query(parse_query(text, is_long=True)).startswith("actor:u_0 OR actor:u_1 OR")
    for long, more in ((False, ""), (True, ",one_more")):
        with pytest.raises(QueryError, match="at most"):
            parse_query(text + more, is_long=long)


def test_what_names_stand_for_is_bounded_as_a_whole() -> None:
    many = parse_query("actor:" + ",".join(f"u_{n}" for n in range(50_000)), is_long=True)
    parse_query("NOT @many NOT @many", named=lambda _name: many)
    with pytest.raises(QueryError, match="with those of its @names"):
        parse_query("NOT @many NOT @many NOT @many", named=lambda _name: many)
    long = parse_query(f'context.key:"{"x" * 1_000_000}"', is_long=True)
    parse_query("NOT @long " * 4, named=lambda _name: long)
    with pytest.raises(QueryError, match="with those of its @names"):
        parse_query("NOT @long " * 5, named=lambda _name: long)
    with pytest.raises(QueryError, match="at most"):
        parse_query("NOT @one " * (CONDITIONS_MAX + 1), named=lambda _name: ast.Is("actor", "u"))


def test_names_are_joined_by_or() -> None:
    known = {"a": ast.Is("actor", "u_1"), "b": ast.Is("actor", "u_2")}
    for text in ("@a OR @b", "actor:u_1 OR @b", "@a OR actor:u_2"):
        assert format_query(parse_query(text, named=known.get)) == "actor:u_1 OR actor:u_2"


class CountedText(str):
    """A text that counts the characters that were copied out of it."""

    __slots__ = ("copied",)
    copied: int

    def __getitem__(self, key: Any) -> str:
        part = super().__getitem__(key)
        self.copied += len(part)
        return part


@pytest.mark.parametrize(
    "form", ["actor:({})", "actor:{}", "reason:({})", "actor:a ({})", "NOT source.ip:({})"]
)
def test_a_long_list_is_read_in_steps_as_many_as_its_characters(form: str) -> None:
    values = ",".join(f"203.0.{number // 250}.{number % 250}" for number in range(5000))
    if form == "actor:a ({})":
        values = values.replace(",", " OR ")
    text = CountedText(form.format(values))
    text.copied = 0
    parse_query(text, is_long=True)
    assert text.copied <= 8 * len(text)
