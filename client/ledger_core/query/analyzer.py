"""Leaf -> index terms: what an event can be found by, as dimension and value.

A term is a dimension of `fields` and a value, both text, such as ("actor", "u_5") or ("hour",
"2026-11-25T02"). The rules below decide which terms an event has. `ledger.query.segment_terms`
applies them to whole segments; `ledger.query.plan` asks for the same terms.

* A value longer than `TERM_CHARS_MAX` is cut to that length, except an action, which is short. A
  term of that very length is therefore only a hint: the query reads the events that it finds.
* An address is its bits as hexadecimal digits behind a `4` or a `6`, so a network is a range.
* A time is the beginning of its RFC 3339 text: `hour` and `minute` of the event's own time,
  `received` of the hour of its receipt.
* The families of an action are its beginnings up to each dot: `iam.` has every `iam.CreateUser`,
  so `action:iam.*` reads one term.
* Words come from names, reasons and the action: runs of letters and digits, case folded. Text that
  isn't ASCII is first normalised to NFKC.
* `context` holds the scalars of the context: the path as a JSON string, then the value as text, so
  `"region"eu-west-1` can't be mistaken for another path. Array elements have the path of the array.
  The request and the trace id have dimensions of their own.
* At most `WORDS_MAX` words of one text and `CONTEXT_TERMS_MAX` values of one context become terms.
  The term `MORE` marks an event that has more, and a query that might miss something reads it.

The terms depend on the leaf and on `ANALYSIS` alone. `ANALYSIS` names the version of these rules
and of the Unicode tables; an index made under another value is made again.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final

import msgspec
import rfc8785

ABSENT: Final = "\0"
"""The value of a field that an event does not have; real values hold no NUL."""

ANALYSIS_VERSION: Final = 2
ANALYSIS: Final = f"{ANALYSIS_VERSION} unicode {unicodedata.unidata_version}"

TERM_CHARS_MAX: Final = 120
WORDS_MAX: Final = 128
CONTEXT_TERMS_MAX: Final = 32

HOUR_CHARS: Final = len("2026-11-25T02")
MINUTE_CHARS: Final = len("2026-11-25T02:03")

MORE: Final = "\x01"
"""The term of an event with more words, or more context, than become terms."""

FAMILY: Final = "action.family"

_find_words: Final = re.compile(r"[^\W_]+").findall


# The indexed part of a leaf. Leaves were checked when they were appended, so nothing is checked
# here, and msgspec skips every key that these types don't name.
class _Principal(msgspec.Struct, gc=False):
    id: str
    type: str = ABSENT
    name: str = ABSENT


class _Actor(_Principal):
    session: str = ABSENT
    credential: str = ABSENT
    on_behalf_of: _Principal | None = None


class _Source(msgspec.Struct, gc=False, frozen=True):
    ip: str = ABSENT
    service: str = ABSENT


class _Change(msgspec.Struct, gc=False):
    path: str


_NO_SOURCE = _Source()


class EventView(msgspec.Struct, gc=False):
    """The part of an event that queries can name; a value that it lacks is ABSENT."""

    action: str
    actor: _Actor
    outcome: str
    id: str
    time: str
    targets: tuple[_Principal, ...] = ()
    source: _Source = _NO_SOURCE
    reason: str = ABSENT
    changes: tuple[_Change, ...] = ()
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    tenant: str = ABSENT


class _ReceivedView(msgspec.Struct, gc=False):
    time: str


class LeafView(msgspec.Struct, gc=False):
    """The part of a leaf that queries can name."""

    event: EventView
    received: _ReceivedView


decode_view = msgspec.json.Decoder(LeafView).decode
"""Decodes the bytes of a leaf of the log into a LeafView."""


def cut(value: str) -> str:
    """The term of a value: its beginning, where it is long."""
    return value if len(value) <= TERM_CHARS_MAX else value[:TERM_CHARS_MAX]


def is_hint(value: str) -> bool:
    """Whether other values may have the same term as this one."""
    return len(value) >= TERM_CHARS_MAX


def families_of(action: str) -> list[str]:
    """The beginnings of an action up to each of its dots: `iam.` and `iam.user.`"""
    return [action[: at + 1] for at, char in enumerate(action) if char == "."]


def words_of(text: str) -> list[str]:
    """The words of a text in order, folded."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _find_words(folded)


def names_of(event: EventView) -> list[str]:
    """The names of an event's targets, its actor, and the principal that the actor acted for."""
    principals = (*event.targets, event.actor, event.actor.on_behalf_of)
    return [each.name for each in principals if each is not None and each.name != ABSENT]


@lru_cache(maxsize=65_536)
def pack_address(ip: str) -> str:
    """The term of an address. Precondition: `ip` is one, or ABSENT."""
    if ip == ABSENT:
        return ABSENT
    if ":" in ip:
        return f"6{inet_pton(AF_INET6, ip).hex()}"
    return f"4{inet_pton(AF_INET, ip).hex()}"


@lru_cache(maxsize=4_096)
def context_prefix(path: str) -> str:
    """The beginning of all terms of one path of the context."""
    return msgspec.json.encode(path).decode()


def scalars(path: str, value: object) -> Iterable[tuple[str, str]]:
    """Every scalar inside a value of the context as text, each with its path."""
    if isinstance(value, dict):
        return [found for key, some in value.items() for found in scalars(f"{path}.{key}", some)]
    if isinstance(value, list):
        return [found for some in value for found in scalars(path, some)]
    return ((path, text_of(value)),)


def context_values(event: EventView, path: str) -> list[str]:
    """The scalars at a path of an event's context, as text."""
    return [
        text
        for key, value in event.context.items()
        # A path begins with its key; keys may hold dots themselves.
        if path.startswith(key)
        for found, text in scalars(key, value)
        if found == path
    ]


def text_of(value: object) -> str:
    """A scalar as text: a string as it is, anything else as its RFC 8785 JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    return rfc8785.dumps(value).decode()  # type: ignore[arg-type]  # a scalar of a checked leaf


def terms_of(text: str) -> list[str]:
    """The terms of a text's words, each once, with MORE behind them if there are too many."""
    words = list(dict.fromkeys(map(cut, words_of(text))))
    return words if len(words) <= WORDS_MAX else [*words[:WORDS_MAX], MORE]
