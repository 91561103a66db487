"""The values of fields in one segment, from its index or from entries that were read.

A `Column` gives each entry its value's place; it exists only where every entry has one value of
the field at most. `values_at` gives the values of chosen entries, of which there may be several.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pyroaring import BitMap

from ledger.query import plan_nodes as plan
from ledger.query.evaluator import Window
from ledger.query.facets import flags_of
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.cached_parts import ValueColumn
from ledger.store.index.postings import NO_PLACE, Postings
from ledger.store.index.roaring_containers import FORM_ARRAY, assemble, from_little_endian
from ledger_core.query.counting import CountField
from ledger_core.query.fields import COLUMNS

Values = dict[int, list[str]]
"""The values of each match by its offset."""


class IndexedSource:
    """The terms of a segment that is indexed."""

    def __init__(self, window: Window, segment: int) -> None:
        self._window = window
        self._segment = segment
        self.entries: Final = window.entries_in(segment)

    def runs(self, by: CountField) -> Iterable[Postings]:
        """The terms of a field; at the ends there may be others."""
        return self._window.postings(by.dimension, self._segment, prefix=by.prefix)

    def find(self, dimension: str, value: str) -> BitMap:
        """The offsets of a term."""
        found = self._window.evaluate(plan.Lookup((plan.Find(dimension, value),))).must
        return dict(self._window.by_segment(found)).get(self._segment, BitMap())

    def column(self, dimension: str) -> ValueColumn | None:
        """The values of a dimension by entries, where they are stored."""
        return self._window.column(dimension, self._segment)


class InMemorySource:
    """The terms of entries that were read."""

    def __init__(self, terms: SegmentTerms) -> None:
        self._terms = terms
        self.entries: Final = terms.end

    def runs(self, by: CountField) -> Iterable[Postings]:
        """The terms of a field, and others of its dimension."""
        return (self._terms.postings(by.dimension),)

    def find(self, dimension: str, value: str) -> BitMap:
        """The offsets of a term."""
        return assemble([(0, found) for found in self._terms.find(dimension, value)][:1])

    def column(self, _dimension: str) -> None:
        """None: nothing is stored."""
        return


Source: TypeAlias = IndexedSource | InMemorySource


@dataclass(frozen=True, slots=True)
class Column:
    """The place of each entry's value among the `values`; None stands at that of no value."""

    places: Sequence[int]
    values: Sequence[str | None]


def columns_of(source: Source, fields: Sequence[CountField]) -> list[Column] | None:
    """A column of each field; None where an entry has several values of one."""
    columns = []
    for by in fields:
        column = _column(source, by)
        if column is None:
            return None
        columns.append(column)
    return columns


def _column(source: Source, by: CountField) -> Column | None:
    stored = source.column(by.dimension) if by.dimension in COLUMNS else None
    if stored is not None:
        values: list[str | None] = list(map(by.value_of, stored.values()))
        return Column(stored.places, [*values, *[None] * (NO_PLACE + 1 - len(values))])
    places = [-1] * source.entries
    values = []
    for postings in source.runs(by):
        for term, container in postings:
            value = by.value_of(term)
            if value is None:
                continue
            place = len(values)
            values.append(value)
            if container.form == FORM_ARRAY:
                offsets: Iterable[int] = from_little_endian(container.payload)
            else:
                offsets = assemble([(0, container)]).to_array()
            for offset in offsets:
                if places[offset] >= 0:
                    return None
                places[offset] = place
    return Column(places, [*values, None])


def values_at(source: Source, by: CountField, offsets: BitMap) -> Values:
    """The values of each of the offsets that has any."""
    column = source.column(by.dimension) if by.dimension in COLUMNS else None
    if column is not None:
        places = column.places
        values = [by.value_of(term) for term in column.values()]
        return {
            offset: [value]
            for offset in offsets
            if (place := places[offset]) != NO_PLACE and (value := values[place]) is not None
        }
    found: Values = {}
    flags = flags_of(offsets)
    for postings in source.runs(by):
        for term, container in postings:
            value = by.value_of(term)
            if value is None:
                continue
            if container.form == FORM_ARRAY:
                hits: Iterable[int] = [o for o in from_little_endian(container.payload) if flags[o]]
            else:
                hits = assemble([(0, container)]) & offsets
            for offset in hits:
                some = found.setdefault(offset, [])
                if value not in some:
                    some.append(value)
    return found
