"""Expression -> a quick test of a leaf's bytes, which tells most leaves that can't match.

A leaf is canonical JSON (RFC 8785), so a value that an event has stands in its leaf as JSON encodes
it. Where the value of a condition does not, the leaf need not be decoded: looking for it takes a
tenth of that time, and less in a long leaf. `predicate` tests what passes.

Words and folded values are looked for in the lower case of the leaf, and only if all of it is
ASCII: some other characters fold to ASCII letters that do not stand in the leaf.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec

from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import EventError
from ledger_core.query import ast
from ledger_core.query.analyzer import fold
from ledger_core.query.ast import Expression
from ledger_core.query.fields import FIELDS
from ledger_core.query.words import phrase_of

LeafTest: TypeAlias = Callable[[bytes], bool]

PARTS_MAX: Final = 16
"""To look for more values one by one takes longer than to decode an ordinary leaf."""

WORDS_MAX: Final = 4
"""Words of a phrase that are looked for."""

_OTHERWISE: Final = frozenset(("port", "source", "user_agent.family"))
"""The fields with values that a leaf has in another form, or not at all."""


def make_filter(expression: Expression) -> LeafTest | None:
    """A test that is false for some of the leaves that do not match; None if there is none.

    Precondition: the expression is resolved.
    """
    match expression:
        case ast.And(parts) | ast.Or(parts):
            found = map(make_filter, parts[:PARTS_MAX])
            tests = [test for test in found if test is not None]
            if isinstance(expression, ast.And):
                return _all(tests) if tests else None
            return _any(tests) if len(tests) == len(parts) else None
        case ast.Is():
            return _filter_value(expression)
        case ast.Words(field, text):
            return _filter_words(text, is_anywhere=not field)
        case ast.InNetwork(network) if network.prefixlen == network.max_prefixlen:
            return _has(str(network.network_address).encode())
    return None


def _all(tests: Sequence[LeafTest]) -> LeafTest:
    return tests[0] if len(tests) == 1 else lambda leaf: all(test(leaf) for test in tests)


def _any(tests: Sequence[LeafTest]) -> LeafTest:
    return lambda leaf: any(test(leaf) for test in tests)


def _filter_value(condition: ast.Is) -> LeafTest | None:
    if condition.field in _OTHERWISE:
        return None
    field, value = FIELDS[condition.field], condition.value
    if field.kind == "target":
        # It may be a type and an id: the id has at least what follows the last slash.
        value = value.rpartition("/")[2]
    if field.is_folded:
        return _has_folded((_encode(fold(value)).lower(),))
    return _has(_encode(value))


def _filter_words(text: str, *, is_anywhere: bool) -> LeafTest | None:
    """Looks for the words, which also stand in an id that is the text as a whole."""
    if is_anywhere:
        with suppress(EventError):
            if canonical_ip(text) != text:
                return None  # An address that leaves spell otherwise.
    words, _ = phrase_of(text)
    return _has_folded([word.encode() for word in words if word.isascii()][:WORDS_MAX])


def _encode(value: str) -> bytes:
    """The bytes of a value between the quotes of a JSON string."""
    return msgspec.json.encode(value)[1:-1]


def _has(wanted: bytes) -> LeafTest | None:
    return (lambda leaf: wanted in leaf) if wanted else None


def _has_folded(several: Iterable[bytes]) -> LeafTest | None:
    wanted = [each for each in several if each]
    if not wanted:
        return None

    def has_all(leaf: bytes) -> bool:
        if not leaf.isascii():
            return True
        lower = leaf.lower()
        return all(each in lower for each in wanted)

    return has_all
