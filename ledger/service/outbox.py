"""The outbox: events about tokens, made by the command line, that the running service appends.

An event has its id from the start and is cleared once it is durable in the log. A crash between the
two only appends it again, as a duplicate.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from ledger.service.http.request_body import ParsedBody
from ledger.service.ingest import IngestPipeline
from ledger.service.token_admin import SERVICE_NAME
from ledger.store.tokens import AccessStore
from ledger_core.api import Refused
from ledger_core.tlog.errors import UnavailableError

EVENTS_MAX: Final = 1000

_log = structlog.get_logger("ledger.service")


class Outbox:
    """Appends the events of the access store's outbox to the log."""

    def __init__(self, *, access: AccessStore, ingest: IngestPipeline, interval_s: float) -> None:
        self._access = access
        self._ingest = ingest
        self._interval_s = interval_s
        self._refused: set[int] = set()
        self._reported = ""

    async def run(self) -> None:
        """Append what waits, once an interval, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.append_waiting()

    async def append_waiting(self) -> None:
        """Append the waiting events and clear them; after an error they stay for the next time."""
        try:
            waiting = [row for row in self._access.outbox() if row[0] not in self._refused]
            for start in range(0, len(waiting), EVENTS_MAX):
                await self._append(waiting[start : start + EVENTS_MAX])
            self._reported = ""
        except UnavailableError as error:
            if str(error) != self._reported:  # Once a state, not once an interval.
                self._reported = str(error)
                _log.error("outbox_waits", reason=str(error))

    async def _append(self, rows: Sequence[tuple[int, bytes]], *, is_masked: bool = False) -> None:
        body = ParsedBody([event for _, event in rows], self._ingest.reader.read, is_batch=True)
        outcomes = await self._ingest.append(body, by=SERVICE_NAME, tenant=None, is_own=True)
        logged: list[int] = []
        secret: list[tuple[int, bytes]] = []
        for (number, event), outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Refused) and outcome.error.slug == "secret" and not is_masked:
                # As an alarm whose query has a card number: the event must not be missing.
                masked = self._ingest.mask(msgspec.json.decode(event))
                secret.append((number, msgspec.json.encode(masked)))
            elif isinstance(outcome, Refused):
                # It stays in the outbox, so that an operator can inspect it.
                self._refused.add(number)
                _log.error("outbox_event_refused", number=number, reason=outcome.error.slug)
            else:
                logged.append(number)
        if logged:
            self._access.clear_outbox(logged)
            _log.info("outbox_taken", events=len(logged))
        if secret:
            await self._append(secret, is_masked=True)
