"""SIGHUP: read settings and certificates again, or end when the terminal was closed.

A service manager sends SIGHUP to have files read again. The kernel sends it too when the terminal
is closed in which a program runs, and then the program is to end, unless it was started by nohup,
which has SIGHUP ignored.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

from ledger.runtime.systemd import notify_ready, notify_reloading

RELOAD_INTERVAL_S: Final = 0.5
"""Seconds between two reloads. One takes milliseconds, for which appends wait."""


def reload_at_hangup(reload: Callable[[], None], stop: asyncio.Event) -> None:
    """Call `reload` after each SIGHUP, or set `stop` when this process lost its terminal.

    Of signals that come soon after a reload, all have one reload after the last of them.
    Precondition: on the main thread, in a running loop.
    """
    loop = asyncio.get_running_loop()
    next_s = loop.time()
    waiting: asyncio.TimerHandle | None = None
    is_of_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def hang_up() -> None:
        nonlocal waiting
        if is_of_terminal and not _has_terminal():
            stop.set()
        elif waiting is None:
            notify_reloading()
            waiting = loop.call_at(next_s, reload_now)

    def reload_now() -> None:
        nonlocal next_s, waiting
        waiting = None
        next_s = loop.time() + RELOAD_INTERVAL_S
        reload()
        notify_ready()

    loop.add_signal_handler(signal.SIGHUP, hang_up)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
