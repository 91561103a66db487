"""The format `jsonl`: events, one to a line, which need no mapping."""

from typing import Any

import msgspec
from msgspec import UNSET

from ledger_client.collect.importers import Mapped
from ledger_client.collect.importers.record_reader import Lines
from ledger_core.event.canonical import decode_event
from ledger_core.event.ids import derived_id
from ledger_core.event.model import EventError


class JsonLines:
    """Reads events."""

    name = "jsonl"
    wrappers = ("events",)
    lines: Lines = "json"

    def map(self, raw: bytes) -> list[dict[str, Any]]:
        """Read an event; if it has no id, one is derived from its canonical bytes.

        An event without a time is refused: the time of the import is not when it happened, and
        differs at the next import.

        Raises: EventError.
        """
        event, event_json = decode_event(raw)
        if event.time is UNSET:
            raise EventError("is required in what is imported", rule="missing-field", field="time")
        members: dict[str, Any] = msgspec.to_builtins(event)
        return [{"id": derived_id(self.name, event_json), **members}]

    def explain(self, raw: bytes) -> list[Mapped]:
        """As `map`; nothing is left over."""
        return [Mapped(event, left_over=[]) for event in self.map(raw)]
