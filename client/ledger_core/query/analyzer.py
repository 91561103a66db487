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
* `folded` holds a second term of each action, type and path of a change with upper case letters:
  the field, a colon, and the folded value. So these compare without case, and facets count them as
  they were written.
* `number` holds a second term of each number in the context, also of one in a string: its path,
  then a code of its first three digits that sorts as numbers do (`number_code`).
* Words come from names, reasons and the action: runs of letters and digits, case folded. Text that
  isn't ASCII is first normalised to NFKC.
* `context` holds the scalars of the context: the path as a JSON string, then the value as text, so
  `"region"eu-west-1` can't be mistaken for another path. Array elements have the path of the array.
  The request and the trace id have dimensions of their own. A reason without a word has the empty
  word.
* At most `WORDS_MAX` words of one text and `CONTEXT_TERMS_MAX` values of one context become terms.
  The term `MORE` marks an event that has more, and a query that might miss something reads it.

The terms depend on the leaf and on `ANALYSIS` alone. `ANALYSIS` names the version of these rules
and of the Unicode tables; an index made under another value is made again.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final

import msgspec
import rfc8785

ABSENT: Final = "\0"
"""The value of a field that an event does not have; real values hold no NUL."""

ANALYSIS_VERSION: Final = 3
ANALYSIS: Final = f"{ANALYSIS_VERSION} unicode {unicodedata.unidata_version}"

TERM_CHARS_MAX: Final = 120
WORDS_MAX: Final = 128
CONTEXT_TERMS_MAX: Final = 32

HOUR_CHARS: Final = len("2026-11-25T02")
MINUTE_CHARS: Final = len("2026-11-25T02:03")

MORE: Final = "\x01"
"""The term of an event with more words, or more context, than become terms."""

FAMILY: Final = "action.family"
FOLDED_TERMS: Final = "folded"
NUMBERS: Final = "number"

NUMBER_CODE_CHARS_MAX: Final = len("61234123+")
"""The length of the longest `number_code`."""

_match_number: Final = re.compile(
    r"-?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,3})?", re.ASCII
).fullmatch
_NUMBER_DIGITS: Final = 3
_EXPONENT_BIAS: Final = 5000
_NUMBER_STARTS: Final = frozenset("-0123456789")

_read_json: Final = json.JSONDecoder().raw_decode
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


def fold(value: str) -> str:
    """A value as it compares without upper and lower case."""
    return value.lower() if value.isascii() else value.casefold()


def folded_term(field: str, folded: str) -> str:
    """The term in `folded` of a value, or of its cut beginning."""
    return f"{field}:{folded}"


def folded_terms(field: str, value: str) -> tuple[str, ...]:
    """The terms in `folded` of a value of a field: none, if folding changes nothing."""
    folded = fold(value)
    if folded == value:
        return ()
    return (folded_term(field, folded if field == "action" else cut(folded)),)


def parse_number(text: str) -> Decimal | None:
    """The number that a text is, in the notation of JSON; None if it is none, or too long."""
    # Most texts are no numbers, and their first character shows it.
    return Decimal(text) if text[:1] in _NUMBER_STARTS and _match_number(text) else None


def number_code(number: Decimal) -> str:
    """The term of a number: its sign, exponent and first three digits, which sort as numbers do.

    A number with more digits has a term that it shares with others, right above that of the number
    with just these digits; below it if both are negative.
    """
    sign, digits, _ = number.as_tuple()
    significant = "".join(map(str, digits)).strip("0")
    if not significant:
        return "5"
    first = int(significant[:_NUMBER_DIGITS].ljust(_NUMBER_DIGITS, "0"))
    exponent = number.adjusted() + _EXPONENT_BIAS
    is_rounded = len(significant) > _NUMBER_DIGITS
    if not sign:
        return f"6{exponent:04d}{first:03d}{'+' if is_rounded else ''}"
    return f"4{9999 - exponent:04d}{999 - first:03d}{'' if is_rounded else '~'}"


def is_rounded(code: str) -> bool:
    """Whether other numbers may have the same code."""
    return code.endswith("+") or (code[0] == "4" and not code.endswith("~"))


@lru_cache(maxsize=65_536)
def _code_of(text: str) -> str | None:
    number = parse_number(text)
    return None if number is None else number_code(number)


def number_term(path: str, text: str) -> str | None:
    """The term of a value of the context that is a number; None for another one."""
    code = _code_of(text) if text[:1] in _NUMBER_STARTS else None
    return None if code is None else cut(context_prefix(path) + code)


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


def path_of(term: str) -> str | None:
    """The path of the context in a term of `context`; None if the term has no whole path."""
    try:
        path, _ = _read_json(term)
    except ValueError:
        return None
    return path if isinstance(path, str) else None


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


def has_context(event: EventView, path: str) -> bool:
    """Whether an event's context has a value at a path or below it."""
    return any(
        found == path or found.startswith(f"{path}.")
        for key, value in event.context.items()
        if path.startswith(key) or key.startswith(path)
        for found, _ in scalars(key, value)
    )


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
