"""Expression -> plan: which terms of the index to read, and how their answers combine.

The index knows most things exactly, and some only nearly: the minute of an event but not its
second, the beginning of a long value, the first hundred words of a text. So each condition becomes
two sets,

    sure  ⊆  the entries for which it holds  ⊆  maybe

`and` and `or` act on both alike, `not` swaps their complements, and what lies between the two at
the end is looked at, row by row (`matching`). Most plans leave nothing between them. A segment that
has no index yet is the same thing once more: nothing there is sure, and everything may be.

Conditions on the index, on ids and on the time of receipt are spans of indices; whoever makes a
plan has looked these up (`locate`). All of it is pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from ledger_core.event.model import LIMITS
from ledger_core.query.analyzer import (
    FAMILY,
    HOUR_CHARS,
    MINUTE_CHARS,
    MORE,
    TERM_CHARS_MAX,
    context_prefix,
    cut,
    is_hint,
    pack_address,
)
from ledger_core.query.ast import (
    HOUR_US,
    MINUTE_US,
    UNIX_US_END,
    And,
    Between,
    Everything,
    Expression,
    IndexBetween,
    IndexIn,
    InNetwork,
    Is,
    Moment,
    Not,
    Or,
    Words,
    time_text,
)
from ledger_core.tlog.hashing import SIZE_MAX

_LAST_CHAR = "\U0010ffff"
LAST: Final = _LAST_CHAR * (TERM_CHARS_MAX + 1)
"""Above every value: the upper end of a range that has none."""


@dataclass(frozen=True, slots=True)
class Find:
    """Read one term."""

    dimension: str
    value: str

    def __str__(self) -> str:
        return f"{self.dimension} = {self.value}"


@dataclass(frozen=True, slots=True)
class Range:
    """Read the terms `low <= value < high`."""

    dimension: str
    low: str
    high: str

    def __str__(self) -> str:
        return f"{self.dimension} from {self.low or 'the first'} to {self.high}"


Read: TypeAlias = Find | Range


@dataclass(frozen=True, slots=True)
class Lookup:
    """Sure where one of `sure` is; maybe where one of `sure` or `hints` is."""

    sure: tuple[Read, ...]
    hints: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeRange:
    """An event time `start <= time < end`, as text; the look-up is for segments that lie across."""

    start: str
    end: str
    across: Lookup


@dataclass(frozen=True, slots=True)
class Span:
    """The entries `[start, end)`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entries:
    """These entries, ascending."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is sure and everything may be."""


@dataclass(frozen=True, slots=True)
class Intersection:
    """Where all parts are, the one that costs least first."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Union:
    """Where one of the parts is."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Complement:
    """Where the part is not."""

    part: "Node"


Node: TypeAlias = Lookup | TimeRange | Span | Entries | Unknown | Intersection | Union | Complement

# How many entries a value of a dimension has, as a rule: few first.
_RANKS = {
    name: rank
    for rank, name in enumerate(
        (
            "request",
            "trace",
            "session",
            "target",
            "credential",
            "actor",
            "source",
            "actor.on_behalf_of",
            "context",
            "reason",
            "field",
            "word",
            "tenant",
            "action",
            "action.family",
            "service",
            "target.type",
            "hour",
            "minute",
            "actor.type",
            "outcome",
        )
    )
}


def make_plan(expression: Expression) -> Node:
    """The plan of an expression that is resolved and located."""
    match expression:
        case Everything():
            return Span(0, SIZE_MAX)
        case And(parts):
            return Intersection(tuple(sorted((make_plan(part) for part in parts), key=_rank)))
        case Or(parts):
            return Union(tuple(make_plan(part) for part in parts))
        case Not(part):
            return Complement(make_plan(part))
        case IndexBetween(start, end):
            return Span(start, end)
        case IndexIn(indices):
            return Entries(indices)
        case Is(field="id") | Between(field="received"):
            # Left by `locate` because too many ids begin so.
            return Unknown()
        case Is():
            return _plan_value(expression)
        case Words():
            return _plan_words(expression)
        case InNetwork(network):
            return Lookup((_network_range(network),))
        case Between(_, start, end):
            return _plan_time(start, end)


def span_of(node: Node, tree_size: int) -> Span:
    """A span outside of which the node holds for no entry of the tree."""
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


def reads_of(node: Node) -> Iterable[Read]:
    """Everything that the plan may read."""
    match node:
        case Lookup(sure, hints):
            return (*sure, *hints)
        case TimeRange(_, _, across):
            return reads_of(across)
        case Intersection(parts) | Union(parts):
            return [read for part in parts for read in reads_of(part)]
        case Complement(part):
            return reads_of(part)
    return ()


def _plan_value(condition: Is) -> Lookup:
    dimension = condition.field
    value = condition.value
    if dimension == "action":
        return _plan_action(value, is_prefix=condition.is_prefix)
    prefix = ""
    if dimension == "context":
        prefix = context_prefix(condition.key)
        value = prefix + value
    hints: tuple[Read, ...] = (Find(dimension, MORE),) if prefix else ()
    if condition.is_prefix:
        low = cut(value)
        read: Read = Range(dimension, low, _after(low))
        # A term that was cut at the very end of the prefix is that of other values too.
        is_sure = len(value) <= len(low)
    else:
        read = Find(dimension, cut(value))
        is_sure = not is_hint(value)
    return Lookup((read,), hints) if is_sure else Lookup((), (read, *hints))


def _plan_action(value: str, *, is_prefix: bool) -> Lookup:
    """Actions are never cut: all of a term is known."""
    if len(value) > LIMITS["action"].most:
        return Lookup(())
    if not is_prefix:
        return Lookup((Find("action", value),))
    if value.endswith("."):
        return Lookup((Find(FAMILY, value),))
    return Lookup((Range("action", value, _after(value)),))


def _plan_words(condition: Words) -> Node:
    parts: list[Node] = []
    for place, word in enumerate(condition.words):
        is_prefix = condition.is_prefix and place == len(condition.words) - 1
        dimensions = (condition.field,) if condition.field else ("word", "reason")
        reads: list[Read] = [
            Range(dimension, cut(word), _after(cut(word)))
            if is_prefix
            else Find(dimension, cut(word))
            for dimension in dimensions
        ]
        more = tuple(Find(dimension, MORE) for dimension in dimensions)
        # Several words must stand side by side, which the index does not know.
        is_sure = len(condition.words) == 1 and not is_hint(word)
        parts.append(Lookup(tuple(reads), more) if is_sure else Lookup((), (*reads, *more)))
    return parts[0] if len(parts) == 1 else Intersection(tuple(parts))


def _plan_time(start: Moment | None, end: Moment | None) -> Node:
    """Whole hours, whole minutes before and after them, and at the ends minutes to look into."""
    start_us = start.unix_us if start else 0
    end_us = end.unix_us if end else UNIX_US_END
    first_minute, last_minute = _ceil(start_us, MINUTE_US), _floor(end_us, MINUTE_US)
    first_hour, last_hour = _ceil(first_minute, HOUR_US), _floor(last_minute, HOUR_US)
    sure: list[Read] = []
    if first_hour < last_hour:
        sure += _times("minute", first_minute, first_hour)
        sure += _times("hour", first_hour, last_hour)
        sure += _times("minute", last_hour, last_minute)
    else:
        sure += _times("minute", first_minute, last_minute)
    hints = tuple(
        Find("minute", _time_text(_floor(us, MINUTE_US))[:MINUTE_CHARS])
        for us in (start_us, end_us)
        if us % MINUTE_US
    )
    return TimeRange(_time_text(start_us), _time_text(end_us), Lookup(tuple(sure), hints))


def _times(dimension: str, start_us: int, end_us: int) -> list[Read]:
    if start_us >= end_us:
        return []
    chars = HOUR_CHARS if dimension == "hour" else MINUTE_CHARS
    return [Range(dimension, _time_text(start_us)[:chars], _time_text(end_us)[:chars])]


def _time_text(unix_us: int) -> str:
    return time_text(Moment(unix_us))


def _floor(unix_us: int, unit_us: int) -> int:
    return unix_us - unix_us % unit_us


def _ceil(unix_us: int, unit_us: int) -> int:
    return min(unix_us + -unix_us % unit_us, UNIX_US_END)


def _network_range(network: IPv4Network | IPv6Network) -> Range:
    low = pack_address(str(network.network_address))
    last = pack_address(str(network.broadcast_address))
    return Range("source", low, _after(last))


def _after(prefix: str) -> str:
    """The first text above every text that begins so."""
    head = prefix.rstrip(_LAST_CHAR)
    if not head:
        return LAST
    following = chr(ord(head[-1]) + 1)
    # No text holds a lone surrogate, and none could be encoded.
    return head[:-1] + ("\ue000" if "\ud800" <= following <= "\udfff" else following)


def _rank(node: Node) -> int:
    """A guess at how much a part costs; that of a conjunction which costs least is read first."""
    match node:
        case Span() | Entries():
            return -1
        case Lookup(sure, hints):
            return max((_RANKS[read.dimension] for read in (*sure, *hints)), default=0)
        case TimeRange():
            return _RANKS["hour"]
        case Intersection(parts):
            return min(map(_rank, parts))
        case Union(parts):
            return max(map(_rank, parts))
        case Complement(part):
            return len(_RANKS) + _rank(part)
    return 2 * len(_RANKS)
