"""One damaged bundle: the rest is searched and shown, and every answer says what is missing."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ledger.query.answer import Answer, Row
from ledger.query.cursor import IndexOrder
from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import SegmentBuilder, reindex
from ledger.store import keyspace
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import DamagedBundleError, LogStore
from ledger_client import IncompleteWarning, LedgerClient
from ledger_client.cli.query import tree_and_head
from ledger_core.query.ast import (
    EVERYTHING,
    Between,
    Expression,
    IndexBetween,
    Is,
    Moment,
    Not,
    Words,
    all_of,
)
from ledger_core.query.fields import FACETS
from ledger_core.tlog.tile import TILE_WIDTH
from tests.query.events import START_UNIX_US, make_entries, make_log, random_event
from tests.query.oracle import JSON, matching_indices
from tests.query.queries import NOW_UNIX_US
from tests.service.serving import event, make_ledger, serving

BUNDLES = 5
ENTRIES = BUNDLES * TILE_WIDTH + 30
DAMAGED = 2
LOST = range(DAMAGED * TILE_WIDTH, (DAMAGED + 1) * TILE_WIDTH)
SEGMENT_ENTRIES = 2 * TILE_WIDTH
QUERIES: tuple[Expression, ...] = (
    EVERYTHING,
    Is("actor", "u_1"),
    Not(Is("outcome", "failure")),
    Words("", "review"),
    Between("received", Moment(START_UNIX_US + 600 * 1_500_000), None),
)


def damage(path: Path, bundle: int) -> None:
    """Flip a bit in the middle of a stored bundle."""
    log = LogStore.open(path, readonly=False)
    with log.environment.write() as transaction:
        key = keyspace.bundle_key(bundle)
        frame = bytearray(transaction.require(keyspace.ENTRIES, key))
        frame[len(frame) // 2] ^= 4
        transaction.put(keyspace.ENTRIES, key, bytes(frame))
    log.close()


class Case:
    """A log with a damaged bundle. `sealed`: whether the index was made before the damage."""

    def __init__(self, path: Path, *, sealed: bool) -> None:
        rng = random.Random(12)
        entries = make_entries([random_event(rng, number) for number in range(ENTRIES)])
        make_log(path / "log", entries).close()
        self.events: list[JSON] = [json.loads(entry.leaf) for entry in entries]
        self.path = path
        if sealed:
            log = LogStore.open(path / "log")
            reindex(log, path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
            log.close()
        damage(path / "log", DAMAGED)
        self.log = LogStore.open(path / "log")
        index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES, sets_aside=True)
        self.engine = QueryEngine(self.log, index, segment_entries=SEGMENT_ENTRIES)

    def search(
        self, query: Expression, order: IndexOrder, cursor: str | None, limit: int
    ) -> Answer:
        return self.engine.search(
            query,
            tenant=None,
            now_unix_us=NOW_UNIX_US,
            limit=limit,
            order=order,
            cursor=cursor,
            facets=FACETS,
        )


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "open"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    made = Case(tmp_path_factory.mktemp("damaged"), sealed=request.param)
    yield made
    made.log.close()


def readable(indices: Sequence[int]) -> list[int]:
    return [index for index in indices if index not in LOST]


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("limit", [7, 300])
@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_the_pages_of_every_query_hold_the_rest_and_say_that_they_are_not_complete(
    case: Case, query: Expression, limit: int, order: IndexOrder
) -> None:
    expected = readable(matching_indices(query, case.events, now_unix_us=NOW_UNIX_US))
    found: list[int] = []
    cursor = None
    pages: list[Answer] = []
    while True:
        answer = case.search(query, order, cursor, limit)
        assert answer.total >= len(answer.rows)
        found += [row.index for row in answer.rows]
        pages.append(answer)
        cursor = answer.cursor
        if cursor is None or (limit < 100 and len(pages) > 3):
            break
    if order == "newest":
        expected.reverse()
    assert found == (expected if cursor is None else expected[: len(found)])
    # Where the index knew all, the bundle may never have been read; a page over it reads it.
    if cursor is None:
        assert not pages[-1].complete
        assert not pages[-1].total_exact
        assert pages[-1].unreadable == (DAMAGED,)
        assert not any(facet.is_exact for facet in pages[-1].facets)


def test_an_answer_beside_the_damage_is_complete(case: Case) -> None:
    case.search(EVERYTHING, "newest", None, 1000)
    beside = IndexBetween(LOST.stop, ENTRIES)
    answer = case.search(all_of((Is("actor", "u_1"), beside)), "newest", None, 1000)
    assert answer.complete
    assert answer.total_exact
    assert answer.unreadable == ()
    assert answer.rows


def test_an_export_ends_at_the_damage_and_names_it(case: Case) -> None:
    rows: list[Row] = []
    batches = case.engine.row_batches(EVERYTHING, tenant=None, now_unix_us=NOW_UNIX_US)
    with pytest.raises(DamagedBundleError, match="the entries 512 to 767 can't be read: bundle 2"):
        rows.extend(row for batch in batches for row in batch)
    assert [row.index for row in rows] == list(range(LOST.start))


def test_the_other_segments_are_built(case: Case, tmp_path: Path) -> None:
    lost = LOST.start // SEGMENT_ENTRIES
    writer = IndexWriter.open(tmp_path / "index", segment_entries=SEGMENT_ENTRIES)
    builder = SegmentBuilder(case.log, writer)
    while builder.seal_next():
        pass
    assert set(writer.sealed()) == {0, 1} - {lost}
    writer.close()
    built = reindex(case.log, tmp_path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    assert built == 1


def test_a_service_names_the_damage_and_serves_the_rest(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        for _ in range(2):
            assert ledger.append(*[event() for _ in range(TILE_WIDTH)]).status == 200
    damage(directory / "log", 0)
    with serving(directory, tokens) as ledger:
        answer = ledger.ask("/v1/events?limit=1000").json()
        assert answer["unreadable"] == [0]
        assert not answer["complete"]
        assert [found["index"] for found in answer["events"]][-1] == TILE_WIDTH
        assert ledger.ask(f"/v1/events/{TILE_WIDTH}").status == 200
        lost = ledger.ask("/v1/events/5")
        assert (lost.status, lost.slug) == (500, "damaged")
        assert "the entries 0 to 255 can't be read: bundle 0" in lost.json()["detail"]
        assert "run ledger fsck" in lost.json()["detail"]
        ready = ledger.ask("/readyz")
        assert ready.status == 200
        assert any("bundle 0 is damaged" in warning for warning in ready.json()["warnings"])
        assert ledger.append(event()).status == 200
        with LedgerClient(ledger.url, tokens["admin"], policy=directory / "policy") as client:
            page = next(iter(client.pages("", limit=300)))
            for entries in (client.query("action:*"), client.timeline("u_1")):
                with pytest.warns(IncompleteWarning, match="256 events can't be read"):
                    list(entries)
        assert page.unreadable == (0,)
        assert page.entries
        assert "INCOMPLETE: the ledger's data is damaged; 256 events" in tree_and_head(page)
