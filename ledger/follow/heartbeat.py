"""Signs of life that a child process gives its parent, on its standard output.

A child that stands still for good, as in a deadlock or at a stop by a debugger, does not end by
itself: a front end keeps its share of the new connections, and the query process its searches. So a
child writes a byte each `BEAT_S`, from its event loop or between two pieces of its work, and its
parent kills one that wrote none for long (`ledger.follow.process`).

Turns of the parent are counted, so that a pause of both, as of a container, is one turn however
long. A child that never wrote one, as of a version before this, is waited for without end.
"""

import asyncio
import os
import select
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Final

BEAT_S: Final = 5.0
"""Seconds from one sign to the next, and of a turn of the parent."""

_STDOUT: Final = 1
_READ_BYTES: Final = 4096


def beat() -> None:
    """Tell the parent that this process goes on; nothing where standard output is no pipe.

    It never waits: a parent that stands still reads nothing.
    """
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(_STDOUT).st_mode) and select.select([], [_STDOUT], [], 0)[1]:
            os.write(_STDOUT, b".")


async def keep_beating() -> None:
    """Tell the parent that the event loop of this process turns, until cancelled."""
    while True:
        beat()
        await asyncio.sleep(BEAT_S)


def wait_silent(
    process: subprocess.Popen[bytes],
    is_over: Callable[[], bool],
    *,
    turns_max: int,
) -> bool:
    """Wait until a child ends, or gave no sign for so many turns; return whether it stands still.

    It is waited for no more once it `is_over`. Precondition: its standard output is a pipe.
    """
    if process.stdout is None:
        raise AssertionError("a child is listened to by a pipe")
    pipe = process.stdout.fileno()
    # `select` takes no descriptor above 1,023.
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    silent_turns, has_beaten = 0, False
    while not is_over():
        if waiting.poll(BEAT_S * 1000):
            if not os.read(pipe, _READ_BYTES):
                return False  # It has ended, or ends.
            silent_turns, has_beaten = 0, True
        elif process.poll() is not None:
            return False  # A process that it has started may hold the pipe.
        elif has_beaten:
            silent_turns += 1
            if silent_turns >= turns_max:
                return True
    return False
