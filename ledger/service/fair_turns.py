"""Turns at a bounded number of places: a free one goes to whoever holds the fewest.

Every owner, the name of a token, has its own queue. Of owners that hold as many places, the one
whose last turn is longest ago is next. So an owner that asks a lot keeps no other waiting.
"""

import asyncio
from collections import Counter, defaultdict, deque
from itertools import count
from typing import Final


class FairTurns:
    """Gives out places. Used on the event loop alone."""

    def __init__(self, places: int, *, places_each: int) -> None:
        self._places: Final = places
        self._places_each: Final = places_each
        self._held: Counter[str] = Counter()
        self._turns = count(1)
        self._last_turns: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    def waiting(self) -> int:
        """How many wait, of all owners."""
        return sum(map(len, self._queues.values()))

    def waiting_of(self, owner: str) -> int:
        """How many of one owner wait."""
        return len(self._queues[owner])

    def has_place(self, owner: str) -> bool:
        """Whether the owner would get a place at once."""
        return self._held[owner] < self._places_each and self._held.total() < self._places

    def ask(self, owner: str) -> asyncio.Future[None]:
        """A future that is done when the owner has a place, to be given back by `end`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[owner].append(turn)
        self._start_next()
        return turn

    def end(self, owner: str, turn: asyncio.Future[None]) -> None:
        """Give back the place, or the place in the queue."""
        if turn in self._queues[owner]:
            self._queues[owner].remove(turn)
        else:
            self._held[owner] -= 1
        self._start_next()

    def _start_next(self) -> None:
        while ready := [
            owner for owner, queue in self._queues.items() if queue and self.has_place(owner)
        ]:
            owner = min(ready, key=lambda name: (self._held[name], self._last_turns[name]))
            turn = self._queues[owner].popleft()
            self._held[owner] += 1
            self._last_turns[owner] = next(self._turns)
            if not turn.done():  # A caller that was cancelled gives its place back by `end`.
                turn.set_result(None)
