"""Random queries over the values of `events`."""

import random
import re
from decimal import Decimal
from ipaddress import ip_network

from hypothesis import strategies as st

from ledger_core.query import ast
from ledger_core.query.ast import Expression
from tests.query import events as ev

ENTRIES = 420
LONG_KEY = ev.LONG[:117]
NOW_UNIX_US = ev.START_UNIX_US + ENTRIES * 3_500_000 + 12_345


def _is(field: str, values: tuple[str, ...]) -> st.SearchStrategy[Expression]:
    exact = st.builds(ast.Is, st.just(field), st.sampled_from(values))
    prefix = st.builds(
        lambda value, chars: ast.Is(field, value[:chars], is_prefix=True),
        st.sampled_from(values),
        st.sampled_from((0, 1, 3, 4, 5, 6, 9, 119, 120, 121)),
    )
    return exact | prefix


def _moments() -> st.SearchStrategy[ast.Moment]:
    whole = st.integers(-10, ENTRIES + 10).map(
        lambda n: ast.Moment(ev.START_UNIX_US + n * 7_000_000)
    )
    minutes = st.integers(-130, 60).map(
        lambda n: ast.Moment((ev.START_UNIX_US // 60_000_000 + n) * 60_000_000)
    )
    odd = st.integers(-1000, 5_000_000_000).map(lambda us: ast.Moment(ev.START_UNIX_US + us))
    back = st.integers(0, 60).map(
        lambda n: ast.Moment(-n * 60_000_000, relative=True, whole_minutes=True)
    )
    return whole | minutes | odd | back | st.just(ast.Moment(0, relative=True))


def _betweens() -> st.SearchStrategy[Expression]:
    return st.builds(
        ast.Between,
        st.sampled_from(("time", "received")),
        st.none() | _moments(),
        st.none() | _moments(),
    )


def _words() -> st.SearchStrategy[Expression]:
    words = (*ev.WORDS, *ev.ACTIONS, "京都", "มูล", "firefox", "owner", "example.com")
    texts = st.lists(st.sampled_from(words), min_size=1, max_size=3).map(" ".join)
    extra = (
        "w1",
        "w127",
        "w128",
        "w139",
        "rev",
        "acc",
        "strasse",
        "7",
        "null",
        "daily",
        "n1",
        "n39",
    )
    ids = (*ev.ACTORS, *ev.TARGETS, *ev.ADDRESSES[:6], "s_1", "tok_0", "eu", "api-1", "user/u_1")
    event_id = ev.random_event(random.Random(7), 1)["id"]
    text = texts | st.sampled_from((*extra, *ids, event_id))
    anywhere = st.builds(
        ast.Words, st.sampled_from(("", "", "reason")), text, is_prefix=st.booleans()
    )
    # In a name, words stand without quotes.
    return anywhere | st.builds(
        ast.Words,
        st.sampled_from(("user_agent", "actor.name", "target.name")),
        text.map(lambda some: re.sub(r'[ ",:]+', "_", some)),
        is_prefix=st.booleans(),
    )


def _changes() -> st.SearchStrategy[Expression]:
    return st.builds(
        ast.Is,
        st.sampled_from(("before", "after")),
        st.sampled_from(
            ("owner", "Member", "7", "null", "5", "legal hold", f"{ev.LONG}é", "n39", "")
        ),
        is_prefix=st.booleans(),
        key=st.sampled_from(("", "role", "limits.daily", "daily", "role.daily", "email.x")),
    )


def _contexts() -> st.SearchStrategy[Expression]:
    keys = (*ev.KEYS, "nested.a", "nested.b.c", "list.d", "k3", "k40", "a")
    values = ("eu", "us", "", "1", "1.5", "-7", "true", "null", "3", "40", ev.LONG, f"{ev.LONG}é")
    return st.builds(
        lambda key, value, is_prefix: ast.Is("context", value, is_prefix=is_prefix, key=key),
        st.sampled_from([key for key in keys if key not in ("request_id", "trace_id")]),
        st.sampled_from(values),
        st.booleans(),
    )


NUMBERS = (0, 1, "1.5", -7, "-0.05", 999, 1000, 1001, 1002, 123_456, 123_470, -123_456, "1e21")


def _numbers() -> st.SearchStrategy[Expression]:
    ends = st.sampled_from(NUMBERS).map(lambda number: Decimal(str(number)))
    keys = st.sampled_from(("region", "a.b", "status", "nested.a", "list", "k3", LONG_KEY))
    seconds = ("-1", "-0.000007", "0", "0.5", "0.999999", "1", "1.000001", "3600", "86400", "9000")
    ports = st.sampled_from((*ev.PORTS, 1500)).map(Decimal)
    return (
        _between("context", ends, keys)
        | _between("late", st.sampled_from(seconds).map(Decimal), st.just(""))
        | _between("port", ports, st.just(""))
    )


def _between(
    field: str, ends: st.SearchStrategy[Decimal], keys: st.SearchStrategy[str]
) -> st.SearchStrategy[Expression]:
    def between(key: str, one: Decimal, other: Decimal) -> Expression:
        return ast.NumberBetween(field, min(one, other), max(one, other), key=key)

    def above(key: str, end: Decimal, is_strict: bool) -> Expression:
        return ast.NumberBetween(field, end, None, is_above_low=is_strict, key=key)

    def below(key: str, end: Decimal, is_strict: bool) -> Expression:
        return ast.NumberBetween(field, None, end, is_below_high=is_strict, key=key)

    return (
        st.builds(between, keys, ends, ends)
        | st.builds(above, keys, ends, st.booleans())
        | st.builds(below, keys, ends, st.booleans())
    )


def _presences() -> st.SearchStrategy[Expression]:
    names = ("actor.type", "actor.on_behalf_of", "action", "target", "target.type", "source",
             "tenant", "session", "service", "request", "reason", "field", "actor.name",
             "target.name", "user_agent", "user_agent.family", "port", "masked", "recorder",
             "before", "after")  # fmt: skip
    keys = ("region", "nested", "nested.b", "a", "a.b", "k3", "k", LONG_KEY)
    changed = ("role", "limits", "limits.daily", "role.x", "daily")
    return (
        st.sampled_from(names).map(ast.Has)
        | st.sampled_from(keys).map(lambda key: ast.Has("context", key))
        | st.builds(ast.Has, st.sampled_from(("before", "after")), st.sampled_from(changed))
    )


def _ids() -> st.SearchStrategy[Expression]:
    rng = random.Random(7)
    some = [ev.random_event(rng, number)["id"] for number in range(60)]
    return _is("id", tuple(some)).map(
        lambda one: (
            ast.Is("id", one.value.rstrip("-"), one.is_prefix) if isinstance(one, ast.Is) else one
        )
    )


CONDITIONS = st.one_of(
    _is("actor", ev.ACTORS),
    _is("actor.type", ev.TYPES),
    _is("actor.on_behalf_of", ev.ACTORS),
    _is("action", (*ev.ACTIONS, "login.", "LOGIN.", "iam.", "IAM.USER.")),
    _is("target", ev.TARGETS),
    _is("target.type", (*ev.TYPES, "s" * 120, "USER")),
    _is("outcome", ev.OUTCOMES),
    _is("tenant", ev.TENANTS),
    _is("session", ("s_1", "s_4", "s_9")),
    _is("credential", ("tok_0",)),
    _is("service", ("api", "web")),
    _is("request", ("eu", "1", "true", ev.LONG)),
    _is("trace", ("us", "null", f"{ev.LONG}é")),
    _is("field", (*ev.PATHS, "/ROLE")),
    _is("target", ("user/u_1", "a/b/r_1", "user/r_1", "invoice/b/c", f"{ev.LONG}type/r_10", "a/")),
    _is("actor.name", ("Review", "access, hold", "京", "straße-12")),
    _is("target.name", ("legal", "OPS-12", "東京")),
    _is("user_agent", ev.USER_AGENTS),
    _is("user_agent.family", ("firefox", "edge", "curl", "w0", "safari")),
    _is("received.by", ev.TOKENS),
    _is("recorder", ev.RECORDERS),
    _is("masked", ("password", "jwt", "aws-key", "real", "x", "pwd")),
    st.builds(ast.Is, st.just("port"), st.sampled_from([str(port) for port in ev.PORTS])),
    _changes(),
    _ids(),
    _words(),
    _numbers(),
    _presences(),
    _contexts(),
    _betweens(),
    st.builds(
        lambda low, size: ast.IndexBetween(low, low + size),
        st.integers(0, ENTRIES + 5),
        st.integers(1, 100),
    ),
    st.builds(
        lambda ip, bits: ast.InNetwork(
            ip_network(f"{ip}/{bits if ':' in ip else bits % 33}", strict=False)
        ),
        st.sampled_from(ev.ADDRESSES),
        st.integers(0, 128),
    ),
    st.just(ast.Is("source", "", is_prefix=True)),
    st.just(ast.EVERYTHING),
)

QUERIES: st.SearchStrategy[Expression] = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(ast.all_of),
        st.lists(inner, min_size=1, max_size=3).map(ast.any_of),
        inner.map(ast.Not),
    ),
    max_leaves=6,
)
