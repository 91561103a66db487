"""Expression -> plan: which terms of the index to read, and how to combine their posting lists.

The index is exact for most conditions and imprecise for some: it knows the minute of an event but
not the second, the beginning of a long value, the first 128 words of a text. So each condition
becomes two sets,

    must  ⊆  the entries that match  ⊆  may

`and` and `or` act on both alike, and `not` swaps their complements. At the end the executor reads
the rows that lie between the two (`predicate`); most plans leave none. In a segment that has no
index yet, `must` is empty and `may` is everything.

Conditions on the index, on ids and on the time of receipt are spans of indices: `resolve_ids` looks
them up before there is a plan. Everything here is pure.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from operator import attrgetter
from typing import Final

from ledger.query.plan_nodes import (
    Complement,
    Entries,
    Find,
    Intersection,
    Lookup,
    Node,
    Range,
    RangeSet,
    Read,
    Span,
    TimeRange,
    Union,
    Unknown,
)
from ledger.query.plan_ranges import plan_delay, plan_ports
from ledger_core.event.model import LIMITS
from ledger_core.query import analyzer, ast
from ledger_core.query.analyzer import MORE, cut, is_hint, pack_address
from ledger_core.query.ast import HOUR_US, MINUTE_US, UNIX_US_END, Expression, time_text
from ledger_core.query.fields import DIMENSIONS, FIELDS
from ledger_core.query.predicate import split_target, whole_conditions
from ledger_core.query.words import phrase_of
from ledger_core.tlog.hashing import SIZE_MAX

_PAIR = 2
_PAIRS_MAX = 64
"""Pairs of words of a phrase that are looked up: a body may have a phrase of a million."""
_READ_SINGLY = 16
"""Terms that are looked up one by one; more are read together."""
_LAST_CHAR = "\U0010ffff"
LAST: Final = _LAST_CHAR * (LIMITS["user_agent"].most + 1)
"""A text above every value: the upper end of an open range."""

_ANY_TEXT: Final[tuple[str, ...]] = (
    "word",
    "reason",
    "user_agent.word",
    "actor.name.word",
    "target.name.word",
)
"""The dimensions that hold the words of texts."""


def make_plan(expression: Expression) -> Node:
    """The plan of an expression whose times and ids are resolved."""
    match expression:
        case ast.Everything():
            return Span(0, SIZE_MAX)
        case ast.And(parts):
            return Intersection(tuple(sorted((make_plan(part) for part in parts), key=_rank)))
        case ast.Or(parts):
            return _unite([make_plan(part) for part in parts])
        case ast.Not(part):
            return Complement(make_plan(part))
    return _plan_condition(expression)


def _plan_condition(condition: ast.Condition) -> Node:
    match condition:
        case ast.IndexBetween(start, end):
            return Span(start, end)
        case ast.IndexIn(indices):
            return Entries(indices)
        case ast.Is(field="id") | ast.Between(field="received"):
            # `resolve_ids` leaves a prefix that too many ids share.
            return Unknown()
        case ast.Is():
            return _plan_value(condition)
        case ast.Has():
            return _plan_presence(condition)
        case ast.NumberBetween():
            return _plan_numbers(condition)
        case ast.Words():
            return _plan_words(condition)
        case ast.InNetwork(network):
            is_one = network.prefixlen == network.max_prefixlen
            return Lookup((_find_address(network) if is_one else _network_range(network),))
        case ast.Between(_, start, end):
            return _plan_time(start, end)


def span_of(node: Node, tree_size: int) -> Span:
    """A span of the tree outside of which no entry matches."""
    match node:
        case Span(start, end):
            return Span(min(start, tree_size), min(end, tree_size))
        case Entries(indices):
            ends = (indices[0], indices[-1] + 1) if indices else (0, 0)
            return span_of(Span(*ends), tree_size)
        case Intersection(parts):
            spans = [span_of(part, tree_size) for part in parts]
            start = max(span.start for span in spans)
            return Span(start, max(start, min(span.end for span in spans)))
        case Union(parts):
            spans = [span_of(part, tree_size) for part in parts]
            return Span(min(span.start for span in spans), max(span.end for span in spans))
    return Span(0, tree_size)


def _plan_value(condition: ast.Is) -> Node:
    if FIELDS[condition.field].kind == "target":
        return _plan_target(condition)
    return _plan_term(condition)


def _plan_term(condition: ast.Is) -> Lookup:
    dimension, value = condition.field, condition.value
    field = FIELDS[dimension]
    if field.is_folded:
        value = analyzer.fold(value)
    hints: tuple[Read, ...] = ()
    if field.read_at:
        value = analyzer.context_prefix(condition.key) + value
        hints = (Find(dimension, MORE),)
    elif field.kind == "port":
        value = value.zfill(analyzer.PORT_DIGITS)
    if field.is_whole and len(value) > LIMITS["user_agent"].most:
        return Lookup(())
    term = value if field.is_whole else cut(value)
    # A longer prefix is cut, and then other values share its term.
    is_exact = len(value) <= len(term) if condition.is_prefix else not is_hint(value)
    is_exact = is_exact or field.is_whole
    is_family = dimension == "action" and condition.is_prefix and value.endswith(".")
    reads: list[Read] = [
        Find(analyzer.FAMILY, term)
        if is_family
        else _read(dimension, term, is_prefix=condition.is_prefix)
    ]
    if field.is_folded:
        folded = analyzer.folded_term(dimension, term)
        reads.append(_read(analyzer.FOLDED_TERMS, folded, is_prefix=condition.is_prefix))
    return Lookup(tuple(reads), hints) if is_exact else Lookup((), (*reads, *hints))


def _plan_target(condition: ast.Is) -> Node:
    """A target with this id, or with this type and id; of several targets, the rows decide."""
    parts: list[Node] = [_plan_term(condition)]
    for of_type, of_id in split_target(condition.value):
        pair = (
            _plan_term(ast.Is("target", of_id, condition.is_prefix)),
            _plan_term(ast.Is("target.type", of_type)),
            Union((Complement(Lookup((Find("target.several", analyzer.SEVERAL),))), Unknown())),
        )
        parts.append(Intersection(pair))
    return parts[0] if len(parts) == 1 else Union(tuple(parts))


def _plan_presence(condition: ast.Has) -> Lookup:
    dimension = condition.field
    if not condition.key:
        return Lookup((Range(dimension, "", LAST),))
    at = analyzer.context_prefix(condition.key)
    below = f"{at[:-1]}."
    reads = tuple(_read(dimension, cut(low), is_prefix=True) for low in (at, below))
    more = Find(dimension, MORE)
    if max(len(at), len(below)) > analyzer.TERM_CHARS_MAX:
        return Lookup((), (*reads, more))
    return Lookup(reads, (more,))


def _plan_numbers(condition: ast.NumberBetween) -> Lookup:
    if condition.field == "late":
        return plan_delay(condition)
    return plan_ports(condition) if condition.field == "port" else _plan_context(condition)


def _plan_context(condition: ast.NumberBetween) -> Lookup:
    """The codes between those of both ends, and as hints the ends whose codes are rounded."""
    prefix, more = analyzer.context_prefix(condition.key), Find(condition.field, MORE)
    if len(prefix) + analyzer.NUMBER_CODE_CHARS_MAX > analyzer.TERM_CHARS_MAX:
        return Lookup((), (_read(analyzer.NUMBERS, cut(prefix), is_prefix=True), more))
    low, high = prefix, _after(prefix)
    hints: list[Read] = [more]
    if condition.low is not None:
        find, is_rounded = _number_term(prefix, condition.low)
        hints += [find] * is_rounded
        low = _next(find.value) if is_rounded or condition.is_above_low else find.value
    if condition.high is not None:
        find, is_rounded = _number_term(prefix, condition.high)
        hints += [find] * is_rounded
        high = find.value if is_rounded or condition.is_below_high else _next(find.value)
    return Lookup((Range(analyzer.NUMBERS, low, max(low, high)),), tuple(hints))


def _number_term(prefix: str, number: Decimal) -> tuple[Find, bool]:
    """The term of a number, and whether other numbers have it too."""
    code = analyzer.number_code(number)
    return Find(analyzer.NUMBERS, prefix + code), analyzer.is_rounded(code)


def _next(term: str) -> str:
    """The least text above a term; no value holds a NUL."""
    return f"{term}\0"


def _read(dimension: str, term: str, *, is_prefix: bool) -> Read:
    return Range(dimension, term, _after(term)) if is_prefix else Find(dimension, term)


def _plan_words(condition: ast.Words) -> Node:
    words, is_prefix = phrase_of(condition.text, is_prefix=condition.is_prefix)
    dimensions = _ANY_TEXT
    more: tuple[Read, ...] = (Find("word", MORE), Find("reason", MORE))
    if condition.field:
        of_reason = condition.field == "reason"
        dimensions = (condition.field if of_reason else f"{condition.field}.word",)
        more = more[of_reason : of_reason + 1]
    parts: list[Node] = [Lookup((), more)]
    if len(words) <= _PAIR:
        parts = [_plan_pair(dimensions, words, is_prefix=is_prefix, more=more)]
    else:
        parts += [_plan_phrase(dimension, words, is_prefix=is_prefix) for dimension in dimensions]
    if not condition.field:
        # `resolve_ids` has looked up the id of the event.
        parts += [
            make_plan(part)
            for part in whole_conditions(condition)
            if not (isinstance(part, ast.Is) and part.field == "id")
        ]
    return parts[0] if len(parts) == 1 else Union(tuple(parts))


def _plan_pair(
    dimensions: Sequence[str],
    words: Sequence[str],
    *,
    is_prefix: bool,
    more: tuple[Read, ...] = (),
) -> Lookup:
    """One word, or two side by side, of which the last one may be a prefix."""
    term = cut(words[0]) if len(words) == 1 else analyzer.pair_term(*words)
    reads = tuple(_read(dimension, term, is_prefix=is_prefix) for dimension in dimensions)
    return Lookup((), (*reads, *more)) if is_hint(term) else Lookup(reads, more)


def _plan_phrase(dimension: str, words: Sequence[str], *, is_prefix: bool) -> Node:
    """Three words or more side by side: each pair of them.

    Where each inner word stands once, the pairs can't but overlap; elsewhere the rows decide. They
    also do if an event may have several texts of the dimension.
    """
    # Of a long phrase the first pairs are looked up, and the rows decide.
    places = range(len(words) - 1)
    pairs = [
        _plan_pair((dimension,), words[at : at + 2], is_prefix=is_prefix and at == places[-1])
        for at in places[:_PAIRS_MAX]
    ]
    if len(places) > _PAIRS_MAX:
        return Intersection((*pairs, Unknown()))
    elsewhere: list[Read] = [
        Find(dimension, analyzer.repeated_term(word)) for word in dict.fromkeys(words[1:-1])
    ]
    if dimension == "target.name.word":
        elsewhere.append(Find("target.several", analyzer.SEVERAL))
    is_whole: Node = Union((Complement(Lookup(tuple(elsewhere))), Unknown()))
    return Intersection((*pairs, Unknown() if dimension == "word" else is_whole))


def _plan_time(start: ast.Moment | None, end: ast.Moment | None) -> Node:
    """Whole hours, whole minutes around them, and as hints the cut minutes at both ends."""
    start_us = start.unix_us if start else 0
    end_us = end.unix_us if end else UNIX_US_END
    first_minute, last_minute = _ceil(start_us, MINUTE_US), _floor(end_us, MINUTE_US)
    first_hour, last_hour = _ceil(first_minute, HOUR_US), _floor(last_minute, HOUR_US)
    if first_hour < last_hour:
        must = [
            *_times("minute", first_minute, first_hour),
            *_times("hour", first_hour, last_hour),
            *_times("minute", last_hour, last_minute),
        ]
    else:
        must = _times("minute", first_minute, last_minute)
    hints = tuple(
        Find("minute", time_text(_floor(us, MINUTE_US))[: analyzer.MINUTE_CHARS])
        for us in (start_us, end_us)
        if us % MINUTE_US
    )
    return TimeRange(time_text(start_us), time_text(end_us), Lookup(tuple(must), hints))


def _times(dimension: str, start_us: int, end_us: int) -> list[Read]:
    if start_us >= end_us:
        return []
    chars = analyzer.HOUR_CHARS if dimension == "hour" else analyzer.MINUTE_CHARS
    return [Range(dimension, time_text(start_us)[:chars], time_text(end_us)[:chars])]


def _floor(unix_us: int, unit_us: int) -> int:
    return unix_us - unix_us % unit_us


def _ceil(unix_us: int, unit_us: int) -> int:
    return min(unix_us + -unix_us % unit_us, UNIX_US_END)


def _unite(parts: Sequence[Node]) -> Node:
    """The union of parts, whose reads are done together: a list may have 100,000 values."""
    lookups = [part for part in parts if isinstance(part, Lookup)]
    entries = [part for part in parts if isinstance(part, Entries)]
    united: list[Node] = [part for part in parts if not isinstance(part, Lookup | Entries)]
    if lookups:
        must, hints = (
            _join_reads(dict.fromkeys(read for part in lookups for read in reads(part)))
            for reads in (attrgetter("must"), attrgetter("hints"))
        )
        united.append(Lookup(must, hints))
    if entries:
        united.append(Entries(tuple(sorted({i for part in entries for i in part.indices}))))
    return united[0] if len(united) == 1 else Union(tuple(united))


def _join_reads(reads: Collection[Read]) -> tuple[Read, ...]:
    """Many reads of one dimension as one."""
    if len(reads) <= _READ_SINGLY:
        return tuple(reads)
    by_dimension: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for read in reads:
        match read:
            case Find(dimension, value):
                by_dimension[dimension].append((value, _next(value)))
            case Range(dimension, low, high):
                by_dimension[dimension].append((low, high))
            case RangeSet(dimension, ranges):
                by_dimension[dimension] += ranges
    return tuple(RangeSet(name, _join_ranges(ranges)) for name, ranges in by_dimension.items())


def _join_ranges(ranges: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    joined: list[tuple[str, str]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], high)
        else:
            joined.append((low, high))
    return tuple(joined)


def _find_address(network: IPv4Network | IPv6Network) -> Find:
    return Find("source", f"{network.version}{network.network_address.packed.hex()}")


def _network_range(network: IPv4Network | IPv6Network) -> Range:
    low = pack_address(str(network.network_address))
    last = pack_address(str(network.broadcast_address))
    return Range("source", low, _after(last))


def _after(prefix: str) -> str:
    """The first text above every text with this prefix."""
    head = prefix.rstrip(_LAST_CHAR)
    if not head:
        return LAST
    following = chr(ord(head[-1]) + 1)
    # Values hold no surrogates, and UTF-8 could not encode one.
    return head[:-1] + ("\ue000" if "\ud800" <= following <= "\udfff" else following)


def _rank(node: Node) -> int:
    """An estimate of a part's cost: an intersection reads its cheapest part first."""
    match node:
        case Span() | Entries():
            return -1
        case Lookup(must, hints):
            return max((FIELDS[read.dimension].rank for read in (*must, *hints)), default=0)
        case TimeRange():
            return FIELDS["hour"].rank
        case Intersection(parts):
            return min(map(_rank, parts))
        case Union(parts):
            return max(map(_rank, parts))
        case Complement(part):
            return len(DIMENSIONS) + _rank(part)
    return 2 * len(DIMENSIONS)
