"""What one client sends takes a bounded number of bytes in memory, whatever it is."""

import json
import random
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.query import open_segments, segment_terms
from ledger.query.budget import LEAF_BYTES_INDEXED, QueryLimits
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import LeafCache
from ledger.query.open_segments import OpenSegments
from ledger.store.log import LogStore
from ledger.store.writer import NewEntry
from ledger_core.query import analyzer
from ledger_core.query.parser import parse_query
from tests.query.events import make_entries, make_log
from tests.query.queries import NOW_UNIX_US

ENTRIES = 600
LIMIT = 1 << 20
Event = dict[str, Any]


def digits(rng: random.Random, count: int) -> str:
    return f"{rng.getrandbits(4 * count):0{count}x}"


def targets(rng: random.Random) -> Event:
    return {"targets": [{"type": digits(rng, 30), "id": digits(rng, 60)} for _ in range(32)]}


def names(rng: random.Random) -> Event:
    return {"targets": [{"id": "r", "name": short_words(rng, 300)} for _ in range(8)]}


def context(rng: random.Random) -> Event:
    return {"context": {digits(rng, 8): digits(rng, 90) for _ in range(40)}}


def changes(rng: random.Random) -> Event:
    return {
        "changes": [
            {"path": f"/{digits(rng, 8)}", "before": short_words(rng, 40), "after": digits(rng, 40)}
            for _ in range(40)
        ]
    }


def reasons(rng: random.Random) -> Event:
    return {"reason": short_words(rng, 500), "source": {"user_agent": short_words(rng, 500)}}


def actions(rng: random.Random) -> Event:
    return {"action": ".".join(digits(rng, 3) for _ in range(30))}


def single_values(rng: random.Random) -> Event:
    return {
        "actor": {"id": digits(rng, 120), "session": digits(rng, 120), "name": digits(rng, 120)},
        "source": {"service": digits(rng, 120)},
        "context": {"request_id": digits(rng, 120), "trace_id": digits(rng, 120)},
    }


def short_words(rng: random.Random, chars: int) -> str:
    return " ".join(digits(rng, 3) for _ in range(chars // 4))


KINDS = (targets, names, context, changes, reasons, actions, single_values)


def make_events(kind: Callable[[random.Random], Event]) -> list[Event]:
    """Each hundredth event is that of another client."""
    rng = random.Random(3)
    base: Event = {"actor": {"id": "u_1"}, "action": "a.b", "outcome": "success"}
    ordinary = {**base, "tenant": "acme", "targets": [{"id": "r_5"}], "reason": "legal hold"}
    events = [
        {**base, **kind(rng)} if number % 100 else {**ordinary, "context": {"region": "eu"}}
        for number in range(ENTRIES)
    ]
    return [{**event, "id": str(uuid.UUID(int=place))} for place, event in enumerate(events)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def entries(request: pytest.FixtureRequest) -> list[NewEntry]:
    return make_entries(make_events(request.param))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, entries: list[NewEntry]) -> Iterator[LogStore]:
    """Its limits are as small as its hostile events are few."""
    path = tmp_path_factory.mktemp("open") / "log"
    make_log(path, entries).close()
    store = LogStore.open(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_segments, "TEXT_BYTES_MAX", LIMIT)
        patch.setattr(open_segments, "HASH_BYTES_MAX", LIMIT // 8)
        patch.setattr(open_segments, "SLICE_BYTES", LIMIT // 8)
        patch.setattr(open_segments, "SMALL_BYTES", LIMIT // 32)
        patch.setattr(segment_terms, "DECODED_BYTES_MAX", 1 << 13)
        yield store
    store.close()


def test_a_segment_in_memory_has_a_limit_in_bytes(log: LogStore) -> None:
    opened = OpenSegments(log, LeafCache(log, bytes_max=0), segment_entries=1 << 16)
    tracemalloc.start()
    try:
        opened.snapshot(tree_size=ENTRIES, sealed=(), check=lambda: None)
        while opened.advance(sealed=(), entries_max=128):
            pass
        for cached in (analyzer._code_of, analyzer._prefix_of, analyzer.pack_address):
            cached.cache_clear()
        held_bytes, _ = tracemalloc.get_traced_memory()
        (slices,) = opened.snapshot(tree_size=ENTRIES, sealed=(), check=lambda: None).values()
    finally:
        tracemalloc.stop()
    assert slices[-1].left_out.hashed
    assert not slices[0].left_out.hashed
    edges = [(terms.start, terms.end) for terms in slices]
    assert [start for start, _ in edges] == [0, *(end for _, end in edges[:-1])]
    counted = sum(terms.size for terms in slices)
    # A quarter more for what grows on, a twentieth for each small dimension, and the last slice.
    assert counted < 3 * LIMIT
    # What is counted is what is taken, but for 25 KB that each slice has at least.
    assert held_bytes < 1.25 * counted + len(slices) * 40_000


QUERIES = (
    "target:r_5", "legal hold", 'reason:"legal hold"', "context.region:eu", "tenant:acme",
    "NOT target:r_5", "has:reason", "target:r_5,r_6,r_7", "action:a.*", "action:a.b", "actor:u_1",
    "absent",
)  # fmt: skip


def test_answers_of_a_segment_beyond_the_limit_are_those_of_a_plain_scan(
    log: LogStore, entries: list[NewEntry]
) -> None:
    engine = QueryEngine(log, None)
    leaves = [json.loads(entry.leaf)["event"] for entry in entries]
    for query in QUERIES:
        expression = parse_query(query)
        matches = engine.matcher(expression, tenant=None, now_unix_us=NOW_UNIX_US)
        expected = [index for index, entry in enumerate(entries) if matches(index, entry.leaf)]
        answer = engine.search(
            expression, tenant=None, now_unix_us=NOW_UNIX_US, limit=1000, order="oldest",
            facets=("target",),
        )  # fmt: skip
        assert [row.index for row in answer.rows] == expected, query
        assert answer.total == len(expected)
        assert answer.total_exact
        assert answer.complete
        ids = {each["id"] for index in expected for each in leaves[index].get("targets", ())}
        (facet,) = answer.facets
        assert facet.is_exact
        assert len(facet.values) + facet.others == len(ids), query


def test_a_search_for_a_value_of_others_reads_few_rows_of_a_hostile_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_segments, "TEXT_BYTES_MAX", LIMIT)
    monkeypatch.setattr(open_segments, "SLICE_BYTES", LIMIT // 8)
    monkeypatch.setattr(open_segments, "HASH_BYTES_MAX", LIMIT)
    monkeypatch.setattr(open_segments, "SMALL_BYTES", LIMIT // 32)
    make_log(tmp_path / "log", make_entries(make_events(targets))).close()
    log = LogStore.open(tmp_path / "log")
    engine = QueryEngine(log, None)
    while engine.advance(ENTRIES):
        pass
    for query in ("target:r_5", "actor:u_1 target:r_5", "target:r_5,r_6", "legal hold"):
        answer = engine.search(parse_query(query), tenant=None, now_unix_us=NOW_UNIX_US, limit=1000)
        assert answer.total == ENTRIES // 100
        assert answer.scanned <= 2 * answer.total, query
    log.close()


def test_a_search_does_not_wait_until_what_others_appended_is_indexed(tmp_path: Path) -> None:
    """As after a start: to index 65,536 of these entries takes many seconds."""
    entries = make_entries(make_events(targets))
    leaf_bytes = sum(len(entry.leaf) for entry in entries)
    assert leaf_bytes > LEAF_BYTES_INDEXED + (1 << 19)
    make_log(tmp_path / "log", entries).close()
    log = LogStore.open(tmp_path / "log")
    engine = QueryEngine(log, None)
    for query in ("target:r_5", "legal hold", "tenant:acme", "actor:u_1 context.region:eu"):
        answer = engine.search(
            parse_query(query), tenant=None, now_unix_us=NOW_UNIX_US, limit=1000,
            histogram="hour", facets=("target",),
        )  # fmt: skip
        assert (answer.total, answer.total_exact, answer.complete) == (ENTRIES // 100, True, True)
        assert answer.histogram is not None
        assert answer.histogram.is_exact
        assert [(each.value, each.count) for each in answer.facets[0].values] == [("r_5", 6)]
        (slices,) = engine._open_segments._segments.values()
        if query == "target:r_5":
            assert sum(terms.leaf_bytes for terms in slices) < leaf_bytes // 2
    log.close()


def test_a_search_goes_on_while_another_thread_indexes(tmp_path: Path) -> None:
    make_log(tmp_path / "log", make_entries(make_events(names)[:200])).close()
    log = LogStore.open(tmp_path / "log")
    engine = QueryEngine(log, None, clock=time.monotonic)
    with engine._open_segments._lock:
        answer = engine.search(
            parse_query("target:r_5"), tenant=None, now_unix_us=NOW_UNIX_US,
            limits=QueryLimits(time_s=60.0),
        )  # fmt: skip
    log.close()
    assert (answer.total, answer.complete) == (2, True)


def test_what_takes_most_is_left_out_and_the_rest_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of names pass the limit of hashes alone; targets are found by their hashes then."""
    monkeypatch.setattr(open_segments, "TEXT_BYTES_MAX", LIMIT)
    monkeypatch.setattr(open_segments, "SLICE_BYTES", LIMIT // 8)
    monkeypatch.setattr(open_segments, "HASH_BYTES_MAX", LIMIT // 4)
    monkeypatch.setattr(open_segments, "SMALL_BYTES", LIMIT // 32)
    monkeypatch.setattr(segment_terms, "DECODED_BYTES_MAX", 1 << 13)

    def named(rng: random.Random) -> Event:
        ids = [{"id": digits(rng, 20), "name": short_words(rng, 300)} for _ in range(8)]
        return {"targets": ids}

    make_log(tmp_path / "log", make_entries(make_events(named))).close()
    log = LogStore.open(tmp_path / "log")
    engine = QueryEngine(log, None)
    while engine.advance(ENTRIES):
        pass
    query = parse_query("target:r_5")
    answer = engine.search(query, tenant=None, now_unix_us=NOW_UNIX_US, limit=1000)
    log.close()
    assert answer.total == ENTRIES // 100
    assert answer.scanned <= 2 * answer.total


def test_caches_of_texts_hold_short_ones_alone() -> None:
    """A context may have a number, or a key inside an object, of 60 KB."""
    tracemalloc.start()
    try:
        for number in range(300):
            text = f"{number}{'1' * 50_000}"
            assert analyzer.number_term("a", text) is None
            assert analyzer.context_prefix(text) == f'"{text}"'
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 1_000_000
