"""Values that an application puts in an event: its id, and values that can be erased later."""

import os
import time
from collections import deque
from typing import Any

from ledger_core.event.commitments import Private
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7

_NS_PER_MS = 1_000_000
_MADE_AT_ONCE = 64
_STAMP_CHARS = len("0192f0c1-7c1a")


def new_event_id() -> str:
    """A fresh event id, a UUID of version 7.

    For an event that must not be stored twice even if this process dies before it gets the answer:
    make the id, save it with the event, and append with it until that succeeds.
    """
    process_id = os.getpid()
    try:
        maker, made = _made.pop()
    except IndexError:
        made = _make(process_id)
    else:
        if maker != process_id:
            made = _make(process_id)
    stamp = f"{time.time_ns() // _NS_PER_MS:012x}"
    return f"{stamp[:8]}-{stamp[8:]}{made}"


def private(value: Any, subject: str) -> Any:
    """A value of an event that can be erased later: the log gets a commitment to it.

        ledger.append({…, "context": {"patient": private({"name": name}, subject="u_12345")}})

    `value` is a JSON value of up to 16 KiB, anywhere in `context` and `changes`, or a string in
    `reason`, `source.user_agent` and the names of actor and targets. `subject` names the person
    whose value it is, by an id: it is logged when the value is erased. All private values of one
    subject are erased together.
    """
    return Private(value, subject)


# The random halves of ids, made many at once: a system call for each id would double its cost.
# `deque.pop` is atomic, so neither two threads nor a signal handler get the same one. Each half has
# the id of the process that made it: a forked child makes its own, also one that C code forked,
# without any hook. Two workers gave two events of one millisecond the same id otherwise.
_made: deque[tuple[int, str]] = deque()


def _make(process_id: int) -> str:
    """Make many random halves of ids, and return one of them."""
    many = os.urandom(UUID7_RANDOM_BYTES * _MADE_AT_ONCE)
    made = [
        format_uuid7(unix_ms=0, random=many[at : at + UUID7_RANDOM_BYTES])[_STAMP_CHARS:]
        for at in range(0, len(many), UUID7_RANDOM_BYTES)
    ]
    _made.extend((process_id, half) for half in made[1:])
    return made[0]
