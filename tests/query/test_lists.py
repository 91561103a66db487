"""Long lists of values: addresses, networks, ids; answered together, as each by itself."""

import json
import random
from collections.abc import Iterator

import pytest

from ledger.query.budget import NO_LIMITS
from ledger.query.engine import QueryEngine
from ledger.query.plan import make_plan
from ledger.query.plan_nodes import Lookup, RangeSet
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.query.parser import LONG_CONDITIONS_MAX, parse_query
from ledger_core.query.predicate import make_matcher
from tests.query.events import make_entries, make_log, random_event
from tests.query.oracle import JSON, matching_indices

SEGMENT_ENTRIES = 64
ENTRIES = 3 * SEGMENT_ENTRIES + 10
EVENTS = [random_event(random.Random(number), number) for number in range(ENTRIES)]
LEAVES = [entry.leaf for entry in make_entries(EVENTS)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueryEngine]:
    path = tmp_path_factory.mktemp("lists")
    make_log(path / "log", make_entries(EVENTS)).close()
    log = LogStore.open(path / "log")
    writer = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
    for _ in range(2):
        assert SegmentBuilder(log, writer).seal_next()
    writer.close()
    index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
    yield QueryEngine(log, index, segment_entries=SEGMENT_ENTRIES)
    log.close()


def _many(values: list[str], filler: str) -> str:
    return ",".join([*values, *(f"{filler}{number}" for number in range(40))])


LISTS = {
    "addresses": "source:" + _many(["203.0.113.9", "10.0.0.1", "2001:db8::1"], "198.51.100."),
    "networks": "source:" + ",".join(
        ["203.0.113.128/25", "2001:db8:0:1::/64", "0.0.0.0/8", "10.0.0.0/16", "::/128"]
        + [f"10.{number}.0.0/16" for number in range(40)]
    ),
    "ids": "id:" + ",".join(event["id"] for event in EVENTS[5:60]),
    "targets": "target:" + _many(["r_1", "user/u_1", '"a b"', "b/c"], "r_9"),
    "folded": "action:" + _many(["LOGIN", "iam.user.add"], "none."),
    "in the context": "context.status:" + _many(["1e3", "007", "us"], "x"),
    "of two fields": "actor:" + _many(["u_1", "svc"], "x") + " OR session:s_1 OR trace:us",
    "not": "NOT actor:" + _many(["u_1", "svc"], "x"),
    "within": "actor:" + _many(["u_1", "svc", "Ünal"], "x") + " source:203.0.113.0/24",
    "prefixes": "actor:" + _many(["u_*", "s*"], "x"),
    "words": " OR ".join(f'reason:"{word}"' for word in ("legal", "hold", *map(str, range(30)))),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_a_long_list_finds_what_its_values_find(engine: QueryEngine, name: str) -> None:
    query = parse_query(LISTS[name], is_long=True)
    events: list[JSON] = [json.loads(leaf) for leaf in LEAVES]
    expected = matching_indices(query, events, now_unix_us=0)
    assert expected
    answer = engine.search(query, tenant=None, now_unix_us=0, limit=1000, order="oldest")
    assert [row.index for row in answer.rows] == expected
    assert answer.total == len(expected)
    matches = make_matcher(query)
    assert [index for index, leaf in enumerate(LEAVES) if matches(index, leaf)] == expected


def test_a_long_list_is_one_read(engine: QueryEngine) -> None:
    query = parse_query(
        "actor:svc," + ",".join(f"x_{number:06d}" for number in range(20_000)), is_long=True
    )
    assert LONG_CONDITIONS_MAX > 100_000
    node = make_plan(query)
    assert isinstance(node, Lookup)
    (read,) = node.must
    assert isinstance(read, RangeSet)
    assert len(read.ranges) == 20_001
    want = [index for index, event in enumerate(EVENTS) if event["actor"]["id"] == "svc"]
    answer = engine.search(
        query, tenant=None, now_unix_us=0, limit=1000, order="oldest", limits=NO_LIMITS
    )
    assert [row.index for row in answer.rows] == want
