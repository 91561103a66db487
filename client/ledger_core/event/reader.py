"""Reads events as they arrive: the hot path of the service and of the client.

A reader decodes an event, checks it, makes it canonical, and fills in a missing id and time. The
caller passes in the clock and the randomness.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from ledger_core.event import canonical
from ledger_core.event.model import Event
from ledger_core.event.times import format_time

Filled = Literal["id", "time"]


class ReadEvent(Struct, frozen=True, gc=False):
    """An event ready to be logged; `filled` names the fields that it arrived without."""

    event: Event
    event_json: bytes
    id_bytes: bytes
    """The 16 bytes of the event's UUID."""
    filled: tuple[Filled, ...]


class Reader:
    """Reads events; `make_id()` returns the text of a UUID, `now()` microseconds since 1970."""

    __slots__ = ("_make_id", "_now")

    def __init__(self, make_id: Callable[[], str], now: Callable[[], int]) -> None:
        self._make_id = make_id
        self._now = now

    def read(self, raw: bytes) -> ReadEvent:
        """Read one event from JSON. Raises: EventError."""
        return self._fill(*canonical.decode_event(raw))

    def read_object(self, value: Mapping[str, Any]) -> ReadEvent:
        """As `read`, from a decoded object, where repeated keys can't be detected any more."""
        return self._fill(*canonical.decode_event_object(value))

    def _fill(self, event: Event, event_json: bytes) -> ReadEvent:
        filled: list[Filled] = []
        event_id, time = event.id, event.time
        if event_id is UNSET:
            event_id = self._make_id()
            filled.append("id")
        if time is UNSET:
            time = format_time(self._now())
            filled.append("time")
        if filled:
            event = replace(event, id=event_id, time=time)
            event_json = canonical.encode_event(event)
        id_bytes = bytes.fromhex(event_id.replace("-", ""))
        return ReadEvent(event, event_json, id_bytes, tuple(filled))


def is_same_event(stored_leaf: bytes, event_json: bytes, *, ignore_time: bool) -> bool:
    """Tell whether a leaf holds exactly this event; with `ignore_time`, at whatever time.

    `ignore_time` is for a retry without a time, where the time filled in has no meaning.
    `event_json` and every stored leaf are canonical, so equal events are equal bytes.

    Raises: MalformedError for bytes that are not a leaf.
    """
    stored = canonical.parse_leaf(stored_leaf)
    if not ignore_time:
        return stored.event_json == event_json
    return _without_time(stored.event) == _without_time(canonical.decode_event(event_json)[0])


def _without_time(event: Event) -> bytes:
    # Compared as bytes: to Python, 1 == 1.0 == True.
    return canonical.encode_event(replace(event, time=UNSET))
