"""Leaf -> index terms: what an event can be found by, as dimension and value.

A term is a dimension of `fields` and a value, both text, such as ("actor", "u_5") or ("hour",
"2026-11-25T02"). The rules below decide which terms an event has. `ledger.query.segment_terms`
applies them to whole segments; `ledger.query.plan` asks for the same terms.

* A value longer than `TERM_CHARS_MAX` is cut to that length. A term of that very length is
  therefore only a hint: the query reads the events that it finds. Actions, names and user agents
  are whole.
* An address is its bits as hexadecimal digits behind a `4` or a `6`, so a network is a range. A
  port has five digits.
* A time is the beginning of its RFC 3339 text: `hour` and `minute` of the event's own time,
  `received` of the hour of its receipt.
* `late` is the time from the event to its receipt, in steps (`LATE_STEPS_S`): each step has a term
  for itself, and one for what lies between it and the next.
* The families of an action are its beginnings up to each dot: `iam.` has every `iam.CreateUser`,
  so `action:iam.*` reads one term.
* `folded` holds a second term of each action, type and path of a change with upper case letters:
  the field, a colon, and the folded value. So these compare without case, and facets count them as
  they were written.
* `number` holds a second term of each number in the context, also of one in a string: its path,
  then a code of its first three digits that sorts as numbers do (`number_code`).
* `words` says what words are. Those of reasons, of each name and of user agents have dimensions of
  their own; those of actions, ids, types of targets and changed values have the dimension `word`.
  A reason without a word has the empty word. Two words that stand side by side are a term too, with
  a blank between them: `legal hold`. So is `REPEATED` before a word that its text has twice: where
  the inner words of a phrase stand once, its pairs show that it stands there as a whole.
* `before` and `after` hold the scalars of changed values, each twice: behind its path as in
  `context`, and behind the empty path. `/limits/daily` is the path `limits.daily`.
* `masked` holds the rules by which secrets were masked. `target.several` marks an event of several
  targets, for which `target:user/u_5` must look whether one target has both.
* `context` holds the scalars of the context: the path as a JSON string, then the value as text, so
  `"region"eu-west-1` can't be mistaken for another path. Array elements have the path of the array.
  The request and the trace id have dimensions of their own.
* The first `WORDS_MAX` words of one text, at most `CONTEXT_TERMS_MAX` values of one context, and as
  many of the changes, become terms. The term `MORE` marks an event that has more, and a query that
  might miss something reads it.

The terms depend on the leaf and on `ANALYSIS` alone. `ANALYSIS` names the version of these rules
and of the Unicode tables; an index made under another value is made again.
"""

import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise, repeat
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final

import msgspec
import rfc8785

from ledger_core.event.times import parse_time
from ledger_core.query.words import words_of, words_of_id

ABSENT: Final = "\0"
"""The value of a field that an event does not have; real values hold no NUL."""

ANALYSIS_VERSION: Final = 5
ANALYSIS: Final = f"{ANALYSIS_VERSION} unicode {unicodedata.unidata_version}"

TERM_CHARS_MAX: Final = 120
WORDS_MAX: Final = 128
CONTEXT_TERMS_MAX: Final = 32
PORT_DIGITS: Final = 5

HOUR_CHARS: Final = len("2026-11-25T02")
MINUTE_CHARS: Final = len("2026-11-25T02:03")

MORE: Final = "\x01"
"""The term of an event with more words, or more context, than become terms."""

REPEATED: Final = "\x02"
"""Begins the term of a word that stands in one text more than once."""

SEVERAL: Final = "1"
"""The one term of `target.several`."""

FAMILY: Final = "action.family"
FOLDED_TERMS: Final = "folded"
FOLDED_MOST: Final = 3
"""Characters that one becomes at most when it is folded. Source: Unicode, section 5.18."""

NUMBERS: Final = "number"

NUMBER_CODE_CHARS_MAX: Final = len("61234123+")
"""The length of the longest `number_code`."""

_match_number: Final = re.compile(
    r"-?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,3})?", re.ASCII
).fullmatch
_NUMBER_CHARS_MAX: Final = 100
"""Above the longest text that the expression matches. Longer ones are in no cache of texts."""

_PREFIX_CHARS_CACHED: Final = 256
_NUMBER_DIGITS: Final = 3
_EXPONENT_BIAS: Final = 5000
NUMBER_STARTS: Final = frozenset("-0123456789")

_read_json: Final = json.JSONDecoder().raw_decode

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_STEPS_S = (
    1, 5, 10, 30, _MINUTE_S, 5 * _MINUTE_S, 10 * _MINUTE_S, 15 * _MINUTE_S, 30 * _MINUTE_S, _HOUR_S,
    2 * _HOUR_S, 6 * _HOUR_S, 12 * _HOUR_S, _DAY_S, 2 * _DAY_S, 7 * _DAY_S, 30 * _DAY_S,
    90 * _DAY_S, 365 * _DAY_S,
)  # fmt: skip
LATE_STEPS_S: Final = (*(-step for step in reversed(_STEPS_S)), 0, *_STEPS_S)
"""Seconds; negative if the event is later than its receipt."""

_LATE_STEPS_US = tuple(step * 1_000_000 for step in LATE_STEPS_S)
_ARE_STEPS = frozenset(_LATE_STEPS_US)
_BETWEEN_STEPS = tuple(f"{2 * place:02d}" for place in range(len(_LATE_STEPS_US) + 1))


# The indexed part of a leaf. Leaves were checked when they were appended, so nothing is checked
# here, and msgspec skips every key that these types don't name.
class PrincipalView(msgspec.Struct, gc=False):
    """An actor or a target, or whom an actor acted for."""

    id: str
    type: str = ABSENT
    name: str = ABSENT


class _Actor(PrincipalView):
    session: str = ABSENT
    credential: str = ABSENT
    on_behalf_of: PrincipalView | None = None


class _Source(msgspec.Struct, gc=False, frozen=True):
    ip: str = ABSENT
    service: str = ABSENT
    user_agent: str = ABSENT
    port: int = -1


class _Change(msgspec.Struct, gc=False):
    path: str
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


class _Numbering(msgspec.Struct, gc=False, frozen=True):
    instance: str = ABSENT


_NO_SOURCE = _Source()
_NO_NUMBERING = _Numbering()


class EventView(msgspec.Struct, gc=False):
    """The part of an event that queries can name; a value that it lacks is ABSENT."""

    action: str
    actor: _Actor
    outcome: str
    id: str
    time: str
    targets: tuple[PrincipalView, ...] = ()
    source: _Source = _NO_SOURCE
    reason: str = ABSENT
    changes: tuple[_Change, ...] = ()
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    tenant: str = ABSENT
    recorder: _Numbering = _NO_NUMBERING


class _ReceivedView(msgspec.Struct, gc=False):
    time: str
    by: str = ABSENT


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
    return Decimal(text) if text[:1] in NUMBER_STARTS and _match_number(text) else None


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
    is_short = len(text) <= _NUMBER_CHARS_MAX
    code = _code_of(text) if is_short and text[:1] in NUMBER_STARTS else None
    return None if code is None else cut(context_prefix(path) + code)


@lru_cache(maxsize=4096)
def _hour_us(hour: str) -> int:
    return parse_time(f"{hour}:00:00Z")


@lru_cache(maxsize=4096)
def _minute_us(minute: str) -> int:
    return _hour_us(minute[:HOUR_CHARS]) + int(minute[HOUR_CHARS + 1 :]) * 60_000_000


def unix_us(time: str) -> int:
    """A time of the log as microseconds since 1970. Precondition: it has the form of the log."""
    return _minute_us(time[:MINUTE_CHARS]) + int(time[17:19] + time[20:26])


def late_us(view: LeafView) -> int:
    """Microseconds from the time of an event to its receipt; negative if the event is later."""
    return unix_us(view.received.time) - unix_us(view.event.time)


def late_term(us: int) -> str:
    """The term of a delay: even numbers for what lies between two steps, odd ones for a step."""
    return f"{bisect_left(_LATE_STEPS_US, us) + bisect_right(_LATE_STEPS_US, us):02d}"


def late_terms(lates_us: Sequence[int]) -> list[str]:
    """As `late_term` for many delays."""
    if _ARE_STEPS.isdisjoint(lates_us):
        places = map(bisect_left, repeat(_LATE_STEPS_US), lates_us)
        return list(map(_BETWEEN_STEPS.__getitem__, places))
    return list(map(late_term, lates_us))


@lru_cache(maxsize=65_536)
def pack_address(ip: str) -> str:
    """The term of an address. Precondition: `ip` is one, or ABSENT."""
    if ip == ABSENT:
        return ABSENT
    if ":" in ip:
        return f"6{inet_pton(AF_INET6, ip).hex()}"
    return f"4{inet_pton(AF_INET, ip).hex()}"


def context_prefix(path: str) -> str:
    """The beginning of all terms of one path of the context."""
    # Keys inside objects have any length, and 4,096 long ones would take 500 MB.
    return _prefix_of(path) if len(path) <= _PREFIX_CHARS_CACHED else _encode_path(path)


def _encode_path(path: str) -> str:
    return msgspec.json.encode(path).decode()


_prefix_of = lru_cache(maxsize=4_096)(_encode_path)


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


def text_of(value: object) -> str:
    """A scalar as text: a string as it is, anything else as its RFC 8785 JSON."""
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    return rfc8785.dumps(value).decode()  # type: ignore[arg-type]  # a scalar of a checked leaf


def terms_of(text: str) -> list[str]:
    """The terms of a text's words, each once, with MORE behind them if there are too many."""
    return _terms(words_of(text))


def terms_of_id(text: str) -> list[str]:
    """The terms of an id's words, as `terms_of`."""
    found = words_of_id(text)
    return _terms(found) if found else found


def terms_of_name(text: str) -> list[str]:
    """The terms of a name's or user agent's words; MORE is one of `word` (`terms_beyond`)."""
    return _terms_of_words(words_of(text)[:WORDS_MAX])


def terms_beyond(text: str) -> list[str]:
    """MORE if a name has more words than become terms."""
    # Words have a character between them.
    return [MORE] if len(text) > 2 * WORDS_MAX and len(words_of(text)) > WORDS_MAX else []


def pair_term(first: str, second: str) -> str:
    """The term of two words that stand side by side."""
    return cut(f"{first} {second}")


def repeated_term(word: str) -> str:
    """The term of a word that stands in one text more than once."""
    return cut(REPEATED + word)


def _terms(found: list[str]) -> list[str]:
    if len(found) <= WORDS_MAX:
        return _terms_of_words(found)
    return [*_terms_of_words(found[:WORDS_MAX]), MORE]


def _terms_of_words(found: list[str]) -> list[str]:
    words = dict.fromkeys(found)
    pairs = [f"{first} {second}" for first, second in pairwise(found)]
    terms = dict.fromkeys((*words, *pairs))
    if max(map(len, terms), default=0) > TERM_CHARS_MAX:
        terms = dict.fromkeys(map(cut, terms))
    if len(words) < len(found):
        again = Counter(found)
        terms |= dict.fromkeys(repeated_term(word) for word in words if again[word] > 1)
    return list(terms)
