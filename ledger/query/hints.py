"""Says why a query found no event: which of its conditions no event meets, and what is near it.

Each condition is counted alone. One that no event meets is explained: a key that no event has and
the nearest one, a value that stands in the log in another case, the texts in which words are looked
for, the hours between which events happened. If each condition alone is met, the hints say so.

All counts are of what the caller may see: they are taken by searches within its tenant, and a key
or a value that they don't find is not named. The work is bounded: at most `CONDITIONS_MAX`
conditions, `HINTS_TIME_S` seconds, and few rows. What did not fit is left out.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Final, Protocol

from ledger_core.near_names import near_names
from ledger_core.query import analyzer, ast
from ledger_core.query.ast import Expression, all_of, format_query
from ledger_core.query.fields import FIELDS
from ledger_core.query.words import words_of
from ledger_core.search_answers import Hint, Histogram

CONDITIONS_MAX: Final = 8
HINTS_MAX: Final = 8
HINTS_TIME_S: Final = 0.25
VALUES_COMPARED_MAX: Final = 10_000
"""Values with which one that no event has is compared: the most frequent ones."""
VALUES_NEAR_MAX: Final = 3
CONTAINED_CHARS_MIN: Final = 3
"""A shorter text is part of most values, and says nothing."""
WORDS_MAX: Final = 64
"""Words of a phrase that are looked for one by one."""
_SHOWN_CHARS_MAX: Final = 500
_COMPARED_MAX: Final = 1 << 19
"""Pairs of characters that are compared at most: two texts of 100 letters have 10,000."""
_WORD_TEXTS: Final = (
    "names, reasons, actions, user agents, changed values, ids and types of targets"
)


class LogView(Protocol):
    """The view of one caller on a log, within the time that is left."""

    def count(self, query: Expression) -> int | None:
        """The number of events that a query finds; None where it is not known exactly."""

    def hours(self, query: Expression) -> Histogram | None:
        """The hours in which the events of a query happened."""

    def values(self, dimension: str) -> Counter[str]:
        """Terms of a dimension of the newest events, with their numbers."""


def find_hints(query: Expression, view: LogView) -> tuple[Hint, ...]:
    """Why a query whose times are resolved finds nothing. Precondition: it found nothing."""
    return tuple(islice(_hints(query, view), HINTS_MAX))


def _hints(query: Expression, view: LogView) -> Iterator[Hint]:
    parts = query.parts if isinstance(query, ast.And) else (query,)
    if view.count(ast.EVERYTHING) == 0:
        yield Hint(kind="empty", text="the log has no event that this token may read")
        return
    counts = {part: view.count(part) for part in parts[:CONDITIONS_MAX]}
    met = {part: count for part, count in counts.items() if count}
    for part in [part for part, count in counts.items() if count == 0]:
        yield from _explain(part, view)
    if len(met) == len(counts) > 1:
        each = "; ".join(f"{_shown(part)} finds {count:,}" for part, count in met.items())
        yield Hint(kind="together", text=f"each condition finds events, but none meets all: {each}")
    if len(parts) > 1:
        yield from _without_times(parts, view)


def _without_times(parts: Sequence[Expression], view: LogView) -> Iterator[Hint]:
    rest = all_of(part for part in parts if not isinstance(part, ast.Between))
    if len(parts) == 1 or rest in (ast.EVERYTHING, all_of(parts)):
        return
    count = view.count(rest)
    hours = view.hours(rest) if count else None
    if count and hours and hours.buckets:
        span = _span_text(hours)
        yield Hint(
            kind="time",
            text=f"without its times the query finds {_events(count)}, which happened {span}",
            nearest=format_query(rest),
            count=count,
        )


def _explain(part: Expression, view: LogView) -> Iterator[Hint]:
    """Why no event meets a part of a query."""
    match part:
        case ast.Or(parts):
            for each in parts[:CONDITIONS_MAX]:
                yield from _explain(each, view)
        case ast.Not(inner):
            yield Hint(kind="condition", text=f"every event meets {_shown(inner)}")
        case ast.And() | ast.Everything():
            yield Hint(kind="condition", text=f"no event meets {_shown(part)}")
        case ast.Between():
            yield from _explain_time(part, view)
        case ast.Words():
            yield from _explain_words(part, view)
        case ast.Is() | ast.Has() | ast.NumberBetween():
            yield from _explain_value(part, view)
        case _:
            yield Hint(kind="condition", text=f"no event meets {_shown(part)}")


def _explain_time(part: ast.Between, view: LogView) -> Iterator[Hint]:
    hours = view.hours(ast.EVERYTHING)
    text = f"no event meets {_shown(part)}"
    if part.field == "time" and hours and hours.buckets:
        first, last = hours.buckets[0].start, hours.buckets[-1].start
        if part.end and ast.time_text(part.end.unix_us) <= first:
            text = "the range of time ends before the first event"
        elif part.start and ast.time_text(part.start.unix_us) > last:
            text = "the range of time begins after the last event"
        text += f": events happened {_span_text(hours)}"
    yield Hint(kind="time", text=text)


def _explain_words(part: ast.Words, view: LogView) -> Iterator[Hint]:
    where = f"the values of {part.field}" if part.field else _WORD_TEXTS
    words = _shown(part)
    yield Hint(
        kind="words",
        text=f"{words} was looked for as whole words, in upper and lower case, in {where}",
    )
    several = part.text.split()
    if len(several) > WORDS_MAX:
        return
    if len(several) > 1:
        each = [ast.Words(part.field, word) for word in several if words_of(word)]
        found = {one: view.count(one) for one in each}
        missing = [one.text for one, count in found.items() if count == 0]
        if missing:
            yield Hint(kind="words", text=f"no text has {', '.join(missing)}")
        elif together := view.count(all_of(each)):
            yield Hint(
                kind="words",
                text=f"{_events(together)} have all of these words, but not side by side",
                nearest=format_query(all_of(each)),
                count=together,
            )
    elif not part.is_prefix and (count := view.count(replace(part, is_prefix=True))):
        yield Hint(
            kind="words",
            text=f"{_events(count)} have words that begin so",
            nearest=format_query(replace(part, is_prefix=True)),
            count=count,
        )


def _explain_value(part: ast.Is | ast.Has | ast.NumberBetween, view: LogView) -> Iterator[Hint]:
    if part.field == "context" and not view.count(ast.Has("context", part.key)):
        yield from _explain_key(part, view)
        return
    name = _name(part)
    if isinstance(part, ast.NumberBetween):
        here = ast.Has(part.field, part.key)
        text = f"{_events(view.count(here))} have {name}, none of them a number in this range"
        yield Hint(kind="value", text=text)
        return
    yield Hint(kind="value", text=f"no event meets {_shown(part)}")
    if isinstance(part, ast.Is):
        yield from _near_values(part, view)


def _explain_key(part: ast.Is | ast.Has | ast.NumberBetween, view: LogView) -> Iterator[Hint]:
    yield Hint(kind="key", text=f"no event has {_name(part)}")
    keys = context_keys(view.values("context"))
    spellings = {key.lower(): key for key in keys}
    ends = {key.rpartition(".")[2].lower(): key for key in keys}
    wanted = part.key.lower()
    near = [spellings[each] for each in _spelled_alike(wanted, spellings, cutoff=0.7)]
    near += [ends[wanted]] if wanted in ends else []
    for key in list(dict.fromkeys(near))[:VALUES_NEAR_MAX]:
        other = ast.Has("context", key)
        count = view.count(other)
        if count:
            text = f"{_name(other)} is in {_events(count)}"
            same = replace(part, key=key)
            found = view.count(same)
            nearest, number = (same, found) if found else (other, count)
            yield Hint(kind="key", text=text, nearest=format_query(nearest), count=number)


def _near_values(part: ast.Is, view: LogView) -> Iterator[Hint]:
    """The values that differ in case alone, else those that contain it or are spelled alike."""
    field, value = FIELDS[part.field], part.value
    if field.kind not in ("action", "context", "name", "target", "text") or not value:
        return
    wanted = analyzer.fold(value)
    known = _known_values(part, view)
    cases = [value.lower(), value.upper(), value.capitalize(), value.title()]
    cases += [each for each in known if analyzer.fold(each) == wanted]
    found = list(_counted(part, [] if field.is_folded else cases, view))
    for condition, count in found:
        yield Hint(
            kind="case",
            text=f"upper and lower case differ: {_shown(condition)} finds {_events(count)}",
            nearest=format_query(condition),
            count=count,
        )
    if found or part.is_prefix:
        return
    near = [*_containing(wanted, known), *_spelled_alike(value, known, cutoff=0.75)]
    for condition, count in _counted(part, near, view):
        yield Hint(
            kind="near",
            text=f"{_shown(condition)} finds {_events(count)}",
            nearest=format_query(condition),
            count=count,
        )


def _containing(wanted: str, known: Collection[str]) -> list[str]:
    """The first of some texts, in their order, that contain a folded text of some letters."""
    if len(wanted) < CONTAINED_CHARS_MIN:
        return []
    return list(islice((e for e in known if wanted in analyzer.fold(e)), VALUES_NEAR_MAX))


def _spelled_alike(wanted: str, known: Collection[str], *, cutoff: float) -> list[str]:
    """Those of some texts that are spelled nearly so. Cost: up to a tenth of a second."""
    ends = accumulate(len(wanted) * len(each) for each in known)
    some = [each for each, end in zip(known, ends, strict=True) if end <= _COMPARED_MAX]
    return near_names(wanted, some, count=VALUES_NEAR_MAX, cutoff=cutoff)


def _known_values(part: ast.Is, view: LogView) -> list[str]:
    values = view.values(part.field)
    prefix = analyzer.context_prefix(part.key) if part.field == "context" else ""
    found = Counter({term: count for term, count in values.items() if term.startswith(prefix)})
    return [term[len(prefix) :] for term, _ in found.most_common(VALUES_COMPARED_MAX)]


def _counted(part: ast.Is, values: Sequence[str], view: LogView) -> Iterator[tuple[ast.Is, int]]:
    """The conditions on some other values that find events."""
    others = [value for value in dict.fromkeys(values) if value != part.value]
    for value in others[: 2 * VALUES_NEAR_MAX]:
        condition = replace(part, value=value)
        count = view.count(condition)
        if count:
            yield condition, count


def context_keys(terms: Counter[str]) -> Counter[str]:
    """The paths in terms of the context, each with the number of its values."""
    keys: Counter[str] = Counter()
    for term, count in terms.items():
        path = analyzer.path_of(term)
        if path is not None:
            keys[path] += count
    return keys


def _name(part: ast.Is | ast.Has | ast.NumberBetween) -> str:
    return format_query(ast.Has(part.field, part.key)).removeprefix("has:")


def _shown(part: Expression) -> str:
    text = format_query(part) or "()"
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"


def _events(count: int | None) -> str:
    return "events" if count is None else f"{count:,} event{'' if count == 1 else 's'}"


def _span_text(hours: Histogram) -> str:
    first, last = hours.buckets[0].start, hours.buckets[-1].start
    return f"from the hour {first} to the hour {last}"
