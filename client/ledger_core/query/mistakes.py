"""Finds what people type from habit and what this language does not mean.

Other query languages write `actor = u_5`, `a and b`, `exists(actor)` or `'text'`. Read as words,
each of them would find nothing, and nobody would know why. So each is refused, with its place and
with the form that is right here. Text in double quotes is always just text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mistake:
    """A form that this language does not have: why, where, and what to write instead."""

    message: str
    start: int
    end: int
    expected: tuple[str, ...]


_KEYWORDS: Final = re.compile(r"(and|or|not)(?=[\s()]|\Z)", re.IGNORECASE).match
_SIGNS: Final = re.compile(r"(&&|\|\||[&|!](?=[\s(]|\Z))").match
_COUNT: Final = re.compile(
    r"(?:stats\s+)?(count|group)\s+by\b(?:\s+([\w.]+))?", re.IGNORECASE
).match
_SORT: Final = re.compile(
    r"(order|sort)\s+by\b(?:\s+[\w.]+)?(?:\s+(?:asc|desc)\b)?", re.IGNORECASE
).match
_CALL: Final = re.compile(r"(!?)([A-Za-z_]+)\(\s*\"?([^\s()\",]*)").match
_NEGATED: Final = re.compile(r"([-!+])(\"?)(?=[^\s-])([^\s()\"]*)").match
_NAME = r"(?:context\.(?:\"(?:[^\"\\]|\\.)*\"|[^\s\":(),*=!<>~]+)|[A-Za-z_][\w.]*)"
_OPERATOR: Final = re.compile(
    rf"({_NAME})\s*(===?|!==?|<>|<=|>=|=~|!~|[=<>~])\s*(\"[^\"]*\"|[^\s\"()]*)"
).match
_BLANK: Final = re.compile(rf"({_NAME})\s+:\s*([^\s()]*)").match
_IN: Final = re.compile(rf"({_NAME})\s+(not\s+)?in\s*\(([^()]*)\)?", re.IGNORECASE).match
_NULL: Final = re.compile(rf"({_NAME})\s+is\s+(not\s+)?null\b", re.IGNORECASE).match
_QUOTE: Final = re.compile(r"(['‘’“”«»])([^'‘’“”«»]*)(['‘’“”«»]?)").match
_BRACKET: Final = re.compile(r"[\[{]\s*([^\s\]}]*)(?:\s+TO\s+([^\s\]}]*))?[^\]}]*[\]}]?").match
_VALUE_SIGN: Final = re.compile(r"===?|!==?|=~|!~|<>|[=!~]").match
_RUN: Final = re.compile(r"[^\s\"(),]+").match
_BAD_IN_WORD: Final = re.compile(r"[=<>~?\[\]{}]|\*(?!\Z)").search
_EVERYTHING: Final = re.compile(r"\*(?::\*)?(?=[\s)]|\Z)").match

_PRESENT: Final = frozenset({"exists", "_exists_", "has", "exist", "isnotnull", "present"})
_ABSENT: Final = frozenset({"missing", "_missing_", "isnull", "empty", "isempty"})
_NO_QUOTES: Final = dict.fromkeys(map(ord, "\"'‘’“”«»"))
_COMPARISONS: Final = frozenset({"<", "<=", ">", ">="})


_FIELDS: Final = {
    "source": "ip src source_ip src_ip sourceip client_ip clientip remote_addr remote_ip ip_address"
    " addr address",
    "actor": "user username user_name user_id userid uid who principal account login subject",
    "user_agent": "ua useragent agent browser",
    "target": "object resource entity resource_id target_id",
    "action": "verb event event_name eventname event_type operation op method",
    "outcome": "result status success",
    "time": "timestamp date datetime when ts at",
    "credential": "token api_key apikey key_id",
    "session": "sid session_id sessionid",
    "tenant": "org organization organisation customer tenant_id",
    "service": "host app application svc",
    "request": "request_id requestid",
    "trace": "trace_id traceid",
    "reason": "message msg comment text",
    "actor.on_behalf_of": "on_behalf_of behalf impersonated",
}
USUAL: Final = {name: field for field, names in _FIELDS.items() for name in names.split()}


def usual_field(name: str) -> str | None:
    """The field that other systems call by this name, as `ip` for `source`."""
    return USUAL.get(name.lower())


def is_presence(name: str) -> bool:
    """Whether other languages ask by this name for events that have a field."""
    return name.lower() in _PRESENT


def find_mistake(
    text: str, at: int, *, is_field: Callable[[str], bool], is_ordered: Callable[[str], bool]
) -> Mistake | None:
    """The wrong form where a condition begins, outside of quotes; None if there is none.

    `is_field`: whether the language knows a name. `is_ordered`: whether `<` and `>` mean something
    for the field of that name.
    """
    for find in (_keyword, _sign, _counting, _call, _quote, _bracket):
        mistake = find(text, at)
        if mistake is not None:
            return mistake
    return (
        _null_or_list(text, at, is_field)
        or _operator(text, at, is_field, is_ordered)
        or _negation(text, at)
        or _colon(text, at)
    )


def find_in_word(word: str, at: int) -> Mistake | None:
    """A sign within a word that means nothing in a search for words; None if there is none."""
    found = _BAD_IN_WORD(word)
    if found is None:
        return None
    message = f"{found[0]} means nothing here; quote text to find it as words"
    if found[0] in "?*":
        message = f"{found[0]} is no wildcard here; a star stands at the end of a value"
    fixed = word[: found.start()]
    expected = (f'"{word}"', *([f"{fixed}*"] if fixed and found[0] in "?*" else []))
    return Mistake(message, at + found.start(), at + found.end(), expected)


def find_in_value(name: str, text: str, at: int) -> Mistake | None:
    """The wrong form where the value of a field begins; None if there is none."""
    sign = _VALUE_SIGN(text, at)
    if sign is not None:
        run = _run(text, sign.end())
        negation = "NOT " if sign[0][0] in "!<" else ""
        star = "*" if "~" in sign[0] else ""
        expected: tuple[str, ...] = (f"{negation}{name}:{run or 'VALUE'}{star}",)
        message = "no sign stands between the colon and the value"
        return Mistake(message, at, sign.end(), expected)
    for find in (_quote, _bracket):
        mistake = find(text, at)
        if mistake is not None:
            expected = tuple(f"{name}:{each}" for each in mistake.expected)
            return Mistake(mistake.message, mistake.start, mistake.end, expected)
    run = _run(text, at)
    place = run.find("?")
    if place >= 0:
        return Mistake(
            "? is no wildcard; a star stands at the end of a value",
            at + place,
            at + place + 1,
            (f'{name}:"{run}"', *([f"{name}:{run[:place]}*"] if place else [])),
        )
    return None


def _run(text: str, at: int) -> str:
    found = _RUN(text, at)
    return found[0] if found else ""


def _keyword(text: str, at: int) -> Mistake | None:
    found = _KEYWORDS(text, at)
    if found is None or found[1].isupper():
        return None
    expected = (found[1].upper(), f'"{found[1]}"')
    return Mistake("AND, OR and NOT are written in capitals", at, found.end(), expected)


def _sign(text: str, at: int) -> Mistake | None:
    found = _EVERYTHING(text, at)
    if found:
        return Mistake(
            "an empty query finds every event", at, found.end(), ("no query", "has:FIELD")
        )
    found = _SIGNS(text, at)
    if found is None:
        return None
    word = {"&": "AND", "|": "OR", "!": "NOT"}[found[1][0]]
    if found[1] == "|":
        message = "a query has no pipes; counts are asked for beside it"
        return Mistake(message, at, at + 1, (word, "ledger query … --count FIELD", "facets=FIELD"))
    return Mistake(f"{found[1]} is written {word}", at, found.end(), (word,))


def _counting(text: str, at: int) -> Mistake | None:
    message = "a query finds events; counts and order are asked for beside it"
    found = _COUNT(text, at)
    if found:
        field = found[2] or "FIELD"
        expected = (f"ledger query … --count {field}", f"facets={field}")
        return Mistake(message, at, found.end(), expected)
    found = _SORT(text, at)
    if found:
        expected = ("ledger query … --order oldest", "order=oldest")
        return Mistake(message, at, found.end(), expected)
    return None


def _call(text: str, at: int) -> Mistake | None:
    found = _CALL(text, at)
    if found is None or found[2] in ("AND", "OR", "NOT"):
        return None
    name, field = found[2].lower(), found[3] or "FIELD"
    negation = "NOT " if bool(found[1]) != (name in _ABSENT) else ""
    if name in _PRESENT or name in _ABSENT:
        expected: tuple[str, ...] = (f"{negation}has:{field}",)
    else:
        expected = (f"{found[2]} (", "FIELD:(A OR B)")
    return Mistake("there are no functions", at, found.end(2) + 1, expected)


def _quote(text: str, at: int) -> Mistake | None:
    found = _QUOTE(text, at)
    if found is None:
        return None
    return Mistake('text is quoted with "', at, found.end(), (f'"{found[2]}"',))


def _bracket(text: str, at: int) -> Mistake | None:
    found = _BRACKET(text, at)
    if found is None:
        return None
    low, high = (each.strip("*,") if each else "" for each in found.groups())
    is_range = found[2] is not None
    expected = (f"{low}..{high}",) if is_range else ("A,B", "A..B", f'"{found[0]}"')
    return Mistake("brackets mean nothing here", at, found.end(), expected)


def _null_or_list(text: str, at: int, is_field: Callable[[str], bool]) -> Mistake | None:
    found = _NULL(text, at)
    if found and is_field(found[1]):
        negation = "" if found[2] else "NOT "
        return Mistake("null is no value", at, found.end(), (f"{negation}has:{found[1]}",))
    found = _IN(text, at)
    if found and is_field(found[1]):
        values = ",".join(each.strip(" '\"") for each in found[3].split(","))
        negation = "NOT " if found[2] else ""
        expected = (f"{negation}{found[1]}:{values or 'A,B'}",)
        return Mistake("several values stand behind a colon", at, found.end(), expected)
    return None


def _operator(
    text: str, at: int, is_field: Callable[[str], bool], is_ordered: Callable[[str], bool]
) -> Mistake | None:
    message = "a colon joins a field and its value"
    found = _BLANK(text, at)
    if found:
        right = f"{found[1]}:{found[2] or 'VALUE'}"
        return Mistake(f"{message}, without a blank", found.end(1), found.start(2), (right,))
    found = _OPERATOR(text, at)
    if found is None:
        return None
    name, sign, value = found[1], found[2], found[3] or "VALUE"
    quoted = _QUOTE(text, found.start(3))
    if quoted:
        value = f'"{quoted[2]}"'
    expected: tuple[str, ...]
    others: tuple[str, ...] = ()
    if not is_field(name):
        others = (f"context.{name}:{value}", f'"{found[0].translate(_NO_QUOTES)}"')
        name = usual_field(name) or ""
    if not name:
        expected = ()
    elif sign in _COMPARISONS:
        expected = (f"{name}:{sign}{value}",) if is_ordered(name) else (f"{name}:{value}",)
    else:
        negation = "NOT " if sign[0] in "!<" else ""
        star = "*" if "~" in sign and not value.endswith(("*", '"')) else ""
        expected = (f"{negation}{name}:{value}{star}",)
    return Mistake(message, found.start(2), found.end(2), (*expected, *others))


def _negation(text: str, at: int) -> Mistake | None:
    found = _NEGATED(text, at)
    if found is None:
        return None
    rest = f"{found[2]}{found[3] or '…'}{found[2]}"
    if found[1] == "+":
        return Mistake("a plus means nothing", at, at + 1, (rest,))
    name = "a minus" if found[1] == "-" else "an exclamation mark"
    return Mistake(f"{name} does not negate", at, at + 1, (f"NOT {rest}",))


def _colon(text: str, at: int) -> Mistake | None:
    if not text.startswith(":", at):
        return None
    value = text[at:].lstrip(":").split(maxsplit=1)
    named = value[0] if value else "VALUE"
    expected = (f"FIELD:{named}", f'":{named}"')
    return Mistake("a field is missing before the colon", at, at + 1, expected)
