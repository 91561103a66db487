"""Counts matches by one field or two, with distinct values or numbers of another field.

One field alone is counted from posting lists, as facets are. Otherwise each field becomes a column
of its segment, where every entry has one value of it at most, and C counts the rows of the columns.
Where an entry has several, or for sums, the values of each match are put together. Everything is
exact unless `exact` says otherwise: the time was up, an event has more values of its context than
the index holds, a number is beyond `NUMBER_MAX`, or there were too many groups: then the rarest are
left out, or those that came last.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from heapq import nlargest, nsmallest
from itertools import islice, product
from typing import Final, cast

from msgspec import structs
from pyroaring import BitMap

from ledger.query.budget import OverBudgetError
from ledger.query.columns import (
    Column,
    IndexedSource,
    InMemorySource,
    Source,
    Values,
    columns_of,
    values_at,
)
from ledger.query.evaluator import Window
from ledger.query.facets import Matches, count_all, count_runs, trim
from ledger.query.hashed_terms import all_but
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms, split_leaves
from ledger.query.value_stream import LIMITED
from ledger_core.asking import AskCount, CountAnswer, CountedValue
from ledger_core.query.analyzer import MORE, parse_number
from ledger_core.query.ast import Between, Expression
from ledger_core.query.counting import parse_count_field, read_since
from ledger_core.query.fields import COLUMNS

CELLS_MAX: Final = 500_000
"""Groups and distinct values that one tally holds."""

ALL_CELLS_MAX: Final = 1_000_000
"""Those that all tallies of one search hold, in some 400 MB at most."""

NUMBER_MAX: Final = Decimal("1e290")
"""Numbers beyond ± this are left out: the sum of a billion of them is no number of JSON's any more,
which readers refuse together with the whole answer."""

_WHOLE_MAX = Decimal(10) ** 28
"""Up to ± this a sum is exact, so whole ones are written as integers."""

_ROWS_AT_ONCE = 256

_Group = tuple[str, ...]


@dataclass(slots=True)
class _Numbers:
    """The sum and the ends of numbers."""

    number: int = 0
    total: Decimal = Decimal(0)
    least: Decimal | None = None
    most: Decimal | None = None

    def add(self, value: Decimal) -> None:
        """Add one."""
        self.number += 1
        self.total += value
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)


@dataclass(slots=True)
class _Cell:
    """The counts of one group."""

    count: int = 0
    distinct: set[str] | None = None
    numbers: _Numbers | None = None


class Tally:
    """Counts the matches of one query by one request."""

    def __init__(
        self,
        ask: AskCount,
        *,
        leaf_cache: LeafCache,
        is_over: Callable[[], bool],
        cells_max: int | None = None,
    ) -> None:
        """`cells_max`: by default `CELLS_MAX`. Raises: MalformedError for a field that can't be
        counted.
        """
        self._ask = ask
        self._cells_max = CELLS_MAX if cells_max is None else cells_max
        self._leaf_cache = leaf_cache
        self._is_over = is_over
        self._by = [parse_count_field(name) for name in ask.by]
        self._distinct = None if ask.distinct is None else parse_count_field(ask.distinct)
        self._numbers = None if ask.numbers is None else parse_count_field(ask.numbers)
        others = [each for each in (self._distinct, self._numbers) if each is not None]
        self._fields = [*self._by, *others]
        self._terms: Counter[str] = Counter()
        self._cells: dict[_Group, _Cell] = defaultdict(_Cell)
        self._held = 0
        self._counted = 0
        self._is_exact = True
        self.is_all = True
        """Whether the run found all matches; its caller says so."""

    @property
    def is_exact(self) -> bool:
        """Whether no event and no group was left out."""
        return self._is_exact and self.is_all

    @property
    def groups(self) -> set[_Group]:
        """The groups that were found."""
        return set(self._numbers_by_group())

    def add(self, window: Window, members: BitMap) -> None:
        """Count the matches of a window, one segment after another, in time."""
        for segment, offsets in window.by_segment(members):
            if self._is_over():
                self._is_exact = False
                return
            try:
                by_rows = offsets
                if window.is_indexed(segment):
                    names = [each.dimension for each in self._fields]
                    by_rows = offsets & window.left_out(names, segment)
                    if len(by_rows) < len(offsets):
                        self._add_segment(IndexedSource(window, segment), offsets - by_rows)
                self._add_rows(window.start_of(segment), by_rows)
            except OverBudgetError:
                self._is_exact = False
                return

    def _add_rows(self, start: int, offsets: BitMap) -> None:
        """Count entries that are not indexed yet, or left out in memory, from their leaves."""
        indices = (start + offset for offset in offsets)
        while some := list(islice(indices, _ROWS_AT_ONCE)):
            if self._is_over():
                self._is_exact = False
                return
            leaves = [leaf for leaf in self._leaf_cache.readable(some) if leaf is not None]
            for part in split_leaves(leaves):
                terms = SegmentTerms(left_out=all_but(each.dimension for each in self._fields))
                terms.add(part)
                self._add_segment(InMemorySource(terms), BitMap(range(len(part))))

    def _add_segment(self, source: "Source", offsets: BitMap) -> None:
        self._check_limited(source, offsets)
        if len(self._fields) == 1:
            self._add_terms(source, offsets)
            self._counted += len(offsets)
            return
        columns = None if self._numbers else columns_of(source, self._fields)
        if columns is None:
            values = [values_at(source, each, offsets) for each in self._fields]
            self._add_values(values, len(offsets))
        else:
            self._add_columns(columns, offsets, is_all=len(offsets) == source.entries)
            self._counted += len(offsets)

    def _add_terms(self, source: "Source", offsets: BitMap) -> None:
        (by,) = self._by
        is_all = len(offsets) == source.entries
        column = None
        if not is_all and by.dimension in COLUMNS:
            column = source.column(by.dimension)
        if column is not None:
            Matches(offsets).count_column(column, self._terms)
            self._trim(self._terms)
            return
        count = count_all if is_all else Matches(offsets).count
        count_runs(source.runs(by), self._terms, count=count, trim=self._trim)

    def _trim(self, terms: dict[str, int]) -> None:
        """Drop the rarest half of the terms when they are too many."""
        if len(terms) > self._cells_max:
            (by,) = self._by
            for term in [term for term in terms if by.value_of(term) is None]:
                del terms[term]
            if trim(terms, self._cells_max):
                self._is_exact = False

    def _check_limited(self, source: "Source", offsets: BitMap) -> None:
        """Whether a match has more values of its context than the index holds."""
        for dimension in {each.dimension for each in self._fields} & set(LIMITED):
            more = source.find(dimension, MORE)
            if more & offsets:
                self._is_exact = False

    def _add_columns(self, columns: Sequence["Column"], offsets: BitMap, *, is_all: bool) -> None:
        """Count entries with one value of each field at most: C counts them by their places."""
        places: list[Iterable[int]] = [column.places for column in columns]
        if not is_all:
            chosen = offsets.to_array()
            places = [map(column.places.__getitem__, chosen) for column in columns]
        by = len(self._by)
        found = Counter(zip(*places, strict=True))
        # Each column by itself: a lookup for each value of each group would take twice as long.
        values = [
            list(map(column.values.__getitem__, some))
            for column, some in zip(columns, zip(*found, strict=True), strict=False)
        ]
        for row, count in zip(zip(*values, strict=True), found.values(), strict=True):
            if None not in row[:by]:
                others = [[] if value is None else [value] for value in row[by:]]
                self._add_group(cast("_Group", row[:by]), others, count)

    def _add_values(self, values: Sequence[Values], entries: int) -> None:
        """Count entries, of which those without a value of the first field are in no group.

        An event of 32 targets and 256 changes is in 8,192 groups: a segment of these would take a
        quarter of an hour.
        """
        by = len(self._by)
        self._counted += entries - len(values[0])
        for offset, firsts in values[0].items():
            if self._is_over():
                self._is_exact = False
                return
            self._counted += 1
            rest = [some.get(offset, ()) for some in values[1:by]]
            for group in product(firsts, *rest):
                self._add_group(group, [some.get(offset, []) for some in values[by:]], 1)

    def _add_group(self, group: _Group, others: list[list[str]], count: int) -> None:
        """Add entries of a group with the same values of the other fields."""
        cell = self._cells.get(group)
        if cell is None:
            if self._held >= self._cells_max:
                self._is_exact = False
                return
            self._held += 1
            cell = self._cells[group] = _Cell()
        cell.count += count
        if self._distinct is not None:
            if cell.distinct is None:
                cell.distinct = set()
            before = len(cell.distinct)
            if self._held < self._cells_max:
                cell.distinct.update(others[0])
            elif not cell.distinct.issuperset(others[0]):
                self._is_exact = False
            self._held += len(cell.distinct) - before
        if self._numbers is not None:
            if cell.numbers is None:
                cell.numbers = _Numbers()
            for number in map(parse_number, others[-1]):
                if number is not None and abs(number) > NUMBER_MAX:
                    self._is_exact = False
                elif number is not None:
                    cell.numbers.add(number)

    def _numbers_by_group(self) -> dict[_Group, int]:
        """The number of each group by which groups are put in order."""
        if len(self._fields) == 1:
            return dict(self._counts)
        if self._distinct is None:
            return {group: cell.count for group, cell in self._cells.items()}
        return {group: len(cell.distinct or ()) for group, cell in self._cells.items()}

    @cached_property
    def _counts(self) -> Counter[_Group]:
        """The counts by one field, once all were added."""
        counts: Counter[_Group] = Counter()
        for term, count in self._terms.items():
            value = self._by[0].value_of(term)
            if value is not None:
                counts[(value,)] += count
        return counts

    def answer(self, *, is_all: bool, without: Iterable[_Group] = ()) -> CountAnswer:
        """The counts; `is_all`: the run found all matches. `without`: groups that are left out."""
        numbers = self._numbers_by_group()
        for group in without:
            numbers.pop(group, None)
        top = first_groups(numbers, self._ask.top, is_rarest_first=self._ask.rarest)
        return CountAnswer(
            by=self._ask.by,
            values=tuple(self._value(group) for group in top),
            others=len(numbers) - len(top),
            exact=is_all and self._is_exact,
            counted=self._counted,
        )

    def _value(self, group: _Group) -> CountedValue:
        cell = self._cells[group] if len(self._fields) > 1 else _Cell(self._counts[group])
        value = CountedValue(values=group, count=cell.count)
        if self._distinct is not None:
            value.distinct = len(cell.distinct or ())
        numbers = cell.numbers
        if numbers is not None and numbers.number:
            value.sum = _plain(numbers.total)
            value.least, value.most = map(_plain, (numbers.least, numbers.most))
            value.average = float(numbers.total / numbers.number)
        return value


def first_groups(numbers: dict[_Group, int], most: int, *, is_rarest_first: bool) -> list[_Group]:
    """The first groups by their numbers; those with equal numbers in the order of their texts.

    Cost: 0.2 s for 500,000 groups, also if all have one number: the time of a search may be up.
    """
    choose = nsmallest if is_rarest_first else nlargest
    ends = choose(most, numbers.values())
    if not ends:
        return []
    last = ends[-1]
    others = ends.index(last)
    firsts = [
        group
        for group, number in numbers.items()
        if (number < last if is_rarest_first else number > last)
    ]
    firsts.sort(key=lambda group: (numbers[group] if is_rarest_first else -numbers[group], group))
    equal = (group for group, number in numbers.items() if number == last)
    return [*firsts, *nsmallest(len(ends) - others, equal)]


def _plain(number: Decimal | None) -> float:
    number = number or Decimal(0)
    is_whole = abs(number) < _WHOLE_MAX and number == number.to_integral_value()
    return int(number) if is_whole else float(number)


class Tallies:
    """All that one search counts by groups."""

    def __init__(
        self, asked: Sequence[AskCount], *, leaf_cache: LeafCache, is_over: Callable[[], bool]
    ) -> None:
        """Raises: MalformedError for a field that can't be counted."""
        self._asked = asked
        tallies = len(asked) + sum(ask.new_since is not None for ask in asked)
        most = min(CELLS_MAX, ALL_CELLS_MAX // max(1, tallies))
        self._make = partial(Tally, leaf_cache=leaf_cache, is_over=is_over, cells_max=most)
        self._tallies = [self._make(ask) for ask in asked]
        self._before: dict[int, Tally] = {}

    def before(self, now_unix_us: int) -> Iterator[tuple[Expression, Tally]]:
        """The times since which groups are new: events before them, and what counts these."""
        for place, ask in enumerate(self._asked):
            if ask.new_since is not None:
                since = read_since(ask.new_since, now_unix_us)
                tally = self._before[place] = self._make(structs.replace(ask, distinct=None))
                yield Between("time", None, since), tally

    def add(self, window: Window, members: BitMap) -> None:
        """Count the matches of a window."""
        for tally in self._tallies:
            tally.add(window, members)

    def answers(self, *, is_all: bool) -> tuple[CountAnswer, ...]:
        """The counts; `is_all`: the run found all matches."""
        found = []
        for place, tally in enumerate(self._tallies):
            old = self._before.get(place)
            is_known = old is None or old.is_exact
            found.append(
                tally.answer(is_all=is_all and is_known, without=old.groups if old else ())
            )
        return tuple(found)
