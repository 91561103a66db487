"""A search that finds nothing says why, and names only what its caller may see."""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from ledger.query import hints
from ledger.query.engine import QueryEngine
from ledger.query.hints import find_hints
from ledger.query.log_view import EngineView
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.query.ast import EVERYTHING, Expression, resolve
from ledger_core.query.parser import parse_query
from ledger_core.search_answers import Hint
from tests.query.events import START_UNIX_US, make_entries, make_log

SEGMENT_ENTRIES = 16
LONG_S = 60.0


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-4000-8000-{number:012d}",
        "time": f"2026-09-{number % 20 + 1:02d}T12:00:00Z",
        "actor": {"id": f"u_{number % 5}", "type": "user"},
        "action": "login.failed",
        "outcome": "failure",
        "tenant": "acme",
        **fields,
    }


TARGETS = [{"type": "group", "id": "admins"}]
EVENTS = [
    *(event(n, context={"country": "de", "amount": n}) for n in range(30)),
    event(30, actor={"id": "Alice"}, reason="Legal hold lifted", source={"ip": "203.0.113.9"}),
    event(31, actor={"id": "Bob"}, tenant="umbrella", context={"cuntry": "fr", "secret": 1}),
    event(32, context={"kind": "text"}, reason="the hold is legal", targets=TARGETS),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueryEngine]:
    """Two sealed segments and an open one."""
    path = tmp_path_factory.mktemp("hints")
    make_log(path / "log", make_entries(EVENTS)).close()
    log = LogStore.open(path / "log")
    writer = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
    builder = SegmentBuilder(log, writer)
    while builder.seal_next():
        pass
    writer.close()
    index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
    yield QueryEngine(log, index, segment_entries=SEGMENT_ENTRIES)
    log.close()


def hints_of(
    engine: QueryEngine, text: str, *, tenant: str | None = None, time_s: float = LONG_S
) -> list[Hint]:
    query = resolve(parse_query(text), START_UNIX_US)
    answer = engine.search(query, tenant=tenant, now_unix_us=START_UNIX_US, limit=0)
    assert answer.total == 0
    end_s = time.monotonic() + time_s
    view = EngineView(engine, tenant, START_UNIX_US, end_s, lambda: False)
    return list(find_hints(query, view))


WHY = {
    "context.contry:de": ("key", "context.country is in 30 events", "context.country:de", 30),
    "has:context.contry": ("key", "context.country is in 30 events", "has:context.country", 30),
    "actor:alice": ("case", "actor:Alice finds 1 event", "actor:Alice", 1),
    "actor:U_3": ("case", "actor:u_3 finds 6 events", "actor:u_3", 6),
    "context.country:DE": ("case", "context.country:de finds 30", "context.country:de", 30),
    "action:login.faild": ("near", "action:login.failed finds 33", "action:login.failed", 33),
    "action:LOGIN": ("near", "action:login.failed finds 33", "action:login.failed", 33),
    "actor:lic": ("near", "actor:Alice finds 1 event", "actor:Alice", 1),
    "target:min": ("near", "target:admins finds 1 event", "target:admins", 1),
    "target:Admins": ("case", "target:admins finds 1 event", "target:admins", 1),
    "context.kind:EXT": ("near", "context.kind:text finds 1", "context.kind:text", 1),
    "context.amount:>=1000": ("value", "30 events have context.amount, none", None, None),
    "lega": ("words", "2 events have words that begin so", "lega*", 2),
    '"hold legal"': ("words", "2 events have all of these words, but not", "hold legal", 2),
    '"hold refund"': ("words", "no text has refund", None, None),
    "zebra": ("words", "in names, reasons, actions, user agents", None, None),
    "until:2025-01-01": ("time", "ends before the first event: events happened from", None, None),
    "since:2027-01-01": ("time", "begins after the last event", None, None),
    "time:2026-09-01T13:00Z": ("time", "no event meets time:", None, None),
    "actor:u_1 since:2027-01-01": ("time", "without its times the query finds 6", "actor:u_1", 6),
    "actor:Alice context.country:de": ("together", "actor:Alice finds 1; context", None, None),
    "NOT outcome:failure": ("condition", "every event meets outcome:failure", None, None),
    "actor:alice OR actor:bob": ("case", "actor:Bob finds 1 event", "actor:Bob", 1),
    "source:10.0.0.0/8": ("condition", "no event meets source:10.0.0.0/8", None, None),
}


@pytest.mark.parametrize("query", WHY)
def test_nothing_found_has_its_reason(engine: QueryEngine, query: str) -> None:
    kind, text, nearest, count = WHY[query]
    found = hints_of(engine, query)
    assert any(
        (hint.kind, hint.nearest, hint.count) == (kind, nearest, count) and text in hint.text
        for hint in found
    ), found


@pytest.mark.parametrize("query", WHY)
def test_what_a_hint_names_finds_as_many_events_as_it_says(engine: QueryEngine, query: str) -> None:
    for hint in hints_of(engine, query):
        if hint.nearest is not None:
            nearest = parse_query(hint.nearest)
            answer = engine.search(nearest, tenant=None, now_unix_us=START_UNIX_US, limit=0)
            assert answer.total == hint.count


def test_a_tenant_learns_nothing_of_the_events_of_others(engine: QueryEngine) -> None:
    for query in WHY | {"actor:bob": (), "context.cuntry:de": (), "has:context.secret": ()}:
        shown = " ".join(f"{h.text} {h.nearest}" for h in hints_of(engine, query, tenant="none"))
        assert shown.startswith("the log has no event that this token may read")
    for query in ("actor:bob", "has:context.secre", "has:context.cuntri"):
        for hint in hints_of(engine, query, tenant="acme"):
            assert "Bob" not in f"{hint.text} {hint.nearest}"
            assert "secret" not in f"{hint.text} {hint.nearest}"
            assert "context.cuntry" not in f"{hint.text} {hint.nearest}"


def test_without_time_there_are_no_hints_that_cost_any(engine: QueryEngine) -> None:
    for query in WHY:
        for hint in hints_of(engine, query, time_s=0.0):
            assert hint.count is None


class ManyValues:
    """A view of a log whose events have very many ids of targets."""

    def count(self, query: Expression) -> int | None:
        return 1 if query == EVERYTHING else 0

    def hours(self, query: Expression) -> None:
        raise NotImplementedError

    def values(self, dimension: str) -> Counter[str]:
        assert dimension == "target"
        return Counter({f"r_nin{n}": 1 for n in range(100)} | {"r_mine": 3, "r_none": 2})


def test_a_value_is_compared_with_the_most_frequent_ones_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []

    def near_names(_name: str, known: Collection[str], **_options: float) -> list[str]:
        compared.extend(known)
        return []

    monkeypatch.setattr(hints, "near_names", near_names)
    monkeypatch.setattr(hints, "VALUES_COMPARED_MAX", 2)
    assert [hint.kind for hint in find_hints(parse_query("target:r_nine"), ManyValues())] == [
        "value"
    ]
    assert compared == ["r_mine", "r_none"]


def test_hints_are_few_for_a_query_of_many_conditions(engine: QueryEngine) -> None:
    query = " ".join(f"actor:nobody{n}" for n in range(200))
    assert len(hints_of(engine, query)) <= hints.HINTS_MAX
