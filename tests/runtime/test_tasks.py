"""Waits with a limit, and tasks beside a block."""

import asyncio
from collections.abc import Coroutine

import pytest

from ledger.runtime.tasks import beside, finishing, turns, wait_set

pytestmark = pytest.mark.anyio


async def test_a_wait_ends_with_its_event_or_with_its_time() -> None:
    event = asyncio.Event()
    assert not await wait_set(event, 0.001)
    asyncio.get_running_loop().call_soon(event.set)
    assert await wait_set(event, 60)
    assert await wait_set(event, 0)


async def test_a_stop_ends_the_turns_after_one_more() -> None:
    stop = asyncio.Event()
    seen = []
    async for is_last in turns(stop, 0.001):
        seen.append(is_last)
        if len(seen) == 2:
            stop.set()
    assert seen == [False, False, True]


async def test_work_is_waited_for_and_not_cut() -> None:
    stop, sent = asyncio.Event(), []

    async def work() -> None:
        async for _is_last in turns(stop, 60):
            await asyncio.sleep(0)
            sent.append("the rest")

    async with finishing(work(), stop):
        assert sent == []
    assert sent == ["the rest"]


async def test_work_that_fails_is_raised_where_it_is_waited_for() -> None:
    async def work() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        async with finishing(work(), asyncio.Event()):
            pass


async def test_all_works_beside_a_block_end_with_it() -> None:
    ended = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def fail() -> None:
        raise OSError("disk")

    async with beside(work("first"), work("second"), fail()):
        await asyncio.sleep(0)
        assert ended == []
    assert sorted(ended) == ["first", "second"]


async def test_work_beside_a_block_that_ends_at_once_has_begun(
    recwarn: pytest.WarningsRecorder,
) -> None:
    async def awaiting(work: Coroutine[None, None, None]) -> None:
        await work

    async def wait() -> None:
        await asyncio.Event().wait()

    async with beside(awaiting(wait())):
        pass
    await asyncio.sleep(0)  # The loop lets go of the task then.
    assert not recwarn.list
