"""Ranges of time and histograms over many hours are those of a plain scan of the events' times."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import reindex
from ledger.store.index import index_snapshot
from ledger.store.index.cached_parts import HOUR_BLOCKS_MAX
from ledger.store.index.index_store import IndexStore
from ledger.store.index.segment_file import SegmentFile
from ledger.store.log import LogStore
from ledger_core.event.times import format_time
from ledger_core.query import ast
from ledger_core.query.ast import HOUR_US, Expression, Is, all_of
from tests.query.events import START_UNIX_US, make_entries, make_log, random_event
from tests.query.queries import NOW_UNIX_US

SEGMENT_ENTRIES = 128
ENTRIES = 4 * SEGMENT_ENTRIES + 30
HOURS = 24 * 40
LATE_HOURS = 60
EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Log(NamedTuple):
    """An engine, and each event's time and outcome."""

    engine: QueryEngine
    happened: list[tuple[int, str]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    path: Path = tmp_path_factory.mktemp("hours")
    rng = random.Random(14)
    events: list[dict[str, Any]] = []
    happened = []
    for number in range(ENTRIES):
        time_us = START_UNIX_US + number * HOURS * HOUR_US // ENTRIES
        if not rng.randrange(5):
            time_us -= rng.randrange(LATE_HOURS * HOUR_US)
        outcome = rng.choice(("success", "failure", "denied"))
        made = random_event(rng, number)
        events.append({**made, "time": format_time(time_us), "outcome": outcome})
        happened.append((time_us, outcome))
    make_log(path / "log", make_entries(events)).close()
    store = LogStore.open(path / "log")
    reindex(store, path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
    yield Log(QueryEngine(store, index, segment_entries=SEGMENT_ENTRIES), happened)
    store.close()


@pytest.fixture(params=[HOUR_BLOCKS_MAX, 0], ids=["from memory", "from posting lists"])
def blocks_max(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The blocks of hours that become bitmaps: as usual, and none."""
    monkeypatch.setattr(index_snapshot, "HOUR_BLOCKS_MAX", request.param)
    found: int = request.param
    return found


def _between(start_us: int, end_us: int) -> Expression:
    return ast.Between("time", ast.Moment(start_us), ast.Moment(end_us))


@EXAMPLES
@given(
    first=st.integers(-LATE_HOURS - 2, HOURS + 2),
    more=st.one_of(st.integers(0, 30), st.integers(0, HOURS)),
    odd_us=st.sampled_from((0, 0, 1, HOUR_US - 1, 90_000_000)),
    outcome=st.sampled_from((None, "failure")),
    unit=st.sampled_from(("hour", "day")),
)
def test_a_range_and_its_histogram_are_those_of_a_scan(
    log: Log,
    blocks_max: int,
    first: int,
    more: int,
    odd_us: int,
    outcome: str | None,
    unit: Literal["hour", "day"],
) -> None:
    start = START_UNIX_US - START_UNIX_US % HOUR_US + first * HOUR_US
    end = start + more * HOUR_US + odd_us
    query = _between(start, end)
    if outcome:
        query = all_of((query, Is("outcome", outcome)))
    answer = log.engine.search(query, tenant=None, now_unix_us=NOW_UNIX_US, limit=0, histogram=unit)
    times = [us for us, of in log.happened if start <= us < end and outcome in (None, of)]
    assert (answer.total, answer.total_exact) == (len(times), True)
    chars = 13 if unit == "hour" else 10
    buckets = sorted(Counter(format_time(us)[:chars] for us in times).items())
    assert answer.histogram is not None
    assert [(each.start[:chars], each.count) for each in answer.histogram.buckets] == buckets
    assert answer.histogram.is_exact


def test_another_range_and_another_unit_read_no_hour_again(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(first: int, last: int, unit: Literal["hour", "day"]) -> None:
        hours = [START_UNIX_US - START_UNIX_US % HOUR_US + n * HOUR_US for n in (first, last)]
        query = all_of((_between(*hours), Is("outcome", "failure")))
        log.engine.search(query, tenant=None, now_unix_us=NOW_UNIX_US, limit=0, histogram=unit)

    ask(1, HOURS, "day")
    read: list[SegmentFile] = []

    def blocks(file: SegmentFile, *_: object) -> Iterator[bytes]:
        read.append(file)
        return iter(())

    monkeypatch.setattr(SegmentFile, "blocks", blocks)
    ask(7, HOURS // 2, "hour")
    ask(HOURS // 3, HOURS - 5, "day")
    assert not read
