"""The three recorded actions of each application, in any framework."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ledger_client import Recorder, audited, current_recorder, use_recorder

PROXIES = ("127.0.0.2",)
USER_HEADER = "X-User"
PAUSE_S = 0.02
PARTS = 3


def make_recorder() -> Recorder:
    """The recorder that the test wants, for frameworks in which the application makes it."""
    return use_recorder(Recorder(**recorder_settings()))


def recorder_settings() -> dict[str, Any]:
    return {
        "url": os.environ["LEDGER_URL"],
        "token": os.environ["LEDGER_TOKEN"],
        "policy": os.environ["LEDGER_POLICY"],
        "spool": os.environ["LEDGER_SPOOL"],
        "service": "shop",
        "linger_s": 0.01,
        "exit_flush_s": 0.1,
    }


@audited("payment.refunded", target=lambda payment: ("payment", payment))
def refund(payment: str, error: Exception | None = None) -> str:
    if error is not None:
        raise error
    return payment


@audited("payment.refunded", target=lambda payment: ("payment", payment))
async def refund_async(payment: str, error: Exception | None = None) -> str:
    await asyncio.sleep(0)
    if error is not None:
        raise error
    return payment


def move(payment: str) -> str:
    """Two events with other requests in between."""
    current_recorder().record("payment.left", target=("payment", payment))
    time.sleep(PAUSE_S)
    current_recorder().record("payment.arrived", target=("payment", payment))
    return payment


async def move_async(payment: str) -> str:
    current_recorder().record("payment.left", target=("payment", payment))
    await asyncio.sleep(PAUSE_S)
    current_recorder().record("payment.arrived", target=("payment", payment))
    return payment


def report() -> Iterator[bytes]:
    """A body that is made while it is sent, and whose end is recorded."""
    for number in range(PARTS):
        time.sleep(PAUSE_S)
        yield b"%d\n" % number
    current_recorder().record("report.sent")


async def report_async() -> AsyncIterator[bytes]:
    for number in range(PARTS):
        await asyncio.sleep(PAUSE_S)
        yield b"%d\n" % number
    current_recorder().record("report.sent")


@audited("feed.followed")
def feed() -> Iterator[bytes]:
    """A body without an end."""
    while True:
        yield b"x" * 65_536
