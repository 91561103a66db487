"""The terms of one segment of the log as it grows, held as posting lists.

`ledger_core.query.analyzer` decides what an entry's terms are. This module collects them for many
entries at a time, finds them, and encodes them when the segment is full.

Ugly for speed: values go column by column through the comprehensions below, because a function call
for each value of each entry would double the cost of indexing.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter, sub
from typing import Any, Final

from pyroaring import BitMap

from ledger.query import term_sources
from ledger.query.hashed_terms import NOTHING_LEFT_OUT, LeftOut, hashed_terms
from ledger.query.plan_nodes import Find, Range, Read
from ledger.query.term_sources import (
    BEHALF_NAME,
    CHANGED,
    DERIVED,
    HELD,
    PARTS,
    SINGLE,
    TIMES,
    WORDS,
    derive_postings,
)
from ledger.query.word_texts import WordTexts
from ledger.store.index.postings import Postings, TermsBuilder
from ledger.store.index.roaring_containers import Container
from ledger.store.index.segment import SealedSegment, SegmentFacts, encode_segment
from ledger_core.query import analyzer
from ledger_core.query.analyzer import (
    ABSENT,
    MORE,
    TERM_CHARS_MAX,
    EventView,
    LeafView,
    cut,
    terms_of,
)
from ledger_core.query.event_values import SIDES, change_scalars, masks_of
from ledger_core.query.fields import COLUMNS, CONTEXT_DIMENSIONS, DIMENSIONS, Field

_read_time, _read_receipt = attrgetter("event.time"), attrgetter("received.time")


DECODED_BYTES_MAX: Final = 1 << 18
"""Bytes of leaves that are decoded at once: several hundred ordinary ones. `[{},{},…` takes 25
times its length when it is decoded, and a bundle may have 16 MiB."""


_OF_TARGETS = ("target", "target.type", "target.name", "target.several")


class SegmentTerms:
    """The terms of the entries `[start, end)` of one segment, as they are added.

    Not thread-safe before `freeze`; afterwards any thread may read it.

    Words, families, folded values and hours are not stored, but derived (`term_sources`) when a
    query needs them. Where something is left out, an entry that may have a term is a candidate:
    `candidates`.
    """

    def __init__(self, start: int = 0, *, left_out: LeftOut = NOTHING_LEFT_OUT) -> None:
        self.start: Final = start
        self.end: int = start
        self.left_out: Final = left_out
        self.leaf_bytes: int = 0
        self.times: tuple[str, str] = ("", "")
        """The earliest and the latest event time."""
        self.event_times: Final = array("q")
        """The event time of each entry, in microseconds since 1970; 0 if it can't be read."""
        self._hashed: Final = hashed_terms(start, left_out)
        self._terms: Final = {
            name: self._hashed[name]
            if name in left_out.hashed
            else TermsBuilder(in_runs=name in TIMES, in_column=name in COLUMNS)
            for name in HELD
        }
        self._unused = {name for name, each in self._hashed.items() if not each.is_used}
        self._words: Final = WordTexts(self._terms)
        self._is_frozen = False
        self._size = 0
        # The hours of a histogram, mostly: for the next one.
        self._derived: Final[dict[str, Postings]] = {}

    def add(self, leaves: Sequence[bytes]) -> None:
        """Add the next entries, at least one; a few hundred at a time is fastest.

        Cost: 1.3 µs an entry to decode it, and as much again for its terms.
        """
        for part in split_leaves(leaves):
            self._add(part)

    def _add(self, leaves: Sequence[bytes]) -> None:
        first = self.end
        views = [analyzer.decode_view(leaf) for leaf in leaves]
        events = [view.event for view in views]
        self._add_receipts(views, first)
        parts: dict[str, list[Any]] = {"": events}
        parts |= {name: list(map(read, events)) for name, read in PARTS.items()}
        for field, part, read in SINGLE:
            values = list(map(read, parts[part]))
            # Few applications send a credential, a recorder or a tenant: then nothing is held.
            if field.has_column or values[0] != ABSENT or values.count(ABSENT) < len(values):
                self._terms[field.name].add(_terms_for(field, values), first)
        self._add_several(events, first)
        self._add_changes(events, first)
        masked = [(at, view) for at, view in enumerate(views) if b"masked" in leaves[at]]
        self._terms["masked"].add_several(
            [(cut(rule), first + at) for at, view in masked for rule in masks_of(view.event)]
        )
        self._add_context([event.context for event in events], first)
        self.end = first + len(leaves)
        self.leaf_bytes += sum(map(len, leaves))

    def skip(self, count: int) -> None:
        """Pass over entries that can't be read: they have no terms."""
        nothing = [ABSENT] * count
        self.event_times.fromlist([0] * count)
        for name in COLUMNS:
            self._terms[name].add(nothing, self.end)
        self.end += count

    def freeze(self) -> None:
        """Do all that reading would put off. Precondition: nothing is added afterwards."""
        self._words.read_new()
        for terms in (*self._terms.values(), *self._hashed.values()):
            terms.flush()
        self._is_frozen = True
        self._size = self.size

    @property
    def size(self) -> int:
        """About the bytes that all of it takes in memory. Cost: as `text_sizes`."""
        return self._size or sum(self.text_sizes().values()) + sum(self.hash_sizes().values())

    @property
    def held_size(self) -> int:
        """About the bytes that it takes without words."""
        return sum(terms.size for terms in self._terms.values())

    def text_sizes(self) -> Mapping[str, int]:
        """The bytes of memory of each dimension whose texts are held, with those of its words.

        Before `freeze` it derives the words of values that came since the last call.
        """
        self._words.read_new()
        builders = self._terms.items()
        sizes = {name: each.size for name, each in builders if name not in self._hashed}
        return {name: size + self._words.sizes.get(name, 0) for name, size in sizes.items()}

    def hash_sizes(self) -> Mapping[str, int]:
        """The bytes of memory of each dimension whose hashes are held."""
        return {name: each.size for name, each in self._hashed.items()}

    def is_left_out(self, dimension: str) -> bool:
        """Whether the texts of a dimension are not all held."""
        return dimension in self._hashed

    def candidates(self, read: Read) -> BitMap:
        """The entries that may have a term, of those whose texts are not held."""
        hashed = self._hashed.get(read.dimension)
        if hashed is None:
            return BitMap()
        if isinstance(read, Find):
            return hashed.candidates((read.value,), self.end)
        ranges = ((read.low, read.high),) if isinstance(read, Range) else read.ranges
        if all(high == f"{low}\0" for low, high in ranges):
            return hashed.candidates([low for low, _ in ranges], self.end)
        return BitMap(range(self.start, self.end))

    def find(self, dimension: str, value: str) -> list[Container]:
        """Posting lists whose union is that of a term."""
        if dimension in WORDS:
            return self._words.find(dimension, value)
        if dimension == analyzer.FAMILY:
            # The first text above every action of `iam.` is `iam/`.
            return self._terms["action"].between(value, f"{value[:-1]}{chr(ord('.') + 1)}")
        if dimension == "hour":
            return self.between(dimension, value, f"{value};")
        found = self._terms[dimension].find(value)
        return [] if found is None else [found]

    def between(self, dimension: str, low: str, high: str) -> list[Container]:
        """The posting lists of the values `low <= value < high`."""
        if dimension in WORDS:
            return self._words.between(dimension, low, high)
        # The minutes between two hours sort between their texts.
        return self._terms["minute" if dimension == "hour" else dimension].between(low, high)

    def within(self, dimension: str, ranges: Sequence[tuple[str, str]]) -> list[Container]:
        """The posting lists of the values of ranges that ascend and do not touch."""
        if dimension in self._terms:
            return self._terms[dimension].within(ranges)
        found = [self.between(dimension, low, high) for low, high in ranges]
        return [container for some in found for container in some]

    def seal(self, facts: SegmentFacts, *, entries_hash: str) -> SealedSegment:
        """The segment as it is stored; `entries_hash` as in `SegmentRecord`.

        Raises: TooManyTermsError when more than `DERIVED_MAX` terms of a dimension are derived.
        """
        held = {name: terms.seal() for name, terms in self._terms.items()}
        postings = {
            name: derive_postings(DERIVED[name], held.__getitem__, most=term_sources.DERIVED_MAX)
            if name in DERIVED
            else held[name]
            for name in DIMENSIONS
        }
        columns = [(name, self._terms[name].column(postings[name])) for name in COLUMNS]
        kept = [(name, column) for name, column in columns if column is not None]
        return encode_segment(
            tuple(postings.items()), kept, self.event_times, facts, entries_hash=entries_hash
        )

    def postings(self, dimension: str, *, in_order: bool = True) -> Postings:
        """The terms of a dimension, in order unless nobody needs it."""
        if dimension in DERIVED:
            found = self._derived.get(dimension)
            if found is None:
                sources = DERIVED[dimension]
                found = derive_postings(
                    sources, lambda name: self._terms[name].seal(in_order=False)
                )
                if self._is_frozen:
                    self._derived[dimension] = found
            return found
        return self._terms[dimension].seal(in_order=in_order)

    def _add_receipts(self, views: list[LeafView], first: int) -> None:
        """Add the times, of the events and of their receipt, and the tokens."""
        times = list(map(_read_time, views))
        earliest, latest = self.times
        self.times = (min(earliest or times[0], *times), max(latest, *times))
        self._terms["minute"].add([time[: analyzer.MINUTE_CHARS] for time in times], first)
        happened = list(map(analyzer.unix_us, times))
        self.event_times.fromlist(happened)
        receipts = list(map(_read_receipt, views))
        received = [time[: analyzer.HOUR_CHARS] for time in receipts]
        self._terms["received"].add(received, first)
        late_us = list(map(sub, map(analyzer.unix_us, receipts), happened))
        self._terms["late"].add(analyzer.late_terms(late_us), first)
        self._terms["received.by"].add(_cut_all([view.received.by for view in views]), first)

    def _add_several(self, events: list[EventView], first: int) -> None:
        terms = self._terms
        numbered = list(enumerate(events, first))
        self._add_targets(numbered, first)
        all_behalves = [(event.actor.on_behalf_of, o) for o, event in numbered]
        behalves = [(behalf, o) for behalf, o in all_behalves if behalf is not None]
        terms["actor.on_behalf_of"].add_several([(cut(behalf.id), o) for behalf, o in behalves])
        terms[BEHALF_NAME].add_several(
            [(behalf.name, o) for behalf, o in behalves if behalf.name != ABSENT]
        )
        reasons = [(event.reason, o) for o, event in numbered if event.reason != ABSENT]
        # A reason without a word has the empty one, so `has:reason` reads one range of terms.
        words = [(word, o) for text, o in reasons for word in terms_of(text) or ("",)]
        terms["reason"].add_several(words)
        ports = [event.source.port for event in events]
        digits = analyzer.PORT_DIGITS
        terms["port"].add_several(
            [(f"{port:0{digits}d}", o) for o, port in enumerate(ports, first) if port >= 0]
        )

    def _add_changes(self, events: list[EventView], first: int) -> None:
        """Add the paths and the scalars of changes, each scalar with and without its path."""
        if self._unused.issuperset(("field", *SIDES, CHANGED)):
            return
        numbered = [(o, event) for o, event in enumerate(events, first) if event.changes]
        self._terms["field"].add_several(
            [(cut(change.path), o) for o, event in numbered for change in event.changes]
        )
        anywhere = analyzer.context_prefix("")
        changed: list[tuple[str, int]] = []
        for side in SIDES:
            terms: list[tuple[str, int]] = []
            for o, event in numbered:
                found = change_scalars(event, side)
                changed += [(text, o) for _, text in found]
                keyed = [cut(analyzer.context_prefix(key) + text) for key, text in found]
                both = list(dict.fromkeys([*keyed, *(cut(anywhere + text) for _, text in found)]))
                if len(both) > analyzer.CONTEXT_TERMS_MAX:
                    both[analyzer.CONTEXT_TERMS_MAX :] = [MORE]
                terms += [(term, o) for term in both]
            self._terms[side].add_several(terms)
        # Both sides of an entry together: offsets ascend.
        self._terms[CHANGED].add_several(sorted(changed, key=itemgetter(1)))

    def _add_targets(self, numbered: list[tuple[int, EventView]], first: int) -> None:
        """Add the targets.

        Where every entry has exactly one target, which is usual, whole columns are added at once.
        """
        if self._unused.issuperset(_OF_TARGETS):
            return
        ids, types = self._terms["target"], self._terms["target.type"]
        names = self._terms["target.name"]
        several = [event.targets for _, event in numbered]
        if set(map(len, several)) == {1}:
            targets = [target for (target,) in several]
            ids.add(_cut_all([target.id for target in targets]), first)
            types.add(_cut_all([target.type for target in targets]), first)
            names.add([target.name for target in targets], first)
            return
        all_targets = [(target, o) for o, event in numbered for target in event.targets]
        ids.add_several([(cut(target.id), o) for target, o in all_targets])
        types.add_several([(cut(each.type), o) for each, o in all_targets if each.type != ABSENT])
        names.add_several([(each.name, o) for each, o in all_targets if each.name != ABSENT])
        self._terms["target.several"].add_several(
            [(analyzer.SEVERAL, o) for o, event in numbered if len(event.targets) > 1]
        )

    def _add_context(self, contexts: list[dict[str, Any]], first: int) -> None:
        """Add the contexts, of which this takes the keys that have dimensions of their own."""
        if self._unused.issuperset(("context", analyzer.NUMBERS, *CONTEXT_DIMENSIONS.values())):
            return
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
                    text = str(value)
                    if text[:1] in analyzer.NUMBER_STARTS and (
                        number := analyzer.number_term(key, text)
                    ):
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


def split_leaves(leaves: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The leaves in parts that are decoded at once; none of no leaf."""
    part: list[bytes] = []
    part_bytes = 0
    for leaf in leaves:
        if part and part_bytes + len(leaf) > DECODED_BYTES_MAX:
            yield part
            part, part_bytes = [], 0
        part.append(leaf)
        part_bytes += len(leaf)
    if part:
        yield part


def _terms_for(field: Field, values: list[str]) -> list[str]:
    if field.is_whole:
        return values
    return list(map(analyzer.pack_address, values)) if field.kind == "address" else _cut_all(values)


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
