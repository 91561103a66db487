"""The number of an event, spliced into its canonical JSON.

An event is checked and encoded before its number is known, so that all this happens outside the
lock under which numbers are given out.
"""

from typing import Any, Final

from ledger_core.event.canonical import decode_event_object

_PLACEHOLDER: Final = {"instance": "-", "seq": 1}

# Keys are sorted, so `recorder` comes after `changes` and `context`, and what comes after it holds
# no object with such members. In a text its quotes would be escaped. So the last one is the one.
_PLACEHOLDER_JSON: Final = b'"recorder":{"instance":"-","seq":1}'


def split_event(event: dict[str, Any]) -> tuple[bytes, bytes]:
    """The canonical JSON of an event before and after its `recorder`. Raises: EventError."""
    _, event_json = decode_event_object({**event, "recorder": _PLACEHOLDER})
    head, _, tail = event_json.rpartition(_PLACEHOLDER_JSON)
    return head, tail


def recorder_json(instance: str) -> tuple[bytes, bytes]:
    """What stands before and after the number in the `recorder` of an event."""
    return b'"recorder":{"instance":"%b","seq":' % instance.encode(), b"}"
