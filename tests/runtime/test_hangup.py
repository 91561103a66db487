"""SIGHUP: files are read again, and a flood of signals has them read a few times."""

import asyncio
import os
import signal

from ledger.runtime.hangup import reload_at_hangup
from tests.waiting import until_async

SIGNALS = 60


def test_many_signals_have_few_reloads_and_one_after_the_last() -> None:
    sent, seen = 0, []

    async def main() -> None:
        nonlocal sent
        stop = asyncio.Event()
        reload_at_hangup(lambda: seen.append(sent), stop)
        while sent < SIGNALS:
            sent += 1
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.001)  # The loop hears of each by itself.
        await until_async(lambda: seen and seen[-1] == SIGNALS)
        assert not stop.is_set()

    asyncio.run(main())
    assert len(seen) < SIGNALS // 3
