"""Query text -> expression.

    actor:u_5 action:login.* outcome:failure source:203.0.113.0/24 since:-24h
    (target.type:invoice OR target:r_17) NOT actor.type:service "access review"

* Conditions side by side must all hold; `AND` between them is optional, `OR` binds weaker, `NOT`
  negates the condition behind it. These three are written in capitals; parentheses group.
* `field:value` is exact; `a,b` and `(a OR b)` are any of the values; a `*` at the end matches every
  value that begins so. Quote a value with a space, a comma, a quote, a parenthesis, a star or a
  question mark in it; inside quotes, `\\"` and `\\\\` stand for `"` and `\\`. Actions, outcomes,
  types and paths of changes compare without upper and lower case, all other values with it.
* Names and user agents in quotes are whole values (`user_agent:"curl/8.5.0"`), else words of them.
* `has:field` finds events with any value of a field, `has:context.KEY` also with one below it.
* Text without a field searches names, reasons, actions, user agents, changed values, ids and types
  of targets for its words, ignoring case; what stands between blanks or in quotes must stand side
  by side in one text. It also finds an id or an address that is this very text.
* `time`, `received`, `index`, `late`, `port` and numbers of `context` take a range `A..B`, of which
  one end may be missing, and `>A`, `>=A`, `<A`, `<=A`. One time means its whole day, hour, minute
  or second. `since:A` and `until:B` are `time:A..B`. Days are UTC, or of the zone behind them
  (`2026-11-24+02:00`); a time of day needs its zone. `-24h` is 24 hours ago, counted from the start
  of the current minute, with `s` from the current second; `now` is now.
* `@name` stands for the query that is saved under this name, as if it stood there in parentheses.
* What other languages write otherwise is refused with the form that is right here (`mistakes`).

    query  = and *( "OR" and )          and   = not *( ["AND"] not )
    not    = "NOT" not / "(" query ")" / "@" name / field ":" values / text
    values = value *( "," value ) / "(" the same with values in place of conditions ")"

A mistake raises one QueryError with its place, what was expected, and the nearest known name.
"""

import re
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias, cast

from ledger_core.near_names import near_names
from ledger_core.query.ast import Everything, Expression, Not, all_of, any_of, measure
from ledger_core.query.event_values import key_of
from ledger_core.query.fields import FIELDS, LANGUAGE
from ledger_core.query.mistakes import (
    Mistake,
    find_in_value,
    find_in_word,
    find_mistake,
    is_presence,
    usual_field,
)
from ledger_core.query.saved import is_name
from ledger_core.query.scanner import (
    KEYWORDS,
    QUOTED,
    QueryError,
    Scanner,
    match_run,
    unquote,
)
from ledger_core.query.value_parser import (
    Comparison,
    RefusedValueError,
    Value,
    is_ordered,
    read_condition,
    read_presence,
    read_words,
)

QUERY_CHARS_MAX: Final = 4096
CONDITIONS_MAX: Final = 256
LONG_CHARS_MAX: Final = 1 << 22
LONG_CONDITIONS_MAX: Final = 110_000
"""The limits of a query in a body, as one with a list of addresses."""

NESTING_MAX: Final = 32

_NAMES = {name: field.name for field in LANGUAGE for name in (field.name, *field.aliases)}
_NAMES.pop("context")  # Its path is part of the name.
_SPELLINGS = (*_NAMES, FIELDS["context"].syntax)
_CONTEXT = "context."

_match_value = re.compile(r"[^\s\"(),]+").match
# The name as written; behind `context.` the path, quoted or plain.
_NAMED = rf'((?:context|before|after)\.(?:({QUOTED})|([^\s":(),*]+))|[^\s":(),*]+)'
_match_field = re.compile(f"{_NAMED}:").match
_match_name = re.compile(_NAMED).match
_match_comparison = re.compile("[<>]=?").match
_find_naming = re.compile(r"(?:^|[\s(])@").search

Named: TypeAlias = Callable[[str], Expression | None]
"""Gives what the name of a saved query stands for; None if there is none."""


def parse_query(text: str, *, is_long: bool = False, named: Named | None = None) -> Expression:
    """Read a query; an empty text means every event. `is_long`: with the limits of a body.

    `named` gives what `@name` stands for. Raises: QueryError.
    """
    chars_max = LONG_CHARS_MAX if is_long else QUERY_CHARS_MAX
    if len(text) > chars_max:
        raise QueryError(
            f"a query has at most {chars_max} characters, this one has {len(text)}",
            text=text,
            position=chars_max,
            length=len(text) - chars_max,
        )
    conditions_max = LONG_CONDITIONS_MAX if is_long else CONDITIONS_MAX
    return _Parser(text, conditions_max, named or _refuse_names).parse()


def is_naming(text: str) -> bool:
    """Whether a query may have an `@name`."""
    return _find_naming(text) is not None


def names_in(text: str) -> list[str]:
    """The saved queries that a query names, each once; none if it can't be read."""
    if not is_naming(text):
        return []
    names: dict[str, None] = {}

    def note(name: str) -> Expression:
        names[name] = None
        return Everything()

    try:
        parse_query(text, is_long=True, named=note)
    except QueryError:
        return []
    return list(names)


def _refuse_names(_name: str) -> None:
    """Saved queries are not known here: to the query of a bundle, say, which has them expanded."""


class _Parser:
    """A recursive-descent parser of one text."""

    def __init__(self, text: str, conditions_max: int, named: Named) -> None:
        self._scan = Scanner(text)
        self._conditions_max = conditions_max
        self._named = named
        self._depth = 0
        self._conditions = 0
        self._expanded = self._expanded_chars = 0  # Conditions and text of all `@names`.
        # The field whose values are grouped in parentheses, its path, and its name as written.
        self._group: tuple[str, str, str] | None = None
        self._begun = 0
        self._is_text = True
        """Whether the last condition was words without a field."""

    def parse(self) -> Expression:
        self._scan.skip_space()
        if self._scan.is_at(""):
            return Everything()
        expression = self._or()
        if not self._scan.is_at(""):
            expected = ("the end", "a condition")
            self._scan.fail("no parenthesis is open here", length=1, expected=expected)
        return expression

    def _or(self) -> Expression:
        parts = [self._and()]
        while self._scan.accept("OR"):
            self._refuse_value_behind_or()
            parts.append(self._and())
        return any_of(parts)

    def _and(self) -> Expression:
        parts = [self._not()]
        while (is_joined := self._scan.accept("AND")) or not (
            self._scan.is_at(")", "") or self._scan.peek() == "OR"
        ):
            if self._group is not None and not is_joined:
                self._refuse_mistake()
                self._scan.fail("values are joined by OR or AND", expected=("(a OR b)", '"a b"'))
            parts.append(self._not())
        return all_of(parts)

    def _not(self) -> Expression:
        self._nest()
        try:
            if self._scan.accept("NOT"):
                return Not(self._not())
            if self._scan.is_at("("):
                return self._parenthesis()
            return self._condition()
        finally:
            self._depth -= 1

    def _parenthesis(self) -> Expression:
        opened = self._scan.at
        self._scan.advance(1)
        expression = self._or()
        if self._scan.is_at(""):
            message = "this parenthesis is never closed"
            self._scan.fail(message, at=opened, length=1, expected=(")",))
        self._scan.advance(1)
        return expression

    def _condition(self) -> Expression:
        if self._scan.is_at(")", "") or self._scan.peek() in KEYWORDS:
            expected = ("field:value", "a word", "NOT", "(")
            self._scan.fail("a condition is missing", expected=expected)
        self._refuse_mistake()
        self._begun = self._scan.at
        self._is_text = self._group is None
        if self._group is not None:
            return self._values(*self._group)
        if self._scan.is_at("@"):
            return self._saved()
        named = self._scan.match(_match_field)
        if named is None:
            return self._values("", "", "")
        field, key = self._field(*named.groups(default=""))
        self._is_text = False
        self._scan.at = named.end()
        if not self._scan.is_at("("):
            return self._values(field, key, named[1])
        self._group = field, key, named[1]
        try:
            return self._not()
        finally:
            self._group = None

    def _saved(self) -> Expression:
        """The expression that an `@name` stands for."""
        word = self._scan.peek()
        quoted = f'"{word}"'
        if not is_name(word[1:]):
            self._scan.fail(
                "the name of a saved query has lower-case letters, digits, dots, _ and -",
                length=len(word),
                expected=("@name", quoted),
            )
        self._count_condition()
        expression = self._named(word[1:])
        if expression is None:
            self._scan.fail(
                f"no query is saved as {word[1:]}", length=len(word), expected=("@name", quoted)
            )
        conditions, chars = measure(expression)
        self._expanded += conditions
        self._expanded_chars += chars
        if self._expanded > LONG_CONDITIONS_MAX or self._expanded_chars > LONG_CHARS_MAX:
            most = f"{LONG_CONDITIONS_MAX} conditions and {LONG_CHARS_MAX} characters"
            self._scan.fail(f"want at most {most}, with those of its @names", length=len(word))
        self._is_text = False
        self._scan.advance(len(word))
        return expression

    def _values(self, field: str, key: str, name: str) -> Expression:
        """The condition that a field has one of the values here, which commas join."""
        parts = [self._read(field, key, name)]
        while field and self._scan.is_at(","):
            self._scan.at += 1
            named = self._scan.match(_match_field)
            if named and _is_known(named[1]):
                expected = (f"{name}:… {named[1]}:…", f"{name}:… OR {named[1]}:…")
                self._scan.fail("a comma joins values of one field", length=1, expected=expected)
            parts.append(self._read(field, key, name))
        if self._scan.is_at(","):
            expected = ("field:a,b", '"a, b"')
            self._scan.fail("a comma joins values of a field", length=1, expected=expected)
        if not (self._scan.is_at(")", "") or self._scan.text[self._scan.at].isspace()):
            expected = ("a blank", "quotes around it all")
            self._scan.fail("a blank is missing", length=1, expected=expected)
        self._scan.skip_space()
        return any_of(parts)

    def _refuse_value_behind_or(self) -> None:
        """Refuse `actor:a OR b`, which reads like two actors but would search for a word."""
        word = self._scan.peek()
        is_word = word and word not in KEYWORDS and not self._scan.match(_match_field)
        is_name_or_group = self._scan.is_at("(", "@")
        if is_word and not self._is_text and self._group is None and not is_name_or_group:
            self._refuse_mistake()
            self._scan.fail(
                "is this a value of the field before OR, or a word?",
                length=len(word),
                expected=("field:(a OR b)", f'"{word}"'),
            )

    def _refuse_mistake(self) -> None:
        """Refuse a condition that is written as in another language."""
        scan = self._scan
        if not scan.is_at('"'):
            self._refuse(
                find_mistake(scan.text, scan.at, is_field=_is_known, is_ordered=_has_order)
            )

    def _refuse(self, mistake: Mistake | None) -> None:
        if mistake is not None:
            self._scan.fail(
                mistake.message,
                at=mistake.start,
                length=mistake.end - mistake.start,
                expected=mistake.expected,
            )

    def _field(self, name: str, quoted: str, plain: str) -> tuple[str, str]:
        """The field of a name, and the path if the field is `context`."""
        if name in _NAMES:
            return _NAMES[name], ""
        key = unquote(quoted) if quoted else plain
        if key and not name.startswith(_CONTEXT):
            return name.partition(".")[0], key_of(key)
        if f"{_CONTEXT}{key}" in _NAMES:
            return _NAMES[f"{_CONTEXT}{key}"], ""
        if not key:
            usual = usual_field(name)
            near = [usual] if usual else near_names(name.lower(), _SPELLINGS, count=1)
            self._scan.fail(
                f"there is no field {name[:64]}",
                length=len(name),
                expected=(f"context.{name[:64]}", *(field.syntax for field in LANGUAGE)),
                nearest="has" if is_presence(name) else near[0] if near else None,
            )
        return "context", key

    def _count_condition(self) -> None:
        self._conditions += 1
        if self._conditions > self._conditions_max:
            self._scan.fail(f"a query has at most {self._conditions_max} conditions")

    def _read(self, field: str, key: str, name: str) -> Expression:
        self._count_condition()
        start = self._scan.at
        try:
            if field == "has":
                return self._presence()
            value = self._value(name)
            return read_condition(field, value, key=key) if field else read_words("", value)
        except RefusedValueError as error:
            self._scan.fail(
                error.message,
                at=start,
                length=self._scan.at - start,
                expected=error.expected,
                nearest=error.nearest,
            )

    def _presence(self) -> Expression:
        """The condition that an event has a field. Raises: RefusedValueError."""
        if (named := self._scan.match(_match_name)) is None:
            self._scan.fail("a field is missing", expected=("has:actor.session", "has:context.KEY"))
        field, key = self._field(*named.groups(default=""))
        self._scan.at = named.end()
        return read_presence(field, key)

    def _value(self, name: str) -> Value:
        start = self._scan.at
        if self._scan.is_at('"'):
            text = self._scan.read_quoted()
            is_prefix = self._scan.is_at("*")
            self._scan.at += is_prefix
            return Value(text, is_prefix, is_quoted=True)
        if name:
            self._refuse(find_in_value(name, self._scan.text, start))
        compared = _match_comparison(self._scan.text, start) if name else None
        if compared:
            self._scan.at = compared.end()
        found = self._scan.match(_match_value)
        if found is None:
            self._fail_without_value()
        self._scan.at = found.end()
        if not name:
            self._refuse(find_in_word(found[0], start))
        star = found[0].find("*")
        if 0 <= star < len(found[0]) - 1:
            expected = (f'{name}:"{found[0]}"', *([f"{name}:{found[0][:star]}*"] if star else []))
            self._scan.fail(
                "a star stands at the end of a value",
                at=found.start() + star,
                length=1,
                expected=expected,
            )
        comparison = cast("Comparison", compared[0] if compared else "")
        return Value(found[0].removesuffix("*"), star >= 0, comparison=comparison)

    def _fail_without_value(self) -> NoReturn:
        following = match_run(self._scan.text, self._scan.skipped())
        expected: tuple[str, ...] = ("a value", '"a value"')
        if following and following[0] not in KEYWORDS:
            expected = (self._scan.text[self._begun : self._scan.at] + following[0],)
        self._scan.fail("a value is missing", expected=expected)

    def _nest(self) -> None:
        self._depth += 1
        if self._depth > NESTING_MAX:
            self._scan.fail(f"conditions stand more than {NESTING_MAX} deep in one another")


def _is_known(name: str) -> bool:
    return name in _NAMES or name.startswith((_CONTEXT, "before.", "after."))


def _has_order(name: str) -> bool:
    return is_ordered(_NAMES.get(name, "context"))
