"""Questions: `GET /v1/events?q=…`, and the pivots that a responder makes from an answer.

All of them are one search with one answer. A token that is bound to a tenant adds that tenant to
every search; the engine, not the query's text, holds to it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from ledger.query.cursor import ORDERS, Order
from ledger.query.engine import Answer, Row
from ledger.query.facets import UNITS, Unit
from ledger.query.pivots import around, around_reasons, from_source, timeline, timeline_roles
from ledger.service.auth import authenticate
from ledger.service.context import Service
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import JSON
from ledger.service.http.responses import encode_answer
from ledger.service.http.router import (
    Content,
    Parameter,
    Route,
    Success,
    choice_parameter,
    flag_parameter,
    path_parameter,
    size_parameter,
)
from ledger.service.routes.events import PRIVATE, find_event
from ledger.service.routes.proving import check_within, prove_consistency, prove_inclusion
from ledger_client.runtime.clock import unix_us
from ledger_core.api import FoundEvent, SearchAnswer, SeenAnswer
from ledger_core.event.model import Received
from ledger_core.query.ast import Expression, format_query
from ledger_core.query.fields import FACETS
from ledger_core.query.parser import QUERY_CHARS_MAX, parse_query
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import excerpt, format_base64, parse_size

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
MINUTES_DEFAULT: Final = 15
MINUTES_MAX: Final = 7 * 24 * 60

Because = Callable[[bytes], tuple[str, ...]]


class _Leaf(msgspec.Struct, frozen=True):
    """A leaf of the log, its event left as it stands there."""

    event: msgspec.Raw
    received: Received
    v: int


_decode_leaf = msgspec.json.Decoder(_Leaf).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of an answer is asked for, and what beside the events."""

    limit: int = LIMIT_DEFAULT
    cursor: str | None = None
    order: Order = "newest"
    proof: bool = False
    from_size: int | None = None
    facets: tuple[str, ...] = ()
    histogram: Unit | None = None
    explain: bool = False


async def search_events(
    service: Service,
    request: web.BaseRequest,
    *,
    q: str = "",
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    order: Order = "newest",
    facets: tuple[str, ...] = (),
    histogram: Unit | None = None,
    explain: bool = False,
    proof: bool = False,
    from_size: int | None = None,
) -> web.Response:
    """A page of the events that a query finds."""
    tenant = reading_tenant(service, request)
    if explain and tenant is not None:
        raise ProblemError("wrong-tenant", "the steps of a plan count the events of every tenant")
    page = Page(
        limit=limit,
        cursor=cursor,
        order=order,
        facets=facets,
        histogram=histogram,
        explain=explain,
        proof=proof,
        from_size=from_size,
    )
    return await _search(service, parse_query(q), page, tenant=tenant)


async def read_around(
    service: Service,
    request: web.BaseRequest,
    *,
    ref: str,
    minutes: int = MINUTES_DEFAULT,
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    order: Order = "oldest",
    proof: bool = False,
    from_size: int | None = None,
) -> web.Response:
    """What happened around an event, by the same actor or session, from or to the same."""
    tenant = reading_tenant(service, request)
    found = find_event(service, ref, tenant=tenant)
    page = Page(limit=limit, cursor=cursor, order=order, proof=proof, from_size=from_size)
    return await _search(
        service,
        around(found.stored, minutes=minutes),
        page,
        tenant=tenant,
        because=lambda leaf: around_reasons(found.stored, leaf),
    )


async def read_timeline(
    service: Service,
    request: web.BaseRequest,
    *,
    actor: str,
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    order: Order = "newest",
    facets: tuple[str, ...] = (),
    histogram: Unit | None = None,
    proof: bool = False,
    from_size: int | None = None,
) -> web.Response:
    """All that an actor did, that was done for it, and that was done to it."""
    tenant = reading_tenant(service, request)
    page = Page(
        limit=limit,
        cursor=cursor,
        order=order,
        facets=facets,
        histogram=histogram,
        proof=proof,
        from_size=from_size,
    )
    return await _search(
        service,
        timeline(actor),
        page,
        tenant=tenant,
        because=lambda leaf: timeline_roles(actor, leaf),
    )


async def read_seen(service: Service, request: web.BaseRequest, *, source: str) -> web.Response:
    """When an address or a network was first and last seen, and what was done from there."""
    tenant = reading_tenant(service, request)
    query = from_source(source)
    now = unix_us()
    engine, limits = service.searcher.engine, service.searcher.limits

    def work() -> SeenAnswer:
        seen = engine.seen(query, tenant=tenant, now_unix_us=now, limits=limits)
        answer = engine.search(
            query,
            tenant=tenant,
            now_unix_us=now,
            limit=0,
            facets=("action",),
            tree_size=seen.tree_size,
            limits=limits,
        )
        return SeenAnswer(
            source=source,
            tree_size=seen.tree_size,
            total=seen.total,
            total_exact=seen.total_exact,
            actions=answer.facets[0],
            first=None if seen.first is None else found_event(seen.first),
            last=None if seen.last is None else found_event(seen.last),
        )

    return encode_answer(await service.searcher.run(work), cache=PRIVATE)


def reading_tenant(service: Service, request: web.BaseRequest) -> str | None:
    """The tenant that a search is bound to; None for a token that may read everything.

    A token is needed whatever `public_entries` says: searching costs more than reading.
    Raises: ProblemError.
    """
    return authenticate(service.access, request.headers.get("Authorization"), "read").tenant


def found_event(row: Row, *, because: tuple[str, ...] = ()) -> FoundEvent:
    """An event as answers show it. Its leaf was checked when it came in."""
    parts = _decode_leaf(row.leaf)
    return FoundEvent(
        index=row.index,
        event=parts.event,
        received=parts.received,
        leaf_hash=format_base64(leaf_hash(row.leaf)),
        leaf=row.leaf.decode(),
        because=because,
    )


async def _search(
    service: Service,
    query: Expression,
    page: Page,
    *,
    tenant: str | None,
    because: Because | None = None,
) -> web.Response:
    if page.from_size is not None:
        if not page.proof:
            raise ProblemError("bad-parameter", "needs proof=1", field="from_size")
        check_within("from_size", page.from_size, tree_size=service.tree_size)
    engine, limits, now = service.searcher.engine, service.searcher.limits, unix_us()

    def work() -> tuple[SearchAnswer, float]:
        started_s = time.perf_counter()
        answer = engine.search(
            query,
            tenant=tenant,
            now_unix_us=now,
            limit=page.limit,
            order=page.order,
            cursor=page.cursor,
            facets=page.facets,
            histogram=page.histogram,
            limits=limits,
        )
        made = _answer(query, answer, because, order=page.order)
        if page.explain:
            made.explanation = str(engine.explain(query, tenant=tenant, now_unix_us=now))
        return made, started_s

    made, started_s = await service.searcher.run(work)
    if page.proof:
        await _prove(service, made, from_size=page.from_size)
    made.took_ms = round((time.perf_counter() - started_s) * 1000, 3)
    return encode_answer(made, cache=PRIVATE)


async def _prove(service: Service, answer: SearchAnswer, *, from_size: int | None) -> None:
    """Add a proof to each event, all against one published head."""
    needed = max((event.index + 1 for event in answer.events), default=0)
    if not needed:
        return
    head = await service.published_covering(max(needed, from_size or 0))

    def work(head: SignedCheckpoint) -> None:
        for event in answer.events:
            event.proof = prove_inclusion(service.store, leaf_index=event.index, head=head)
        if from_size is not None:
            answer.consistency = prove_consistency(
                service.store, old_size=from_size, new_size=head.head.tree_size
            )

    await service.searcher.run(lambda: work(head))


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
        took_ms=0.0,
        events=tuple(
            found_event(row, because=() if because is None else because(row.leaf))
            for row in found.rows
        ),
        cursor=found.cursor,
        facets=found.facets,
        histogram=found.histogram,
    )


def bounded_parameter(name: str, help_: str, *, most: int, least: int = 0) -> Parameter:
    """A small number in the query."""

    def parse(text: str) -> int:
        number = parse_size(text)
        if not least <= number <= most:
            raise MalformedError(f"want {least} to {most}, got {number}")
        return number

    return Parameter(
        name=name,
        place="query",
        parse=parse,
        schema={"type": "integer", "minimum": least, "maximum": most},
        help=help_,
    )


def _parse_facets(text: str) -> tuple[str, ...]:
    names = text.split(",")
    fields = tuple(field for field in FACETS if field in names)
    for name in names:
        if name not in FACETS:
            raise MalformedError(f"{excerpt(name)} is not one of {', '.join(FACETS)}")
    if len(fields) != len(names):
        raise MalformedError("a field stands twice")
    return fields


QUERY_PARAMETER: Final = Parameter(
    name="q",
    place="query",
    parse=str,
    schema={"type": "string", "maxLength": QUERY_CHARS_MAX},
    help="The query: `actor:u_5 action:login.* outcome:failure since:-24h`. Left out, every event.",
)
_LIMIT: Final = bounded_parameter(
    "limit", f"Events in a page, {LIMIT_DEFAULT} when left out; 0 only counts.", most=LIMIT_MAX
)
_CURSOR: Final = Parameter(
    name="cursor",
    place="query",
    parse=str,
    schema={"type": "string", "maxLength": 1024},
    help="Where the page before ended: its `cursor`, with the same query, order and token.",
)
_ORDER: Final = choice_parameter(
    "order", ORDERS, "Which come first: by index, that is, by when they came in."
)
_FACETS: Final = Parameter(
    name="facets",
    place="query",
    parse=_parse_facets,
    schema={
        "type": "string",
        "pattern": "^({0})(,({0}))*$".format("|".join(FACETS).replace(".", r"\.")),
    },
    help=f"Count the values of these fields, with commas between: {', '.join(FACETS)}.",
)
_HISTOGRAM: Final = choice_parameter(
    "histogram", UNITS, "Count the events by the hour or day at which they happened."
)
_PROOF: Final = flag_parameter(
    "proof", "1 adds to each event a tlog-proof, all against one published head."
)
_FROM_SIZE: Final = size_parameter(
    "from_size", "With proof=1: also prove that the tree of the head begins with this one."
)
_PAGING: Final = (_LIMIT, _CURSOR, _ORDER)
_PROVING: Final = (_PROOF, _FROM_SIZE)
_PAGE: Final = (
    Success(help="The events found, a page.", contents=(Content(media=JSON, type=SearchAnswer),)),
)
_SEARCH_PROBLEMS: Final = (
    "bad-parameter",
    "past-the-end",
    "cursor",
    "too-busy",
    "not-yet-published",
    "signing-stopped",
)

ROUTES: Final = (
    Route(
        path="/v1/events",
        handler=search_events,
        summary="Search, count, and page through what was found",
        scope="read",
        parameters=(
            QUERY_PARAMETER,
            *_PAGING,
            _FACETS,
            _HISTOGRAM,
            flag_parameter("explain", "1 adds how the query is answered, with estimates."),
            *_PROVING,
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
            path_parameter("ref", "An index, or the UUID of an event."),
            bounded_parameter(
                "minutes",
                f"Before and after it, by the time at which things happened; {MINUTES_DEFAULT} "
                "when left out.",
                least=1,
                most=MINUTES_MAX,
            ),
            *_PAGING,
            *_PROVING,
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
            path_parameter("actor", "The id of the actor, percent-encoded.", pattern="(?s:.+)"),
            *_PAGING,
            _FACETS,
            _HISTOGRAM,
            *_PROVING,
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
            path_parameter(
                "source", "An address, or a network such as `203.0.113.0/24`.", pattern="(?s:.+)"
            ),
        ),
        successes=(Success(help="The source.", contents=(Content(media=JSON, type=SeenAnswer),)),),
        problems=("query", "too-busy"),
    ),
)
