"""Values that an application puts in an event: its id, and values that can be erased later."""

import os
import time
from collections import deque
from typing import Any

from ledger_core.event.commitments import Private
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7

_NS_PER_MS = 1_000_000
_DRAWN_AT_ONCE = 64


def new_event_id() -> str:
    """A fresh event id, a UUID of version 7.

    For an event that must not be stored twice even if this process dies before it gets the answer:
    make the id, save it with the event, and append with it until that succeeds.
    """
    return format_uuid7(unix_ms=time.time_ns() // _NS_PER_MS, random=_draw())


def private(value: Any, subject: str) -> Any:
    """A value of an event that can be erased later: the log gets a commitment to it.

        ledger.append({…, "context": {"patient": private({"name": name}, subject="u_12345")}})

    `value` is a JSON value of up to 16 KiB, anywhere in `context` and `changes`, or a string in
    `reason`, `source.user_agent` and the names of actor and targets. `subject` names the person
    whose value it is, by an id: it is logged when the value is erased. All private values of one
    subject are erased together.
    """
    return Private(value, subject)


# A system call for each id would double its cost. `deque.pop` is atomic, so neither two threads nor
# a signal handler get the same bytes; a forked child draws its own.
_drawn: deque[bytes] = deque()


def _draw() -> bytes:
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            many = os.urandom(UUID7_RANDOM_BYTES * _DRAWN_AT_ONCE)
            _drawn.extend(
                many[at : at + UUID7_RANDOM_BYTES] for at in range(0, len(many), UUID7_RANDOM_BYTES)
            )


os.register_at_fork(after_in_child=_drawn.clear)
