"""Large requests yield by bytes and cost, and the tokens take turns. Work is counted, not timed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ledger.service.app import open_service
from ledger.service.context import ServiceContext
from ledger.service.http.request_body import ParsedBody
from ledger.service.ingest import YIELD_BYTES, YIELD_EVENTS
from ledger_core.api import Result
from tests.service.serving import QUICK, event

Served = tuple[Path, dict[str, str]]


@asynccontextmanager
async def _counting() -> AsyncIterator[list[int]]:
    """Counts the turns that others get on the loop."""
    turns = [0]

    async def take_turns() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(take_turns())
    try:
        yield turns
    finally:
        task.cancel()


async def _append(context: ServiceContext, events: list[bytes], by: str = "append") -> int:
    body = ParsedBody(events, context.ingest.reader.read, is_batch=True)
    outcomes = await context.ingest.append(body, by=by, tenant=None)
    return sum(isinstance(outcome, Result) for outcome in outcomes)


@pytest.mark.anyio
async def test_a_request_yields_by_the_bytes_of_its_events(unserved: Served) -> None:
    slow = [json.dumps(event(reason="\u20ac" * 4000)).encode() for _ in range(100)]
    async with open_service(unserved[0], QUICK) as context, _counting() as turns:
        before = turns[0]
        assert await _append(context, slow) == len(slow)
        assert turns[0] - before >= sum(map(len, slow)) // YIELD_BYTES


@pytest.mark.anyio
async def test_duplicates_yield_while_they_are_read_and_answered(unserved: Served) -> None:
    events = [json.dumps(event()).encode() for _ in range(2000)]
    async with open_service(unserved[0], QUICK) as context:
        await _append(context, events)
        async with _counting() as turns:
            before = turns[0]
            assert await _append(context, events) == len(events)
            assert turns[0] - before >= 2 * len(events) // YIELD_EVENTS
