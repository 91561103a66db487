"""The event of the service's own that records a refused one, whose id another event has."""

from typing import Any, Final

import msgspec

from ledger_core.event.canonical import decode_event
from ledger_core.event.model import EventError
from ledger_core.event.reader import ReadEvent

CONTENT_BYTES_MAX: Final = 56_000
CONTENT_TEXT_BYTES_MAX: Final = 30_000
"""An event inside another one: as an object, or as text, whose escapes may double its length."""


def conflict_json(read: ReadEvent, leaf_index: int, *, by: str, event_id: str) -> bytes:
    """The JSON of the event `event_id`: `by` sent an event whose id the one at an index has."""
    event, context = read.event, dict[str, Any](index=leaf_index)
    conflict = {
        "id": event_id,
        "actor": {"type": "ledger.token", "id": by},
        "action": "ledger.event.conflicted",
        "targets": [
            {"type": "ledger.event", "id": str(event.id)},
            {"type": event.actor.type or "actor", "id": event.actor.id},
        ],
        "outcome": "denied",
        "reason": f"the event at index {leaf_index} has this id",
        "context": context,
    }
    if event.tenant:
        conflict["tenant"] = event.tenant
    context["refused"] = msgspec.Raw(read.event_json)
    if len(read.event_json) > CONTENT_BYTES_MAX or not _is_readable(conflict):
        context["refused"] = read.event_json[:CONTENT_TEXT_BYTES_MAX].decode(errors="ignore")
    return msgspec.json.encode(conflict)


def _is_readable(event: dict[str, Any]) -> bool:
    try:
        decode_event(msgspec.json.encode(event))
    except EventError:
        return False
    return True
