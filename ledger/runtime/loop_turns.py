"""Turns at the event loop: what takes it milliseconds at a time is done for one request of a token.

Inflating a compressed body and reading many events yield between two pieces. The pieces of 200
requests at once would still all come between two turns of another request, which then takes seconds
to be answered. So the requests of one owner, the name of a token or an address, do such work one
after another, and a few owners do it at once.

A turn covers work alone: nobody holds one while a client sends or the disk syncs.

Requests other than appends, checks of a signature and TLS handshakes take about a millisecond, and
no piece of them is waited for. Of one owner one begins in each turn of the loop; so 200 connections
of an address or a token cost others as much as one.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Final

from ledger.runtime.fair_turns import FairTurns

PLACES: Final = 4
"""Owners whose work is done at once, a piece of each between two turns of others."""

AT_ONCE: Final = nullcontext()
"""In the place of a turn, for work that takes well under a millisecond, or has a place already."""


class LoopTurns:
    """Gives out the turns. Used on the event loop alone."""

    def __init__(self) -> None:
        self._turns: Final = FairTurns(PLACES, places_each=1)

    def turn(self, owner: str) -> AbstractAsyncContextManager[None]:
        """A block of work on the loop, which begins when no other of this owner is at work."""
        return _Turn(self._turns, owner)

    async def begin(self, owner: str, *, group: str = "") -> None:
        """Wait until nothing else of this owner, or of its group, begins in this turn of the loop.

        What follows without a wait is then the owner's only work until others had their turn.
        """
        turn = await _wait_for_place(self._turns, owner, group=group)
        end = partial(self._turns.end, owner, turn, group=group)
        asyncio.get_running_loop().call_soon(end)


class _Turn:
    """One block of `LoopTurns.turn`. Most are made and never entered, so no generator."""

    __slots__ = ("_owner", "_turn", "_turns")

    def __init__(self, turns: FairTurns, owner: str) -> None:
        self._turns = turns
        self._owner = owner

    async def __aenter__(self) -> None:
        self._turn = await _wait_for_place(self._turns, self._owner)

    async def __aexit__(self, *_: object) -> None:
        self._turns.end(self._owner, self._turn)


async def _wait_for_place(turns: FairTurns, owner: str, *, group: str = "") -> asyncio.Future[None]:
    """The turn of an owner, once it has a place. One that is cancelled gives it back."""
    turn = turns.ask(owner, group=group)
    try:
        await turn
    except BaseException:
        turns.end(owner, turn, group=group)
        raise
    return turn
