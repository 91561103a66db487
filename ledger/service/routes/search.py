"""Searches: `GET /v1/events?q=…`, and the pivots that a responder makes from an answer.

All of them run one kind of search and have one kind of answer. A token that is bound to a tenant
restricts every search to that tenant in the engine, whatever the text of the query says.
"""

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Final, TypedDict, TypeVar, Unpack, cast

import msgspec
from aiohttp import web

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
from ledger.service.http.responses import JSON_MEDIA, NO_CACHE_PRIVATE, make_answer
from ledger.service.http.router import Route, Success, note_read
from ledger.service.http.streaming_response import Body, answer_of
from ledger.service.queries.search import (
    Because,
    Needed,
    Page,
    Searched,
    find_seen,
    search,
    search_counted,
    search_proven,
)
from ledger.service.query_pool import QueryClient
from ledger.service.query_text import read_query
from ledger.service.routes.page_parameters import COUNTS, PAGING, PROVING
from ledger.service.routes.proofs import (
    PROOF_PROBLEMS,
    check_from_size,
)
from ledger.service.stored_events import event_of
from ledger.store.tokens import TokenRecord
from ledger_client.runtime.clock import unix_us
from ledger_core.asking import AskCount, AskSearch
from ledger_core.query.ast import Expression
from ledger_core.query.counting import Unit, parse_count_field, parse_zone, read_since
from ledger_core.query.order import Order
from ledger_core.query.pivots import (
    around,
    around_reasons,
    from_source,
    timeline,
    timeline_roles,
)
from ledger_core.search_answers import SearchAnswer, SeenAnswer
from ledger_core.tlog.errors import MalformedError

MINUTES_DEFAULT: Final = 15
MINUTES_MAX: Final = 7 * 24 * 60

BODY_BYTES_MAX: Final = 5 << 20

T = TypeVar("T")


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
    token = authenticate(context.access, request, "query")
    if explain and token.tenant is not None:
        raise ProblemError("wrong-tenant", "the steps of a plan count the events of every tenant")
    query = read_query(q)
    return await _search(context, request, token, query, Page(explain=explain, **page))


async def ask_search(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """A page of the events that a query in the body finds, with counts by groups."""
    token = authenticate(context.access, request, "query")
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
    with context.holding_query(token.name, ask.query):
        return await _search(context, request, token, ask.query, page)


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
    token = authenticate(context.access, request, "query")
    leaf = (await event_of(context, request, ref, tenant=token.tenant)).leaf
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
    token = authenticate(context.access, request, "query")
    because = partial(timeline_roles, actor)
    return await _search(context, request, token, timeline(actor), Page(**page), because)


async def read_seen(
    context: ServiceContext, request: web.BaseRequest, *, source: str
) -> web.Response:
    """The first and the last event from an address or a network, by when they happened."""
    token = authenticate(context.access, request, "query")
    query = from_source(source)
    client = context.query_pool.client(token.name, request)
    found = await client.run(
        find_seen,
        source,
        query,
        tenant=token.tenant,
        now_unix_us=unix_us(),
        tree_size=_published_size(context),
        quorum_missing=context.publisher.quorum_missing,
    )
    return make_answer(found, media=JSON_MEDIA, cache=NO_CACHE_PRIVATE)


def _published_size(context: ServiceContext) -> int | None:
    published = context.publisher.published
    return None if published is None else published.head.tree_size


async def _search(
    context: ServiceContext,
    request: web.BaseRequest,
    token: TokenRecord,
    query: Expression | str,
    page: Page,
    because: Because | None = None,
) -> web.Response:
    """A page; `query` is a text if it is long, which the query process then reads."""
    check_from_size(context, page.from_size, has_proof=page.proof)
    asked = Searched(
        query=query,
        page=page,
        tenant=token.tenant,
        now_unix_us=unix_us(),
        published_size=_published_size(context),
        quorum_missing=context.publisher.quorum_missing,
        because=because,
    )
    client = context.query_pool.client(token.name, request).holding()
    if page.proof:
        body, rows = await _search_proven(context, client, asked)
    elif context.settings.audit_reads or context.settings.traces_url:
        async with aclosing(client.pieces(search_counted, asked)) as pieces:
            rows = cast("int", await anext(pieces))
            body = cast("Body", await anext(pieces))
    else:
        body, rows = await client.run(search, asked), 0
    note_read(request, rows, query if isinstance(query, str) else "")
    return answer_of(body, media=JSON_MEDIA, cache=NO_CACHE_PRIVATE)


async def _search_proven(
    context: ServiceContext, client: QueryClient, asked: Searched
) -> tuple[Body, int]:
    """A page with a proof of each event, all against one published head."""
    async with aclosing(client.pieces(search_proven, asked)) as pieces:
        needed = cast("Needed", await anext(pieces))
        size = needed.tree_size
        head = await context.published_covering(size) if size else None
        return cast("Body", await pieces.asend(head)), needed.rows


_PAGE: Final = (Success("The events found, a page.", {JSON_MEDIA: SearchAnswer}),)
_SEARCH_PROBLEMS: Final = ("cursor", "too-busy", *PROOF_PROBLEMS)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/search",
        handler=ask_search,
        summary="Search and count by groups, with the query in the body",
        scope="query",
        bodies={JSON_MEDIA: AskSearch},
        successes=_PAGE,
        problems=("query", "not-json", "bad-parameter", *BODY_PROBLEMS, *_SEARCH_PROBLEMS),
    ),
    Route(
        path="/v1/events",
        handler=search_events,
        summary="Search, count, and page through what was found",
        scope="query",
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
        scope="query",
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
        scope="query",
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
        scope="query",
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
