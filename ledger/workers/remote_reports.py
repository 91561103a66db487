"""Reports and trailers that the sequencer's process keeps, as a front end has them.

A report that does not come in time is one, too: nothing is stored while that process stands still.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final

from ledger.service.report import Report
from ledger.store.commit_errors import CommitFailedError
from ledger.workers.messages import AskReports, FindTrailer, Reported, StoreTrailer, Trailer
from ledger.workers.remote import SequencerClient
from ledger_core.search_answers import ExportTrailer
from ledger_core.tlog.errors import UnavailableError

REPORTS_WAIT_S: Final = 10.0
"""Seconds that the sequencer's process has to report, of which its front ends have two."""


class RemoteReports:
    """The reports of the other processes. See `Reports`."""

    def __init__(self, client: SequencerClient, *, wait_s: float = REPORTS_WAIT_S) -> None:
        """`wait_s`: what the sequencer's process has for its answer."""
        self._client: Final = client
        self._wait_s: Final = wait_s
        self._asked: asyncio.Future[Reported] | None = None
        self._asked_s = 0.0

    async def others(self, own: Report) -> Sequence[Report]:
        """The reports of the sequencer's process, and of the other front ends."""
        asked = self._asked
        # One that did not answer is not asked again and again.
        if asked is None or asked.done():
            asked = self._client.ask(lambda number: AskReports(number, own.counters))
            # Nobody may wait for it any more when it comes; else asyncio logs its error.
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._asked, self._asked_s = asked, time.monotonic()
        await asyncio.wait({asked}, timeout=self._wait_s)
        if not asked.done():
            silent_s = time.monotonic() - self._asked_s
            said = f"the process that orders events has not answered for {silent_s:.0f} s"
            return (Report(reasons=(f"no event is taken: {said}",)),)
        try:
            return asked.result().reports
        except CommitFailedError as error:
            return (Report(reasons=(f"no event is taken: {error}",)),)


class RemoteTrailers:
    """The trailers that the sequencer's process keeps for all front ends. See `Trailers`."""

    def __init__(self, client: SequencerClient) -> None:
        self._client = client

    async def store(self, token: str, export_id: str, trailer: ExportTrailer) -> None:
        """See `Trailers`. Nothing when the sequencer's process has ended."""
        with contextlib.suppress(CommitFailedError):
            await self._client.ask(lambda number: StoreTrailer(number, token, export_id, trailer))

    async def find(self, token: str, export_id: str) -> ExportTrailer | None:
        """See `Trailers`."""
        try:
            answer: Trailer = await self._client.ask(
                lambda number: FindTrailer(number, token, export_id)
            )
        except CommitFailedError as error:
            raise UnavailableError(str(error)) from None
        return answer.trailer
