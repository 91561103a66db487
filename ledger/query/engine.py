"""Answers queries on one log: rows, totals, facets, histograms and cursors.

    expression ──> ids resolved ──> plan ──> run ──> rows, total, facets, histogram, cursor

A query sees every entry below one tree size, by default the durable one, so it sees every entry
that was acknowledged before it came. The tenant of a bound token is a conjunct of the expression
from the first step on, so rows, totals, facets, histograms and bounds cover its entries alone.

All methods are safe from any thread. They take from a tenth of a millisecond up to the limits.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from pyroaring import BitMap

from ledger.query.answer import Answer, IndexStatus, Row
from ledger.query.batches import batches_by_index, batches_by_time
from ledger.query.budget import NO_LIMITS, ROW_LIMITS, Budget, IsCancelled, QueryLimits
from ledger.query.cursor import Cursor, first_cursor
from ledger.query.evaluator import WINDOW_SEGMENTS, Window
from ledger.query.event_times import EventTimes, ReadTimes
from ledger.query.executor import PageRun, QueryScope
from ledger.query.explain import explain
from ledger.query.facets import FacetCounter
from ledger.query.leaf_cache import LeafCache
from ledger.query.open_segments import OpenSegments
from ledger.query.plan import make_plan, span_of
from ledger.query.plan_nodes import Span
from ledger.query.resolve_ids import IdResolver
from ledger.query.segment_builder import first_whole
from ledger.query.tallies import Tallies
from ledger.query.time_run import TimeRun, make_run
from ledger.query.value_stream import Found, ValueStream, find_in_pieces
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.index_store import Index
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import DamagedSegmentError
from ledger.store.stored_log import DamagedBundleError, StoredLog
from ledger_core.asking import AskCount
from ledger_core.query.ast import EVERYTHING, Expression, Is, all_of, format_query, resolve
from ledger_core.query.counting import CountField, Unit
from ledger_core.query.order import Order
from ledger_core.query.predicate import Matcher, make_matcher
from ledger_core.tlog.tile import TILE_WIDTH

T = TypeVar("T")

ROWS_MAX: Final = 1000
DEFAULT_LIMITS: Final = QueryLimits()


class QueryEngine:
    """Answers queries on one log, with its index where there is one."""

    def __init__(
        self,
        log: StoredLog,
        index: Index | None,
        *,
        segment_entries: int = SEGMENT_ENTRIES_MAX,
        window_segments: int = WINDOW_SEGMENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._index = index
        self._segment_entries = segment_entries
        self._window_segments = window_segments
        self._clock = clock
        self._leaf_cache = LeafCache(log)
        self._time_export_cache = LeafCache(log)
        self._open_segments = OpenSegments(log, self._leaf_cache, segment_entries=segment_entries)
        self._read_times = ReadTimes(self._leaf_cache, segment_entries)

    def search(
        self,
        query: Expression,
        *,
        tenant: str | None,
        now_unix_us: int,
        limit: int = 100,
        order: Order = "newest",
        cursor: str | None = None,
        facets: Sequence[str] = (),
        histogram: Unit | None = None,
        zone: ZoneInfo | None = None,
        counts: Sequence[AskCount] = (),
        is_counted: bool = True,
        tree_size: int | None = None,
        is_filled: bool = False,
        limits: QueryLimits = DEFAULT_LIMITS,
        is_cancelled: IsCancelled = lambda: False,
    ) -> Answer:
        """One page of matches.

        `tenant`: that of a bound token, None for a token that sees all. `cursor`: from the previous
        answer to the same query, order and tenant. `limit` 0 gives counts alone. `counts`: groups
        to count. `is_filled`: the histogram, in a `zone`, has its empty buckets. Unless
        `is_counted`, the run ends when the page is full, and the total is a lower bound.
        `tree_size`: the tree to search, by default the durable one; a cursor has its own.
        Raises: CursorError; ValueError for a limit out of range; QueryCancelledError;
        TimesUnknownError.
        """
        if not 0 <= limit <= ROWS_MAX:
            raise ValueError(f"a page has 0 to {ROWS_MAX} rows, not {limit}")
        text = format_query(query)
        durable = self.tree_size()
        if cursor is None:
            begun = first_cursor(
                order, durable if tree_size is None else min(tree_size, durable), now_unix_us
            )
        else:
            begun = Cursor.parse(cursor, query=text, tenant=tenant)
            begun.check(order, durable)
        size, now_unix_us = begun.tree_size, begun.now_unix_us
        budget = Budget(limits, self._clock, is_cancelled)
        has_counts = bool(facets or histogram or counts)

        def run_page() -> tuple[PageRun | TimeRun, FacetCounter, Tallies]:
            counter = FacetCounter(
                facets,
                histogram,
                zone=zone,
                is_filled=is_filled,
                leaf_cache=self._leaf_cache,
                is_over=budget.is_over,
            )
            tallies = Tallies(counts, leaf_cache=self._leaf_cache, is_over=budget.is_over)

            def count(window: Window, members: BitMap) -> None:
                counter.add(window, members)
                tallies.add(window, members)

            for since, before in tallies.before(now_unix_us):
                earlier = all_of((query, since))
                with self._scope(earlier, tenant, now_unix_us, size, budget) as scope:
                    earlier_run = PageRun(scope, order="newest", position=size, limit=0)
                    earlier_run.run(is_counted=True, on_found=before.add)
                    before.is_all = earlier_run.total_exact
            with self._scope(query, tenant, now_unix_us, size, budget) as scope:
                run = make_run(scope, self._event_times, order, begun.position, limit)
                run.run(
                    is_counted=has_counts or (is_counted and begun.total is None),
                    is_estimated=limit > 0 and not has_counts,
                    on_found=count,
                )
            return run, counter, tallies

        run, counter, tallies = self._reading_index(run_page)
        unreadable = tuple(error.bundle for error in self._damaged_in(run.span))
        total, is_exact = run.total, run.total_exact and not unreadable
        if begun.total is not None and not has_counts:
            total = max(begun.total, begun.passed + run.passed)
            is_exact = begun.is_total_exact and not unreadable
        if is_counted or has_counts or begun.total is not None:
            begun = replace(begun, total=total, is_total_exact=is_exact)
        following = begun.behind(run.next_position, run.passed) if limit else None
        next_cursor = None if following is None else following.format(query=text, tenant=tenant)
        return Answer(
            rows=tuple(map(Row, run.indices, run.leaves)),
            tree_size=size,
            total=total,
            total_exact=is_exact,
            scanned=budget.scanned,
            complete=not budget.is_spent and not unreadable,
            unreadable=unreadable,
            cursor=next_cursor,
            facets=counter.facets(is_all=is_exact),
            histogram=counter.histogram(is_all=is_exact),
            counts=tallies.answers(is_all=is_exact),
        )

    def _event_times(self, scope: QueryScope) -> EventTimes:
        is_open = any(segment not in scope.sealed for segment in scope.segments)
        return EventTimes(
            scope.snapshot,
            scope.read_open_terms() if is_open else {},
            partial(self._read_times.times, end=scope.tree_size, check=scope.budget.check),
        )

    def count_terms(
        self,
        dimensions: Sequence[str],
        *,
        tenant: str | None,
        limits: QueryLimits = DEFAULT_LIMITS,
        is_cancelled: IsCancelled = lambda: False,
    ) -> tuple[FacetCounter, bool]:
        """Counts the terms of dimensions in the newest events, as many as the time allows.

        Returns them, and whether all events were counted. Raises: QueryCancelledError.
        """
        budget = Budget(limits, self._clock, is_cancelled)
        tree_size = self.tree_size()

        def count() -> tuple[FacetCounter, bool]:
            counter = FacetCounter(
                dimensions, None, leaf_cache=self._leaf_cache, is_over=budget.is_over
            )
            with self._scope(EVERYTHING, tenant, 0, tree_size, budget) as scope:
                run = PageRun(scope, order="newest", position=tree_size, limit=0)
                run.run(is_counted=True, on_found=counter.add)
            return counter, run.total_exact and counter.is_exact

        return self._reading_index(count)

    def row_batches(
        self,
        query: Expression,
        *,
        tenant: str | None,
        now_unix_us: int,
        order: Order = "oldest",
        tree_size: int | None = None,
        is_cancelled: IsCancelled = lambda: False,
    ) -> Iterator[list[Row]]:
        """Every match below a tree size, by default the durable one, without limits: for exports.

        A batch is what one piece of work finds, so it may be empty. Memory stays constant, and no
        read transaction lasts longer than a piece. Raises: QueryCancelledError.
        """
        size = self.tree_size() if tree_size is None else tree_size
        budget = Budget(ROW_LIMITS, self._clock, is_cancelled)
        make_scope = partial(self._scope, query, tenant, now_unix_us, size, budget)
        if order in ("newest", "oldest"):
            return batches_by_index(self._log, make_scope, self._reading_index, order=order)
        return batches_by_time(
            self._time_export_cache, make_scope, self._event_times, self._set_aside, order=order
        )

    def value_stream(
        self,
        query: Expression,
        by: CountField,
        *,
        tenant: str | None,
        now_unix_us: int,
        tree_size: int | None = None,
        is_cancelled: IsCancelled = lambda: False,
    ) -> ValueStream:
        """Every value of a field among the matches below a tree size, without limits.

        The size is by default the durable one. Reading it raises: QueryCancelledError.
        """
        size = self.tree_size() if tree_size is None else tree_size
        budget = Budget(NO_LIMITS, self._clock, is_cancelled)

        make_scope = partial(self._scope, query, tenant, now_unix_us, size, budget)

        def find(found: Found) -> Iterator[None]:
            yield from find_in_pieces(make_scope, budget, found)
            with make_scope() as scope:
                span = scope.span
            found.is_exact = not self._damaged_in(span)

        return ValueStream(
            by,
            find,
            leaf_cache=self._leaf_cache,
            check=budget.check,
            set_aside=self._set_aside,
        )

    def matcher(self, query: Expression, *, tenant: str | None, now_unix_us: int) -> Matcher:
        """A test of one entry by index and leaf, without the index: for the live stream."""
        return make_matcher(resolve(_scoped(query, tenant), now_unix_us))

    def explain(
        self,
        query: Expression,
        *,
        tenant: str | None,
        now_unix_us: int,
        limits: QueryLimits = DEFAULT_LIMITS,
        is_cancelled: IsCancelled = lambda: False,
    ) -> str:
        """The plan of a query with the number of entries at each of its steps."""
        budget = Budget(limits, self._clock, is_cancelled)
        size = self.tree_size()

        def run() -> str:
            with self._scope(query, tenant, now_unix_us, size, budget) as scope:
                return explain(scope, query=format_query(_scoped(query, tenant)))

        return self._reading_index(run)

    @property
    def minimum_index(self) -> int:
        """The first entry that a query can find: those before it were pruned."""
        return self._log.minimum_index

    def tree_size(self) -> int:
        """The durable tree size: the number of entries that a query sees."""
        return self._log.head().tree_size

    def status(self) -> IndexStatus:
        """The part of the log that the index on disk covers."""
        tree_size, entries = self.tree_size(), self._segment_entries
        with self._snapshot() as snapshot:
            health = None if self._index is None else self._index.health()
            return IndexStatus(
                tree_size=tree_size,
                segment_entries=entries,
                sealed_segments=0 if snapshot is None else len(snapshot.records),
                full_segments=len(range(first_whole(self._log, entries), tree_size // entries)),
                is_current=health is not None and not health.stale,
                damaged_segments=() if health is None else tuple(sorted(health.damaged)),
                unreadable=tuple(map(str, self._log.damaged_bundles())),
                failure="" if health is None else health.failure,
            )

    def advance(self, entries_max: int) -> bool:
        """Index up to `entries_max` new entries in memory; return whether there are more.

        Queries index what they need themselves; calling this beforehand saves them the time.
        """
        with self._snapshot() as snapshot:
            sealed: Container[int] = () if snapshot is None else snapshot.records
        return self._open_segments.advance(sealed=sealed, entries_max=entries_max)

    def _damaged_in(self, span: Span) -> list[DamagedBundleError]:
        """The bundles of a span that are known to be damaged."""
        first, end = span.start // TILE_WIDTH, -(-span.end // TILE_WIDTH)
        return [each for each in self._log.damaged_bundles() if first <= each.bundle < end]

    def _reading_index(self, work: Callable[[], T]) -> T:
        """Run `work`, and again after each damaged segment, which is set aside.

        The entries of a segment without an index are read as rows, within the same budget.
        """
        while True:
            try:
                return work()
            except DamagedSegmentError as error:
                self._set_aside(error)

    def _set_aside(self, error: DamagedSegmentError) -> None:
        if self._index is None:
            raise error
        self._index.set_aside(error)

    @contextmanager
    def _snapshot(self) -> Iterator[IndexSnapshot | None]:
        """The index as it is now; None when this code cannot use it."""
        if self._index is None:
            yield None
            return
        with self._index.snapshot() as snapshot:
            yield snapshot if snapshot.segment_entries == self._segment_entries else None

    @contextmanager
    def _scope(
        self,
        query: Expression,
        tenant: str | None,
        now_unix_us: int,
        tree_size: int,
        budget: Budget,
    ) -> Iterator[QueryScope]:
        expression = resolve(_scoped(query, tenant), now_unix_us)
        with self._snapshot() as snapshot:
            records: Mapping[int, SegmentRecord] = {} if snapshot is None else snapshot.records
            resolver = IdResolver(
                log=self._log,
                leaf_cache=self._leaf_cache,
                tree_size=tree_size,
                records=records,
                segment_entries=self._segment_entries,
            )
            resolved = resolver.resolve(expression)
            read_open_terms = partial(
                self._open_segments.snapshot,
                tree_size=tree_size,
                sealed=records,
                check=budget.check,
                leaf_bytes_max=budget.limits.leaf_bytes_indexed,
            )
            node = make_plan(resolved)
            yield QueryScope(
                node=node,
                matches=make_matcher(resolved),
                span=span_of(node, tree_size).behind(self._log.minimum_index),
                tree_size=tree_size,
                segment_entries=self._segment_entries,
                window_segments=self._window_segments,
                snapshot=snapshot,
                read_open_terms=cache(read_open_terms),
                leaf_cache=self._leaf_cache,
                budget=budget,
            )


def _scoped(query: Expression, tenant: str | None) -> Expression:
    return query if tenant is None else all_of((Is("tenant", tenant), query))
