"""An event that exceeds the limits, made to fit: a shortened event is better than none.

Data that comes with a request must not decide whether it is recorded: otherwise a user agent of
2,000 characters would keep any action out of the log. So texts are cut, ids that are too long are
hashed, invalid addresses are left out, and of too many targets, changes or keys the first are kept.
`context.altered` lists each alteration. Mistakes of the program (an unknown outcome, no actor, an
invalid action) are not corrected, so that they are refused.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ledger_client.recording.jsonable import jsonable
from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import LIMITS, EventError
from ledger_core.event.truncation import Fitter

ALTERED: Final = "altered"
NOTES_MAX: Final = 32
LONG_TEXT_CHARS: Final = 1024
"""The length of a text of `changes` or `context` when the whole event is too large."""

_ID_MEMBERS: Final = ("id", "type", "session", "credential", "service")
_TEXT_MEMBERS: Final = {
    "name": LIMITS["name"].most,
    "user_agent": LIMITS["user_agent"].most,
    "path": LIMITS["name"].most,
}


def jsonable_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with values of any type in `context` and `changes` as JSON."""
    made = dict(event)
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


def fit_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with every part within its limit, but for the size of the whole."""
    fitter = Fitter()
    made = dict(event)
    for name in ("actor", "source"):
        made = _with(made, name, lambda part, field: _fit_part(part, fitter, field))
    for name in ("targets", "changes"):
        made = _with(made, name, lambda parts, field: _fit_parts(parts, fitter, field))
    if isinstance(made.get("reason"), str):
        most = LIMITS["reason"].most
        made["reason"] = fitter.text(made["reason"], field="reason", chars_max=most)
    if isinstance(made.get("tenant"), str):
        made["tenant"] = fitter.id(made["tenant"], field="tenant")
    made = _with(made, "context", lambda members, _: _fit_context(members, fitter))
    return _with_notes(made, fitter)


def shrink_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with the long texts of its changes and context cut."""
    fitter = Fitter()
    made = dict(event)
    for name in ("changes", "context"):
        if name in made:
            made[name] = _shrink(made[name], fitter, name)
    return _with_notes(made, fitter)


def bare_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event without its changes, and with only the ids of request and trace as its context."""
    fitter = Fitter()
    made = {name: part for name, part in event.items() if name not in ("changes", "context")}
    for name in ("changes", "context"):
        if name in event:
            fitter.note(name, "left out, the event was too large with it")
    context = event.get("context", {})
    kept = {name: context[name] for name in ("request_id", "trace_id") if name in context}
    if kept:
        made["context"] = _shrink(kept, fitter, "context")
    return _with_notes(made, fitter)


def _with(event: dict[str, Any], name: str, fit: Callable[[Any, str], Any]) -> dict[str, Any]:
    return {**event, name: fit(event[name], name)} if name in event else event


def _fit_parts(parts: Any, fitter: Fitter, field: str) -> Any:
    most = LIMITS[field].most
    if not isinstance(parts, list):
        return parts
    if len(parts) > most:
        fitter.note(field, f"the first {most} of {len(parts)} are kept")
    return [_fit_part(part, fitter, f"{field}[{i}]") for i, part in enumerate(parts[:most])]


def _fit_part(part: Any, fitter: Fitter, field: str) -> Any:
    if not isinstance(part, dict):
        return part
    made: dict[str, Any] = {}
    for name, member in part.items():
        here = f"{field}.{name}"
        if name == "on_behalf_of":
            made[name] = _fit_part(member, fitter, here)
        elif name == "ip" and isinstance(member, str) and not _is_address(member):
            fitter.note(here, "left out, it is no address")
        elif name in _ID_MEMBERS and isinstance(member, str):
            made[name] = fitter.id(member, field=here)
        elif name in _TEXT_MEMBERS and isinstance(member, str):
            made[name] = fitter.text(member, field=here, chars_max=_TEXT_MEMBERS[name])
        else:
            made[name] = member
    return made


def _fit_context(members: Any, fitter: Fitter) -> Any:
    # One key is for the notes.
    most = LIMITS["context_keys"].most - 1
    if not isinstance(members, dict):
        return members
    if len(members) > most:
        fitter.note("context", f"the first {most} of {len(members)} keys are kept")
    key_chars = LIMITS["context_key"].most
    return {
        fitter.text(name, field="a key of context", chars_max=key_chars): member
        for name, member in list(members.items())[:most]
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
    try:
        canonical_ip(text)
    except EventError:
        return False
    return True
