"""Event -> index terms: what can be asked of an event, as dimension and value.

A term is a dimension and a value, both text, such as ("actor", "u_5") or ("hour",
"2026-11-25T02"). Whatever is asked of the index, `plan` asks as one term or as a range of terms;
what an event has is decided here and nowhere else.

* Values longer than `TERM_CHARS_MAX` are cut to it, but for actions, which are short. So a term of
  that very length is a hint, and the rows it leads to are looked at again.
* An address is its bits as hexadecimal digits behind a `4` or a `6`: a network is a range.
* A time is the beginning of its RFC 3339 text: `hour` and `minute` for the event's own time,
  `received` for the hour of its receipt.
* The families of an action are what its name begins with, up to each dot: `iam.` has every
  `iam.CreateUser`, so that asking for `action:iam.*` reads one term.
* Words are taken from names, reasons and the action: runs of letters and digits, case folded. Text
  that isn't ASCII is brought into the form NFKC first.
* `context` holds the scalars of the context: the path as a JSON string, then the value as text, so
  that `"region"eu-west-1` can't be mistaken for another path. An array's elements have the path of
  the array. The request and the trace id have dimensions of their own.
* Of one text's words and of one context at most so many become terms; beyond that, the term `MORE`
  says that there is more, and whoever asks for what may be missing looks at the row again.

The result depends on the leaf and on `ANALYSIS` alone. It names the version of these rules and that
of the Unicode tables: an index made under another is made again.
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
"""Stands for no value; no value holds a NUL."""

ANALYSIS_VERSION: Final = 2
ANALYSIS: Final = f"{ANALYSIS_VERSION} unicode {unicodedata.unidata_version}"

TERM_CHARS_MAX: Final = 120
WORDS_MAX: Final = 128
CONTEXT_TERMS_MAX: Final = 32

REQUEST_KEY: Final = "request_id"
TRACE_KEY: Final = "trace_id"
OWN_PATHS = {REQUEST_KEY: "request", TRACE_KEY: "trace"}
HOUR_CHARS: Final = len("2026-11-25T02")
MINUTE_CHARS: Final = len("2026-11-25T02:03")

MORE: Final = "\x01"
"""The term of an entry that has more words, or more context, than become terms."""

FAMILY: Final = "action.family"

_find_words: Final = re.compile(r"[^\W_]+").findall


# What of a leaf is indexed. The leaf was checked when it was appended, so nothing is checked again,
# and what isn't named here is skipped without being built.
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
    """An event of the log, as far as it can be asked for; ABSENT where it has nothing."""

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
    """A leaf of the log, as far as it can be asked for."""

    event: EventView
    received: _ReceivedView


decode_view = msgspec.json.Decoder(LeafView).decode
"""Leaf bytes -> LeafView. Precondition: they are a leaf of the log."""


def cut(value: str) -> str:
    """The term of a value."""
    return value if len(value) <= TERM_CHARS_MAX else value[:TERM_CHARS_MAX]


def is_hint(value: str) -> bool:
    """Whether the term of a value may be that of other values too."""
    return len(value) >= TERM_CHARS_MAX


def families_of(action: str) -> list[str]:
    """What an action begins with, up to each of its dots: `iam.` and `iam.user.`"""
    return [action[: at + 1] for at, char in enumerate(action) if char == "."]


def words_of(text: str) -> list[str]:
    """The words of a text, in their order."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _find_words(folded)


def names_of(event: EventView) -> list[str]:
    """The names that an event gives to its targets, its actor, and to whom that acts for."""
    names = [target.name for target in event.targets if target.name != ABSENT]
    actor = event.actor
    if actor.name != ABSENT:
        names.append(actor.name)
    if actor.on_behalf_of is not None and actor.on_behalf_of.name != ABSENT:
        names.append(actor.on_behalf_of.name)
    return names


@lru_cache(maxsize=65_536)
def pack_address(ip: str) -> str:
    """An address as a term. Precondition: it is one, or ABSENT."""
    if ip == ABSENT:
        return ABSENT
    if ":" in ip:
        return f"6{inet_pton(AF_INET6, ip).hex()}"
    return f"4{inet_pton(AF_INET, ip).hex()}"


@lru_cache(maxsize=4_096)
def context_prefix(path: str) -> str:
    """What the terms of a path of the context begin with."""
    return msgspec.json.encode(path).decode()


def scalars(path: str, value: object) -> Iterable[tuple[str, str]]:
    """Every scalar inside a value of the context, with its path, as text."""
    if isinstance(value, dict):
        return [found for key, some in value.items() for found in scalars(f"{path}.{key}", some)]
    if isinstance(value, list):
        return [found for some in value for found in scalars(path, some)]
    return ((path, text_of(value)),)


def text_of(value: object) -> str:
    """A scalar as text: a string as it is, anything else as its RFC 8785 JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    return rfc8785.dumps(value).decode()  # type: ignore[arg-type]  # a scalar of a checked leaf


def terms_of(text: str) -> list[str]:
    """The terms of a text's words, each once."""
    words = list(dict.fromkeys(map(cut, words_of(text))))
    return words if len(words) <= WORDS_MAX else [*words[:WORDS_MAX], MORE]
