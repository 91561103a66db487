"""Events of ours, one to a line."""

from typing import Any

import msgspec

from ledger.event.canonical import decode_event
from ledger.event.ids import derived_id


def map_json(raw: bytes) -> dict[str, Any]:
    """Read an event; without an id it gets the one derived from its canonical bytes.

    Raises: EventError.
    """
    event, event_json = decode_event(raw)
    members: dict[str, Any] = msgspec.to_builtins(event)
    return {"id": derived_id("jsonl", event_json), **members}
