"""Ids of events, made before the event is sent."""

import os
import time

from ledger.event.ids import UUID7_RANDOM_BYTES, format_uuid7

_NS_PER_MS = 1_000_000


def new_event_id() -> str:
    """A fresh event id, a UUID of version 7.

    For an event that must not be stored twice even when this process dies before it hears that it
    was stored: make the id, keep it with the event, append with it as often as it takes.
    """
    return format_uuid7(unix_ms=time.time_ns() // _NS_PER_MS, random=os.urandom(UUID7_RANDOM_BYTES))
