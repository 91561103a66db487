"""Turns at places: groups take turns as one owner does, and owners that are gone cost nothing."""

import asyncio
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random

import pytest

from ledger.runtime.fair_turns import LAST_TURNS_MAX, FairTurns

pytestmark = pytest.mark.anyio
OWNERS = 10 * LAST_TURNS_MAX


async def test_owners_that_are_gone_leave_no_memory_behind() -> None:
    turns = FairTurns(2, places_each=1)
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


@pytest.mark.parametrize("group", ["", "strangers"])
async def test_a_place_costs_no_look_at_each_owner_that_waits(group: str) -> None:
    """A network has as many addresses as it likes, and each is an owner."""

    def calls_each(owners: int) -> float:
        turns, calls = FairTurns(4, places_each=1), 0

        def count_call(*_: object) -> None:
            nonlocal calls
            calls += 1

        asked = {name: turns.ask(name, group=group) for name in map(str, range(owners))}
        before = sys.getprofile()
        while ready := [name for name, turn in asked.items() if turn.done()]:
            sys.setprofile(count_call)
            try:
                turns.end(ready[0], asked.pop(ready[0]), group=group)
            finally:
                sys.setprofile(before)
        assert not asked
        return calls / owners

    assert calls_each(800) < 2 * calls_each(50)


async def test_of_those_that_wait_the_one_whose_turn_is_longest_ago_is_next() -> None:
    """The same as looking at each of them, whatever is asked, given back and left."""
    random, turns = Random(7), FairTurns(3, places_each=2)
    asked: list[tuple[str, asyncio.Future[None]]] = []
    last_turns: dict[str, int] = {}
    for number in range(3_000):
        before = {turn for _, turn in asked if turn.done()}
        held = Counter(name for name, turn in asked if turn.done())
        if len(asked) < 2 or (len(asked) < 40 and random.random() < 0.5):
            name = random.choice("abcdefgh")
            asked.append((name, turns.ask(name)))
        else:
            name, turn = asked.pop(random.randrange(len(asked)))
            held[name] -= turn.done()
            turns.end(name, turn)
        begun = [(name, turn) for name, turn in asked if turn.done() and turn not in before]
        for name, _ in begun:  # One at most: each step gives back one place.
            waiting = {each for each, turn in asked if not turn.done()} | {name}
            ready = [each for each in waiting if held[each] < 2]
            ranks = {each: (held[each], last_turns.get(each, 0)) for each in ready}
            assert ranks[name] == min(ranks.values())
            last_turns[name] = number + 1
        assert len(begun) <= 1
        assert turns.waiting() == sum(not turn.done() for _, turn in asked)
        assert sum(turn.done() for _, turn in asked) == min(
            3, sum(min(2, held) for held in Counter(name for name, _ in asked).values())
        )
