"""Exports and streams that wait for their readers hold little, however large the events are."""

import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ledger.query.answer import Row
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import PART_BYTES
from ledger.service.queries.job import QueryJob
from ledger.service.queries.stream import STEP_BYTES, Step, stream
from ledger.store.log import LogStore
from ledger_core.query.ast import EVERYTHING
from ledger_core.query.order import Order
from tests.query.events import make_entries, make_log, random_event
from tests.query.queries import NOW_UNIX_US

EVENTS = 120
EVENT_BYTES = 48_000
ORDERS: tuple[Order, ...] = ("oldest", "newest", "time", "time-newest")
OPEN = 6


class Case:
    """A log of large events, all in one bundle."""

    def __init__(self, path: Path) -> None:
        rng = random.Random(3)
        events = []
        for number in range(EVENTS):
            made = random_event(rng, number)
            texts = {f"k{n}": f"{number} {rng.random()} " + "x" * 1_900 for n in range(25)}
            events.append({**made, "context": texts, "changes": []})
        make_log(path / "log", make_entries(events)).close()
        self.store = LogStore.open(path / "log")
        self.engine = QueryEngine(self.store, None)

    def export(self, order: Order) -> Iterator[list[Row]]:
        return self.engine.row_batches(
            EVERYTHING, tenant=None, now_unix_us=NOW_UNIX_US, order=order
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("large"))


@pytest.mark.parametrize("order", ORDERS)
def test_batches_of_large_events_are_small_and_have_each_once(case: Case, order: Order) -> None:
    batches = list(case.export(order))
    sizes = [sum(len(row.leaf) for row in batch) for batch in batches]
    assert max(sizes) <= PART_BYTES
    assert sum(sizes) > EVENTS * EVENT_BYTES
    rows = [row for batch in batches for row in batch]
    assert sorted(row.index for row in rows) == list(range(EVENTS))
    assert all(case.store.leaf(row.index) == row.leaf for row in rows)
    if not order.startswith("time"):
        expected = list(range(EVENTS))
        assert [row.index for row in rows] == (expected if order == "oldest" else expected[::-1])


@pytest.mark.parametrize("order", ORDERS)
def test_exports_that_wait_hold_a_part_each(case: Case, order: Order) -> None:
    list(case.export(order))  # What all share is there.
    tracemalloc.start()
    try:
        exports = [case.export(order) for _ in range(OPEN)]
        for each in exports:
            assert next(batch for batch in each if batch)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < OPEN * 2 * PART_BYTES


def test_a_step_of_a_stream_ends_within_a_bundle_of_large_events(case: Case) -> None:
    parts: Any = SimpleNamespace(store=case.store, engine=case.engine, open_values=None)
    job = QueryJob(parts, cast("Any", None), lambda: False)
    found = stream(job, EVERYTHING, tenant=None, now_unix_us=NOW_UNIX_US, is_sse=False)
    next(found)
    start, indices = 0, []
    while start < EVENTS:
        scanned = found.send(Step(start, EVENTS, None))
        # Each event is there twice, once as a text within JSON.
        assert len(scanned.text) < 3 * (STEP_BYTES + EVENT_BYTES)
        lines = scanned.text.splitlines()
        assert len(lines) == scanned.rows
        indices += [json.loads(line)["index"] for line in lines]
        start = scanned.next_index
    assert indices == list(range(EVENTS))
