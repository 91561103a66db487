"""Every value of a field with its count, one after another, in constant memory.

The terms of a segment are sorted, so those of all segments are merged as they are read: what is
held is one block of each segment, and the matches as bitmaps. Values come in the order of their
terms, not of their counts.

It may take very long until the first value is found, or the next one, so it comes in pieces: a
query may leave each row of the log undecided, and test it for 100,000 conditions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Final, TypeAlias

from pyroaring import BitMap

from ledger.query import plan_nodes as plan
from ledger.query.batches import MakeScope
from ledger.query.budget import Budget
from ledger.query.evaluator import Window
from ledger.query.executor import find_matches
from ledger.query.facets import flags_of
from ledger.query.hashed_terms import all_but
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms, split_leaves
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import FORM_ARRAY, assemble, from_little_endian
from ledger.store.index.segment_file import DamagedSegmentError
from ledger_core.query.analyzer import ABSENT, MORE
from ledger_core.query.counting import CountField

PIECE_S: Final = 0.2
"""Seconds after which the search for the matches yields."""

_ROWS_AT_ONCE = 256
_SEGMENTS_AT_ONCE = 16
LIMITED: Final = ("context", "before", "after")
"""The dimensions of which an event has so many terms at most."""

_Counted: TypeAlias = Iterator[tuple[str, int]]


@dataclass(slots=True)
class Found:
    """The matches of a query, window by window."""

    windows: list[tuple[Window, BitMap]] = field(default_factory=list)
    total: int = 0
    is_exact: bool = True

    def add(self, window: Window, members: BitMap) -> None:
        """Add the matches of a window."""
        if members:
            self.windows.append((window, members))
            self.total += len(members)


class ValueStream:
    """The values of a field among the matches of a query, each with its number of matches.

    `total` and `is_exact` are right once all values were read.
    """

    def __init__(
        self,
        by: CountField,
        find: Callable[[Found], Iterator[None]],
        *,
        leaf_cache: LeafCache,
        check: Callable[[], None],
        set_aside: Callable[[DamagedSegmentError], None],
    ) -> None:
        """`find` adds the matches, and yields after each piece of that work. `check` is called
        before each piece of work, and may raise.
        """
        self._by = by
        self._find = find
        self._leaf_cache = leaf_cache
        self._check = check
        self._set_aside = set_aside
        self.total = 0
        self.is_exact = True

    def __iter__(self) -> Iterator[tuple[str, int] | None]:
        """The values; None after a piece of work that found none."""
        named = (
            (None, 0) if each is None else (self._by.value_of(each[0]), each[1])
            for each in self._terms()
        )
        for value, some in groupby(named, itemgetter(0)):
            if value is None:
                for _ in some:
                    yield None
                continue
            count = sum(count for _, count in some)
            yield (value, count) if count else None

    def _terms(self) -> Iterator[tuple[str, int] | None]:
        """The terms; after a damaged segment, which is read as rows then, those that are left."""
        after: str | None = None
        while True:
            try:
                found = Found()
                for _ in self._find(found):
                    yield None
                self.total = found.total
                self.is_exact = found.is_exact and not _has_more(found, self._by)
                for term, count in count_terms(
                    found, self._by, self._leaf_cache, self._check, after=after
                ):
                    yield term, count
                    after = term
            except DamagedSegmentError as error:
                self._set_aside(error)
            else:
                return


def count_terms(
    found: Found,
    by: CountField,
    leaf_cache: LeafCache,
    check: Callable[[], None],
    *,
    after: str | None,
) -> _Counted:
    """The terms of a field above `after`, ascending, each with its number of matches.

    One without matches stands for the work until there.
    `check` is called before each block and may raise. Raises: DamagedSegmentError.
    """
    parts = []
    for window, members in found.windows:
        for segment, offsets in window.by_segment(members):
            parts.append(_terms_of(window, segment, offsets, by, leaf_cache, check))
    for term, some in groupby(merge(*parts), itemgetter(0)):
        if after is None or term > after:
            yield term, sum(count for _, count in some)


def _has_more(found: Found, by: CountField) -> bool:
    """Whether a match has more values of its context than the index holds."""
    if by.dimension not in LIMITED:
        return False
    more = plan.Lookup((plan.Find(by.dimension, MORE),))
    # Candidates too: of entries that are left out in memory, a hash names these.
    return any(window.evaluate(more).may & members for window, members in found.windows)


def _terms_of(
    window: Window,
    segment: int,
    offsets: BitMap,
    by: CountField,
    leaf_cache: LeafCache,
    check: Callable[[], None],
) -> _Counted:
    if not window.is_indexed(segment):
        return _sorted(_of_rows(window.start_of(segment), offsets, by, leaf_cache, check))
    by_rows = offsets & window.left_out((by.dimension,), segment)
    if by_rows:
        rows = _of_rows(window.start_of(segment), by_rows, by, leaf_cache, check)
        rest = offsets - by_rows
        others = _terms_of_indexed(window, segment, rest, by, check) if rest else ()
        return _sorted(chain(others, rows))
    counted = _terms_of_indexed(window, segment, offsets, by, check)
    return counted if window.is_sealed(segment) else _sorted(counted)


def _terms_of_indexed(
    window: Window, segment: int, offsets: BitMap, by: CountField, check: Callable[[], None]
) -> _Counted:
    runs = window.postings(by.dimension, segment, prefix=by.prefix)
    return _counts(runs, offsets, window.entries_in(segment), by, check)


def find_in_pieces(make_scope: MakeScope, budget: Budget, found: Found) -> Iterator[None]:
    """Add all matches of a query, and yield after each piece of work, of some `PIECE_S` each.

    `budget` is that of the scopes. Raises: as its `check`, and DamagedSegmentError.
    """
    with make_scope() as scope:
        segments = scope.segments
    for part in budget.split(segments, "oldest", most=_SEGMENTS_AT_ONCE):
        with make_scope() as scope:
            window = scope.window(part)
            bounds = window.evaluate(scope.node)
        members = BitMap()
        within = window.span(scope.span.start, scope.span.end)
        while within:
            # One that got no processor in all its time is made again.
            piece = replace(scope, budget=budget.for_piece(PIECE_S))
            some = find_matches(piece, window, bounds, within, order="oldest")
            members |= some.members
            if some.unread_from is None:
                break
            within &= BitMap(range(some.unread_from, window.end))
            yield None
        found.add(window, members)
        yield None


def _sorted(counted: Iterable[tuple[str, int]]) -> _Counted:
    counts: Counter[str] = Counter()
    for term, count in counted:
        counts[term] += count
    return iter(sorted(counts.items()))


def _counts(
    runs: Iterable[Postings],
    offsets: BitMap,
    entries: int,
    by: CountField,
    check: Callable[[], None],
) -> _Counted:
    flags = None if len(offsets) == entries else flags_of(offsets)
    for postings in runs:
        check()
        has_matches = False
        for term, container in postings:
            if term == ABSENT or not term.startswith(by.prefix):
                continue
            if flags is None:
                count = container.cardinality
            elif container.form == FORM_ARRAY:
                count = sum(map(flags.__getitem__, from_little_endian(container.payload)))
            else:
                count = offsets.intersection_cardinality(assemble([(0, container)]))
            if count:
                has_matches = True
                yield term, count
        if not has_matches and postings.values and (last := postings.values[-1]) != ABSENT:
            yield last, 0


def _of_rows(
    start: int,
    offsets: BitMap,
    by: CountField,
    leaf_cache: LeafCache,
    check: Callable[[], None],
) -> _Counted:
    """The terms of entries that are not indexed, from their leaves."""
    indices = (start + offset for offset in offsets)
    while some := list(islice(indices, _ROWS_AT_ONCE)):
        check()
        leaves = [leaf for leaf in leaf_cache.readable(some) if leaf is not None]
        for part in split_leaves(leaves):
            terms = SegmentTerms(left_out=all_but((by.dimension,)))
            terms.add(part)
            everything = BitMap(range(len(part)))
            yield from _counts([terms.postings(by.dimension)], everything, len(part), by, check)
