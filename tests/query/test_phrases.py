"""Phrases: words side by side, decided by pairs of words in the index wherever these suffice."""

import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from uuid import UUID

import pytest

from ledger.query.budget import QueryLimits
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.event.times import format_time
from ledger_core.query import ast
from ledger_core.query.parser import parse_query
from tests.query.events import START_UNIX_US, make_entries, make_log
from tests.query.oracle import JSON, matching_indices

SEGMENT_ENTRIES = 64
ENTRIES = 4 * SEGMENT_ENTRIES
WORDS = ("legal", "hold", "review", "東京都")
FIELDS = ("", "reason", "actor.name", "target.name", "user_agent")


def _stamp(number: int) -> JSON:
    return {"id": str(UUID(int=number)), "time": format_time(START_UNIX_US + number)}


def _event(rng: random.Random, number: int) -> JSON:
    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randrange(1, 7)))

    actor = {"id": f"{rng.choice(('legal', 'u'))}/hold/{number}", "name": text()}
    return {
        **_stamp(number),
        "action": "legal.hold",
        "outcome": "success",
        "actor": actor,
        "targets": [{"id": f"r{number}", "name": text()} for _ in range(rng.choice((0, 1, 1, 2)))],
        "source": {"user_agent": text()},
        "reason": text() if number % 50 else " ".join([*WORDS[:3]] * 50),
        "changes": [{"path": "/note", "after": text()}] if number % 5 == 0 else [],
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogStore]:
    path = tmp_path_factory.mktemp("phrases")
    rng = random.Random(3)
    entries = make_entries([_event(rng, number) for number in range(ENTRIES)])
    make_log(path / "log", entries).close()
    log = LogStore.open(path / "log")
    writer = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
    for _ in range(3):
        assert SegmentBuilder(log, writer).seal_next()
    writer.close()
    yield log
    log.close()


@pytest.fixture(scope="module")
def events(log: LogStore) -> list[JSON]:
    return [json.loads(leaf or b"") for leaf in LeafCache(log).readable(range(ENTRIES))]


@pytest.fixture(scope="module")
def engine(log: LogStore) -> QueryEngine:
    index = IndexStore(log.path.with_name("index"), segment_entries=SEGMENT_ENTRIES)
    return QueryEngine(log, index, segment_entries=SEGMENT_ENTRIES)


PHRASES = [" ".join(words) for size in (2, 3, 4) for words in product(WORDS, repeat=size)]


@pytest.mark.parametrize("field", FIELDS)
def test_each_phrase_finds_the_events_with_a_text_that_has_it(
    engine: QueryEngine, events: list[JSON], field: str
) -> None:
    rng = random.Random(field)
    for phrase in rng.sample(PHRASES, 40):
        text = phrase if rng.random() < 0.6 else phrase[:-1]
        query = ast.Words(field, text, is_prefix=text != phrase)
        expected = matching_indices(query, events, now_unix_us=0)
        answer = engine.search(
            query, tenant=None, now_unix_us=0, limit=1000, order="oldest", limits=ALL_COUNTED
        )
        assert [row.index for row in answer.rows] == expected, query
        assert (answer.total, answer.total_exact) == (len(expected), True)


def test_a_phrase_of_more_pairs_than_are_looked_up_is_decided_by_the_rows(
    engine: QueryEngine, events: list[JSON]
) -> None:
    whole = " ".join([*WORDS[:3]] * 40)
    for query in (
        ast.Words("reason", whole),
        ast.Words("", whole[:-1], is_prefix=True),
        ast.Words("reason", f"{whole} other"),
    ):
        expected = matching_indices(query, events, now_unix_us=0)
        answer = engine.search(
            query, tenant=None, now_unix_us=0, limit=1000, order="oldest", limits=ALL_COUNTED
        )
        assert [row.index for row in answer.rows] == expected
        assert (answer.total, answer.total_exact) == (len(expected), True)
        assert bool(expected) == ("other" not in query.text)


ALL_COUNTED = QueryLimits(rows_counted=ENTRIES)


def _scanned(engine: QueryEngine, query: str) -> tuple[int, int]:
    answer = engine.search(parse_query(query), tenant=None, now_unix_us=0, limit=0)
    assert answer.total_exact
    return answer.total, answer.scanned


def test_the_index_decides_where_no_inner_word_repeats(tmp_path: Path) -> None:
    reasons = ("quarterly access review done", "review access quarterly", "access, access review")
    event = {"action": "a", "outcome": "success", "actor": {"id": "u"}}
    entries = make_entries(
        [{**_stamp(at), **event, "reason": reasons[at % 3]} for at in range(SEGMENT_ENTRIES)]
    )
    make_log(tmp_path, entries).close()
    log = LogStore.open(tmp_path)
    engine = QueryEngine(log, None, segment_entries=SEGMENT_ENTRIES)
    count = len(range(0, SEGMENT_ENTRIES, 3))
    assert _scanned(engine, '"access review"') == (count + 21, 0)
    assert _scanned(engine, '"review access"') == (21, 0)
    assert _scanned(engine, 'reason:"quarterly access review"') == (count, 0)
    assert _scanned(engine, '"quarterly access review done"') == (count, 0)
    # `access` stands twice in some: these rows are read.
    assert _scanned(engine, '"access access review"') == (21, 21)
    assert _scanned(engine, '"done review"') == (0, 0)
    log.close()


# A wider window holds this whole log, which is one bundle: all of its rows are read at once.
@pytest.mark.parametrize("window_segments", [1, 2])
def test_a_page_reads_few_rows_for_its_total_alone_and_says_so(
    log: LogStore, events: list[JSON], window_segments: int
) -> None:
    index = IndexStore(log.path.with_name("index"), segment_entries=SEGMENT_ENTRIES)
    engine = QueryEngine(
        log, index, segment_entries=SEGMENT_ENTRIES, window_segments=window_segments
    )
    query = parse_query('"legal hold legal"')
    expected = matching_indices(query, events, now_unix_us=0)
    limits = QueryLimits(rows_counted=10)
    found: list[int] = []
    cursor = None
    totals = []
    while True:
        answer = engine.search(
            query, tenant=None, now_unix_us=0, limit=20, cursor=cursor, limits=limits
        )
        found += [row.index for row in answer.rows]
        assert answer.complete
        totals.append((answer.total, answer.total_exact))
        cursor = answer.cursor
        if cursor is None:
            break
        # Only the first page counts.
        assert len(totals) > 1 or answer.scanned > 20
    assert found == expected[::-1]
    assert not totals[0][1]
    assert all(total <= len(expected) for total, _ in totals)
    assert [total for total, _ in totals] == sorted(total for total, _ in totals)
    exact = engine.search(query, tenant=None, now_unix_us=0, limit=0, limits=limits)
    assert (exact.total, exact.total_exact) == (len(expected), True)
