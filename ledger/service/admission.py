"""Which appends are worked on: a few large ones at a time, and small ones past them.

An append is admitted before its body is decoded, since decoding is most of the work, and what is
refused afterwards was done in vain. Large ones take turns by token and are held until their events
are durable, so no more of them wait for the disk than are in work. One that does not get its turn
in time is refused with Retry-After. Their bodies are counted in bytes meanwhile (`in_flight`).

Small ones are not held up: their number is bounded by connections and requests in flight, and each
takes well under a millisecond.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final

from ledger.runtime.fair_turns import FairTurns
from ledger.service.http.problems import retry_later

SMALL_BYTES: Final = 16_384
"""An append with so many bytes at most passes others; decoding it takes a few milliseconds."""

_AT_ONCE: Final = nullcontext()


class Admission:
    """Admits appends. Used on the event loop alone."""

    def __init__(self, *, large_max: int, wait_s: float) -> None:
        """`large_max` large appends are in work at once, and others wait for `wait_s`."""
        self._turns = FairTurns(large_max, places_each=max(1, large_max - 1))
        self._large_max: Final = large_max
        self._wait_s: Final = wait_s

    def admit(self, owner: str, size: int) -> AbstractAsyncContextManager[None]:
        """Hold a place for an append with a body of this size until the block ends.

        Raises: ProblemError when a large one does not get a place in time.
        """
        return _AT_ONCE if size <= SMALL_BYTES else self._admit_large(owner)

    @asynccontextmanager
    async def _admit_large(self, owner: str) -> AsyncIterator[None]:
        turn = self._turns.ask(owner)
        try:
            await self._wait(turn)
            yield
        finally:
            self._turns.end(owner, turn)

    async def _wait(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            await asyncio.wait({turn}, timeout=self._wait_s)
        if not turn.done():
            raise retry_later(
                "too-busy",
                f"{self._large_max} large appends are in work, and this one had no turn in "
                f"{self._wait_s:g} s; nothing of it was kept",
                limit=self._large_max,
            )
