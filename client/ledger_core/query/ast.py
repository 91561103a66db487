"""A query as a value: conditions on an event, joined by and, or and not.

`parser` reads it from text, `pivots` builds it, `ledger.query.plan` turns it into
reads of the index, and `predicate` into a test of one leaf. `format_query` writes it as text that
parses to the same value. Times stay relative until `resolve` makes them absolute.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from ledger_core.event.times import format_time
from ledger_core.query.fields import FIELDS

MICROSECONDS: Final = 1_000_000
MINUTE_US: Final = 60 * MICROSECONDS
HOUR_US: Final = 60 * MINUTE_US
UNIX_US_END: Final = 253_402_300_800 * MICROSECONDS
"""The first moment of the year 10000, where RFC 3339 ends."""

# A value of this form means itself without quotes: no sign of the language, no range.
_PLAIN = re.compile(r"(?!['‘“”’«»\[{<>=!~])(?:(?!\.\.)[^\s\"(),:*?\\])+")
_NOT_PLAIN = re.compile(r"""\A['‘“”’«»\[{<>=!~]|[\s"(),:*?\\]|\.{2,}""")
"""What keeps a text from being plain. None of it is of a word."""
_WORD = re.compile(r"(?!(?:and|or|not)\Z)[^\W_]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Moment:
    """A time in a query: microseconds since 1970, or relative to now.

    `whole_minutes`: a relative time counts from the start of the current minute.
    """

    unix_us: int
    relative: bool = False
    whole_minutes: bool = False

    def resolve(self, now_unix_us: int) -> "Moment":
        """The absolute moment, given the present time."""
        if not self.relative:
            return self
        base = now_unix_us - now_unix_us % MINUTE_US if self.whole_minutes else now_unix_us
        return Moment(min(max(base + self.unix_us, 0), UNIX_US_END))


@dataclass(frozen=True, slots=True)
class Everything:
    """Every event."""


@dataclass(frozen=True, slots=True)
class Is:
    """The field has this value, or a value with this prefix. `source` uses `InNetwork`."""

    field: str
    value: str
    is_prefix: bool = False
    key: str = ""
    """The path, if the field is `context`, `before` or `after`; empty: any path."""


@dataclass(frozen=True, slots=True)
class Has:
    """The event has some value of the field; at the path `key` or below it, if there is one."""

    field: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class NumberBetween:
    """Some value of the field is a number in a range; None leaves that end open."""

    field: str
    low: Decimal | None
    high: Decimal | None
    is_above_low: bool = False
    """Whether the low end itself is outside."""
    is_below_high: bool = False
    """Whether the high end itself is outside."""
    key: str = ""
    """The path, if the field is `context`."""

    def holds(self, number: Decimal) -> bool:
        """Whether a number is in the range."""
        low, high = self.low, self.high
        return (low is None or number > low or (number == low and not self.is_above_low)) and (
            high is None or number < high or (number == high and not self.is_below_high)
        )


@dataclass(frozen=True, slots=True)
class Words:
    """The words of `text` stand side by side in one text of the field.

    Without a field they stand in any text, or `text` is an id of the event, or its address.
    `is_prefix`: the last word, or the id, begins so. `text` has single blanks, and a word.
    """

    field: str
    text: str
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class InNetwork:
    """The source address lies in a network."""

    network: IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Between:
    """`time` or `received` is in `start <= time < end`; None leaves that end open."""

    field: str
    start: Moment | None
    end: Moment | None


@dataclass(frozen=True, slots=True)
class IndexBetween:
    """The index is `start <= index < end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class IndexIn:
    """The index is one of these, which ascend. Conditions on ids are resolved to it."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class And:
    """All of the parts hold, at least two."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """One of the parts holds, of at least two."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Expression"


Condition: TypeAlias = (
    Is | Has | NumberBetween | Words | InNetwork | Between | IndexBetween | IndexIn
)
Expression: TypeAlias = Everything | Condition | And | Or | Not
EVERYTHING: Final = Everything()


def all_of(parts: Iterable[Expression]) -> Expression:
    """The conjunction, flattened; without parts it is every event."""
    flat: list[Expression] = []
    for part in parts:
        if isinstance(part, And):
            flat += part.parts
        elif not isinstance(part, Everything):
            flat.append(part)
    return And(tuple(flat)) if len(flat) > 1 else flat[0] if flat else EVERYTHING


def any_of(parts: Iterable[Expression]) -> Expression:
    """The disjunction, flattened. Precondition: at least one part."""
    flat: list[Expression] = []
    for part in parts:
        flat += part.parts if isinstance(part, Or) else (part,)
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def replace_conditions(
    expression: Expression, replace: Callable[[Expression], Expression]
) -> Expression:
    """The expression with every condition replaced; `And`, `Or` and `Not` stay."""
    match expression:
        case And(parts):
            return And(tuple(replace_conditions(part, replace) for part in parts))
        case Or(parts):
            return Or(tuple(replace_conditions(part, replace) for part in parts))
        case Not(part):
            return Not(replace_conditions(part, replace))
    return replace(expression)


def count_conditions(expression: Expression) -> int:
    """The number of conditions in an expression."""
    match expression:
        case And(parts) | Or(parts):
            return sum(map(count_conditions, parts))
        case Not(part):
            return count_conditions(part)
    return 1


def measure(expression: Expression) -> tuple[int, int]:
    """The number of conditions in an expression, and of characters in its text."""
    return count_conditions(expression), len(format_query(expression))


def resolve(expression: Expression, now_unix_us: int) -> Expression:
    """The expression with every relative time made absolute."""

    def absolute(condition: Expression) -> Expression:
        if not isinstance(condition, Between):
            return condition
        start, end = (
            moment and moment.resolve(now_unix_us) for moment in (condition.start, condition.end)
        )
        if end is not None and end.unix_us == 0:
            # Nothing is before 1970, and no text names a range that ends there.
            return Not(Between(condition.field, Moment(0), None))
        return Between(condition.field, start, end)

    return replace_conditions(expression, absolute)


def query_fields(expression: Expression) -> tuple[str, ...]:
    """The names of the fields that an expression looks at, sorted; `text` for words in any text."""
    fields: set[str] = set()

    def add(condition: Expression) -> Expression:
        match condition:
            case Is(field) | Has(field) | NumberBetween(field) | Words(field) | Between(field):
                fields.add(field or "text")
            case InNetwork():
                fields.add("source")
            case IndexBetween() | IndexIn():
                fields.add("index")
        return condition

    replace_conditions(expression, add)
    return tuple(sorted(fields))


def format_query(expression: Expression) -> str:
    """The expression as query text, which parses to the same expression."""
    match expression:
        case Everything():
            return ""
        case And(parts):
            return " ".join(_inner(part, within=And) for part in parts)
        case Or(parts):
            return " OR ".join(_inner(part, within=Or) for part in parts)
        case Not(part):
            return f"NOT {_inner(part, within=Not)}"
    return _format_condition(expression)


def _format_condition(condition: Condition) -> str:
    match condition:
        case Is(field, value, is_prefix, key):
            # The value of a name stands in quotes; without them it would be words.
            text = _quote(value, is_prefix=is_prefix, is_bare=FIELDS[field].kind != "name")
            return f"{_name(field, key)}:{text}"
        case Has(field, key):
            return f"has:{_name(field, key)}"
        case NumberBetween(field, key=key):
            return f"{_name(field, key)}:{_format_range(condition)}"
        case Words(field, text, is_prefix) if field and FIELDS[field].kind == "name":
            # In quotes they would be the whole name.
            return f"{field}:{_quote(bare_words(text), is_prefix=is_prefix)}"
        case Words(field, text, is_prefix):
            text = _quote_words(text, is_prefix=is_prefix)
            return f"{field}:{text}" if field else text
        case InNetwork(network):
            return f"source:{network}"
        case IndexBetween(start, end):
            return f"index:{start}..{end - 1}"
        case IndexIn(indices):
            return f"index:{','.join(map(str, indices))}"
        case Between(field, start, end):
            return f"{field}:{_format_moment(start)}..{_format_moment(end, is_end=True)}"


def bare_words(text: str) -> str:
    """The same words without a sign that a value has in quotes only.

    `rv:128.0` is `rv-128.0`: both are the words `rv`, `128` and `0`, side by side.
    """
    return text if _PLAIN.fullmatch(text) else _NOT_PLAIN.sub("-", text)


def time_text(unix_us: int) -> str:
    """A time as the log spells it; texts sort as times do."""
    return format_time(unix_us) if unix_us < UNIX_US_END else "~"


def _inner(part: Expression, *, within: type) -> str:
    if within is Or and isinstance(part, Words) and not part.field:
        # A bare word behind `actor:a OR` is refused: it reads like a value.
        return _quote(part.text, is_prefix=part.is_prefix, is_bare=False)
    text = format_query(part)
    if not text:
        return "NOT ()"
    is_grouped = isinstance(part, Or) or (isinstance(part, And) and within is not And)
    return f"({text})" if is_grouped else text


def _quote_words(text: str, *, is_prefix: bool) -> str:
    """Words as text without a field; in quotes unless they are one word and no keyword."""
    return _quote(text, is_prefix=is_prefix, is_bare=bool(_WORD.fullmatch(text)))


def _name(field: str, key: str) -> str:
    return f"{field}.{_quote(key)}" if key or field == "context" else field


def _quote(text: str, *, is_prefix: bool = False, is_bare: bool = True) -> str:
    """Text as a value; in quotes unless it needs none and `is_bare`."""
    quoted = text
    if not (is_bare and _PLAIN.fullmatch(text)):
        quoted = '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f"{quoted}*" if is_prefix else quoted


def _format_range(condition: NumberBetween) -> str:
    low, high = condition.low, condition.high
    if high is None:
        return f">{'' if condition.is_above_low else '='}{low}"
    if low is None:
        return f"<{'' if condition.is_below_high else '='}{high}"
    return f"{low}..{high}"


def _format_moment(moment: Moment | None, *, is_end: bool = False) -> str:
    if moment is None:
        return ""
    if moment.relative:
        amount, unit = (MINUTE_US, "m") if moment.whole_minutes else (MICROSECONDS, "s")
        return f"-{-moment.unix_us // amount}{unit}"
    # The end of a range is the last unit inside it; the smallest unit is a microsecond.
    return format_time(moment.unix_us - 1 if is_end else moment.unix_us)
