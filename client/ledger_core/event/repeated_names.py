"""JSON in which no name stands twice in an object.

RFC 8259 leaves open which of two members of one name counts: one reader takes the first, another
the last. So what was compared may be another value than the one that is shown.
"""

import json
from typing import Any

from ledger_core.tlog.text import excerpt


class RepeatedNameError(ValueError):
    """A name that stands twice in one object; the text is the name."""


def decode_unrepeated(text: str | bytes) -> Any:
    """Decode JSON. Raises: RepeatedNameError; ValueError, RecursionError for what is none."""
    return json.loads(text, object_pairs_hook=_object)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) != len(members):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise RepeatedNameError(excerpt(name))
            seen.add(name)
    return made
