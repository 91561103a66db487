"""Waits with a time limit, and tasks that run beside a block of code."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any


async def wait_set(event: asyncio.Event, wait_s: float) -> bool:
    """Wait until an event is set, for so many seconds at most; return whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()
    return event.is_set()


async def turns(stop: asyncio.Event, turn_s: float) -> AsyncIterator[bool]:
    """Yield False after each `turn_s` seconds, and True once, as soon as `stop` is set."""
    is_last = False
    while not is_last:
        is_last = await wait_set(stop, turn_s)
        yield is_last


@asynccontextmanager
async def finishing(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Run `work` while the block runs; at the end set `stop`, and wait until the work returns.

    The work is not cancelled: it could lose what it is sending.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run all of `works` while the block runs, and cancel them at its end.

    Each has begun when the block does: one that is cancelled before would warn of what it was to
    await. What one raises is not raised here: each logs its own failures.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.sleep(0)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
