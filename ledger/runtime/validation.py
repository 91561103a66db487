"""Says what is wrong with a value of a file, a flag or a variable, in the words of that file."""

import re
from typing import Final, Literal, get_args, get_origin, get_type_hints

import msgspec

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")


def explain_invalid(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """`batch_events: expected int, got str`, for an error of `msgspec.convert(…, kind)`."""
    text = str(error)
    message, found, place = text.rpartition(" - at `$.")
    if not found:
        message, place = text, "`"
    key = place[:-1]
    if unknown := _UNKNOWN.fullmatch(message):
        said = f"there is no key {unknown[1]!r}"
    elif missing := _MISSING.fullmatch(message):
        said = f"the key {missing[1]!r} is missing"
    elif message.startswith("Invalid enum value ") and (choices := _choices(kind, key)):
        said = (
            f"want one of {', '.join(choices)}, got {message.removeprefix('Invalid enum value ')}"
        )
    else:
        said = message[:1].lower() + message[1:].replace("`", "")
    return f"{key}: {said}" if key else said


def _choices(kind: type[msgspec.Struct], key: str) -> tuple[str, ...]:
    hint = get_type_hints(kind).get(key)
    return get_args(hint) if get_origin(hint) is Literal else ()
