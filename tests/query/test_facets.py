"""Facets are counted in small pieces, and a counter holds a bounded number of values."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.query import facets
from ledger.query.answer import Answer
from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import reindex
from ledger.store.index import term_blocks
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger_core.query.ast import EVERYTHING, Expression, Is, Not
from ledger_core.query.fields import COLUMNS, FACETS
from tests.query.events import make_entries, make_log, random_event
from tests.query.oracle import facet_counts
from tests.query.queries import NOW_UNIX_US

SEGMENT_ENTRIES = 64
HELD = 40
ENTRIES = 5 * SEGMENT_ENTRIES + 20
QUERIES: tuple[Expression, ...] = (EVERYTHING, Is("outcome", "success"), Not(Is("actor", "u_1")))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueryEngine]:
    path: Path = tmp_path_factory.mktemp("facets")
    rng = random.Random(21)
    events = [random_event(rng, number) for number in range(ENTRIES)]
    for number, made in enumerate(events):
        made["targets"] = [{"id": f"r_{number if number % 3 else 0}"}]
    make_log(path / "log", make_entries(events)).close()
    log = LogStore.open(path / "log")
    with pytest.MonkeyPatch.context() as patch:
        # So that a column of values has several blocks.
        patch.setattr(term_blocks, "BLOCK_TERMS_MAX", 7)
        reindex(log, path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
    yield QueryEngine(log, index, segment_entries=SEGMENT_ENTRIES)
    log.close()


def count(engine: QueryEngine, query: Expression) -> Answer:
    return engine.search(query, tenant=None, now_unix_us=NOW_UNIX_US, limit=0, facets=FACETS)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_pieces_change_no_count(
    engine: QueryEngine, query: Expression, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = count(engine, query)
    monkeypatch.setattr(facets, "PIECE", 5)
    assert count(engine, query) == whole


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_few_matches_and_many_are_named_alike(
    engine: QueryEngine, query: Expression, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "FEW_IN_BLOCK", 0)
    many = count(engine, query)
    monkeypatch.setattr(facets, "FEW_IN_BLOCK", SEGMENT_ENTRIES)
    assert count(engine, query) == many
    # The rows themselves name the same values.
    rows = engine.search(query, tenant=None, now_unix_us=NOW_UNIX_US, limit=ENTRIES).rows
    events = [json.loads(row.leaf) for row in rows]
    for field in COLUMNS:
        counts = facet_counts(field, events)
        found = many.facets[FACETS.index(field)]
        assert len(found.values) + found.others == len(counts)
        assert {each.value: each.count for each in found.values}.items() <= counts.items()


def test_a_counter_of_too_many_values_drops_the_rarest_and_says_so(
    engine: QueryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "VALUES_MAX", HELD * len(FACETS))
    answer = count(engine, EVERYTHING)
    targets = answer.facets[FACETS.index("target")]
    assert len(targets.values) + targets.others <= HELD
    assert not targets.is_exact
    # The value that a third of the events have is never among the rarest.
    assert targets.values[0].value == "r_0"
    assert targets.values[0].count == -(-ENTRIES // 3)
    assert targets.counted == ENTRIES
    assert answer.facets[FACETS.index("outcome")].is_exact
    assert answer.total_exact
