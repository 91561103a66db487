"""Ends the demo and the examples by SIGHUP and SIGTERM as by Ctrl-C, with what they began."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGHUP, signal.SIGTERM)
"""SIGHUP comes when the terminal is closed."""


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first of these signals; those that come later change nothing.

    A signal that somebody else handles, or that nohup ignores, is left alone. Precondition: on the
    main thread.
    """
    taken = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in taken:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_IGN)
