"""Saved queries: a name for the text of a query, kept in the log as events.

    ledger.query.saved     the query of a name from here on
    ledger.query.deleted   the name has no query any more

`@name` in a query stands for the newest text that was saved under the name. Both events have the
target NAME of the type `ledger.query`, and belong to the tenant of the token: a tenant has names of
its own. The text of a long query is spread over consecutive events of one commit: those before the
last have the action `ledger.query.part`. Texts are saved with their own `@names` expanded, so no
text holds another name.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from ledger_core.event.model import whole_text
from ledger_core.query.ast import Expression, Has, Is, Not, all_of, any_of
from ledger_core.tlog.errors import VerificationError

SAVED: Final = "ledger.query.saved"
PART: Final = "ledger.query.part"
DELETED: Final = "ledger.query.deleted"
TARGET_TYPE: Final = "ledger.query"

SAVED_CHARS_MAX: Final = 1 << 22
PART_BYTES_MAX: Final = 48_000
"""Of the text in one event: escaped it still fits into a leaf."""

_BLOCK_CHARS: Final = 1_000
_find_controls: Final = re.compile("[\\x00-\\x1f]").findall

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9_.-]{0,63}"
is_name: Final = re.compile(NAME_PATTERN).fullmatch

QueryName = Annotated[str, whole_text(NAME_PATTERN, chars_max=64)]
_Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class AskSave(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query to save under a name: lower-case letters, digits, `_`, `-` and dots."""

    name: QueryName
    query: Annotated[str, Meta(min_length=1, max_length=SAVED_CHARS_MAX)]


class SavedQuery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A saved query, which the entries from `first_index` to `index` of the log hold.

    `query` is what `@name` stands for; relative times in it count from when it is asked.
    """

    name: str
    query: str
    first_index: _Size
    index: _Size
    saved_by: str
    time: str
    tenant: str | None = None


class SavedName(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The name of a saved query; `start` is the beginning of its text."""

    name: str
    start: str
    index: _Size
    saved_by: str
    time: str


class SavedNames(Struct, frozen=True, kw_only=True):
    """The saved queries that a token may use, by name."""

    tree_size: _Size
    queries: tuple[SavedName, ...]


class DeletedQuery(Struct, frozen=True, kw_only=True):
    """A name was deleted by the entry at `index`. The events that saved it stay in the log."""

    name: str
    index: _Size


def save_events(name: str, text: str, stamp: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events that save a text under a name; `stamp` has actor, time and tenant."""
    pieces = _pieces(text)
    digest = sha256(text.encode()).hexdigest()
    events = []
    for number, piece in enumerate(pieces, 1):
        context: dict[str, Any] = {"query": piece, "part": number, "parts": len(pieces)}
        is_last = number == len(pieces)
        if is_last:
            context["sha256"] = digest
        events.append(_event(SAVED if is_last else PART, name, stamp) | {"context": context})
    return events


def delete_event(name: str, stamp: Mapping[str, Any]) -> dict[str, Any]:
    """The event that deletes a name; `stamp` as for `save_events`."""
    return _event(DELETED, name, stamp)


def changes_of(name: str | None, *, has_tenant: bool) -> Expression:
    """The events that end a change of a name, or of all names, among those of a tenant or of none.

    `has_tenant`: the search itself is restricted to a tenant.
    """
    conditions: list[Expression] = [
        any_of((Is("action", SAVED), Is("action", DELETED))),
        Is("target.type", TARGET_TYPE),
    ]
    if name is not None:
        conditions.append(Is("target", name))
    if not has_tenant:
        conditions.append(Not(Has("tenant")))
    return all_of(conditions)


def parts_of(event: Mapping[str, Any]) -> int:
    """The number of events over which the text is spread that this one ends."""
    parts = event["context"]["parts"]
    if type(parts) is not int or parts < 1:
        raise VerificationError(f"parts of a saved query: got {parts!r}")
    return parts


def name_of(event: Mapping[str, Any]) -> str:
    """The name that an event saves or deletes."""
    return str(event["targets"][0]["id"])


def text_of_parts(events: Sequence[Mapping[str, Any]]) -> str:
    """The text that consecutive events save. Raises: VerificationError if they don't fit."""
    last, name = events[-1], name_of(events[-1])
    text = "".join(str(event["context"]["query"]) for event in events)
    fits = (
        [event["action"] for event in events] == [PART] * (len(events) - 1) + [SAVED]
        and parts_of(last) == len(events)
        and all(name_of(event) == name for event in events)
        and all(event.get("tenant") == last.get("tenant") for event in events)
        and sha256(text.encode()).hexdigest() == last["context"]["sha256"]
    )
    if not fits:
        raise VerificationError(f"the events of the saved query {name} do not fit together")
    return text


def _event(action: str, name: str, stamp: Mapping[str, Any]) -> dict[str, Any]:
    target = {"type": TARGET_TYPE, "id": name}
    return {**stamp, "action": action, "targets": [target], "outcome": "success"}


def _pieces(text: str) -> list[str]:
    """The text in pieces of at most `PART_BYTES_MAX` as JSON in UTF-8."""
    pieces: list[str] = []
    start = size = 0
    # By blocks: character by character a long text would take a second.
    for at in range(0, len(text), _BLOCK_CHARS):
        block = text[at : at + _BLOCK_CHARS]
        cost = len(block.encode()) + block.count('"') + block.count("\\")
        cost += 5 * len(_find_controls(block))
        if size + cost > PART_BYTES_MAX:
            pieces.append(text[start:at])
            start, size = at, 0
        size += cost
    return [*pieces, text[start:]]
