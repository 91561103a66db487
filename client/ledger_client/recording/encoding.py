"""Encodes an event as the bytes that are sent: masked, cut to fit, canonical, its number left open.

An event is checked and encoded before its number is known, so that all this happens outside the
lock under which numbers are given out. `EncodedEvent.numbered` puts the number in.

An event with private values is sent, and spooled, in an envelope with what opens its commitments:

    {"event": {…, "context": {"name": {"commitment": "47DE…"}}}, "private": [{"value": …}]}

The value stays in the spool until the ledger has it, and then its file is removed
(`Spool.rotate`). No dead letter and no log line ever holds it.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ledger_client.recording.frames import Frame
from ledger_client.recording.jsonable import jsonable
from ledger_client.recording.truncation import (
    bare_event,
    bounded_event,
    bounded_texts,
    fit_event,
    jsonable_event,
    shrink_event,
)
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.commitments import (
    SALT_BYTES,
    Opening,
    Private,
    commit_private,
    find_commitments,
    holds_private,
)
from ledger_core.event.model import EventError

Mask = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns the event to record, without its secrets. It must not change its argument, parts of which
belong to the application."""

MASKING_FAILED: Final = "left out but for action and outcome, since masking failed"

_PLACEHOLDER: Final = {"instance": "-", "seq": 1}

# Keys are sorted, so `recorder` comes after `changes` and `context`, and the keys after it hold no
# object with such members. In a text its quotes would be escaped. So the last match is the one.
_PLACEHOLDER_JSON: Final = b'"recorder":{"instance":"-","seq":1}'
_RECORDER_BYTES: Final = len('"recorder":{"instance":"","seq":}') + 36

_log = logging.getLogger("ledger_client.recorder")


class EncodedEvent(msgspec.Struct, frozen=True, gc=False):
    """The canonical JSON of an event before and after its member `recorder`."""

    head: bytes
    tail: bytes

    @property
    def byte_count(self) -> int:
        """The length of the numbered event, but for the digits of its number."""
        return len(self.head) + _RECORDER_BYTES + len(self.tail)

    def numbered(self, instance: bytes, seq: int) -> bytes:
        """The event as it is sent."""
        return b'%b"recorder":{"instance":"%b","seq":%d}%b' % (self.head, instance, seq, self.tail)

    def as_event(self) -> dict[str, Any]:
        """The event without its number, and without the openings of its commitments."""
        event = Frame(1, self.numbered(b"-", 1), 0).event()
        del event["recorder"]
        return event


class EventEncoder:
    """Masks and encodes events."""

    def __init__(
        self,
        mask: Mask,
        defaults: Mapping[str, Any],
        *,
        is_clean: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`defaults` is the audit context of events that have no other.

        `is_clean` tells of an event's JSON whether `mask` would surely leave it as it is.
        """
        self._mask: Final = mask
        self._defaults: Final = defaults
        self._is_clean: Final = is_clean

    def encode(self, event: dict[str, Any]) -> EncodedEvent:
        """Encode one event. Raises: EventError."""
        event = dict(bounded_event(event))
        if not Private.is_used or not holds_private(event):
            return self._encode(event)
        hidden, openings = commit_private(event, lambda: os.urandom(SALT_BYTES))
        return _with_openings(self._encode(hidden), openings)

    def masked(self, event: dict[str, Any], *, keep: tuple[str, ...]) -> dict[str, Any]:
        """The event masked, or only its members `keep` when masking fails."""
        try:
            return self._mask(event)
        except Exception as error:  # noqa: BLE001 - the mask is the application's code
            # The error's message and traceback may hold the secret.
            _log.error("masking_failed error=%s", type(error).__name__)
        kept = {name: event[name] for name in keep if name in event}
        kept |= own_fields(self._defaults)
        return {**kept, "actor": {"id": "unknown"}, "context": {"altered": [MASKING_FAILED]}}

    def letter(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event with a mistake, masked, as JSON that a dead letter may hold."""
        try:
            bounded = bounded_event(event)
        except Exception:  # noqa: BLE001 - the application's object, of which even the class may raise
            bounded = {name: event[name] for name in ("id", "time", "action") if name in event}
        return self.masked(bounded_texts(jsonable(bounded)), keep=("id", "time"))

    def _encode(self, event: dict[str, Any]) -> EncodedEvent:
        try:
            if self._is_clean is None:
                return encode_checked(self._mask(bounded_texts(event)))
            # Most events have no secret: these are encoded once, and the JSON is scanned.
            event_json = _encode_placeholder(event)
            if self._is_clean(event_json):
                return _split(event_json)
            return encode_checked(self._mask(event))
        except Exception:  # noqa: BLE001 - the mask may fail too, and is called once more below
            # The slow path: values of other types, texts that are too long, invalid addresses.
            made = bounded_texts(jsonable_event(event))
            masked = self.masked(made, keep=("id", "time", "action", "outcome"))
        fitted = fit_event(masked)
        for shorten in (dict, shrink_event):
            try:
                return encode_checked(shorten(fitted))
            except EventError as error:
                if error.rule != "leaf-too-large":
                    raise
        return encode_checked(bare_event(fitted))


def encode_checked(event: dict[str, Any]) -> EncodedEvent:
    """Encode an event that needs no masking. Raises: EventError."""
    return _split(_encode_placeholder(event))


def _encode_placeholder(event: dict[str, Any]) -> bytes:
    return decode_event_object({**event, "recorder": _PLACEHOLDER})[1]


def _split(event_json: bytes) -> EncodedEvent:
    head, _, tail = event_json.rpartition(_PLACEHOLDER_JSON)
    return EncodedEvent(head, tail)


def own_fields(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of events that the recorder makes itself, from the default audit context."""
    return {name: defaults[name] for name in ("source", "tenant") if name in defaults}


def _with_openings(encoded: EncodedEvent, openings: Sequence[Opening]) -> EncodedEvent:
    """Put the openings beside the event, but for those whose commitment was cut out to fit."""
    event = msgspec.json.decode(encoded.numbered(b"-", 1))
    commitments = {(each.path, each.hash) for each in find_commitments(event)}
    kept = [each for each in openings if (each.path, each.commitment) in commitments]
    return EncodedEvent(
        b'{"event":' + encoded.head, b'%b,"private":%b}' % (encoded.tail, msgspec.json.encode(kept))
    )
