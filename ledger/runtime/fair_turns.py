"""Turns at a bounded number of places: a free one goes to whoever holds the fewest.

Every owner, the name of a token, has its own queue. Of owners that hold as many places, the one
whose last turn is longest ago is next. So an owner that asks a lot keeps no other waiting.

Owners of one group, as callers without a token are, take turns with the others as one owner does,
and among themselves. Nothing is kept of an owner that neither waits nor holds a place but its last
turn, and of very many owners the latest ones.
"""

import asyncio
from collections import Counter, deque
from itertools import count
from typing import Final

LAST_TURNS_MAX: Final = 4096
"""Owners whose last turn is kept. That of another counts as longer ago than theirs, which it is."""


class FairTurns:
    """Gives out places. Used on the event loop alone."""

    def __init__(self, places: int, *, places_each: int) -> None:
        self._places: Final = places
        self._places_each: Final = places_each
        self._held: Counter[str] = Counter()
        self._held_by_group: Counter[str] = Counter()
        self._turns = count(1)
        self._last_turns: dict[str, int] = {}  # The earliest first.
        self._last_turns_of_groups: dict[str, int] = {}
        # By group and owner; a group with a place is passed as a whole, however many wait in it.
        self._queues: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}

    def waiting(self, *, group: str = "") -> int:
        """How many wait, of all owners in a group, or in none."""
        return sum(map(len, self._queues.get(group, {}).values()))

    def waiting_of(self, owner: str, *, group: str = "") -> int:
        """How many of one owner wait."""
        return len(self._queues.get(group, {}).get(owner, ()))

    def has_place(self, owner: str, *, group: str = "") -> bool:
        """Whether the owner would get a place at once."""
        return (
            self._held[owner] < self._places_each
            and self._held_by_group[group or owner] < self._places_each
            and self._held.total() < self._places
        )

    def ask(self, owner: str, *, group: str = "") -> asyncio.Future[None]:
        """A future that is done when the owner has a place, to be given back by `end`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(group, {}).setdefault(owner, deque()).append(turn)
        self._start_next()
        return turn

    def end(self, owner: str, turn: asyncio.Future[None], *, group: str = "") -> None:
        """Give back the place, or the place in the queue."""
        queue = self._queues.get(group, {}).get(owner)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._forget_empty(group, owner)
        else:
            self._held -= Counter((owner,))  # Leaves no zeros.
            self._held_by_group -= Counter((group or owner,))
        self._start_next()

    def _start_next(self) -> None:
        while self._held.total() < self._places and (ready := self._ready()):
            group, owner = min(ready, key=self._precedence)
            turn = self._queues[group][owner].popleft()
            self._forget_empty(group, owner)
            self._held[owner] += 1
            self._held_by_group[group or owner] += 1
            self._note_turn(self._last_turns, owner)
            self._note_turn(self._last_turns_of_groups, group or owner)
            if not turn.done():  # A caller that was cancelled gives its place back by `end`.
                turn.set_result(None)

    def _ready(self) -> list[tuple[str, str]]:
        """Whoever waits and may have a place, by group and owner."""
        return [
            (group, owner)
            for group, owners in self._queues.items()
            if not group or self._held_by_group[group] < self._places_each
            for owner in owners
            if self.has_place(owner, group=group)
        ]

    def _precedence(self, queue: tuple[str, str]) -> tuple[int, int, int, int]:
        group, owner = queue
        return (
            self._held_by_group[group or owner],
            self._last_turns_of_groups.get(group or owner, 0),
            self._held[owner],
            self._last_turns.get(owner, 0),
        )

    def _note_turn(self, turns: dict[str, int], name: str) -> None:
        turns.pop(name, None)
        turns[name] = next(self._turns)
        if len(turns) > LAST_TURNS_MAX:
            del turns[next(iter(turns))]

    def _forget_empty(self, group: str, owner: str) -> None:
        if not self._queues[group][owner]:
            del self._queues[group][owner]
            if not self._queues[group]:
                del self._queues[group]
