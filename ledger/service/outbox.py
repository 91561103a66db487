"""Events that the command line left for the log: the making and revoking of tokens.

Each has its id from the start. It is cleared once it is durable in the log, so a crash between the
two only makes it a duplicate.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from ledger.service.http.request_body import ParsedBody
from ledger.service.ingest import Appender
from ledger.store.tokens import AccessStore
from ledger_core.api import Refused
from ledger_core.tlog.errors import UnavailableError

BY: Final = "ledger"
EVENTS_MAX: Final = 1000

_log = structlog.get_logger("ledger.service")


class Outbox:
    """Takes the outbox of the access store into the log."""

    def __init__(self, *, access: AccessStore, appender: Appender, interval_s: float) -> None:
        self._access = access
        self._appender = appender
        self._interval_s = interval_s
        self._refused: set[int] = set()

    async def run(self) -> None:
        """Drain once an interval, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.drain()

    async def drain(self) -> None:
        """Append what is there, and clear it; what can't be appended now waits."""
        try:
            waiting = [row for row in self._access.outbox() if row[0] not in self._refused]
            for start in range(0, len(waiting), EVENTS_MAX):
                await self._take(waiting[start : start + EVENTS_MAX])
        except UnavailableError as error:
            _log.error("outbox_waits", reason=str(error))

    async def _take(self, rows: Sequence[tuple[int, bytes]]) -> None:
        items = ParsedBody([event for _, event in rows], self._appender.reader.read, is_batch=True)
        outcomes = await self._appender.append(items, by=BY, tenant=None)
        done: list[int] = []
        for (number, _), outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Refused):
                # It stays where it is, for a person to look at.
                self._refused.add(number)
                _log.error("outbox_event_refused", number=number, reason=outcome.error.slug)
            else:
                done.append(number)
        if done:
            self._access.clear_outbox(done)
            _log.info("outbox_taken", events=len(done))
