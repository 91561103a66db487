"""A query stays within its limits in every part, and holds nothing that another query waits for."""

import random
from collections.abc import Callable, Iterator

import pytest

from ledger.query.answer import Answer
from ledger.query.budget import (
    INSTANT_S,
    QUICK_S,
    SLOW_S,
    VERY_QUICK_S,
    Budget,
    QueryCancelledError,
    QueryLimits,
)
from ledger.query.cursor import IndexOrder
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import LeafCache
from ledger.query.open_segments import SLICES_JOINED, TIER_ENTRIES, OpenSegments
from ledger.query.segment_builder import SegmentBuilder
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.index.postings import join
from ledger.store.index.roaring_containers import Container, union
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter
from ledger_core.query.ast import EVERYTHING, And, Expression, Is, Not, any_of
from ledger_core.query.fields import DIMENSIONS
from ledger_core.tlog.tile import TILE_WIDTH
from tests.query.events import make_entries, make_log, random_event
from tests.query.queries import NOW_UNIX_US

ENTRIES = 1100
SEGMENT_ENTRIES = 64
SEALED = 16
STARS = any_of(
    And((Is("actor", "", is_prefix=True), Not(Is("session", f"none {number}"))))
    for number in range(60)
)
"""Sixty unions of all actors, which no two parts share."""
TICK_S = 0.02


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogWriter]:
    path = tmp_path_factory.mktemp("log")
    rng = random.Random(5)
    events = [random_event(rng, number) for number in range(ENTRIES)]
    writer = make_log(path / "log", make_entries(events))
    index = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
    builder = SegmentBuilder(writer.store, index)
    for _ in range(SEALED):
        assert builder.seal_next()
    index.close()
    yield writer
    writer.close()


class Ticks:
    """A clock that goes on by a tick at each look: the looks are the pieces of work."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks * TICK_S


class Patience:
    """A client that hangs up when it was asked some times whether it has."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.count = 0

    def __call__(self) -> bool:
        self.count += 1
        return self.count > self.allowed


@pytest.fixture
def index(log: LogWriter) -> IndexStore:
    return IndexStore(log.store.path.parent / "index", segment_entries=SEGMENT_ENTRIES)


def engine_of(
    store: LogStore, index: IndexStore | None, clock: Callable[[], float] = lambda: 0.0
) -> QueryEngine:
    return QueryEngine(store, index, segment_entries=SEGMENT_ENTRIES, clock=clock)


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_windows_grow_while_they_are_quick_and_shrink_when_they_are_slow(order: IndexOrder) -> None:
    now_s = [0.0]
    budget = Budget(QueryLimits(), lambda: now_s[0])
    took_s = [INSTANT_S] + [VERY_QUICK_S] + [QUICK_S] * 2 + [SLOW_S * 2] * 4 + [0.0] * 100
    parts = []
    for number, part in enumerate(budget.split(range(3, 100), order, most=16)):
        parts.append(part)
        now_s[0] += took_s[number]
    assert [len(part) for part in parts][:10] == [1, 8, 16, 16, 16, 8, 4, 2, 1, 16]
    covered = [segment for part in parts for segment in (part if order == "oldest" else part[::-1])]
    assert covered == list(range(3, 100) if order == "oldest" else reversed(range(3, 100)))


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_the_time_ends_an_evaluation_and_the_next_page_goes_on(
    log: LogWriter, index: IndexStore, order: IndexOrder
) -> None:
    found: list[int] = []
    cursor, pages = None, 0
    limits = QueryLimits(time_s=5.0)
    while True:
        ticks = Ticks()
        answer = engine_of(log.store, index, ticks).search(
            STARS, tenant=None, now_unix_us=NOW_UNIX_US, limit=1000, cursor=cursor, order=order,
            limits=limits,
        )  # fmt: skip
        # After the time is up every part looks at the clock once more, whatever was left to do.
        assert ticks.looks <= limits.time_s / TICK_S + 5
        found += [row.index for row in answer.rows]
        cursor, pages = answer.cursor, pages + 1
        if cursor is None:
            break
        assert not answer.complete
        assert not answer.total_exact
        assert answer.total < ENTRIES
    assert pages > 3
    assert found == (list(range(ENTRIES)) if order == "oldest" else list(range(ENTRIES))[::-1])


def test_an_answer_is_complete_only_if_no_limit_was_reached(
    log: LogWriter, index: IndexStore
) -> None:
    def search(limits: QueryLimits, limit: int) -> bool:
        engine = engine_of(log.store, index, Ticks())
        answer = engine.search(
            STARS, tenant=None, now_unix_us=NOW_UNIX_US, limit=limit, limits=limits
        )
        assert answer.total_exact == answer.complete
        return answer.complete

    for limit in (0, 5):
        assert not search(QueryLimits(time_s=10.0), limit)
        assert search(QueryLimits(time_s=1e9), limit)


def test_facets_end_with_the_time_and_say_how_many_they_counted(
    log: LogWriter, index: IndexStore
) -> None:
    def search(time_s: float) -> tuple[list[int], bool, bool]:
        answer = engine_of(log.store, index, Ticks()).search(
            Is("outcome", "success"), tenant=None, now_unix_us=NOW_UNIX_US, limit=0,
            facets=("actor", "target", "action"), histogram="hour",
            limits=QueryLimits(time_s=time_s),
        )  # fmt: skip
        assert answer.histogram is not None
        counted = [*(each.counted for each in answer.facets), answer.histogram.counted]
        return counted, all(each.is_exact for each in answer.facets), answer.complete

    (total, *others), is_exact, is_complete = search(1e9)
    assert set(others) == {total}
    assert is_exact
    assert is_complete
    counted, is_exact, is_complete = search(1.0)
    assert 0 < min(counted) <= max(counted) < total
    assert not is_exact
    assert not is_complete


def test_a_page_ends_before_it_has_too_many_bytes(log: LogWriter, index: IndexStore) -> None:
    engine = engine_of(log.store, index)

    def search(query: Expression, page_bytes: float) -> Answer:
        return engine.search(
            query, tenant=None, now_unix_us=NOW_UNIX_US, limit=1000,
            limits=QueryLimits(page_bytes=page_bytes),
        )  # fmt: skip

    for query in (EVERYTHING, Is("outcome", "success")):
        answer = search(query, 1)
        assert 0 < len(answer.rows) <= TILE_WIDTH
        assert answer.cursor is not None
        assert not answer.complete
        # The whole page, and then the first one again, when all of its rows are in memory.
        whole = search(query, float("inf"))
        assert whole.rows[: len(answer.rows)] == answer.rows
        assert search(query, float("inf")) == whole
        assert search(query, 1) == answer


def test_a_cancelled_query_does_nothing_more(log: LogWriter, index: IndexStore) -> None:
    for allowed in (0, 1, 50, 200):
        looks = Patience(allowed)
        engine = engine_of(log.store, index)
        with pytest.raises(QueryCancelledError):
            engine.search(
                STARS, tenant=None, now_unix_us=NOW_UNIX_US,
                is_cancelled=looks,
            )  # fmt: skip
        assert looks.count == allowed + 1
        looks = Patience(allowed)
        with pytest.raises(QueryCancelledError):
            engine.explain(
                STARS, tenant=None, now_unix_us=NOW_UNIX_US,
                is_cancelled=looks,
            )  # fmt: skip
        assert looks.count == allowed + 1


def test_a_plan_is_explained_within_the_limits(log: LogWriter, index: IndexStore) -> None:
    ticks = Ticks()
    limits = QueryLimits(time_s=10.0)
    text = engine_of(log.store, index, ticks).explain(
        STARS, tenant=None, now_unix_us=NOW_UNIX_US, limits=limits
    )
    # The root, and sixty times a conjunction, its two conditions and the one that is negated.
    assert ticks.looks <= limits.time_s / TICK_S + 4 * (1 + 60 * 4)
    assert " or more" in text


def test_other_queries_are_answered_in_the_middle_of_a_heavy_one(log: LogWriter) -> None:
    engine = engine_of(log.store, None)
    answers: list[int] = []

    def ask() -> bool:
        if len(answers) < 100:
            other = engine.search(Is("actor", "u_1"), tenant=None, now_unix_us=NOW_UNIX_US)
            answers.append(other.total)
        return False

    heavy = engine.search(STARS, tenant=None, now_unix_us=NOW_UNIX_US, is_cancelled=ask)
    assert heavy.total == ENTRIES
    assert len(answers) == 100
    assert len(set(answers)) == 1


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("query", [EVERYTHING, Is("reason", "none"), Is("actor", "u_1")])
def test_rows_come_in_small_batches_and_empty_ones_while_none_is_found(
    log: LogWriter, index: IndexStore, query: Expression, order: IndexOrder
) -> None:
    engine = engine_of(log.store, index)
    batches = list(engine.row_batches(query, tenant=None, now_unix_us=NOW_UNIX_US, order=order))
    assert max(map(len, batches)) <= TILE_WIDTH
    # Windows of 1 and of 8 segments, and the rest.
    assert sum(not batch for batch in batches) >= 3
    some = engine.row_batches(
        EVERYTHING, tenant=None, now_unix_us=NOW_UNIX_US, order=order,
        is_cancelled=Patience(4),
    )  # fmt: skip
    with pytest.raises(QueryCancelledError):
        list(some)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_slices_are_joined_and_have_the_terms_of_the_whole(log: LogWriter, at_once: int) -> None:
    leaf_cache = LeafCache(log.store)
    opened = OpenSegments(log.store, leaf_cache, segment_entries=1 << 16)
    for size in range(at_once, ENTRIES, at_once):
        opened.snapshot(tree_size=size, sealed=(), check=lambda: None)
        opened.advance(sealed=(), entries_max=0)
        opened.snapshot(tree_size=size, sealed=(), check=lambda: None)
    while opened.advance(sealed=(), entries_max=50):
        pass
    (slices,) = opened.snapshot(tree_size=ENTRIES, sealed=(), check=lambda: None).values()
    assert len(slices) < SLICES_JOINED * len(TIER_ENTRIES)
    edges = [(terms.start, terms.end) for terms in slices]
    assert [start for start, _ in edges] == [0, *(end for _, end in edges[:-1])]
    assert edges[-1][1] == ENTRIES
    whole = SegmentTerms()
    for _, leaves in leaf_cache.bundles(0, ENTRIES):
        whole.add(leaves)
    for dimension in DIMENSIONS:
        parts: dict[str, list[Container]] = {}
        for terms in slices:
            for value, container in terms.postings(dimension):
                parts.setdefault(value, []).append(container)
        joined = join((value, union(parts[value])) for value in sorted(parts))
        assert joined.values == whole.postings(dimension).values
        assert joined.counts == whole.postings(dimension).counts
