"""The work of searches, of pivots, and of the table of fields: answers as JSON."""

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

from msgspec import structs
from msgspec.json import encode as encode_json

from ledger.query.answer import Answer
from ledger.query.budget import IsCancelled, QueryLimits
from ledger.query.catalog import CATALOG_TIME_S, read_catalog
from ledger.query.hints import HINTS_TIME_S, find_hints
from ledger.query.log_view import EngineView
from ledger.service.queries.found_event import make_found_event
from ledger.service.queries.job import QueryJob
from ledger.service.queries.saved import read_asked
from ledger.service.queries.store_proofs import prove_growth, prove_inclusion
from ledger.store.stored_log import StoredLog
from ledger_core.asking import AskCount
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import Expression, format_query, resolve
from ledger_core.query.counting import Unit
from ledger_core.query.order import Order
from ledger_core.search_answers import Hint, SearchAnswer, SeenAnswer
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError

LIMIT_DEFAULT: Final = 100

Because = Callable[[bytes], tuple[str, ...]]
"""Names the relations by which a pivot found a leaf. It can be pickled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The part of an answer that is asked for, and what it holds beside the events."""

    limit: int = LIMIT_DEFAULT
    cursor: str | None = None
    order: Order = "newest"
    proof: bool = False
    from_size: int | None = None
    facets: tuple[str, ...] = ()
    histogram: Unit | None = None
    zone: ZoneInfo | None = None
    is_filled: bool = False
    counts: tuple[AskCount, ...] = ()
    explain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A search: the query, or its text if that may be long, who asks, and what was published."""

    query: Expression | str
    page: Page
    tenant: str | None
    now_unix_us: int
    published_size: int | None
    quorum_missing: str | None
    because: Because | None = None

    @property
    def tree_size(self) -> int | None:
        """The tree that is searched, where that isn't the durable one.

        Nothing newer can be proven until the witnesses are back: no wait would help.
        """
        page = self.page
        is_old = page.proof and page.cursor is None and self.quorum_missing is not None
        return self.published_size if is_old else None


class _Bounds(TypedDict):
    """The bounds of every search: tenant, time, limits and cancellation."""

    tenant: str | None
    now_unix_us: int
    limits: QueryLimits
    is_cancelled: IsCancelled


class Needed(NamedTuple):
    """The size that a head must have to prove a page, 0 for none, and the events of the page."""

    tree_size: int
    rows: int


def search(job: QueryJob, asked: Searched) -> bytes:
    """Work: a page of what a query finds, without proofs."""
    started_s = time.perf_counter()
    return _encode(_find(job, asked), started_s)


def search_counted(job: QueryJob, asked: Searched) -> Generator[int | bytes, None, None]:
    """Work: the same, behind the number of its events."""
    started_s = time.perf_counter()
    answer = _find(job, asked)
    yield len(answer.events)
    yield _encode(answer, started_s)


def search_proven(
    job: QueryJob, asked: Searched
) -> Generator[Needed | bytes, SignedCheckpoint | None, None]:
    """Work: the same with proofs, against one head.

    First gives what is needed. It is sent the head then, and gives the answer.
    """
    started_s = time.perf_counter()
    answer = _find(job, asked)
    needed = max((event.index + 1 for event in answer.events), default=0)
    size = max(needed, asked.page.from_size or 0) if needed else 0
    head = yield Needed(size, len(answer.events))
    if head is not None:
        for event in answer.events:
            job.check()
            event.proof = prove_inclusion(job.store, leaf_index=event.index, head=head)
        answer.consistency = prove_growth(job.store, asked.page.from_size, head)
    yield _encode(answer, started_s)


def find_seen(
    job: QueryJob,
    source: str,
    query: Expression,
    *,
    tenant: str | None,
    now_unix_us: int,
    tree_size: int | None,
    quorum_missing: str | None,
) -> bytes:
    """Work: the first and the last event from an address or a network.

    With `quorum_missing`, of the published tree: without its proof no client could use a newer one.
    """
    tree_size = None if quorum_missing is None else tree_size
    find = partial(
        job.engine.search,
        query,
        tenant=tenant,
        now_unix_us=now_unix_us,
        limit=1,
        limits=job.limits,
        is_cancelled=job.is_cancelled,
    )
    last = find(order="time-newest", facets=("action",), tree_size=tree_size)
    first = find(order="time", is_counted=False, tree_size=last.tree_size)
    answer = seen_answer(source, first=first, last=last)
    if tree_size is not None:
        answer.unpublished = max(0, job.engine.tree_size() - tree_size)
        answer.quorum_missing = quorum_missing
    return encode_json(answer)


def seen_answer(source: str, *, first: Answer, last: Answer) -> SeenAnswer:
    """The answer of two searches, of which the last has the counts."""
    # A limit may have kept either search from its event; then the counts promise nothing.
    is_exact = last.total_exact and (not last.total or bool(first.rows and last.rows))
    actions = last.facets[0]
    return SeenAnswer(
        source=source,
        tree_size=last.tree_size,
        total=last.total,
        total_exact=is_exact,
        actions=structs.replace(actions, is_exact=actions.is_exact and is_exact),
        first=make_found_event(first.rows[0]) if first.rows else None,
        last=make_found_event(last.rows[0]) if last.rows else None,
    )


def find_fields(job: QueryJob, *, tenant: str | None, now_unix_us: int) -> bytes:
    """Work: the fields of the language and the keys of the context, with frequent values."""
    end_s = time.monotonic() + min(CATALOG_TIME_S, job.limits.time_s)
    view = EngineView(job.engine, tenant, now_unix_us, end_s, job.is_cancelled)
    return encode_json(read_catalog(view))


def _find(job: QueryJob, asked: Searched) -> SearchAnswer:
    """The answer without proofs. Raises: QueryError for a text that is no query."""
    page, tree_size = asked.page, asked.tree_size
    query = read_asked(job, asked.query, tenant=asked.tenant)
    bounds: _Bounds = {
        "tenant": asked.tenant,
        "now_unix_us": asked.now_unix_us,
        "limits": job.limits,
        "is_cancelled": job.is_cancelled,
    }
    found = job.engine.search(
        query,
        limit=page.limit,
        order=page.order,
        cursor=page.cursor,
        facets=page.facets,
        histogram=page.histogram,
        zone=page.zone,
        is_filled=page.is_filled,
        counts=page.counts,
        tree_size=tree_size,
        **bounds,
    )
    answer = _answer(query, found, asked.because, order=page.order)
    answer.minimum_index = job.store.minimum_index
    if tree_size is not None:
        answer.unpublished = max(0, job.engine.tree_size() - tree_size)
        answer.quorum_missing = asked.quorum_missing
    if not found.total and page.cursor is None:
        answer.hints = _hints(job, query, found, bounds, asked.published_size)
    if page.explain:
        answer.explanation = job.engine.explain(query, **bounds)
    return answer


def _hints(
    job: QueryJob, query: Expression, found: Answer, bounds: _Bounds, published_size: int | None
) -> tuple[Hint, ...]:
    """Why a search found nothing, and what was searched."""
    view = EngineView(
        job.engine,
        bounds["tenant"],
        bounds["now_unix_us"],
        time.monotonic() + min(HINTS_TIME_S, bounds["limits"].time_s),
        bounds["is_cancelled"],
        found.tree_size,
    )
    status = job.engine.status()
    text = f"the {found.tree_size:,} entries of the log were searched"
    if not found.complete:
        text = f"a part of the {found.tree_size:,} entries of the log was searched"
    received = view.last_received()
    if received:
        text += f", the newest event received {received}"
    text += (
        f"; the index holds {status.sealed_segments:,} of {status.full_segments:,} full segments"
    )
    if published_size is not None:
        text += f"; the published head has size {published_size:,}"
    searched = Hint(kind="searched", text=text)
    hints = find_hints(resolve(query, bounds["now_unix_us"]), view)
    return (*_pruned(job.store), *hints, searched)


def _pruned(store: StoredLog) -> tuple[Hint, ...]:
    """That entries were pruned, which a search can't find, and until when they were received."""
    if store.pruning is None:
        return ()
    minimum_index, event_index = store.pruning
    before, since = _received(store, minimum_index), _received(store, event_index)
    text = (
        f"the entries below index {minimum_index:,}"
        f"{f', received before {before},' if before else ''} were pruned under the retention policy"
        f" and can't be found any more: the event at index {event_index:,}"
        f"{f' of {since}' if since else ''} says why"
    )
    return (Hint(kind="pruned", text=text),)


def _received(store: StoredLog, leaf_index: int) -> str:
    """When an entry was received; nothing for one that is damaged."""
    with suppress(UnavailableError, MalformedError):
        if (leaf := store.leaf(leaf_index)) is not None:
            return decode_view(leaf).received.time
    return ""


def _answer(
    query: Expression, found: Answer, because: Because | None, *, order: Order
) -> SearchAnswer:
    return SearchAnswer(
        query=format_query(query),
        order=order,
        tree_size=found.tree_size,
        total=found.total,
        total_exact=found.total_exact,
        scanned=found.scanned,
        complete=found.complete,
        unreadable=found.unreadable,
        took_ms=0.0,
        events=tuple(
            make_found_event(row, because=() if because is None else because(row.leaf))
            for row in found.rows
        ),
        cursor=found.cursor,
        facets=found.facets,
        histogram=found.histogram,
        counts=found.counts,
    )


def _encode(answer: SearchAnswer, started_s: float) -> bytes:
    answer.took_ms = round((time.perf_counter() - started_s) * 1000, 3)
    return encode_json(answer)
