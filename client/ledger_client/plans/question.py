"""Checks answers against their question: each event must be one that was asked for.

Proofs show that an event is in the log. These checks show that it answers the question:

* A question has no relative times: the client resolves `-24h` by its own clock before it asks, so
  the ledger can't choose the day that it answers for. The answer must repeat this query.
* Each event must meet the query, by the predicate that the ledger itself uses.
* The numbers of a page must agree with each other, with its events and with the pages before.

Weak: an event that was withheld is not missed, and a count is checked only as far as the events
are at hand. A word is not held against a text with characters that are newer than Unicode 3.2,
because another version of Python may fold them otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ledger_client.errors import RejectedError
from ledger_core.api import TYPE_PREFIX, Problem
from ledger_core.query import pivots
from ledger_core.query.ast import EVERYTHING, Expression, format_query, resolve
from ledger_core.query.parser import LONG_CHARS_MAX, parse_query
from ledger_core.query.predicate import Matcher, folds_text, is_stable, make_matcher
from ledger_core.query.scanner import QueryError
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.text import excerpt

Parameters = Mapping[str, str | int | None]
"""The parameters of a query string; one with the value None is left out."""

CURSOR_MARK: Final = "~"
"""Separates the ledger's cursor, which never holds it, from the time of the first page."""

UNIX_US_DIGITS_MAX: Final = 16
"""The digits of a time before the year 2286."""

_LONG_COMMAS = 64
_LONG_CHARS = 2048
"""From here on a query is sent in a body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query as it is sent, and what an answer to it must hold."""

    text: str
    expression: Expression
    matches: Matcher
    now_unix_us: int | None = None
    """What its relative times were resolved by; None without such times."""
    relations: Callable[[bytes], tuple[str, ...]] | None = None
    """Names the relations by which a pivot finds a leaf."""
    unread: str = ""
    """Why this client can't read the query, which the ledger may still answer."""
    is_long: bool = False
    """Whether the query has the limits of a body, and is sent in one."""

    def check_read(self) -> None:
        """Check that this client can evaluate the query. Raises: VerificationError."""
        if self.unread:
            raise VerificationError(
                f"this client can't read the query, so it can't check the answer: {self.unread}"
            )

    def check_query(self, query: str) -> None:
        """Check the query that an answer repeats. Raises: VerificationError."""
        self.check_read()
        want = format_query(self.expression)
        if query != want and is_stable(query + want):
            raise VerificationError(
                f"query of an answer: got {excerpt(query)}, want {excerpt(want)}"
            )

    def check_event(self, index: int, leaf: bytes, *, because: Sequence[str] = ()) -> None:
        """Check that an event meets the query, and the relations that a pivot names.

        Precondition: the leaf was parsed. Raises: VerificationError.
        """
        if not self.matches(index, leaf) and (
            is_stable(leaf.decode()) or not folds_text(self.expression)
        ):
            query = excerpt(format_query(self.expression))
            raise VerificationError(f"the event at {index} does not meet the query {query}")
        relations = self.relations(leaf) if self.relations else ()
        if tuple(because) != relations:
            raise VerificationError(
                f"relations of the event at {index}: got {list(because)}, want {list(relations)}"
            )


def ask_query(
    text: str,
    *,
    now_unix_us: int,
    cursor: str | None = None,
    may_be_long: bool = False,
    named: Mapping[str, Expression] | None = None,
) -> Question:
    """The question of a query; its relative times count from now, or as on the cursor's page.

    `may_be_long`: it can be sent in a body, where it may have more conditions. `named`: what each
    `@name` stands for, which is sent in its place.
    Raises: RejectedError for a query that has no text once its relative times are resolved.
    """
    _, mark, then = (cursor or "").partition(CURSOR_MARK)
    # A cursor comes from the ledger: without a limit its number could be of any size.
    if mark and then.isascii() and then.isdigit() and len(then) <= UNIX_US_DIGITS_MAX:
        now_unix_us = int(then)
    is_long = may_be_long and (text.count(",") >= _LONG_COMMAS or len(text) > _LONG_CHARS)
    try:
        expression = parse_query(text, is_long=is_long, named=(named or {}).get)
        if named:
            text = format_query(expression)
            is_long = may_be_long and len(text) > _LONG_CHARS
    except QueryError as error:
        # The ledger marks the place, and may know a newer language.
        return _ask(EVERYTHING, text=text, unread=str(error), is_long=is_long)
    resolved = resolve(expression, now_unix_us)
    if resolved == expression:
        return _ask(expression, text=text, is_long=is_long)
    return _ask(
        resolved,
        text=_resolved_text(resolved, is_long=is_long),
        now_unix_us=now_unix_us,
        is_long=is_long,
    )


def check_length(question: Question, chars_max: int) -> Question:
    """The same question. Raises: RejectedError for one that is too long for its request."""
    if (got := len(question.text)) > chars_max:
        raise _refused(
            f"a query for this has at most {chars_max:,} characters, with what its @names stand"
            f" for, and this one has {got:,}; searches and counts take {LONG_CHARS_MAX:,}"
        )
    return question


def _refused(detail: str) -> RejectedError:
    title = "The query is wrong"
    return RejectedError(Problem(type=f"{TYPE_PREFIX}query", title=title, detail=detail))


def ask_stated(text: str) -> Question:
    """The question that a file states, which nobody has signed.

    Relative times have no meaning there: nothing says by which day they were resolved.
    """
    question = ask_query(text, now_unix_us=0)
    if question.now_unix_us is None:
        return question
    return _ask(EVERYTHING, text=text, unread="it has times relative to an unknown day")


def is_sent_as_typed(text: str) -> bool:
    """Whether a query has no relative times, so that a place the ledger names is one in it."""
    try:
        expression = parse_query(text)
    except QueryError:
        return True
    return resolve(expression, 0) == expression


def _resolved_text(resolved: Expression, *, is_long: bool = False) -> str:
    """The query as the ledger reads it. Raises: RejectedError."""
    text = format_query(resolved)
    try:
        why = (
            ""
            if parse_query(text, is_long=is_long) == resolved
            else "its text would be read as another query"
        )
    except QueryError as error:
        why = error.message
    if why:
        detail = f"with its relative times resolved, the query is {excerpt(text)}: {why}"
        raise _refused(detail)
    return text


def ask_around(leaf: bytes, *, minutes: int) -> Question:
    """The question for the events around the event of a leaf."""
    return _ask(
        pivots.around(leaf, minutes=minutes), relations=partial(pivots.around_reasons, leaf)
    )


def ask_timeline(actor: str) -> Question:
    """The question for the events that involve an actor."""
    return _ask(pivots.timeline(actor), relations=partial(pivots.timeline_roles, actor))


def ask_seen(source: str) -> Question:
    """The question for the events from an address or a network."""
    return _ask(pivots.from_source(source))


def _ask(
    expression: Expression,
    *,
    text: str = "",
    now_unix_us: int | None = None,
    relations: Callable[[bytes], tuple[str, ...]] | None = None,
    unread: str = "",
    is_long: bool = False,
) -> Question:
    return Question(
        text=text,
        expression=expression,
        # Each event meets it: nothing of the leaf needs to be decoded again.
        matches=(lambda _index, _leaf: True)
        if expression == EVERYTHING
        else make_matcher(expression),
        now_unix_us=now_unix_us,
        relations=relations,
        unread=unread,
        is_long=is_long,
    )
