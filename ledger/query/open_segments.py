"""The end of the log, indexed in memory: the segments that the index on disk does not hold yet.

Open segments follow the log by reading it; the writer does not know of them. An acknowledged entry
is durable, and a durable entry can be read, so a query that indexes up to the durable size first
sees all that was acknowledged. After a start the last entries are read again, by the index follower
or by the first query.

A segment is held in slices of consecutive entries, and a slice never changes. A query reads the
slices that it got, so it holds no lock, and no other query waits for it. Only indexing takes the
lock, for `STEP_ENTRIES` at a time.

A query indexes `LEAF_BYTES_INDEXED` at most, and waits no longer for the lock. The entries after
these are in a last slice that holds nothing (`_unread_terms`), so that rows decide. After a start,
or while somebody appends entries of thousands of words, to index them all may take minutes; to look
for a value in the bytes of one takes microseconds (`leaf_filter`).

Every step adds a slice, and a look-up reads all of them, so eight small neighbours become one. Very
small ones are joined at once; larger ones by the index follower, some entries at a time and without
the lock. Weak: joining indexes the entries again, up to five times each.

One client can send entries whose terms take gigabytes. So a slice ends after `SLICE_BYTES`, and
what a segment holds is counted in bytes, by dimension. Beyond `TEXT_BYTES_MAX` the slices that
follow hold hashes in place of the texts of the dimensions that took most, and
beyond `HASH_BYTES_MAX` not even these (`hashed_terms`): then rows decide. Answers stay right, the
memory of a segment has a limit, and dimensions with few values, such as tenants, are held as ever.
"""

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import groupby, takewhile
from math import inf
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from ledger.query.budget import LEAF_BYTES_INDEXED
from ledger.query.hashed_terms import NOTHING_LEFT_OUT, LeftOut, all_but
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_terms import SegmentTerms, split_leaves
from ledger.query.term_sources import HASHABLE
from ledger.store.log import UNREADABLE
from ledger.store.stored_log import StoredLog
from ledger_core.tlog.tile import TILE_WIDTH

OpenTerms: TypeAlias = Mapping[int, Sequence[SegmentTerms]]
"""The slices of each segment, in order."""

SEGMENTS_MAX: Final = 2
"""Kept in memory, 50 MB each: the segment that grows, and the one that is being sealed. With the
rest of the one of which the first entries were pruned they are three. With
hostile entries it is `TEXT_BYTES_MAX`, `HASH_BYTES_MAX` and a few slices more, as counted."""

TEXT_BYTES_MAX: Final = 128 << 20
"""A segment of ordinary entries has 75 MB, as they are counted: twice what they take."""

HASH_BYTES_MAX: Final = 48 << 20
SMALL_BYTES: Final = 1 << 20
"""A dimension of a segment that took no more is never left out."""

STEP_ENTRIES: Final = 1024
SLICES_JOINED: Final = 8
TIER_ENTRIES: Final = (8, 64, 512, 4096, 32_768)
TIERS_JOINED_AT_ONCE: Final = 2

SLICE_BYTES: Final = 8 << 20
JOINED_BYTES_MAX: Final = SLICE_BYTES // 2
"""A slice that takes more is not joined with others: the two kinds would be held together."""

JOINED_LEAF_BYTES_MAX: Final = 4 << 20
"""Nor is one with more bytes of leaves, unless they are short: reading them again costs time."""

_SHORT_LEAF_BYTES = 4096
_LOCK_POLL_S = 0.05
_LOCK_POLLS_MAX = 2


_EVERY_TIME = ("", "~")
_ALL_LEFT_OUT = all_but(())


class _Join(NamedTuple):
    """Slices of a segment that become one, and their entries so far."""

    segment: int
    slices: tuple[SegmentTerms, ...]
    terms: SegmentTerms


class OpenSegments:
    """The terms of the last segments. Safe from any thread."""

    def __init__(self, log: StoredLog, leaf_cache: LeafCache, *, segment_entries: int) -> None:
        self._log = log
        self._leaf_cache = leaf_cache
        self._segment_entries = segment_entries
        self._lock = threading.Lock()
        # Replaced as a whole under the lock, never changed.
        self._segments: Mapping[int, tuple[SegmentTerms, ...]] = {}
        self._join: _Join | None = None
        self._join_lock = threading.Lock()

    def snapshot(
        self,
        *,
        tree_size: int,
        sealed: Container[int],
        check: Callable[[], None],
        leaf_bytes_max: float = inf,
    ) -> OpenTerms:
        """The terms of the last unsealed segments, up to `tree_size` at least.

        Of entries that are not indexed yet, those beyond `leaf_bytes_max` have `_unread_terms`.
        Cost: 5 µs for each entry that is indexed. Raises: what `check` raises, which is called
        between the steps.
        """
        left = leaf_bytes_max
        while True:
            segments = self._segments
            wanted = self._wanted(tree_size, sealed)
            if self._missing(segments, wanted, tree_size) is None:
                return {segment: segments[segment] for segment in wanted}
            if left <= 0:
                return self._with_unread(segments, wanted, tree_size)
            check()
            if self._lock.acquire(timeout=_LOCK_POLL_S):
                try:
                    left -= self._index_step(tree_size, wanted, STEP_ENTRIES, left)
                finally:
                    self._lock.release()
            else:
                # Another thread indexes, also for this query.
                left -= LEAF_BYTES_INDEXED / _LOCK_POLLS_MAX

    def advance(self, *, sealed: Container[int], entries_max: int) -> bool:
        """Index or join up to `entries_max` entries; return whether there is more to do."""
        tree_size = self._log.head().tree_size
        wanted = self._wanted(tree_size, sealed)
        with self._lock:
            self._index_step(tree_size, wanted, entries_max)
        if self._missing(self._segments, wanted, tree_size) is not None:
            return True
        if not self._join_lock.acquire(blocking=False):
            return False
        try:
            return self._join_step(entries_max)
        finally:
            self._join_lock.release()

    def _wanted(self, tree_size: int, sealed: Container[int]) -> list[int]:
        end = -(-tree_size // self._segment_entries)
        kept, pruned = divmod(self._log.minimum_index, self._segment_entries)
        first = max(kept, end - SEGMENTS_MAX)
        # The index on disk never holds the segment of which the first entries were pruned.
        rest = [kept] if pruned and kept < first else []
        return [segment for segment in (*range(first, end), *rest) if segment not in sealed]

    def _missing(
        self, segments: Mapping[int, Sequence[SegmentTerms]], wanted: Sequence[int], tree_size: int
    ) -> tuple[int, range] | None:
        """The first wanted segment with entries that are not indexed, and their offsets."""
        for segment in wanted:
            slices = segments.get(segment)
            start = slices[-1].end if slices else 0
            end = min(self._segment_entries, tree_size - segment * self._segment_entries)
            if start < end:
                return segment, range(start, end)
        return None

    def _with_unread(
        self,
        segments: Mapping[int, tuple[SegmentTerms, ...]],
        wanted: Sequence[int],
        tree_size: int,
    ) -> OpenTerms:
        """The slices of the wanted segments, with one that holds nothing for what is missing."""
        found: dict[int, tuple[SegmentTerms, ...]] = {}
        for segment in wanted:
            slices = segments.get(segment, ())
            missing = self._missing(segments, (segment,), tree_size)
            found[segment] = slices if missing is None else (*slices, _unread_terms(missing[1]))
        return found

    def _index_step(
        self,
        tree_size: int,
        wanted: Sequence[int],
        entries_max: int,
        leaf_bytes_max: float = inf,
    ) -> int:
        """Index some missing entries. Returns the bytes of their leaves."""
        # A segment past the end stays: a reader with a later head made it.
        end = tree_size // self._segment_entries
        kept = {
            number: some
            for number, some in self._segments.items()
            if number in wanted or number > end
        }
        missing = self._missing(kept, wanted, tree_size)
        leaf_bytes = 0
        if missing is not None and entries_max > 0:
            segment, offsets = missing
            slices = kept.get(segment, ())
            left_out = _left_out(slices)
            small = list(takewhile(_is_joined_at_once, reversed(slices)))
            if len(small) < SLICES_JOINED or any(each.left_out != left_out for each in small):
                small = []
            terms = SegmentTerms(small[-1].start if small else offsets.start, left_out=left_out)
            end = min(offsets.stop, offsets.start + entries_max)
            self._extend(terms, segment, end, leaf_bytes_max)
            terms.freeze()
            leaf_bytes = terms.leaf_bytes
            kept[segment] = (*slices[: len(slices) - len(small)], terms)
        self._segments = kept
        return leaf_bytes

    def _join_step(self, entries_max: int) -> bool:
        """Begin to join slices, or go on; return whether there is more to do."""
        if self._join is None:
            self._join = self._find_join()
            return self._join is not None
        segment, slices, terms = self._join
        end = slices[-1].end
        self._extend(terms, segment, min(end, terms.end + entries_max))
        if terms.end < end:
            return True
        terms.freeze()
        self._join = None
        with self._lock:
            now = self._segments.get(segment, ())
            place = now.index(slices[0]) if slices[0] in now else len(now)
            if now[place : place + len(slices)] == slices:
                joined = (*now[:place], terms, *now[place + len(slices) :])
                self._segments = {**self._segments, segment: joined}
        return True

    def _find_join(self) -> _Join | None:
        """Neighbours that are due to be joined; an indexing step may still take the last ones."""
        for segment, slices in self._segments.items():
            last = len(slices)
            while last and _is_joined_at_once(slices[last - 1]):
                last -= 1
            for tier in range(TIERS_JOINED_AT_ONCE, len(TIER_ENTRIES)):
                kinds = [(_is_joined(each, tier), each.left_out) for each in slices[:last]]
                for kind, run in groupby(zip(kinds, slices, strict=False), itemgetter(0)):
                    found = tuple(terms for _, terms in run)
                    is_joined, left_out = kind
                    if is_joined and len(found) >= SLICES_JOINED:
                        return _Join(
                            segment, found, SegmentTerms(found[0].start, left_out=left_out)
                        )
        return None

    def _extend(
        self, terms: SegmentTerms, segment: int, end: int, leaf_bytes_max: float = inf
    ) -> None:
        """Add the entries up to the offset `end`, or fewer: for `SLICE_BYTES` and one part."""
        size_max = terms.size + SLICE_BYTES
        leaf_bytes_max = terms.leaf_bytes + min(leaf_bytes_max, SLICE_BYTES)
        base = segment * self._segment_entries
        first, last = (base + terms.end) // TILE_WIDTH, -(-(base + end) // TILE_WIDTH)
        self._log.expect(range(first, last))
        for start, stop in self._leaf_cache.parts(base + terms.end, base + end):
            try:
                for _, leaves in self._leaf_cache.bundles(start, stop):
                    for part in split_leaves(leaves):
                        terms.add(part)
                        if terms.size > size_max or terms.leaf_bytes > leaf_bytes_max:
                            return
            except UNREADABLE:
                # Queries that cover damaged entries say that they are not complete; none covers
                # pruned ones.
                terms.skip(stop - start)


def _unread_terms(offsets: range) -> SegmentTerms:
    """Terms of entries that are not indexed: every entry may have any term."""
    terms = SegmentTerms(offsets.start, left_out=_ALL_LEFT_OUT)
    terms.end = offsets.stop
    terms.times = _EVERY_TIME
    terms.freeze()
    return terms


def _left_out(slices: Sequence[SegmentTerms]) -> LeftOut:
    """What the next slice of a segment leaves out. What was left out once stays so."""
    before = slices[-1].left_out if slices else NOTHING_LEFT_OUT
    if sum(terms.size for terms in slices) <= min(TEXT_BYTES_MAX, HASH_BYTES_MAX):
        return before
    text_sizes = _total(terms.text_sizes() for terms in slices)
    hashable = {name: size for name, size in text_sizes.items() if name in HASHABLE}
    hash_sizes = _total(terms.hash_sizes() for terms in slices)
    return LeftOut(
        before.hashed | _largest(hashable, before.hashed, TEXT_BYTES_MAX),
        before.unheld | _largest(hash_sizes, before.unheld, HASH_BYTES_MAX),
    )


def _total(sizes: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for some in sizes:
        total.update(some)
    return total


def _largest(sizes: Mapping[str, int], before: frozenset[str], bytes_max: int) -> frozenset[str]:
    """The dimensions to leave out from now on, besides those that were `before`.

    If all take too much, they are the largest that still grow, until the others take a quarter.
    """
    if sum(sizes.values()) <= bytes_max:
        return frozenset()
    growing = [
        (size, name) for name, size in sizes.items() if size > SMALL_BYTES and name not in before
    ]
    left = sum(size for size, _ in growing)
    found: set[str] = set()
    for size, name in sorted(growing, reverse=True):
        if left > bytes_max // 4:
            found.add(name)
            left -= size
    return frozenset(found)


def _tier(terms: SegmentTerms) -> int:
    return bisect_right(TIER_ENTRIES, terms.end - terms.start)


def _is_joined(terms: SegmentTerms, tier: int) -> bool:
    short_bytes = (terms.end - terms.start) * _SHORT_LEAF_BYTES
    return (
        _tier(terms) <= tier
        and terms.size <= JOINED_BYTES_MAX
        and terms.leaf_bytes <= max(JOINED_LEAF_BYTES_MAX, short_bytes)
    )


def _is_joined_at_once(terms: SegmentTerms) -> bool:
    """Whether it is so small that the step which indexes the next entries takes it along.

    Eight of them do not end that step before it has come to the next entries.
    """
    size = max(terms.size, terms.leaf_bytes)
    return _tier(terms) < TIERS_JOINED_AT_ONCE and size <= SLICE_BYTES // (2 * SLICES_JOINED)
