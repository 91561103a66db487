"""Waits until something is so, on machines that may be slow."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

WAIT_S: Final = 120.0
POLL_S: Final = 0.01


def until(is_so: Callable[[], T], what: object = "what a test waits for") -> T:
    """Ask until the answer is true, and return it. `what` says in a failure what was awaited."""
    deadline_s = time.monotonic() + WAIT_S
    while not (found := is_so()):
        assert time.monotonic() < deadline_s, f"not so in {WAIT_S:g} s: {what}"
        time.sleep(POLL_S)
    return found


async def until_async(is_so: Callable[[], T], what: object = "what a test waits for") -> T:
    """`until`, on an event loop."""
    deadline_s = time.monotonic() + WAIT_S
    while not (found := is_so()):
        assert time.monotonic() < deadline_s, f"not so in {WAIT_S:g} s: {what}"
        await asyncio.sleep(POLL_S)
    return found
