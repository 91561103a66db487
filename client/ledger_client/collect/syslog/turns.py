"""Records the messages of many senders by turns, and waits while the spool has no room.

The connections of one sender take turns of `TURN_MESSAGES` messages each, as many at once as there
are threads: one read may hold ten thousand messages, and those of other senders do not wait for
them.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from ledger_client.collect.syslog.events import Peer, map_frame
from ledger_client.collect.syslog.framing import Frame
from ledger_client.recording.options import SpoolFullError

TURN_MESSAGES: Final = 64
RETRY_S: Final = 0.25
THREADS: Final = 4

_log = logging.getLogger("ledger_client.collect.syslog")

Record = Callable[[Mapping[str, Any]], object]
"""Records one event. Raises: SpoolFullError."""


class EndedError(Exception):
    """The listener ends, and `left` messages are not recorded any more."""

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} messages are not recorded")
        self.left = left


class Waiting(NamedTuple):
    """A message that is not recorded yet."""

    frame: Frame
    peer: Peer
    received_unix_us: int


class Turns:
    """Records messages until `end`. For one event loop."""

    def __init__(self, record: Record) -> None:
        self._record: Final = record
        # Recording may wait for the disk.
        self._threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="syslog")
        self._of_sender: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self.is_full = False
        self._gives_up = False

    async def record(self, waiting: list[Waiting], sender: str) -> None:
        """Record messages of a sender in its turn; wait while the spool has no room.

        Precondition: there are at most `TURN_MESSAGES`. Raises: EndedError after `give_up`.
        """
        turn = self._of_sender.setdefault(sender, asyncio.Semaphore(THREADS))
        while waiting:
            async with turn:
                if self._gives_up:
                    raise EndedError(len(waiting))
                recorded = await self._run(self._record_some, waiting)
            waiting = waiting[recorded:]
            if bool(waiting) is not self.is_full:
                self.is_full = bool(waiting)
                _log.warning("spool_full reading=%s", "stopped" if waiting else "resumed")
            if waiting:
                await asyncio.sleep(RETRY_S)

    async def record_event(self, event: Mapping[str, Any]) -> None:
        """Record an event of the listener itself; wait as `record`."""
        while True:
            try:
                await self._run(self._record, event)
            except SpoolFullError:
                if not self._gives_up:
                    await asyncio.sleep(RETRY_S)
                    continue
            return

    def give_up(self) -> None:
        """Record no more: what waits, and what comes, is lost."""
        self._gives_up = True

    async def end(self) -> None:
        """End the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    def _record_some(self, waiting: list[Waiting]) -> int:
        """Record messages until there is no room; return how many."""
        for count, (frame, peer, received_unix_us) in enumerate(waiting):
            try:
                self._record(map_frame(frame, peer=peer, received_unix_us=received_unix_us))
            except SpoolFullError:
                return count
        return len(waiting)
