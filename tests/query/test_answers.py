"""The engine finds the same events as a plain test of every event (`oracle`)."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from ledger.query import event_times
from ledger.query.budget import QueryLimits
from ledger.query.cursor import ORDERS
from ledger.query.engine import QueryEngine
from ledger.query.evaluator import WINDOW_SEGMENTS
from ledger.query.facets import FACET_VALUES_MAX
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index import time_column
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger.store.writer import NewEntry
from ledger_core.query.ast import Expression, Is, all_of
from ledger_core.query.fields import FACETS
from ledger_core.query.order import Order
from tests.query.events import TENANTS, make_entries, make_log, random_event
from tests.query.left_out import small_limits
from tests.query.oracle import JSON, facet_counts, in_order, matching_indices
from tests.query.queries import ENTRIES, NOW_UNIX_US, QUERIES

SEGMENT_ENTRIES = 64
EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Setup(NamedTuple):
    """The indexed part of a log, and the width of windows."""

    sealed: int | None
    window_segments: int = WINDOW_SEGMENTS
    are_hashes_held: bool | None = None
    """Whether segments in memory hold hashes where they leave out texts; None: they hold all."""
    unread: int = 0
    """The last entries that no search indexes."""


class Case:
    """A log, an engine on it, and the leaves of the log."""

    def __init__(
        self,
        path: Path,
        entries: Sequence[NewEntry],
        setup: Setup,
    ) -> None:
        self.leaves = [entry.leaf for entry in entries]
        self.events: list[JSON] = [json.loads(leaf) for leaf in self.leaves]
        make_log(path / "log", entries).close()
        self.log = LogStore.open(path / "log")
        self.index: IndexStore | None = None
        if setup.sealed is not None:
            writer = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
            builder = SegmentBuilder(self.log, writer)
            for _ in range(setup.sealed):
                assert builder.seal_next()
            writer.close()
            self.index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
        self.engine = QueryEngine(
            self.log,
            self.index,
            segment_entries=SEGMENT_ENTRIES,
            window_segments=setup.window_segments,
        )
        if setup.unread:
            self._index_no_more(len(entries) - setup.unread, range(setup.sealed or 0))

    def _index_no_more(self, tree_size: int, sealed: range) -> None:
        """Index the entries below a size, and from then on none."""
        index = self.engine._open_segments.snapshot
        index(tree_size=tree_size, sealed=sealed, check=lambda: None)
        self.engine._open_segments.snapshot = (  # type: ignore[method-assign]
            lambda **asked: index(**{**asked, "leaf_bytes_max": 0})
        )

    def close(self) -> None:
        self.log.close()

    def expected(self, query: Expression) -> list[int]:
        note(repr(query))
        return matching_indices(query, self.events, now_unix_us=NOW_UNIX_US)


@pytest.fixture(scope="module")
def entries() -> list[NewEntry]:
    rng = random.Random(11)
    return make_entries([random_event(rng, number) for number in range(ENTRIES)])


# Without an index, rows decide in all but two segments. With six, all but the open one are sealed.
CASES = {
    "none": Setup(sealed=None),
    "new": Setup(sealed=0),
    "behind, in windows": Setup(sealed=3, window_segments=2),
    "sealed": Setup(sealed=6),
    "in memory by hashes": Setup(sealed=4, are_hashes_held=True),
    "in memory by little": Setup(sealed=4, are_hashes_held=False),
    "in memory, some not read": Setup(sealed=4, unread=50),
    "not read": Setup(sealed=4, unread=ENTRIES),
}


@pytest.fixture(scope="module", params=list(CASES.values()), ids=list(CASES))
def case(
    request: pytest.FixtureRequest,
    entries: list[NewEntry],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    setup: Setup = request.param
    with pytest.MonkeyPatch.context() as patch, ExitStack() as limited:
        if setup.are_hashes_held is not None:
            limited.enter_context(small_limits(are_hashes_held=setup.are_hashes_held))
        # So that a segment has several blocks of times.
        for module in (time_column, event_times):
            patch.setattr(module, "BLOCK_ENTRIES", 10)
        made = Case(tmp_path_factory.mktemp("log"), entries, setup)
        yield made
        made.close()


@EXAMPLES
@given(query=QUERIES, order=st.sampled_from(ORDERS), limit=st.integers(1, 80))
def test_pages_hold_every_match_once_and_in_order(
    case: Case, query: Expression, order: Order, limit: int
) -> None:
    expected = in_order(case.expected(query), case.events, order)
    found: list[int] = []
    cursor = None
    while True:
        answer = case.engine.search(
            query,
            tenant=None,
            now_unix_us=NOW_UNIX_US,
            limit=limit,
            order=order,
            cursor=cursor,
        )
        assert answer.total == len(expected)
        assert answer.total_exact
        assert answer.complete
        assert all(row.leaf == case.leaves[row.index] for row in answer.rows)
        found += [row.index for row in answer.rows]
        cursor = answer.cursor
        if cursor is None:
            break
        assert len(answer.rows) == limit
        # Every page costs a run over all segments, and hundreds of small ones show nothing new.
        limit = max(limit, 20)
    assert found == expected


@EXAMPLES
@given(query=QUERIES, order=st.sampled_from(ORDERS))
def test_a_page_cut_short_by_the_row_limit_goes_on_where_it_stopped(
    case: Case, query: Expression, order: Order
) -> None:
    expected = in_order(case.expected(query), case.events, order)
    found: list[int] = []
    cursor = None
    pages = 0
    while True:
        answer = case.engine.search(
            query,
            tenant=None,
            now_unix_us=NOW_UNIX_US,
            limit=40,
            order=order,
            cursor=cursor,
            limits=QueryLimits(rows_scanned=25),
        )
        assert answer.scanned <= 25
        assert answer.total <= len(expected)
        if answer.total_exact:
            assert answer.total == len(expected)
        found += [row.index for row in answer.rows]
        cursor = answer.cursor
        pages += 1
        assert pages < 200
        if cursor is None:
            break
        assert len(answer.rows) == 40 or not answer.complete
    assert found == expected


@EXAMPLES
@given(query=QUERIES, tenant=st.sampled_from(TENANTS), order=st.sampled_from(ORDERS))
def test_a_bound_tenant_sees_its_own_entries_alone(
    case: Case, query: Expression, tenant: str, order: Order
) -> None:
    expected = case.expected(all_of([Is("tenant", tenant), query]))
    answer = case.engine.search(
        query, tenant=tenant, now_unix_us=NOW_UNIX_US, limit=1000, order="oldest"
    )
    assert [row.index for row in answer.rows] == expected
    assert answer.total == len(expected)
    batches = case.engine.row_batches(query, tenant=tenant, now_unix_us=NOW_UNIX_US, order=order)
    rows = [row.index for batch in batches for row in batch]
    assert rows == in_order(expected, case.events, order)
    matches = case.engine.matcher(query, tenant=tenant, now_unix_us=NOW_UNIX_US)
    assert [i for i, leaf in enumerate(case.leaves) if matches(i, leaf)] == expected


@EXAMPLES
@given(query=QUERIES)
def test_facets_and_histograms_are_exact(case: Case, query: Expression) -> None:
    expected = [case.events[index] for index in case.expected(query)]
    answer = case.engine.search(
        query,
        tenant=None,
        now_unix_us=NOW_UNIX_US,
        limit=0,
        facets=FACETS,
        histogram="hour",
    )
    assert answer.rows == ()
    assert answer.total == len(expected)
    for facet in answer.facets:
        counts = facet_counts(facet.field, expected)
        want = sorted(counts.items(), key=lambda item: -item[1])[:FACET_VALUES_MAX]
        assert [each.count for each in facet.values] == [count for _, count in want]
        assert all(counts[each.value] == each.count for each in facet.values)
        assert facet.others == max(0, len(counts) - FACET_VALUES_MAX)
        assert facet.is_exact
        assert facet.counted == len(expected)
    hours = Counter(f"{entry['event']['time'][:13]}:00:00Z" for entry in expected)
    assert answer.histogram is not None
    found = [(bucket.start, bucket.count) for bucket in answer.histogram.buckets]
    assert found == sorted(hours.items())
