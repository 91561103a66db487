"""Waits until something is so, on machines that may be slow."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
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


def until_listening(path: Path) -> None:
    """Wait until a connection to a Unix socket is taken: its path exists a moment before."""

    def is_taken() -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            return asking.connect_ex(str(path)) == 0

    until(is_taken, f"somebody listens on {path}")
