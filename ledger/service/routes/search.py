"""Searches: `GET /v1/events?q=…`, and the pivots that a responder makes from an answer.

All of them run one kind of search and have one kind of answer. A token that is bound to a tenant
restricts every search to that tenant in the engine, whatever the text of the query says.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypedDict, TypeVar, Unpack
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web
from msgspec import Raw, structs
from msgspec.json import encode as encode_json

from ledger.query.answer import Answer
from ledger.query.budget import IsCancelled, QueryCancelledError, QueryLimits
from ledger.query.hints import HINTS_TIME_S, find_hints
from ledger.query.sight import EngineSight
from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.parameters import (
    EVENT_REF,
    QUERY,
    Parameter,
    flag_parameter,
    number_parameter,
)
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import check_media_type
from ledger.service.http.responses import JSON_MEDIA, encode_answer
from ledger.service.http.router import Route, Success
from ledger.service.query_pool import QueryClient
from ledger.service.routes.page_parameters import COUNTS, LIMIT_DEFAULT, PAGING, PROVING
from ledger.service.routes.proofs import (
    PROOF_PROBLEMS,
    check_from_size,
    prove_growth,
    prove_inclusion,
)
from ledger.service.stored_events import PRIVATE, find_event, make_found_event
from ledger.store.tokens import TokenRecord
from ledger_client.runtime.clock import unix_us
from ledger_core.api import HintAnswer, SearchAnswer, SeenAnswer
from ledger_core.asking import AskCount, AskSearch
from ledger_core.query.ast import Expression, format_query, resolve
from ledger_core.query.counting import Unit, parse_count_field, parse_zone, read_since
from ledger_core.query.order import Order
from ledger_core.query.parser import parse_query
from ledger_core.query.pivots import (
    around,
    around_reasons,
    from_source,
    timeline,
    timeline_roles,
)
from ledger_core.tlog.errors import MalformedError

MINUTES_DEFAULT: Final = 15
MINUTES_MAX: Final = 7 * 24 * 60

BODY_BYTES_MAX: Final = 2 << 20

LARGE_BYTES: Final = 256 * 1024
"""Leaves of an answer beyond which its events are encoded on a thread, one by one."""

T = TypeVar("T")

Because = Callable[[bytes], tuple[str, ...]]
"""Names the relations by which a pivot found a leaf."""


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


class SearchBounds(TypedDict):
    """The bounds of every search: tenant, time, limits and cancellation."""

    tenant: str | None
    now_unix_us: int
    limits: QueryLimits
    is_cancelled: IsCancelled


class PageArguments(TypedDict, total=False):
    """The parameters of every route that answers with a page."""

    limit: int
    cursor: str
    order: Order
    proof: bool
    from_size: int


class CountedPageArguments(PageArguments, total=False):
    """The parameters of a route whose page may have counts too."""

    facets: tuple[str, ...]
    histogram: Unit


async def search_events(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    q: str = "",
    explain: bool = False,
    **page: Unpack[CountedPageArguments],
) -> web.Response:
    """A page of the events that a query finds."""
    token = authenticate(context.access, request, "read")
    if explain and token.tenant is not None:
        raise ProblemError("wrong-tenant", "the steps of a plan count the events of every tenant")
    return await _search(context, request, token, parse_query(q), Page(explain=explain, **page))


async def ask_search(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """A page of the events that a query in the body finds, with counts by groups."""
    token = authenticate(context.access, request, "read")
    check_media_type(request.headers.get("Content-Type"), (JSON_MEDIA,))
    body = await context.read_body(request, owner=token.name, bytes_max=BODY_BYTES_MAX)
    try:
        ask = msgspec.json.decode(body, type=AskSearch)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("not-json", f"not a search: {str(error)[:200]}") from None
    asked = ask.histogram
    page = Page(
        limit=ask.limit,
        cursor=ask.cursor,
        order=ask.order,
        proof=ask.proof,
        from_size=ask.from_size,
        histogram=None if asked is None else asked.unit,
        zone=None if asked is None else _parsed("histogram.zone", parse_zone, asked.zone),
        is_filled=True,
        counts=ask.counts,
    )
    for place, count in enumerate(ask.counts):
        _check_count(f"counts.{place}", count)
    # A long query takes tenths of a second to read, for which the event loop has no time.
    client = context.query_pool.client(token.name, request)
    query = await client.run(partial(parse_query, ask.query, is_long=True))
    return await _search(context, request, token, query, page)


def _check_count(at: str, ask: AskCount) -> None:
    """Check the names of fields and the time before any work is done. Raises: ProblemError."""
    for name in filter(None, (*ask.by, ask.distinct, ask.numbers)):
        _parsed(at, parse_count_field, name)
    if ask.new_since is not None:
        _parsed(f"{at}.new_since", partial(read_since, now_unix_us=unix_us()), ask.new_since)


def _parsed(field: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except MalformedError as error:
        raise ProblemError("bad-parameter", str(error), field=field) from None


async def read_around(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    ref: str,
    minutes: int = MINUTES_DEFAULT,
    **page: Unpack[PageArguments],
) -> web.Response:
    """The events around an event that share its actor, session, source or target."""
    token = authenticate(context.access, request, "read")
    leaf = find_event(context, ref, tenant=token.tenant).leaf
    page.setdefault("order", "oldest")
    because = partial(around_reasons, leaf)
    query = around(leaf, minutes=minutes)
    return await _search(context, request, token, query, Page(**page), because)


async def read_timeline(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    actor: str,
    **page: Unpack[CountedPageArguments],
) -> web.Response:
    """The events that an actor caused, that were caused for it, and that concern it."""
    token = authenticate(context.access, request, "read")
    because = partial(timeline_roles, actor)
    return await _search(context, request, token, timeline(actor), Page(**page), because)


async def read_seen(
    context: ServiceContext, request: web.BaseRequest, *, source: str
) -> web.Response:
    """The first and the last event from an address or a network, by when they happened."""
    token = authenticate(context.access, request, "read")
    client = context.query_pool.client(token.name, request)
    search = partial(
        context.query_pool.engine.search,
        from_source(source),
        tenant=token.tenant,
        now_unix_us=unix_us(),
        limit=1,
        limits=context.query_pool.limits,
        is_cancelled=client.is_cancelled,
    )

    def find() -> SeenAnswer:
        last = search(order="time-newest", facets=("action",))
        first = search(order="time", is_counted=False, tree_size=last.tree_size)
        return seen_answer(source, first=first, last=last)

    return encode_answer(await client.run(find), cache=PRIVATE)


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
        actions=structs.replace(actions, exact=actions.exact and is_exact),
        first=make_found_event(first.rows[0]) if first.rows else None,
        last=make_found_event(last.rows[0]) if last.rows else None,
    )


async def _search(
    context: ServiceContext,
    request: web.BaseRequest,
    token: TokenRecord,
    query: Expression,
    page: Page,
    because: Because | None = None,
) -> web.Response:
    check_from_size(context, page.from_size, has_proof=page.proof)
    client, engine = context.query_pool.client(token.name, request), context.query_pool.engine
    bounds: SearchBounds = {
        "tenant": token.tenant,
        "now_unix_us": unix_us(),
        "limits": context.query_pool.limits,
        "is_cancelled": client.is_cancelled,
    }
    published, missing = context.publisher.published, context.publisher.quorum_missing
    tree_size = None
    if page.proof and page.cursor is None and published is not None and missing is not None:
        # Nothing newer can be proven until the witnesses are back: no wait would help.
        tree_size = published.head.tree_size

    def find() -> tuple[SearchAnswer, float]:
        started_s = time.perf_counter()
        found = engine.search(
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
        answer = _answer(query, found, because, order=page.order)
        if tree_size is not None:
            answer.unpublished = max(0, context.tree_size - tree_size)
            answer.quorum_missing = missing
        if not found.total and page.cursor is None:
            answer.hints = _hints(context, query, found, bounds)
        if page.explain:
            answer.explanation = engine.explain(query, **bounds)
        return answer, started_s

    answer, started_s = await client.run(find)
    if page.proof:
        await _prove(context, client, answer, from_size=page.from_size)
    if sum(len(event.leaf) for event in answer.events) > LARGE_BYTES:
        answer = await client.run(partial(encode_events, answer, client.is_cancelled))
    answer.took_ms = round((time.perf_counter() - started_s) * 1000, 3)
    return encode_answer(answer, cache=PRIVATE)


def _hints(
    context: ServiceContext, query: Expression, found: Answer, bounds: SearchBounds
) -> tuple[HintAnswer, ...]:
    """Why a search found nothing, and what was searched."""
    engine = context.query_pool.engine
    sight = EngineSight(
        engine,
        bounds["tenant"],
        bounds["now_unix_us"],
        time.monotonic() + min(HINTS_TIME_S, bounds["limits"].time_s),
        bounds["is_cancelled"],
        found.tree_size,
    )
    status, published = engine.status(), context.publisher.published
    text = f"the {found.tree_size:,} entries of the log were searched"
    if not found.complete:
        text = f"a part of the {found.tree_size:,} entries of the log was searched"
    received = sight.last_received()
    if received:
        text += f", the newest event received {received}"
    text += (
        f"; the index holds {status.sealed_segments:,} of {status.full_segments:,} full segments"
    )
    if published is not None:
        text += f"; the published head has size {published.head.tree_size:,}"
    searched = HintAnswer(kind="searched", text=text)
    return (*find_hints(resolve(query, bounds["now_unix_us"]), sight), searched)


def encode_events(answer: SearchAnswer, is_cancelled: IsCancelled) -> SearchAnswer:
    """The answer with its events as JSON already, encoded one by one.

    Encoding all of them at once would hold up the event loop, even from another thread.
    """
    encoded = []
    for event in answer.events:
        if is_cancelled():
            raise QueryCancelledError
        encoded.append(Raw(encode_json(event)))
    return structs.replace(answer, events=tuple(encoded))


async def _prove(
    context: ServiceContext, client: QueryClient, answer: SearchAnswer, *, from_size: int | None
) -> None:
    """Add a proof to each event, all against one published head."""
    needed = max((event.index + 1 for event in answer.events), default=0)
    if not needed:
        return
    head = await context.published_covering(max(needed, from_size or 0))

    def prove() -> None:
        for event in answer.events:
            if client.is_cancelled():
                raise QueryCancelledError
            event.proof = prove_inclusion(context.store, leaf_index=event.index, head=head)
        answer.consistency = prove_growth(context, from_size, head)

    await client.run(prove)


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


_PAGE: Final = (Success("The events found, a page.", {JSON_MEDIA: SearchAnswer}),)
_SEARCH_PROBLEMS: Final = ("cursor", "too-busy", *PROOF_PROBLEMS)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/search",
        handler=ask_search,
        summary="Search and count by groups, with the query in the body",
        scope="read",
        bodies={JSON_MEDIA: AskSearch},
        successes=_PAGE,
        problems=("query", "not-json", "bad-parameter", *BODY_PROBLEMS, *_SEARCH_PROBLEMS),
    ),
    Route(
        path="/v1/events",
        handler=search_events,
        summary="Search, count, and page through what was found",
        scope="read",
        parameters=(
            QUERY,
            *PAGING,
            *COUNTS,
            flag_parameter("explain", "1 adds how the query is answered, with estimates."),
            *PROVING,
        ),
        successes=_PAGE,
        problems=("query", "wrong-tenant", *_SEARCH_PROBLEMS),
    ),
    Route(
        path="/v1/events/{ref}/around",
        handler=read_around,
        summary="What happened around an event: same actor, session, source or target",
        scope="read",
        parameters=(
            EVENT_REF,
            number_parameter(
                "minutes",
                f"Before and after it, by the time at which things happened; {MINUTES_DEFAULT} "
                "when left out.",
                least=1,
                most=MINUTES_MAX,
            ),
            *PAGING,
            *PROVING,
        ),
        successes=_PAGE,
        problems=("no-event", "wrong-tenant", *_SEARCH_PROBLEMS),
    ),
    Route(
        path="/v1/actors/{actor}/timeline",
        handler=read_timeline,
        summary="All that an actor did, had done for it, and had done to it",
        scope="read",
        parameters=(
            Parameter(
                "actor",
                "The id of the actor, percent-encoded.",
                place="path",
                pattern="(?s:.+)",
            ),
            *PAGING,
            *COUNTS,
            *PROVING,
        ),
        successes=_PAGE,
        problems=("query", *_SEARCH_PROBLEMS),
    ),
    Route(
        path="/v1/sources/{source}/seen",
        handler=read_seen,
        summary="When an address or a network was first and last seen, and what it did",
        scope="read",
        parameters=(
            Parameter(
                "source",
                "An address, or a network such as `203.0.113.0/24`.",
                place="path",
                pattern="(?s:.+)",
            ),
        ),
        successes=(Success("The source.", {JSON_MEDIA: SeenAnswer}),),
        problems=("query", "too-busy"),
    ),
)
