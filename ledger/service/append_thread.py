"""A thread that does slow steps of appends beside the event loop, one at a time.

Finding the events of a large body, reading a large event and looking for secrets in one that may
have some can take a tenth of a second each, and the loop must answer others meanwhile. Tokens take
turns at the thread, so what one of them sends keeps no other waiting for more than a step.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from ledger.runtime.fair_turns import FairTurns

T = TypeVar("T")


class AppendThread:
    """One thread. Used on the event loop alone."""

    def __init__(self) -> None:
        self._turns: Final = FairTurns(1, places_each=1)
        self._pool: Final = ThreadPoolExecutor(1, thread_name_prefix="ledger-append")

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Run a function on the thread when it is the owner's turn."""
        turn = self._turns.ask(owner)
        try:
            await turn
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._turns.end(owner, turn)

    def close(self) -> None:
        """End the thread, after the step that it is at."""
        self._pool.shutdown(cancel_futures=True)
