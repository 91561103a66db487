"""SIGHUP: read settings and certificates again, or end when the terminal was closed.

A service manager sends SIGHUP to have files read again. The kernel sends it too when the terminal
is closed in which a program runs, and then the program is to end, unless it was started by nohup,
which has SIGHUP ignored.
"""

import asyncio
import os
import signal
from collections.abc import Callable

from ledger.runtime.systemd import notify_ready, notify_reloading


def reload_at_hangup(reload: Callable[[], None], stop: asyncio.Event) -> None:
    """Call `reload` at each SIGHUP, or set `stop` when this process lost its terminal.

    Precondition: on the main thread, in a running loop.
    """
    is_of_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def hang_up() -> None:
        if is_of_terminal and not _has_terminal():
            stop.set()
        else:
            notify_reloading()
            reload()
            notify_ready()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
