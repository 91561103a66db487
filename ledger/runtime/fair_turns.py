"""Turns at a bounded number of places: a free one goes to whoever holds the fewest.

Every owner, the name of a token, has its own queue. Of owners that hold as many places, the one
whose last turn is longest ago is next. So an owner that asks a lot keeps no other waiting.

Owners of one group, as callers without a token are, take turns with the others as one owner does,
and among themselves. Nothing is kept of an owner that neither waits nor holds a place but its last
turn, and of very many owners the latest ones.

A place is given out in a time that grows with the logarithm of the owners that wait: who has a
network has 65,536 addresses, and each may be an owner.
"""

import asyncio
from collections import Counter, deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, TypeAlias

LAST_TURNS_MAX: Final = 4096
"""Owners whose last turn is kept. That of another counts as longer ago than theirs, which it is."""

STALE_MAX: Final = 64
"""Ranks in a heap that count no more, beyond as many as do."""

_Rank: TypeAlias = tuple[int, int, int]


class FairTurns:
    """Gives out places. Used on the event loop alone. No owner has the name of a group."""

    def __init__(self, places: int, *, places_each: int) -> None:
        self._places: Final = places
        self._places_each: Final = places_each
        self._line: Final = _Line(places_each)  # Of owners in no group, and of groups.
        self._groups: Final[dict[str, _Line]] = {}
        self._queues: Final[dict[tuple[str, str], deque[asyncio.Future[None]]]] = {}
        self._waiting: Final[Counter[str]] = Counter()

    def waiting(self, *, group: str = "") -> int:
        """How many wait, of all owners in a group, or in none."""
        return self._waiting[group]

    def waiting_of(self, owner: str, *, group: str = "") -> int:
        """How many of one owner wait."""
        return len(self._queues.get((group, owner), ()))

    def has_place(self, owner: str, *, group: str = "") -> bool:
        """Whether the owner would get a place at once."""
        # As many as its group may have, an owner in one may have too.
        return self._line.has_place(group or owner) and self._line.held.total() < self._places

    def ask(self, owner: str, *, group: str = "") -> asyncio.Future[None]:
        """A future that is done when the owner has a place, to be given back by `end`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault((group, owner), deque()).append(turn)
        self._waiting[group] += 1
        for line, name in self._lines(owner, group):
            line.wait(name)
        self._start_next()
        return turn

    def end(self, owner: str, turn: asyncio.Future[None], *, group: str = "") -> None:
        """Give back the place, or the place in the queue."""
        queue = self._queues.get((group, owner))
        is_waiting = queue is not None and turn in queue
        if queue is not None and is_waiting:
            queue.remove(turn)
            self._forget_waiting(owner, group)
        for line, name in self._lines(owner, group):
            if is_waiting:
                line.wait_no_more(name)
            else:
                line.end(name)
        self._start_next()

    def _start_next(self) -> None:
        while self._line.held.total() < self._places and (first := self._line.first()) is not None:
            group = first if first in self._groups else ""
            owner = self._groups[group].first() if group else first
            if owner is None:
                raise AssertionError("a group waits for its owners")
            turn = self._queues[group, owner].popleft()
            self._forget_waiting(owner, group)
            for line, name in self._lines(owner, group):
                line.start(name)
            if not turn.done():  # A caller that was cancelled gives its place back by `end`.
                turn.set_result(None)

    def _lines(self, owner: str, group: str) -> tuple[tuple["_Line", str], ...]:
        """The line of all, and that of the owner's group, each with the name that waits in it."""
        if not group:
            return ((self._line, owner),)
        if group not in self._groups:
            self._groups[group] = _Line(self._places_each)
        return (self._line, group), (self._groups[group], owner)

    def _forget_waiting(self, owner: str, group: str) -> None:
        _count_down(self._waiting, group)
        if not self._queues[group, owner]:
            del self._queues[group, owner]


class _Line:
    """Names that wait for places and hold some, and which of them is the next."""

    def __init__(self, places_each: int) -> None:
        self._places_each: Final = places_each
        self.held: Final[Counter[str]] = Counter()
        self._waiting: Final[Counter[str]] = Counter()
        self._turns: Final = count(1)
        self._last_turns: Final[dict[str, int]] = {}  # The earliest first.
        # Of names that wait and may have a place: the places that they hold, their last turn, and
        # when they were ranked.
        self._ranks: Final[dict[str, _Rank]] = {}
        self._heap: list[tuple[_Rank, str]] = []  # These, and some that count no more.

    def has_place(self, name: str) -> bool:
        """Whether a name holds fewer places than it may."""
        return self.held[name] < self._places_each

    def wait(self, name: str) -> None:
        """Count one more that waits."""
        self._waiting[name] += 1
        self._rank(name)

    def wait_no_more(self, name: str) -> None:
        """Count one less that waits."""
        _count_down(self._waiting, name)
        self._rank(name)

    def start(self, name: str) -> None:
        """Note that one that waited has a place."""
        self.held[name] += 1
        self._last_turns.pop(name, None)
        self._last_turns[name] = next(self._turns)
        if len(self._last_turns) > LAST_TURNS_MAX:
            del self._last_turns[next(iter(self._last_turns))]
        self.wait_no_more(name)

    def end(self, name: str) -> None:
        """Note that a place was given back."""
        _count_down(self.held, name)
        self._rank(name)

    def first(self) -> str | None:
        """The name that gets the next place, None when none waits that may have one."""
        while self._heap:
            rank, name = self._heap[0]
            if self._ranks.get(name) == rank:
                return name
            heappop(self._heap)
        return None

    def _rank(self, name: str) -> None:
        """Put a name where it belongs."""
        known = self._ranks.get(name)
        if not (self._waiting[name] and self.has_place(name)):
            self._ranks.pop(name, None)
        else:
            held, last_turn = self.held[name], self._last_turns.get(name, 0)
            if known is None or known[:2] != (held, last_turn):
                self._ranks[name] = rank = (held, last_turn, next(self._turns))
                heappush(self._heap, (rank, name))
        if len(self._heap) > 2 * len(self._ranks) + STALE_MAX:
            self._heap = [(rank, name) for name, rank in self._ranks.items()]
            heapify(self._heap)


def _count_down(counts: Counter[str], name: str) -> None:
    """Take one away, and leave no zero."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
