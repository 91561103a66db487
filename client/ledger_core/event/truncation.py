"""Makes texts of other systems fit the limits of an event, and notes each change.

A text that is too long is cut and ends in `…`. An id that is too long becomes `sha256:` and its
hash, so that two ids stay two. NUL and lone surrogates, which no event may hold, become U+FFFD. The
notes go into the event.

A text that is no secret may look like one when its end is gone: sixteen of thirty digits, an
address without its domain. The ledger refuses such an event, and anybody may choose what ends where
the limit is. So a part that became a secret by the cut is masked here.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import INTEGER_MAX, LIMITS, EventError

Mask = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns an event without its secrets."""

VALUE_DEPTH_MAX = LIMITS["depth"].most - 1
"""Levels of a value in `context`, which is itself the first level."""

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_NOT_IN_ACTION = re.compile(r"[^A-Za-z0-9_.-]")
_with_port = re.compile(
    r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?"
).fullmatch


class Fitter:
    """Makes values fit the fields of one event, and notes each change."""

    def __init__(self, mask: Mask | None = None) -> None:
        """`mask` is asked about the texts that were cut; by default that of the built-in rules."""
        self.notes: list[str] = []
        self._mask: Final = mask or _mask_secrets

    def note(self, field: str, message: str) -> None:
        """Add a note about a field of the event."""
        self.notes.append(f"{field}: {message}")

    def text(self, text: str, *, field: str, chars_max: int) -> str:
        """Cut a text to `chars_max` characters."""
        text = self._unicode(text, field)
        if len(text) <= chars_max:
            return text
        self.note(field, f"cut, it has {len(text)} characters")
        cut = f"{text[: chars_max - 1]}…"
        masked = self._masked(cut)
        if masked == cut or self._masked(text) != text:
            return cut  # A secret that was there before is the matter of whoever masks the event.
        self.note(field, "what was left looked like a secret and is masked")
        return masked if len(masked) <= chars_max else "…"

    def id(self, text: str, *, field: str) -> str:
        """Replace an id that is too long by its hash; also for other fields that hold ids."""
        text = self._unicode(text, field)
        if len(text) <= LIMITS["id"].most:
            return text
        self.note(field, f"replaced by its hash, it has {len(text)} characters")
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def principal(self, *, field: str, of_id: str, of_type: str, name: str) -> dict[str, Any]:
        """Make an actor or a target; empty texts are left out."""
        members = {
            "id": self.id(of_id, field=f"{field}.id"),
            "type": self.id(of_type, field=f"{field}.type"),
            "name": self.text(name, field=f"{field}.name", chars_max=LIMITS["name"].most),
        }
        return without_empty(members)

    def action(self, text: str) -> str:
        """Make an action: other characters become `_`, and empty segments are removed."""
        segments = _NOT_IN_ACTION.sub("_", text)[: LIMITS["action"].most].split(".")
        action = ".".join(segment for segment in segments if segment)
        if action != text:
            self.note("action", "cut, or written with other characters, to be one")
        return action

    def address(self, text: str) -> tuple[str, int]:
        """Read an address, with a port or without; ("", 0) if it is not an address."""
        port = 0
        if match := _with_port(text):
            text, port = match["v6"] or match["v4"] or "", int(match["port"] or 0)
        try:
            ip = canonical_ip(text)
        except EventError:
            return "", 0
        return ip, port if port <= LIMITS["port"].most else 0

    def value(self, value: Any, *, field: str) -> Any:
        """Make any JSON value fit; one that nests too deep becomes its text."""
        if _depth(value) > VALUE_DEPTH_MAX:
            self.note(field, "its JSON text, because it nests too deep")
            return self._unicode(canonical_text(value), field)
        return self._fit_value(value, field)

    def _masked(self, text: str) -> str:
        masked: str = self._mask({"reason": text})["reason"]
        return masked

    def _fit_value(self, value: Any, field: str) -> Any:
        if isinstance(value, str):
            return self._unicode(value, field)
        if isinstance(value, list):
            return [self._fit_value(item, field) for item in value]
        if isinstance(value, dict):
            return {
                self._unicode(key, field): self._fit_value(member, field)
                for key, member in value.items()
            }
        if isinstance(value, int | float) and abs(value) > INTEGER_MAX:
            self.note(field, "a number as its digits, because it is out of range")
            return str(value)
        return value

    def _unicode(self, text: str, field: str) -> str:
        replaced = _NOT_TEXT.sub("\ufffd", text)
        if replaced != text:
            self.note(field, "characters that an event can't hold are replaced by U+FFFD")
        return replaced


def _mask_secrets(event: dict[str, Any]) -> dict[str, Any]:
    from ledger_core.event.secrets import mask  # Takes a while to load; few texts are cut.

    return mask(event)


def without_empty(members: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the empty members: absent in the source, absent in the event."""
    return {name: value for name, value in members.items() if value}


def _depth(value: Any) -> int:
    """Count the levels of objects and arrays; 0 for a text or a number."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def canonical_text(value: Any) -> str:
    """Write a JSON value as ASCII with sorted keys: the same value always gives the same text.

    Raises: EventError for a value that JSON can't express.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise EventError("the record nests too deep to be written", rule="too-deep") from None
    except ValueError:
        raise EventError("a number is out of JSON's range", rule="number") from None
