"""Every value of a field with its count, one after another, in constant memory.

The terms of a segment are sorted, so those of all segments are merged as they are read: what is
held is one block of each segment, and the matches as bitmaps. Values come in the order of their
terms, not of their counts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Final, TypeAlias

from pyroaring import BitMap

from ledger.query import plan_nodes as plan
from ledger.query.evaluator import Window
from ledger.query.facets import flags_of
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import FORM_ARRAY, assemble, from_little_endian
from ledger.store.index.segment_file import DamagedSegmentError
from ledger_core.query.analyzer import ABSENT, MORE
from ledger_core.query.counting import CountField

_ROWS_AT_ONCE = 256
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
        find: Callable[[], Found],
        *,
        leaf_cache: LeafCache,
        check: Callable[[], None],
        set_aside: Callable[[DamagedSegmentError], None],
    ) -> None:
        """`check` is called before each piece of work, and may raise."""
        self._by = by
        self._find = find
        self._leaf_cache = leaf_cache
        self._check = check
        self._set_aside = set_aside
        self.total = 0
        self.is_exact = True

    def __iter__(self) -> Iterator[tuple[str, int]]:
        named = ((self._by.value_of(term), count) for term, count in self._terms())
        for value, some in groupby(named, itemgetter(0)):
            if value is not None:
                yield value, sum(count for _, count in some)

    def _terms(self) -> _Counted:
        """The terms; after a damaged segment, which is read as rows then, those that are left."""
        after: str | None = None
        while True:
            try:
                found = self._find()
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
    return any(window.evaluate(more).must & members for window, members in found.windows)


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
    runs = window.postings(by.dimension, segment, prefix=by.prefix)
    counted = _counts(runs, offsets, window.entries_in(segment), by, check)
    return counted if window.is_sealed(segment) else _sorted(counted)


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
                yield term, count


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
        if leaves:
            terms = SegmentTerms()
            terms.add(leaves)
            everything = BitMap(range(len(leaves)))
            yield from _counts([terms.postings(by.dimension)], everything, len(leaves), by, check)
