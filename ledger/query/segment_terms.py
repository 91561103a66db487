"""The terms of one segment of the log as it grows, held as posting lists.

`ledger_core.query.analyzer` decides what an entry's terms are. This module collects them for many
entries at a time, finds them, and encodes them when the segment is full.

Ugly for speed: values go column by column through the comprehensions below, because a function call
for each value of each entry would double the cost of indexing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Final, TypeAlias

from ledger.store.index.postings import Postings, TermsBuilder, join
from ledger.store.index.roaring_containers import Container, union
from ledger.store.index.segment import SealedSegment, SegmentFacts, encode_segment
from ledger_core.query import analyzer
from ledger_core.query.analyzer import ABSENT, TERM_CHARS_MAX, EventView, LeafView, cut, terms_of
from ledger_core.query.fields import (
    COLUMNS,
    CONTEXT_DIMENSIONS,
    DIMENSIONS,
    FIELDS,
    FOLDED,
    Kind,
)

_NAMES = "name"
_TEXTS = ("action", _NAMES)
_FOLDED = frozenset(FOLDED)
_TIMES = frozenset(("minute", "received"))
_TARGETS = frozenset(("target", "target.type"))
_INDEXED = [FIELDS[name] for name in DIMENSIONS]
_SINGLE = [
    (field.name, field.kind, attrgetter(field.attribute)) for field in _INDEXED if field.attribute
]
_SEVERAL = [
    (field.name, field.read_several)
    for field in _INDEXED
    if field.read_several and field.kind != "words" and field.name not in _TARGETS
]


Derive: TypeAlias = Callable[[str, str], Iterable[str]]
"""The terms that a value of a dimension has elsewhere."""


class SegmentTerms:
    """The terms of the entries `[start, end)` of one segment, as they are added.

    Not thread-safe before `freeze`; afterwards any thread may read it.

    The words of names and actions, the families of actions, folded values and the hours are not
    stored. They are derived from names, values and minutes when a query needs them: many entries
    share one.
    """

    def __init__(self, start: int = 0) -> None:
        self.start: Final = start
        self.end: int = start
        self.times: tuple[str, str] = ("", "")
        """The earliest and the latest event time."""
        self._terms: Final = {
            name: TermsBuilder(in_runs=name in _TIMES, in_column=name in COLUMNS)
            for name in (*DIMENSIONS, _NAMES)
        }
        self._texts: Final[dict[str, list[tuple[str, str]]]] = defaultdict(list)
        self._folded: Final[dict[str, list[tuple[str, str]]]] = defaultdict(list)
        self._values_read: Final = dict.fromkeys((*FOLDED, *_TEXTS), 0)

    def add(self, leaves: Sequence[bytes]) -> None:
        """Add the next entries, at least one; a few hundred at a time is fastest.

        Cost: 1.3 µs an entry to decode it, and as much again for its terms.
        """
        first = self.end
        views = [analyzer.decode_view(leaf) for leaf in leaves]
        events = [view.event for view in views]
        self._add_times(views, first)
        for name, kind, read in _SINGLE:
            self._terms[name].add(_terms_for(kind, list(map(read, events))), first)
        self._add_several(events, first)
        self._add_context([event.context for event in events], first)
        self.end = first + len(leaves)

    def skip(self, count: int) -> None:
        """Pass over entries that can't be read: they have no terms."""
        nothing = [ABSENT] * count
        for name in COLUMNS:
            self._terms[name].add(nothing, self.end)
        self.end += count

    def freeze(self) -> None:
        """Do all that reading would put off. Precondition: nothing is added afterwards."""
        self._read_new_values()
        for terms in self._terms.values():
            terms.flush()

    def find(self, dimension: str, value: str) -> list[Container]:
        """Posting lists whose union is that of a term."""
        if dimension == "word":
            return self._values_with(self._texts, (value,))
        if dimension == analyzer.FOLDED_TERMS:
            return self._values_with(self._folded, (value,))
        if dimension == analyzer.FAMILY:
            # The first text above every action of `iam.` is `iam/`.
            return self._terms["action"].between(value, f"{value[:-1]}{chr(ord('.') + 1)}")
        found = self._terms[dimension].find(value)
        return [] if found is None else [found]

    def between(self, dimension: str, low: str, high: str) -> list[Container]:
        """The posting lists of the values `low <= value < high`."""
        if dimension in ("word", analyzer.FOLDED_TERMS):
            self._read_new_values()
            terms = self._texts if dimension == "word" else self._folded
            return self._values_with(terms, [term for term in terms if low <= term < high])
        # The minutes between two hours sort between their texts.
        return self._terms["minute" if dimension == "hour" else dimension].between(low, high)

    def seal(self, facts: SegmentFacts) -> SealedSegment:
        """The segment as it is stored."""
        postings = {name: self.postings(name) for name in DIMENSIONS}
        columns = [(name, self._terms[name].column(postings[name])) for name in COLUMNS]
        kept = [(name, column) for name, column in columns if column is not None]
        return encode_segment(tuple(postings.items()), kept, facts)

    def postings(self, dimension: str, *, in_order: bool = True) -> Postings:
        """The terms of a dimension, in order unless nobody needs it."""
        if dimension == "word":
            return self._derived(_TEXTS, lambda _name, text: terms_of(text))
        if dimension == analyzer.FAMILY:
            return self._derived(("action",), lambda _name, action: analyzer.families_of(action))
        if dimension == analyzer.FOLDED_TERMS:
            return self._derived(FOLDED, analyzer.folded_terms)
        if dimension == "hour":
            return self._derived(
                ("minute",), lambda _name, minute: (minute[: analyzer.HOUR_CHARS],)
            )
        return self._terms[dimension].seal(in_order=in_order)

    def _derived(self, dimensions: Iterable[str], derive: Derive) -> Postings:
        """The terms that are derived from the values of some dimensions."""
        derived: dict[str, list[Container]] = defaultdict(list)
        for name in dimensions:
            for value, container in self._terms[name].seal():
                for term in derive(name, value):
                    derived[term].append(container)
        return join((term, union(containers)) for term, containers in sorted(derived.items()))

    def _values_with(
        self, terms: Mapping[str, list[tuple[str, str]]], wanted: Iterable[str]
    ) -> list[Container]:
        """The posting lists of the values from which any of some terms is derived."""
        self._read_new_values()
        values = {place for term in wanted for place in terms.get(term, ())}
        found = [self._terms[name].find(value) for name, value in values]
        return [container for container in found if container is not None]

    def _read_new_values(self) -> None:
        """Derive the words and folded terms of the values that were added since the last call."""
        for name, known in self._values_read.items():
            values = list(islice(self._terms[name].values, known, None))
            for value in values:
                for word in terms_of(value) if name in _TEXTS else ():
                    self._texts[word].append((name, value))
                for term in analyzer.folded_terms(name, value) if name in _FOLDED else ():
                    self._folded[term].append((name, value))
            self._values_read[name] += len(values)

    def _add_times(self, views: list[LeafView], first: int) -> None:
        times = [view.event.time for view in views]
        earliest, latest = self.times
        self.times = (min(earliest or times[0], *times), max(latest, *times))
        self._terms["minute"].add([time[: analyzer.MINUTE_CHARS] for time in times], first)
        received = [view.received.time[: analyzer.HOUR_CHARS] for view in views]
        self._terms["received"].add(received, first)

    def _add_several(self, events: list[EventView], first: int) -> None:
        terms = self._terms
        numbered = list(enumerate(events, first))
        for name, read in _SEVERAL:
            found = [
                (cut(value), o) for o, event in numbered for value in read(event) if value != ABSENT
            ]
            terms[name].add_several(found)
        names = self._add_targets(numbered, first)
        names += [(event.actor.name, o) for o, event in numbered if event.actor.name != ABSENT]
        names += [
            (behalf.name, o)
            for o, event in numbered
            if (behalf := event.actor.on_behalf_of) is not None and behalf.name != ABSENT
        ]
        terms[_NAMES].add_several(names)
        reasons = [(event.reason, o) for o, event in numbered if event.reason != ABSENT]
        # A reason without a word has the empty one, so `has:reason` reads one range of terms.
        words = [(word, o) for text, o in reasons for word in terms_of(text) or ("",)]
        terms["reason"].add_several(words)

    def _add_targets(
        self, numbered: list[tuple[int, EventView]], first: int
    ) -> list[tuple[str, int]]:
        """Add the targets; return their names, each with the offset of its entry.

        Where every entry has exactly one target, which is usual, whole columns are added at once.
        """
        ids, types = self._terms["target"], self._terms["target.type"]
        several = [event.targets for _, event in numbered]
        if set(map(len, several)) == {1}:
            targets = [target for (target,) in several]
            ids.add(_cut_all([target.id for target in targets]), first)
            types.add(_cut_all([target.type for target in targets]), first)
            return [(each.name, o) for o, each in enumerate(targets, first) if each.name != ABSENT]
        all_targets = [(target, o) for o, event in numbered for target in event.targets]
        ids.add_several([(cut(target.id), o) for target, o in all_targets])
        types.add_several([(cut(each.type), o) for each, o in all_targets if each.type != ABSENT])
        return [(target.name, o) for target, o in all_targets if target.name != ABSENT]

    def _add_context(self, contexts: list[dict[str, Any]], first: int) -> None:
        """Add the contexts, of which this takes the keys that have dimensions of their own."""
        for key, name in CONTEXT_DIMENSIONS.items():
            self._terms[name].add(_pop_all(contexts, key), first)
        terms: list[tuple[str, int]] = []
        numbers: list[tuple[str, int]] = []
        for offset, context in enumerate(contexts, first):
            before = len(terms)
            for key, value in context.items():
                if type(value) is str or type(value) is int:
                    term = f"{analyzer.context_prefix(key)}{value}"
                    terms.append((term if len(term) <= TERM_CHARS_MAX else cut(term), offset))
                    if number := analyzer.number_term(key, str(value)):
                        numbers.append((number, offset))
                    continue
                for path, text in analyzer.scalars(key, value):
                    if path in CONTEXT_DIMENSIONS:
                        self._terms[CONTEXT_DIMENSIONS[path]].add_several([(cut(text), offset)])
                    else:
                        terms.append((cut(analyzer.context_prefix(path) + text), offset))
                        if number := analyzer.number_term(path, text):
                            numbers.append((number, offset))
            if len(terms) - before > analyzer.CONTEXT_TERMS_MAX:
                terms[before + analyzer.CONTEXT_TERMS_MAX :] = [(analyzer.MORE, offset)]
        self._terms["context"].add_several(terms)
        self._terms[analyzer.NUMBERS].add_several(numbers)


def _terms_for(kind: Kind, values: list[str]) -> list[str]:
    if kind == "action":
        return values
    return list(map(analyzer.pack_address, values)) if kind == "address" else _cut_all(values)


def _pop_all(contexts: list[dict[str, Any]], key: str) -> list[str]:
    """Remove a scalar from each context, as a term; an object or array stays there."""
    values = [context.pop(key, ABSENT) for context in contexts]
    if set(map(type, values)) != {str}:
        for place, value in enumerate(values):
            if isinstance(value, dict | list):
                contexts[place][key] = value
                values[place] = ABSENT
            else:
                values[place] = analyzer.text_of(value)
    return _cut_all(values)


def _cut_all(values: list[str]) -> list[str]:
    return values if max(map(len, values)) <= TERM_CHARS_MAX else [cut(value) for value in values]
