"""The query of a bundle, held against each of its events."""

from dataclasses import dataclass

import msgspec

from ledger_core.evidence.layout import LANGUAGE
from ledger_core.query import ast
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import Expression, Is, all_of, resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import Matcher, folds_text, is_stable, make_matcher, values_of
from ledger_core.query.scanner import QueryError
from ledger_core.tlog.errors import VerificationError


@dataclass(slots=True)
class StatedQuestion:
    """A query as a test of events; `unread` says why it can't be one. Counts the undecided."""

    matches: Matcher
    folds_text: bool
    unread: str = ""
    undecided: int = 0

    def check(self, index: int, leaf: bytes) -> None:
        """Raises: VerificationError for an event that does not meet the query, or is none."""
        try:
            if self.matches(index, leaf):
                return
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
            raise VerificationError(f"the entry at {index} is not an event") from None
        # Other versions of Unicode fold a new character otherwise: this is no disagreement.
        if self.folds_text and not is_stable(leaf.decode()):
            self.undecided += 1
            return
        raise VerificationError(f"the event at {index} does not meet the query")

    def unevaluated(self) -> str:
        """Why not each event was held against the query; empty if each was."""
        if self.unread:
            return self.unread
        if self.undecided:
            return (
                f"{self.undecided:,} events have characters newer than Unicode 3.2, whose words"
                " another version of Python may read otherwise"
            )
        return ""


def ask(query: str, tenant: str | None, *, language: int) -> StatedQuestion:
    """The test of a query in a version of the language; within a tenant, if the token had one."""
    if language > LANGUAGE:
        return _unread(
            f"the query is in version {language} of the language, and this version of ledger knows"
            f" {LANGUAGE} and less"
        )
    try:
        expression = parse_query(query, is_long=True)
    except QueryError as error:
        return _unread(f"this version can't read the query: {error}")
    if resolve(expression, 0) != expression:
        return _unread("the query has times relative to an unknown day")
    scoped: Expression = expression
    if tenant is not None:
        scoped = all_of((Is("tenant", tenant), expression))
    if language == LANGUAGE:
        return StatedQuestion(make_matcher(scoped), folds_text(scoped))
    try:
        return StatedQuestion(_first_language(scoped), folds_text=False)
    except LookupError:
        return _unread(
            f"the query is in version {language} of the language, in which words, numbers and paths"
            " meant something else"
        )


def _first_language(expression: Expression) -> Matcher:
    """The test of a query as version 1 of the language read it: values compare with their case.

    Raises: LookupError for a condition that version 1 may have read otherwise.
    """
    match expression:
        case ast.Everything() | ast.Between() | ast.IndexBetween() | ast.InNetwork():
            return make_matcher(expression)
        case ast.And(parts):
            tests = list(map(_first_language, parts))
            return lambda index, leaf: all(test(index, leaf) for test in tests)
        case ast.Or(parts):
            tests = list(map(_first_language, parts))
            return lambda index, leaf: any(test(index, leaf) for test in tests)
        case ast.Not(part):
            inner = _first_language(part)
            return lambda index, leaf: not inner(index, leaf)
        case ast.Is(field, value, is_prefix, key):
            return lambda _index, leaf: any(
                found.startswith(value) if is_prefix else found == value
                for found in values_of(field, decode_view(leaf), key=key)
            )
    raise LookupError


def _unread(why: str) -> StatedQuestion:
    return StatedQuestion(lambda _index, _leaf: True, folds_text=False, unread=why)
