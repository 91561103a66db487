"""Texts of other systems, made to fit an event; nothing is altered silently.

A text that is too long is cut and ends in `…`. An id that is too long becomes `sha256:` and its
hash, so that two ids stay two. NUL and lone surrogates, which no event holds, become U+FFFD. Each
alteration is noted, and the notes go into the event.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ledger.event.model import LIMITS

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class Fitter:
    """Fits texts into the fields of one event and notes what it had to alter."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, field: str, message: str) -> None:
        """Add a note about a field of the event."""
        self.notes.append(f"{field}: {message}")

    def text(self, text: str, *, field: str, chars_max: int) -> str:
        """Fit a text of at most so many characters."""
        text = self._unicode(text, field)
        if len(text) <= chars_max:
            return text
        self.note(field, f"cut, it has {len(text)} characters")
        return f"{text[: chars_max - 1]}…"

    def id(self, text: str, *, field: str) -> str:
        """Fit an id, or what stands in a field for ids."""
        text = self._unicode(text, field)
        if len(text) <= LIMITS["id"].most:
            return text
        self.note(field, f"replaced by its hash, it has {len(text)} characters")
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def principal(self, *, field: str, of_id: str, of_type: str, name: str) -> dict[str, Any]:
        """Fit an actor or a target; empty texts are left out."""
        members = {
            "id": self.id(of_id, field=f"{field}.id"),
            "type": self.id(of_type, field=f"{field}.type"),
            "name": self.text(name, field=f"{field}.name", chars_max=LIMITS["name"].most),
        }
        return without_empty(members)

    def _unicode(self, text: str, field: str) -> str:
        replaced = _NOT_TEXT.sub("\ufffd", text)
        if replaced != text:
            self.note(field, "characters that an event can't hold are replaced by U+FFFD")
        return replaced


def without_empty(members: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the members that are empty: absent in the source, absent in the event."""
    return {name: value for name, value in members.items() if value}
