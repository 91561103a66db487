"""Turns at places: groups take turns as one owner does, and owners that are gone cost nothing."""

import asyncio
import tracemalloc
from collections.abc import Callable
from itertools import count

import pytest

from ledger.runtime.fair_turns import LAST_TURNS_MAX, FairTurns

pytestmark = pytest.mark.anyio
OWNERS = 10 * LAST_TURNS_MAX


class CountedTurns(FairTurns):
    """Counts the owners that are looked at."""

    looked_at = 0

    def has_place(self, owner: str, *, group: str = "") -> bool:
        self.looked_at += 1
        return super().has_place(owner, group=group)


async def test_owners_that_are_gone_leave_no_memory_and_no_work_behind() -> None:
    turns = CountedTurns(2, places_each=1)
    tracemalloc.start()
    try:
        for number in range(OWNERS):
            turn = turns.ask(f"address {number}", group="strangers" if number % 2 else "")
            assert turn.done()
            turns.end(f"address {number}", turn, group="strangers" if number % 2 else "")
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < OWNERS * 64
    assert turns.looked_at < 4 * OWNERS


async def test_a_group_takes_turns_as_one_owner_does() -> None:
    turns = FairTurns(1, places_each=1)
    first = turns.ask("z")
    order: list[str] = []

    def note(name: str) -> Callable[[object], None]:
        return lambda _: order.append(name)

    asked: dict[str, asyncio.Future[None]] = {}
    for name in ("s1", "s2", "s3", "a", "b"):
        asked[name] = turns.ask(name, group="strangers" if name.startswith("s") else "")
        asked[name].add_done_callback(note(name))
    assert (turns.waiting(), turns.waiting(group="strangers")) == (2, 3)
    turns.end("z", first)
    for number in count():
        await asyncio.sleep(0)
        if len(order) == len(asked):
            break
        name = order[number]
        turns.end(name, asked[name], group="strangers" if name.startswith("s") else "")
    assert order == ["s1", "a", "b", "s2", "s3"]


async def test_a_group_holds_no_more_places_than_one_owner_may() -> None:
    turns = FairTurns(4, places_each=2)
    asked = {name: turns.ask(name, group="strangers") for name in ("s1", "s2", "s3")}
    assert [turn.done() for turn in asked.values()] == [True, True, False]
    assert not turns.has_place("s4", group="strangers")
    assert turns.has_place("a")
    # A place in the queue is given back as well.
    turns.end("s3", asked["s3"], group="strangers")
    assert turns.waiting(group="strangers") == 0
    turns.end("s1", asked["s1"], group="strangers")
    assert turns.has_place("s4", group="strangers")
