"""Expression -> an exact test of one leaf, without the index.

The executor uses it to decide what the index leaves open, the stream to filter new entries. It
reads events by the rules of `analyzer` but ignores terms, cut values and overflows: where the index
may only hint, this test is exact.

Weak: how text is folded depends on Python's Unicode tables. `is_stable` tells the texts that all
versions fold alike from those that two machines may decide otherwise.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from ledger_core.event.canonical import canonical_ip
from ledger_core.event.ids import is_uuid
from ledger_core.event.model import LIMITS, EventError
from ledger_core.query import ast
from ledger_core.query.analyzer import (
    ABSENT,
    FOLDED_MOST,
    LeafView,
    decode_view,
    fold,
    late_us,
    parse_number,
)
from ledger_core.query.ast import Expression
from ledger_core.query.event_values import (
    change_scalars,
    context_scalars,
    has_path,
    ids_of,
    texts_of,
)
from ledger_core.query.fields import FIELDS, WHOLE_IDS
from ledger_core.query.leaf_filter import make_filter
from ledger_core.query.words import phrase_of, words_of, words_of_id

_Network: TypeAlias = IPv4Network | IPv6Network
Test = Callable[[int, LeafView], bool]
Matcher = Callable[[int, bytes], bool]


def make_matcher(expression: Expression) -> Matcher:
    """A test of one entry by its index and leaf. Cost: 2 to 5 µs a leaf that is decoded.

    Precondition: the expression is resolved.
    """
    test, may_match = _test(expression), make_filter(expression)

    def matches(index: int, leaf: bytes) -> bool:
        if may_match is not None and not may_match(leaf):
            return False
        return test(index, decode_view(leaf))

    return matches


def is_stable(text: str) -> bool:
    """Whether each version of Unicode finds the same words in a text.

    Folding and classes are stable for the characters of version 3.2, the oldest that Python knows.
    """
    return text.isascii() or all(
        unicodedata.ucd_3_2_0.category(character) != "Cn" for character in text
    )


def folds_text(expression: Expression) -> bool:
    """Whether some condition compares without case: words, types, paths."""
    match expression:
        case ast.And(parts) | ast.Or(parts):
            return any(map(folds_text, parts))
        case ast.Not(part):
            return folds_text(part)
        case ast.Is(field):
            return FIELDS[field].is_folded
    return isinstance(expression, ast.Words)


def values_of(field: str, view: LeafView, *, key: str = "") -> list[str]:
    """The values of a field in an event; `key` is the path if the field is `context`."""
    return [value for value in FIELDS[field].reader(key)(view) if value != ABSENT]


def _test(expression: Expression) -> Test:
    match expression:
        case ast.Everything():
            return lambda _index, _view: True
        case ast.And(parts):
            tests = [_test(part) for part in parts]
            return lambda index, view: all(test(index, view) for test in tests)
        case ast.Or(parts):
            tests = _test_any(parts)
            return lambda index, view: any(test(index, view) for test in tests)
        case ast.Not(part):
            inner = _test(part)
            return lambda index, view: not inner(index, view)
    return _test_condition(expression)


def _test_any(parts: Sequence[Expression]) -> list[Test]:
    """A test of each part; values of one field, and networks, are tested by sets of them."""
    values: dict[tuple[str, str], list[str]] = defaultdict(list)
    networks: list[_Network] = []
    tests: list[Test] = []
    for part in parts:
        match part:
            case ast.Is(field, value, is_prefix=False, key=key) if _is_one(field, value):
                values[field, key].append(value)
            case ast.InNetwork(network):
                networks.append(network)
            case _:
                tests.append(_test(part))
    tests += [_test_values(*each, found) for each, found in values.items()]
    return [*tests, _test_networks(networks)] if networks else tests


def _is_one(field: str, value: str) -> bool:
    """Whether a value of a field means just this text; with a slash it may be a type and an id."""
    return FIELDS[field].kind != "target" or "/" not in value


def _test_values(field: str, key: str, values: Iterable[str]) -> Test:
    read = FIELDS[field].reader(key)
    if FIELDS[field].is_folded:
        folded = frozenset(map(fold, values))
        return lambda _index, view: any(fold(value) in folded for value in read(view))
    wanted = frozenset(values)
    return lambda _index, view: not wanted.isdisjoint(read(view))


def _test_networks(networks: Iterable[_Network]) -> Test:
    starts: dict[tuple[int, int], set[int]] = defaultdict(set)
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        starts[network.version, shift].add(int(network.network_address) >> shift)

    def is_inside(_index: int, view: LeafView) -> bool:
        if view.event.source.ip == ABSENT:
            return False
        ip = ip_address(view.event.source.ip)
        return any(
            version == ip.version and int(ip) >> shift in some
            for (version, shift), some in starts.items()
        )

    return is_inside


def _test_condition(condition: ast.Condition) -> Test:
    match condition:
        case ast.IndexBetween(start, end):
            return lambda index, _view: start <= index < end
        case ast.IndexIn(indices):
            chosen = frozenset(indices)
            return lambda index, _view: index in chosen
        case ast.Is():
            return _test_value(condition)
        case ast.Has():
            return _test_presence(condition)
        case ast.NumberBetween():
            return _test_number(condition)
        case ast.Words():
            return _test_words(condition)
        case ast.InNetwork():
            return _test_network(condition)
        case ast.Between():
            return _test_time(condition)


def _test_value(condition: ast.Is) -> Test:
    field = FIELDS[condition.field]
    if field.kind == "target":
        return _test_target(condition)
    read = field.reader(condition.key)
    holds = _test_text(condition.value, is_prefix=condition.is_prefix, is_folded=field.is_folded)
    return lambda _index, view: any(map(holds, read(view)))


def _test_text(wanted: str, *, is_prefix: bool, is_folded: bool = False) -> Callable[[str], bool]:
    if is_folded:
        folded = fold(wanted)
        if is_prefix:
            return lambda value: value != ABSENT and fold(value).startswith(folded)
        return lambda value: fold(value) == folded
    if is_prefix:
        return lambda value: value.startswith(wanted) and value != ABSENT
    return lambda value: value == wanted


def _test_target(condition: ast.Is) -> Test:
    """A target whose id is the value, or whose type and id are, with a slash between them."""
    holds = _test_text(condition.value, is_prefix=condition.is_prefix)
    by_type = {
        fold(of_type): _test_text(of_id, is_prefix=condition.is_prefix)
        for of_type, of_id in split_target(condition.value)
    }

    def is_target(_index: int, view: LeafView) -> bool:
        for target in view.event.targets:
            test_id = by_type.get(fold(target.type))
            if holds(target.id) or (test_id is not None and test_id(target.id)):
                return True
        return False

    return is_target


def split_target(value: str) -> list[tuple[str, str]]:
    """Every type and id that a value may mean: both may hold slashes themselves.

    None is longer than one of an event may be, so they are few, however long the value is. Types
    compare folded, and a type may be shorter than its folded form: `ß` is found as `ss`.
    """
    most = LIMITS["id"].most
    return [
        (value[:at], value[at + 1 :])
        for at in range(max(1, len(value) - 1 - most), min(len(value), FOLDED_MOST * most + 1))
        if value[at] == "/" and len(fold(value[:at])) <= FOLDED_MOST * most
    ]


def _test_presence(condition: ast.Has) -> Test:
    read_paths = _PATHS_OF.get(condition.field) if condition.key else None
    if read_paths is not None:
        return lambda _index, view: has_path(read_paths(view), condition.key)
    read = FIELDS[condition.field].reader()
    return lambda _index, view: any(value != ABSENT for value in read(view))


_PATHS_OF: Final[Mapping[str, Callable[[LeafView], Iterable[tuple[str, str]]]]] = {
    "context": lambda view: context_scalars(view.event),
    "before": lambda view: change_scalars(view.event, "before"),
    "after": lambda view: change_scalars(view.event, "after"),
}


def _test_number(condition: ast.NumberBetween) -> Test:
    if condition.field == "late":
        return lambda _index, view: condition.holds(Decimal(late_us(view)).scaleb(-6))
    read = FIELDS[condition.field].reader(condition.key)
    return lambda _index, view: any(
        number is not None and condition.holds(number) for number in map(parse_number, read(view))
    )


def _test_words(condition: ast.Words) -> Test:
    found, is_prefix = phrase_of(condition.text, is_prefix=condition.is_prefix)
    # No word has a blank. `in` takes a time that is linear, a look at each place does not.
    phrase = f" {' '.join(found)}{'' if is_prefix else ' '}"

    def stands_in(texts: Sequence[str]) -> bool:
        return any(phrase in text for text in texts)

    if condition.field:
        read = FIELDS[condition.field].reader()
        return lambda _index, view: stands_in(_words_in(tuple(read(view))))
    is_whole = _test_whole(condition)
    return lambda index, view: (
        stands_in(_words_in(tuple(texts_of(view.event))))
        or stands_in(_words_in_ids(tuple(ids_of(view.event))))
        or is_whole(index, view)
    )


# A query may have 100,000 phrases, each of which is looked for in the words of the same texts.
@lru_cache(maxsize=8)
def _words_in(texts: tuple[str, ...]) -> list[str]:
    """The words of each text, with a blank around each word."""
    return [f" {' '.join(words_of(text))} " for text in texts if text != ABSENT]


@lru_cache(maxsize=8)
def _words_in_ids(texts: tuple[str, ...]) -> list[str]:
    return [f" {' '.join(words_of_id(text))} " for text in texts]


def whole_conditions(condition: ast.Words) -> list[Expression]:
    """The conditions on ids and the address that a text without a field has as a whole too."""
    text = condition.text
    if " " in text:
        return []
    found: list[Expression] = [
        ast.Is(field, text, is_prefix=condition.is_prefix) for field in WHOLE_IDS
    ]
    if not condition.is_prefix:
        if is_uuid(text.lower()):
            found.append(ast.Is("id", text.lower()))
        with suppress(EventError):
            found.append(ast.InNetwork(ip_network(canonical_ip(text))))
    return found


def _test_whole(condition: ast.Words) -> Test:
    tests = list(map(_test, whole_conditions(condition)))
    return lambda index, view: any(test(index, view) for test in tests)


def _test_network(condition: ast.InNetwork) -> Test:
    network = condition.network

    def is_inside(_index: int, view: LeafView) -> bool:
        ip = view.event.source.ip
        return ip != ABSENT and ip_address(ip) in network

    return is_inside


def _test_time(condition: ast.Between) -> Test:
    # All times in the log have one form, so they compare as text.
    start = ast.time_text(condition.start.unix_us) if condition.start else None
    end = ast.time_text(condition.end.unix_us) if condition.end else None
    is_received = condition.field == "received"

    def is_between(_index: int, view: LeafView) -> bool:
        time = view.received.time if is_received else view.event.time
        return (start is None or start <= time) and (end is None or time < end)

    return is_between
