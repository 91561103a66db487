"""Runs a follower in its process: low priority, an event loop, log lines, and its end.

It ends when the service ends (`ledger.follow.process`), or by SIGTERM. What fails is tried again.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from ledger.follow.heartbeat import keep_beating
from ledger.follow.position import FollowerPaths
from ledger.follow.process import lower_priority
from ledger.runtime.log_lines import configure_child_logs
from ledger.runtime.tasks import beside, wait_set
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_client.runtime.files import FileLock, FileLockedError
from ledger_client.runtime.server import run_until_signal
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

LOCK_POLL_S: Final = 1.0
START_AGAIN_S: Final = 5.0
RETRY_BASE_S: Final = 0.5

STOP_WAIT_S: Final = 1.0
"""Seconds that work in progress has to end by itself."""


def run_worker(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work` until it returns; it gets the event that is set when it should end."""
    lower_priority()
    configure_child_logs()

    async def until_orphaned(stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), stop.set)
        try:
            async with beside(keep_beating()):
                await work(stop)
        finally:
            loop.remove_reader(sys.stdin.fileno())

    run_until_signal(until_orphaned)


async def keep_following(
    paths: FollowerPaths,
    stop: asyncio.Event,
    follow: Callable[[], Awaitable[None]],
    *,
    on_failure: Callable[[str], float],
) -> None:
    """Run `follow` with the follower's lock until it returns, or `stop` is set.

    `on_failure` is told of a failure, and gives the seconds until `follow` runs again.
    """
    paths.make()
    while not stop.is_set():
        try:
            with FileLock(paths.lock):
                await follow()
                return
        except FileLockedError:
            await wait_set(stop, LOCK_POLL_S)  # The process before this one is about to end.
        except (MalformedError, VerificationError, UnavailableError, OSError) as error:
            await wait_set(stop, on_failure(str(error)))


class Waits:
    """The waits of a follower after failures: each is up to twice as long as the one before.

    A failure after a run that lasted for the longest wait counts as the first one.
    """

    def __init__(self) -> None:
        self.longest_s = 60.0
        self._failures = 0
        self._begun_s = 0.0

    def begin(self) -> None:
        """Note that a run begins."""
        self._begun_s = time.monotonic()

    def after_failure(self) -> float:
        """Seconds until the next run."""
        has_lasted = time.monotonic() - self._begun_s > self.longest_s
        self._failures = 1 if has_lasted else self._failures + 1
        delay_s = exponential_s(self._failures, base_s=RETRY_BASE_S, limit_s=self.longest_s)
        return spread(delay_s, random.random())  # noqa: S311 - no secret


async def until_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do some work; soon after `stop` is set end it, as a kill would. Raises: what it raises."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        # What is being sent may still be confirmed.
        await asyncio.wait((working,), timeout=STOP_WAIT_S)
        working.cancel()
    with suppress(asyncio.CancelledError):
        await working
