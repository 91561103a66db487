"""The terms of one segment of the log as it grows, held as posting lists.

What an entry's terms are is decided in `ledger_core.query.analyzer`; here they are gathered, found
and, when the segment is full, sealed.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from ledger.store.index.postings import Postings, TermsBuilder, join
from ledger.store.index.roaring_containers import Container, union
from ledger.store.index.segment import SealedSegment, SegmentFacts, encode_segment
from ledger_core.query.analyzer import (
    ABSENT,
    CONTEXT_TERMS_MAX,
    FAMILY,
    HOUR_CHARS,
    MINUTE_CHARS,
    MORE,
    OWN_PATHS,
    REQUEST_KEY,
    TERM_CHARS_MAX,
    TRACE_KEY,
    EventView,
    LeafView,
    context_prefix,
    cut,
    decode_view,
    families_of,
    pack_address,
    scalars,
    terms_of,
    text_of,
)
from ledger_core.query.fields import DIMENSIONS

COLUMN_DIMENSIONS: Final = ("actor", "source")
"""Dimensions with many values, and at most one an entry, that matches are counted by."""

_NAMES = "name"
_TEXTS = ("action", _NAMES)
_TIMES = frozenset(("minute", "received"))


class SegmentTerms:
    """The terms of consecutive entries of one segment, as they are added. Not thread-safe.

    The words of names and actions, the families of actions and the hours are not kept, but read out
    of names, actions and minutes when they are asked for: many entries share one.
    """

    def __init__(self) -> None:
        self.entries = 0
        self.times = ("", "")
        """The earliest and the latest event time."""
        self._terms = {
            name: TermsBuilder(in_runs=name in _TIMES, in_column=name in COLUMN_DIMENSIONS)
            for name in (*DIMENSIONS, _NAMES)
        }
        self._texts: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._texts_known = dict.fromkeys(_TEXTS, 0)

    def add(self, leaves: Sequence[bytes]) -> None:
        """Add the next entries, at least one; a few hundred at a time is fastest.

        Cost: 1.3 µs an entry to decode it, and as much again for its terms.
        """
        first = self.entries
        terms = self._terms
        views = [decode_view(leaf) for leaf in leaves]
        events = [view.event for view in views]
        actors = [event.actor for event in events]
        sources = [event.source for event in events]
        self._add_times(views, first)
        terms["action"].add([event.action for event in events], first)
        terms["outcome"].add([event.outcome for event in events], first)
        terms["tenant"].add(_cut_all([event.tenant for event in events]), first)
        terms["actor"].add(_cut_all([actor.id for actor in actors]), first)
        terms["actor.type"].add(_cut_all([actor.type for actor in actors]), first)
        terms["session"].add(_cut_all([actor.session for actor in actors]), first)
        terms["credential"].add(_cut_all([actor.credential for actor in actors]), first)
        terms["source"].add([pack_address(source.ip) for source in sources], first)
        terms["service"].add(_cut_all([source.service for source in sources]), first)
        self._add_several(events, first)
        self._add_context(events, first)
        self.entries = first + len(leaves)

    def find(self, dimension: str, value: str) -> list[Container]:
        """The posting lists whose union is that of a term."""
        if dimension == "word":
            return self._texts_with((value,))
        if dimension == FAMILY:
            return self._terms["action"].between(value, _end_of_family(value))
        found = self._terms[dimension].find(value)
        return [] if found is None else [found]

    def between(self, dimension: str, low: str, high: str) -> list[Container]:
        """The posting lists of the values `low <= value < high`."""
        if dimension == "word":
            self._note_texts()
            return self._texts_with([word for word in self._texts if low <= word < high])
        # Between two hours are the minutes between these.
        return self._terms["minute" if dimension == "hour" else dimension].between(low, high)

    def seal(self, facts: SegmentFacts) -> SealedSegment:
        """The segment, as it is stored."""
        postings = {name: self.postings(name) for name in DIMENSIONS}
        columns = [(name, self._terms[name].column(postings[name])) for name in COLUMN_DIMENSIONS]
        kept = [(name, column) for name, column in columns if column is not None]
        return encode_segment(tuple(postings.items()), kept, facts)

    def postings(self, dimension: str) -> Postings:
        """The terms of a dimension, in order."""
        if dimension == "word":
            return self._derived(_TEXTS, terms_of)
        if dimension == FAMILY:
            return self._derived(("action",), families_of)
        if dimension == "hour":
            return self._derived(("minute",), lambda minute: (minute[:HOUR_CHARS],))
        return self._terms[dimension].seal()

    def _derived(
        self, dimensions: Iterable[str], terms_of: Callable[[str], Iterable[str]]
    ) -> Postings:
        """The terms that are made of the values of some dimensions."""
        derived: dict[str, list[Container]] = defaultdict(list)
        for name in dimensions:
            for text, container in self._terms[name].seal():
                for term in terms_of(text):
                    derived[term].append(container)
        return join((term, union(containers)) for term, containers in sorted(derived.items()))

    def _texts_with(self, words: Iterable[str]) -> list[Container]:
        """The posting lists of the actions and names that have one of the words."""
        self._note_texts()
        texts = {place for word in words for place in self._texts.get(word, ())}
        found = [self._terms[name].find(text) for name, text in texts]
        return [container for container in found if container is not None]

    def _note_texts(self) -> None:
        """Note the words of the texts that came since the last time."""
        for name in _TEXTS:
            known = self._texts_known[name]
            texts = list(islice(self._terms[name].values, known, None))
            for text in texts:
                for word in terms_of(text):
                    self._texts[word].append((name, text))
            self._texts_known[name] = known + len(texts)

    def _add_times(self, views: list[LeafView], first: int) -> None:
        times = [view.event.time for view in views]
        earliest, latest = self.times
        self.times = (min(earliest or times[0], *times), max(latest, *times))
        self._terms["minute"].add([time[:MINUTE_CHARS] for time in times], first)
        received = [view.received.time[:HOUR_CHARS] for view in views]
        self._terms["received"].add(received, first)

    def _add_several(self, events: list[EventView], first: int) -> None:
        """Add what an entry may have none or several of."""
        terms = self._terms
        numbered = list(enumerate(events, first))
        names = self._add_targets(numbered, first)
        names += [(event.actor.name, o) for o, event in numbered if event.actor.name != ABSENT]
        principals = [
            (event.actor.on_behalf_of, o)
            for o, event in numbered
            if event.actor.on_behalf_of is not None
        ]
        if principals:
            terms["actor.on_behalf_of"].add_several([(cut(each.id), o) for each, o in principals])
            names += [(each.name, o) for each, o in principals if each.name != ABSENT]
        terms[_NAMES].add_several(names)
        terms["field"].add_several(
            [(cut(c.path), o) for o, event in numbered if event.changes for c in event.changes]
        )
        reasons = [(event.reason, o) for o, event in numbered if event.reason != ABSENT]
        terms["reason"].add_several([(word, o) for text, o in reasons for word in terms_of(text)])

    def _add_targets(
        self, numbered: list[tuple[int, EventView]], first: int
    ) -> list[tuple[str, int]]:
        """Add the targets; their names, each with the offset of its entry."""
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

    def _add_context(self, events: list[EventView], first: int) -> None:
        contexts = [event.context for event in events]
        dimensions = self._terms
        dimensions["request"].add(_take_all(contexts, REQUEST_KEY), first)
        dimensions["trace"].add(_take_all(contexts, TRACE_KEY), first)
        terms: list[tuple[str, int]] = []
        for offset, context in enumerate(contexts, first):
            before = len(terms)
            for key, value in context.items():
                if type(value) is str or type(value) is int:
                    term = f"{context_prefix(key)}{value}"
                    terms.append((term if len(term) <= TERM_CHARS_MAX else cut(term), offset))
                    continue
                for path, text in scalars(key, value):
                    if path in OWN_PATHS:
                        dimensions[OWN_PATHS[path]].add_several([(cut(text), offset)])
                    else:
                        terms.append((cut(context_prefix(path) + text), offset))
            if len(terms) - before > CONTEXT_TERMS_MAX:
                terms[before + CONTEXT_TERMS_MAX :] = [(MORE, offset)]
        dimensions["context"].add_several(terms)


def _end_of_family(family: str) -> str:
    """The first text above every action of a family."""
    return f"{family[:-1]}{chr(ord('.') + 1)}"


def _take_all(contexts: list[dict[str, Any]], key: str) -> list[str]:
    """Take a scalar out of each context, as a term; an object or array stays there."""
    values = [context.pop(key, ABSENT) for context in contexts]
    if set(map(type, values)) != {str}:
        for place, value in enumerate(values):
            if isinstance(value, dict | list):
                contexts[place][key] = value
                values[place] = ABSENT
            else:
                values[place] = text_of(value)
    return _cut_all(values)


def _cut_all(values: list[str]) -> list[str]:
    return values if max(map(len, values)) <= TERM_CHARS_MAX else [cut(value) for value in values]
