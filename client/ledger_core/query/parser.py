"""Query text -> expression.

    actor:u_5 action:login.* outcome:failure source:203.0.113.0/24 since:-24h
    (target.type:invoice OR target:r_17) NOT actor.type:service "access review"

* Conditions side by side must all hold; `AND` between them is optional, `OR` binds weaker, `NOT`
  negates the condition behind it. These three are written in capitals; parentheses group.
* `field:value` is exact; `a,b` is any of the values; a `*` at the end matches every value that
  begins so. Quote a value with a space, a comma, a quote, a parenthesis or a star in it; inside
  quotes, `\\"` and `\\\\` stand for `"` and `\\`.
* Text without a field searches names, reasons and actions for all of its words, ignoring case;
  quoted words must stand side by side in one text.
* `time` and `received` take a range `A..B`, of which one end may be missing, or one time that means
  its whole day, hour, minute or second. `since:A` and `until:B` are `time:A..B`. Days are UTC, or
  of the zone behind them (`2026-11-24+02:00`); a time of day needs its zone. `-24h` is 24 hours
  ago, counted from the start of the current minute, with `s` from the current second; `now` is now.

    query  = and *( "OR" and )          and   = not *( ["AND"] not )
    not    = "NOT" not / "(" query ")" / field ":" value *( "," value ) / text

A mistake raises one QueryError with its place, what was expected, and the nearest known name.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, NoReturn

from ledger_core.query.ast import Everything, Expression, Not, all_of, any_of
from ledger_core.query.fields import FIELDS, LANGUAGE
from ledger_core.query.value_parser import RefusedValueError, Value, read_condition, read_words
from ledger_core.tlog.errors import MalformedError

QUERY_CHARS_MAX: Final = 4096
CONDITIONS_MAX: Final = 256
NESTING_MAX: Final = 32


class QueryError(MalformedError):
    """A query is wrong: what is wrong, where in `text`, and what was `expected` there.

    `position` counts characters from 0; `length` may be 0 at the end of the text. `nearest` is the
    known field or value that is spelled most like the wrong one.
    """

    def __init__(
        self,
        message: str,
        *,
        text: str,
        position: int,
        length: int,
        expected: Sequence[str] = (),
        nearest: str | None = None,
    ) -> None:
        hint = f"; did you mean {nearest}?" if nearest else ""
        super().__init__(f"at character {position + 1}: {message}{hint}")
        self.message = message
        self.text = text
        self.position = position
        self.length = length
        self.expected = tuple(expected)
        self.nearest = nearest


_NAMES = {name: field.name for field in LANGUAGE for name in (field.name, *field.aliases)}
_NAMES.pop("context")  # Its path is part of the name.
_SPELLINGS = (*_NAMES, FIELDS["context"].syntax)
_CONTEXT = "context."

_match_space = re.compile(r"\s*").match
_match_run = re.compile(r"[^\s\"()]+").match
_match_value = re.compile(r"[^\s\"(),]+").match
_QUOTED = r'"(?:[^"\\]|\\["\\])*"'
_match_quoted = re.compile(_QUOTED).match
# The name as written; behind `context.` the path, quoted or plain.
_match_field = re.compile(rf'(context\.(?:({_QUOTED})|([^\s":(),*]+))|[^\s":(),*]+):').match
_match_operator = re.compile(r'(context\.[^\s":(),*=!<>~]+|[a-z_.]+)\s*([=!<>~]=?)').match
_KEYWORDS = ("AND", "OR", "NOT")


def parse_query(text: str) -> Expression:
    """Read a query; an empty text means every event.

    Raises: QueryError.
    """
    if len(text) > QUERY_CHARS_MAX:
        raise QueryError(
            f"a query has at most {QUERY_CHARS_MAX} characters, this one has {len(text)}",
            text=text,
            position=QUERY_CHARS_MAX,
            length=len(text) - QUERY_CHARS_MAX,
        )
    return _Parser(text).parse()


class _Parser:
    """A recursive-descent parser of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._conditions = 0

    def parse(self) -> Expression:
        self._skip_space()
        if self._is_at(""):
            return Everything()
        expression = self._or()
        if not self._is_at(""):
            self._fail("no parenthesis is open here", length=1, expected=("the end", "a condition"))
        return expression

    def _or(self) -> Expression:
        parts = [self._and()]
        while self._accept("OR"):
            parts.append(self._and())
        return any_of(parts)

    def _and(self) -> Expression:
        parts = [self._not()]
        while self._accept("AND") or not (self._is_at(")", "") or self._peek() == "OR"):
            parts.append(self._not())
        return all_of(parts)

    def _not(self) -> Expression:
        self._nest()
        try:
            if self._accept("NOT"):
                return Not(self._not())
            if self._is_at("("):
                return self._group()
            return self._condition()
        finally:
            self._depth -= 1

    def _group(self) -> Expression:
        opened = self._at
        self._advance(1)
        expression = self._or()
        if self._is_at(""):
            self._fail("this parenthesis is never closed", at=opened, length=1, expected=(")",))
        self._advance(1)
        return expression

    def _condition(self) -> Expression:
        if self._is_at(")", "") or self._peek() in _KEYWORDS:
            self._fail("a condition is missing", expected=("field:value", "a word", "NOT", "("))
        start = self._at
        named = _match_field(self._text, start)
        if named:
            field, key = self._field(*named.groups(default=""))
            self._at = named.end()
            parts = [self._read(field, key)]
            while self._is_at(","):
                self._at += 1
                parts.append(self._read(field, key))
        elif self._is_at("-"):
            self._fail("a minus does not negate", length=1, expected=("NOT",))
        else:
            self._refuse_operator()
            parts = [self._read("", "")]
        self._skip_space()
        return any_of(parts)

    def _refuse_operator(self) -> None:
        """Refuse `actor=u_1`, which would find nothing if it were read as a word."""
        found = _match_operator(self._text, self._at)
        if found and (found[1] in _NAMES or found[1].startswith(_CONTEXT)):
            self._fail(
                "a colon joins a field and its value",
                at=found.start(2),
                length=len(found[2]),
                expected=(f"{found[1]}:VALUE",),
            )

    def _field(self, name: str, quoted: str, plain: str) -> tuple[str, str]:
        """The field of a name, and the path if the field is `context`."""
        if name in _NAMES:
            return _NAMES[name], ""
        key = _unquote(quoted) if quoted else plain
        if f"{_CONTEXT}{key}" in _NAMES:
            return _NAMES[f"{_CONTEXT}{key}"], ""
        if not key:
            near = get_close_matches(name.lower(), _SPELLINGS, n=1, cutoff=0.6)
            self._fail(
                f"there is no field {name[:64]}",
                length=len(name),
                expected=tuple(field.syntax for field in LANGUAGE),
                nearest=near[0] if near else None,
            )
        return "context", key

    def _read(self, field: str, key: str) -> Expression:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            self._fail(f"a query has at most {CONDITIONS_MAX} conditions")
        start = self._at
        value = self._value()
        try:
            return read_condition(field, value, key=key) if field else read_words("", value)
        except RefusedValueError as error:
            self._fail(
                error.message,
                at=start,
                length=self._at - start,
                expected=error.expected,
                nearest=error.nearest,
            )

    def _value(self) -> Value:
        start = self._at
        if self._is_at('"'):
            found = _match_quoted(self._text, start)
            if found is None:
                self._fail(
                    'this quote is never closed, or a \\ in it is not before " or \\', length=1
                )
            self._at = found.end()
            is_prefix = self._is_at("*")
            self._at += is_prefix
            return Value(_unquote(found[0]), is_prefix, is_quoted=True)
        found = _match_value(self._text, start)
        if found is None:
            self._fail("a value is missing", expected=("a value", '"a value"'))
        self._at = found.end()
        star = found[0].find("*")
        if 0 <= star < len(found[0]) - 1:
            self._fail("a star stands at the end of a value", at=start + star, length=1)
        return Value(found[0].removesuffix("*"), star >= 0)

    def _peek(self) -> str:
        run = _match_run(self._text, self._at)
        return run[0] if run else ""

    def _accept(self, keyword: str) -> bool:
        if self._peek() != keyword:
            return False
        self._advance(len(keyword))
        return True

    def _advance(self, count: int) -> None:
        self._at += count
        self._skip_space()

    def _skip_space(self) -> None:
        space = _match_space(self._text, self._at)
        if space:
            self._at = space.end()

    def _is_at(self, *chars: str) -> bool:
        """Whether the next character is one of these; the end of the text is an empty one."""
        return self._text[self._at : self._at + 1] in chars

    def _nest(self) -> None:
        self._depth += 1
        if self._depth > NESTING_MAX:
            self._fail(f"conditions stand more than {NESTING_MAX} deep in one another")

    def _fail(
        self,
        message: str,
        *,
        at: int | None = None,
        length: int = 0,
        expected: Sequence[str] = (),
        nearest: str | None = None,
    ) -> NoReturn:
        raise QueryError(
            message,
            text=self._text,
            position=self._at if at is None else at,
            length=length,
            expected=expected,
            nearest=nearest,
        )


def _unquote(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])
