"""An event that exceeds the limits, made to fit: a shortened event is better than none.

Data that comes with a request must not decide whether it is recorded: otherwise a user agent of
2,000 characters, or an empty id of what is asked for, would keep any action out of the log. So
texts are cut, ids that are too long are hashed, an empty one is `unknown`, invalid addresses and
other empty members are left out, and of too many targets, changes or keys the first are kept.
`context.altered` lists each alteration. Mistakes of the program (an unknown outcome, no actor, an
invalid action) are not corrected, so that they are refused.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from ledger_client.recording.jsonable import (
    LEVELS_MAX,
    TOO_DEEP,
    VALUES_MAX,
    holds_too_many,
    is_lazy_text,
    jsonable,
    type_shown,
)
from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import LIMITS, EventError
from ledger_core.event.truncation import Fitter

ALTERED: Final = "altered"
NOTES_MAX: Final = 32
UNKNOWN_ID: Final = "unknown"
"""Stands for an empty id: a stranger who names nothing is logged too."""
LONG_TEXT_CHARS: Final = 1024
"""The length of a text of `changes` or `context` when the whole event is too large."""

FREE_CHARS_MAX: Final = 2 * LIMITS["leaf"].most
"""Characters of the texts and keys of `changes` and `context`, of which no leaf has so many."""
FIELD_CHARS_MAX: Final = 4 * LIMITS["reason"].most
ID_CHARS_MAX: Final = 4 * LIMITS["name"].most
"""Characters of a text elsewhere, and of an id, that are masked before they are made to fit."""
PATH_CHARS_MAX: Final = LIMITS["context_key"].most
"""Characters of the path of a text in a note."""

_FREE: Final = ("changes", "context")
"""The parts with values of any kind, which are left out of an event that is too large."""
_BOUND_LEVELS: Final = LEVELS_MAX + 3
"""Changes are in a list, and have their values in an object."""

_ID_MEMBERS: Final = ("id", "type", "session", "credential", "service", "tenant")
_TEXT_MEMBERS: Final = {
    "name": LIMITS["name"].most,
    "user_agent": LIMITS["user_agent"].most,
    "path": LIMITS["name"].most,
    "reason": LIMITS["reason"].most,
}


_MOST: Final = {
    "context": LIMITS["context_keys"].most - 1,  # One key is for the notes, so it is cut first.
    "targets": LIMITS["targets"].most,
    "changes": LIMITS["changes"].most,
}


def jsonable_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with values of any type in `context` and `changes` as JSON.

    Elsewhere a text that is translated where it is shown becomes its text, and a text of a subclass
    of `str`, as templates mark those that are safe, a text.
    """
    made = {name: part if name in _FREE else _with_texts(part) for name, part in event.items()}
    if isinstance(made.get("context"), Mapping):
        made["context"] = jsonable(made["context"])
    if "changes" in made:
        made["changes"] = [
            {
                name: member if name == "path" else jsonable(member)
                for name, member in change.items()
            }
            for change in made["changes"]
        ]
    return made


def _with_texts(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _with_texts(member) for name, member in part.items()}
    if isinstance(part, list):
        return [_with_texts(member) for member in part]
    if type(part) is not str and (isinstance(part, str) or is_lazy_text(part)):
        return jsonable(part)
    return part


def fit_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with every part within its limit, but for the size of the whole."""
    fitter = _new_fitter()
    fitted = {name: fit(event[name], fitter, name) for name, fit in _FITS.items() if name in event}
    return _with_notes({**event, **fitted}, fitter)


def shrink_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with the long texts of its changes and context cut."""
    fitter = _new_fitter()
    shrunk = {n: _shrink(event[n], fitter, n) for n in _FREE if n in event}
    return _with_notes({**event, **shrunk}, fitter)


def bounded_event(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event with as many targets, changes and keys as one may have.

    It is `bare_event` where no leaf could have all values. Elsewhere, where only texts belong, the
    class stands for what has so many, and the event is refused. So what it costs to record an event
    does not grow with a request body that is recorded with it.
    """
    for name, most in _MOST.items():
        part = event.get(name)
        # An event may have one key more that needs no notes.
        if isinstance(part, (list, dict)) and len(part) > most + (name == "context"):
            fitter = Fitter()
            first = _first(part, fitter, name, most)
            event = _with_notes({**event, name: first}, fitter)
    # A change is in a list, and has the values in an object.
    parts = [
        (part, LEVELS_MAX if name == "context" else LEVELS_MAX + 2)
        for name, part in event.items()
        if type(part) is not str
    ]
    if not holds_too_many(*parts):
        return event
    others = {name: _bounded_part(p) for name, p in event.items() if name not in _FREE}
    return bare_event({**event, **others})


def _bounded_part(part: Any, levels: int = LEVELS_MAX) -> Any:
    """A part without what has more values than any leaf; its class is no value that is taken."""
    if not holds_too_many((part, levels)):
        return part
    if type(part) is dict and len(part) <= VALUES_MAX and levels:
        return {name: _bounded_part(member, levels - 1) for name, member in part.items()}
    return type_shown(part)


def bounded_texts(event: dict[str, Any]) -> dict[str, Any]:
    """The event with no more characters for the mask to read than some leaves have.

    The mask takes seconds for some megabytes, and a stranger may send as many in one text. Such a
    text is left out, and an id becomes its hash: the mask would not recognise half a secret.
    Together, the texts of `changes` and `context` are left out beyond `FREE_CHARS_MAX`.
    """
    if _is_short(event):
        return event
    fitter = _new_fitter()
    fields, free = _TextBounds(fitter, FIELD_CHARS_MAX), _TextBounds(fitter, FREE_CHARS_MAX)
    made = {
        name: (free if name in _FREE else fields).bound(part, name, _BOUND_LEVELS)
        for name, part in event.items()
    }
    bounded = _with_notes(made, fitter)
    return bounded if free.chars <= FREE_CHARS_MAX else bare_event(bounded)


def _is_short(event: dict[str, Any]) -> bool:
    """Whether all texts and values together are no more than the characters that an id may have.

    Each value counts, so that this ends where a list holds itself.
    """
    left = ID_CHARS_MAX
    waiting: list[Any] = [event]
    while waiting and left > 0:
        each = waiting.pop()
        kind = type(each)
        left -= len(each) if kind is str else 1
        if kind is dict:
            waiting += each
            waiting += each.values()
        elif kind is list or kind is tuple:
            waiting += each
    return left > 0


class _TextBounds:
    """Leaves out texts that are too long, and counts the `chars` of the others."""

    def __init__(self, fitter: Fitter, chars_max: int) -> None:
        self.chars = 0
        self._fitter: Final = fitter
        self._chars_max: Final = chars_max

    def bound(self, value: Any, field: str, levels: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value, field)
        if not levels:
            return value  # It is not shown.
        if kind is dict:
            self.chars += sum(len(key) for key in value if type(key) is str)
            return {
                key: self.bound(member, _member_path(field, key), levels - 1)
                for key, member in value.items()
            }
        if kind is list or kind is tuple:
            return kind(
                self.bound(item, f"{field}[{i}]", levels - 1) for i, item in enumerate(value)
            )
        return value

    def _text(self, text: str, field: str) -> str:
        is_id = self._chars_max != FREE_CHARS_MAX and field.rpartition(".")[2] in _ID_MEMBERS
        if is_id and len(text) > ID_CHARS_MAX:
            return self._fitter.id(text, field=field)
        if len(text) > self._chars_max:
            self._fitter.note(field, f"left out, it has {len(text)} characters")
            return TOO_DEEP
        self.chars += len(text)
        return text


def _member_path(field: str, key: object) -> str:
    # What another key prints may be a password.
    return f"{field}.{key if type(key) is str else '?'}"[:PATH_CHARS_MAX]


def bare_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event without its changes, and with only the ids of request and trace as its context."""
    fitter = _new_fitter()
    made = {name: part for name, part in event.items() if name not in _FREE}
    for name in _FREE:
        if name in event:
            fitter.note(name, "left out, the event was too large with it")
    context = event.get("context")
    found = context if isinstance(context, Mapping) else {}
    ids = {name: found.get(name) for name in ("request_id", "trace_id")}
    kept = {name: each for name, each in ids.items() if isinstance(each, str)}
    if kept:
        made["context"] = _shrink(kept, fitter, "context")
    return _with_notes(made, fitter)


def _new_fitter() -> Fitter:
    from ledger_client.fork_safe_masking import guarded
    from ledger_core.event.secrets import mask

    return Fitter(guarded(mask))


def _fit_parts(parts: Any, fitter: Fitter, field: str) -> Any:
    if not isinstance(parts, list):
        return parts
    first = _first(parts, fitter, field, _MOST[field])
    return [_fit_part(part, fitter, f"{field}[{i}]") for i, part in enumerate(first)]


def _first(parts: Any, fitter: Fitter, field: str, most: int) -> Any:
    """The first members of a list or an object."""
    if len(parts) <= most:
        return parts
    if isinstance(parts, list):
        more = " or more" if len(parts) >= VALUES_MAX else ""
        fitter.note(field, f"the first {most} of {len(parts)}{more} are kept")
        return parts[:most]
    fitter.note(field, f"the first {most} of {len(parts)} keys are kept")
    return dict(islice(parts.items(), most))


def _fit_part(part: Any, fitter: Fitter, field: str) -> Any:
    if not isinstance(part, dict):
        return part
    made: dict[str, Any] = {}
    for name, member in part.items():
        here = f"{field}.{name}"
        if name == "on_behalf_of":
            made[name] = _fit_part(member, fitter, here)
        elif name == "id" and member == "":
            made[name] = UNKNOWN_ID
            fitter.note(here, f"{UNKNOWN_ID}, it is empty")
        elif name in _ID_MEMBERS and member == "":
            fitter.note(here, "left out, it is empty")
        elif name == "ip" and isinstance(member, str) and not _is_address(member):
            fitter.note(here, "left out, it is no address")
        else:
            made[name] = _fit_text(member, fitter, here)
    return made


def _fit_text(member: Any, fitter: Fitter, field: str) -> Any:
    name = field.rpartition(".")[2]
    if name in _ID_MEMBERS and isinstance(member, str):
        return fitter.id(member, field=field)
    if name in _TEXT_MEMBERS and isinstance(member, str):
        return fitter.text(member, field=field, chars_max=_TEXT_MEMBERS[name])
    return member


def _fit_context(members: Any, fitter: Fitter, _: str) -> Any:
    if not isinstance(members, dict):
        return members
    first = _first(members, fitter, "context", _MOST["context"])
    key_chars = LIMITS["context_key"].most
    return {
        fitter.text(name, field="a key of context", chars_max=key_chars): member
        for name, member in first.items()
    }


def _shrink(value: Any, fitter: Fitter, field: str) -> Any:
    if isinstance(value, str):
        return fitter.text(value, field=field, chars_max=LONG_TEXT_CHARS)
    if isinstance(value, list):
        return [_shrink(item, fitter, field) for item in value]
    if isinstance(value, dict):
        return {name: _shrink(member, fitter, field) for name, member in value.items()}
    return value


def _with_notes(event: dict[str, Any], fitter: Fitter) -> dict[str, Any]:
    if not fitter.notes:
        return event
    context = event.get("context", {})
    if not isinstance(context, dict):
        return event
    notes = [*context.get(ALTERED, ()), *fitter.notes]
    return {**event, "context": {**context, ALTERED: notes[:NOTES_MAX]}}


def _is_address(text: str) -> bool:
    with suppress(EventError):
        canonical_ip(text)
        return True
    return False


_FITS: Final[dict[str, Callable[[Any, Fitter, str], Any]]] = {
    "actor": _fit_part,
    "source": _fit_part,
    "targets": _fit_parts,
    "changes": _fit_parts,
    "reason": _fit_text,
    "tenant": _fit_text,
    "context": _fit_context,
}
