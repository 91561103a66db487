"""The text of a query, read from its start to its end, and the error that names a place in it."""

import re
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeAlias

from ledger_core.tlog.errors import MalformedError

_match_space: Final = re.compile(r"\s*").match
match_run: Final = re.compile(r"[^\s\"()]+").match
QUOTED: Final = r'"(?:[^"\\]|\\["\\])*"'
_match_quoted: Final = re.compile(QUOTED).match
KEYWORDS: Final = ("AND", "OR", "NOT")

Matching: TypeAlias = Callable[[str, int], re.Match[str] | None]
"""A pattern's `match`: a text, and the place to match at."""


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


class Scanner:
    """The text of a query and the place in it that is read next."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def match(self, match: Matching) -> re.Match[str] | None:
        """The match of a pattern here."""
        return match(self.text, self.at)

    def peek(self) -> str:
        """The run of characters here, up to a space, a quote or a parenthesis."""
        run = self.match(match_run)
        return run[0] if run else ""

    def accept(self, keyword: str) -> bool:
        """Whether this keyword stands here; it is passed then."""
        if self.peek() != keyword:
            return False
        self.advance(len(keyword))
        return True

    def advance(self, count: int) -> None:
        """Pass so many characters, and the space behind them."""
        self.at += count
        self.skip_space()

    def skip_space(self) -> None:
        """Pass the space here."""
        self.at = self.skipped()

    def skipped(self) -> int:
        """The place of the next character that is no space."""
        space = _match_space(self.text, self.at)
        return space.end() if space else self.at

    def is_at(self, *chars: str) -> bool:
        """Whether the next character is one of these; the end is an empty one."""
        return self.text[self.at : self.at + 1] in chars

    def read_quoted(self) -> str:
        """Pass the text in quotes here, and return what stands between them. Raises: QueryError."""
        found = self.match(_match_quoted)
        if found is None:
            fault = 'this quote is never closed, or a \\ in it is not before " or \\'
            self.fail(fault, length=1)
        self.at = found.end()
        return unquote(found[0])

    def fail(
        self,
        message: str,
        *,
        at: int | None = None,
        length: int = 0,
        expected: Sequence[str] = (),
        nearest: str | None = None,
    ) -> NoReturn:
        """Raise QueryError for the place `at`, by default the one that is read next."""
        raise QueryError(
            message,
            text=self.text,
            position=self.at if at is None else at,
            length=length,
            expected=expected,
            nearest=nearest,
        )


def unquote(quoted: str) -> str:
    """The text between quotes, without the backslashes that escape."""
    return re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)
