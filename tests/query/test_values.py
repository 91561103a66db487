"""Every value of a field, as a stream: what a plain count of the entries gives."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import SegmentBuilder, reindex
from ledger.query.value_stream import PIECE_S
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.query.ast import EVERYTHING, Expression, Is
from ledger_core.query.counting import parse_count_field
from ledger_core.query.parser import parse_query
from tests.query.events import make_entries, make_log, random_event
from tests.query.left_out import small_limits
from tests.query.oracle import matching_indices
from tests.query.queries import NOW_UNIX_US
from tests.query.test_counts import values

SEGMENT_ENTRIES = 64
ENTRIES = 4 * SEGMENT_ENTRIES + 30


class Log:
    """A log of which segment 1 is not indexed, and the last entries are in memory."""

    def __init__(self, path: Path) -> None:
        rng = random.Random(5)
        entries = make_entries([random_event(rng, number) for number in range(ENTRIES)])
        make_log(path / "log", entries).close()
        self.events: list[dict[str, Any]] = [json.loads(entry.leaf) for entry in entries]
        self.store = LogStore.open(path / "log")
        self.folder = path / "index"
        writer = IndexWriter.open(self.folder, segment_entries=SEGMENT_ENTRIES)
        builder = SegmentBuilder(self.store, writer)
        while builder.seal_next():
            pass
        writer.close()
        (self.folder / "00000001.segment").write_bytes(b"ledger segment 9\n of a later version")

    def engine(self) -> QueryEngine:
        index = IndexStore(self.folder, segment_entries=SEGMENT_ENTRIES)
        return QueryEngine(self.store, index, segment_entries=SEGMENT_ENTRIES)

    def found(self, query: Expression) -> list[dict[str, Any]]:
        indices = matching_indices(query, self.events, now_unix_us=NOW_UNIX_US)
        return [self.events[index] for index in indices]


@pytest.fixture(scope="module", params=[None, True, False], ids=["texts", "hashes", "little"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """Its last entries are in memory with all texts, with hashes for some, or without."""
    made = Log(tmp_path_factory.mktemp("values"))
    with ExitStack() as limited:
        if request.param is not None:
            limited.enter_context(small_limits(are_hashes_held=request.param))
        yield made
    made.store.close()


FIELDS = (
    "actor",
    "action",
    "outcome",
    "target",
    "source",
    "source/24",
    "port",
    "context.region",
    "after.role",
)
QUERIES = (EVERYTHING, Is("outcome", "denied"), parse_query("NOT actor:u_1 OR has:session"))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_the_values_are_those_of_a_plain_count(log: Log, query: Expression, field: str) -> None:
    found = log.found(query)
    expected = Counter(value for entry in found for value in values(field, entry))
    stream = log.engine().value_stream(
        query, parse_count_field(field), tenant=None, now_unix_us=NOW_UNIX_US
    )
    counted = [each for each in stream if each is not None]
    assert len(dict(counted)) == len(counted)
    assert dict(counted) == expected
    assert stream.total == len(found)


def test_a_segment_that_proves_damaged_on_the_way_changes_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path)
    expected = Counter(value for entry in log.events for value in values("actor", entry))
    stream = log.engine().value_stream(
        EVERYTHING, parse_count_field("actor"), tenant=None, now_unix_us=NOW_UNIX_US
    )
    counted = (each for each in stream if each is not None)
    first = next(counted)
    path = log.folder / "00000002.segment"
    data = path.read_bytes()
    with path.open("r+b") as file:  # The head stays, all blocks become zeros.
        head = data.index(b"}}") + 2
        file.seek(head)
        file.write(bytes(len(data) - head))
    assert dict([first, *counted]) == expected
    assert stream.is_exact
    log.store.close()


def test_an_event_with_more_values_than_the_index_holds_is_flagged(tmp_path: Path) -> None:
    made = random_event(random.Random(1), 1)
    made["context"] = {f"k{n}": n for n in range(50)}
    make_log(tmp_path / "log", make_entries([made])).close()
    engine = QueryEngine(LogStore.open(tmp_path / "log"), None, segment_entries=SEGMENT_ENTRIES)
    for field, is_exact in (("context.k1", False), ("actor", True)):
        stream = engine.value_stream(
            EVERYTHING, parse_count_field(field), tenant=None, now_unix_us=0
        )
        assert any(stream)
        assert stream.is_exact is is_exact


def test_matches_that_the_rows_decide_are_found_in_pieces(log: Log) -> None:
    """A row may be tested for 100,000 conditions, and two such lists hold half of the threads."""
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += PIECE_S / 2
        return now_s

    query = Is("outcome", "success")
    expected = Counter(value for entry in log.found(query) for value in values("actor", entry))
    index = IndexStore(log.folder, segment_entries=SEGMENT_ENTRIES)
    engine = QueryEngine(log.store, index, segment_entries=SEGMENT_ENTRIES, clock=clock)
    stream = engine.value_stream(
        query, parse_count_field("actor"), tenant=None, now_unix_us=NOW_UNIX_US
    )
    found = list(stream)
    # Segment 1 is not indexed, so each of its rows is read, and few in a piece.
    assert found.count(None) > SEGMENT_ENTRIES / 4
    assert dict(each for each in found if each is not None) == expected
    assert stream.is_exact


def test_blocks_without_a_match_are_pieces_too(tmp_path: Path) -> None:
    """A segment may have two million targets, and a query find one event of it."""
    made = [
        random_event(random.Random(number), number)
        | {"targets": [{"type": "t", "id": f"t_{number}_{each}"} for each in range(32)]}
        for number in range(SEGMENT_ENTRIES)
    ]
    entries = make_entries(made)
    make_log(tmp_path / "log", entries).close()
    store = LogStore.open(tmp_path / "log")
    reindex(store, tmp_path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    index = IndexStore(tmp_path / "index", segment_entries=SEGMENT_ENTRIES)
    engine = QueryEngine(store, index, segment_entries=SEGMENT_ENTRIES)
    query = Is("id", json.loads(entries[0].leaf)["event"]["id"])
    stream = engine.value_stream(
        query, parse_count_field("target"), tenant=None, now_unix_us=NOW_UNIX_US
    )
    found = list(stream)
    assert {each for each in found if each} == {(f"t_0_{each}", 1) for each in range(32)}
    # 2,048 targets are eight blocks at least, of which the event is in one or two.
    assert found.count(None) >= 6
    store.close()
