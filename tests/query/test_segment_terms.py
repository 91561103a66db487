"""The terms of a segment do not depend on how many entries are added at once."""

import json
import random
import tracemalloc
import uuid

import pytest

from ledger.query.segment_terms import SegmentTerms
from ledger_core.event.canonical import format_leaf
from ledger_core.event.reader import Reader
from ledger_core.event.times import format_time
from ledger_core.query.fields import DIMENSIONS
from tests.query.events import make_entries, random_event

ENTRIES = 600


def terms_of(leaves: list[bytes], *, at_once: int) -> SegmentTerms:
    terms = SegmentTerms()
    for start in range(0, len(leaves), at_once):
        terms.add(leaves[start : start + at_once])
    return terms


@pytest.mark.parametrize("has_one_target", [False, True])
@pytest.mark.parametrize("has_own_target", [False, True])
def test_terms_are_the_same_one_by_one_or_many_at_once(
    has_one_target: bool, has_own_target: bool
) -> None:
    rng = random.Random(3)
    events = [random_event(rng, number) for number in range(ENTRIES)]
    if has_one_target:
        for number, event in enumerate(events):
            target = number if has_own_target else number // 3 % 50
            event["targets"] = [{"id": f"r_{target}", **({"type": "r"} if number % 5 else {})}]
    leaves = [entry.leaf for entry in make_entries(events)]
    expected = terms_of(leaves, at_once=1)
    for at_once in (2, 7, 256, ENTRIES):
        terms = terms_of(leaves, at_once=at_once)
        assert terms.times == expected.times
        for dimension in DIMENSIONS:
            assert list(terms.postings(dimension)) == list(expected.postings(dimension))


def test_large_leaves_are_decoded_a_few_at_a_time() -> None:
    """`[{},{},…` takes 25 times its length when it is decoded."""
    reader = Reader(lambda: str(uuid.uuid4()), lambda: 0)
    value = {"action": "a.b", "actor": {"id": "u"}, "outcome": "success"}
    raw = json.dumps({**value, "context": {"a": [{}] * 15_000}}).encode()
    leaves = [
        format_leaf(event_json=reader.read(raw).event_json, by="b", received_time=format_time(0))
        for _ in range(24)
    ]
    terms = SegmentTerms()
    tracemalloc.start()
    try:
        terms.add(leaves)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert terms.end == len(leaves)
    assert peak_bytes < 10 * sum(map(len, leaves))
