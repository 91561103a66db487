"""`/v1/queries`: queries that have a name, for all who read the log."""

from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.parameters import Parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import ParsedBody, check_media_type
from ledger.service.http.responses import JSON_MEDIA, NO_CACHE_PRIVATE, encode_answer
from ledger.service.http.router import Route, Success
from ledger.service.ingest import WRITE_PROBLEMS
from ledger.service.queries.saved import expand_text, find_saved, list_saved
from ledger.store.tokens import TokenRecord
from ledger_core.api import Refused
from ledger_core.event.times import format_time
from ledger_core.query.saved import (
    AskSave,
    DeletedQuery,
    SavedNames,
    SavedQuery,
    delete_event,
    save_events,
)
from ledger_core.tlog.errors import MalformedError

BODY_BYTES_MAX: Final = 5 << 20


async def save_query(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Save a query under a name, which then has this query for all who may use the name."""
    token = authenticate(context.access, request, "query")
    check_media_type(request.headers.get("Content-Type"), (JSON_MEDIA,))
    body = await context.read_body(request, owner=token.name, bytes_max=BODY_BYTES_MAX)
    try:
        ask = msgspec.json.decode(body, type=AskSave)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("not-json", f"not a query to save: {str(error)[:200]}") from None
    with context.holding_query(token.name, ask.query):
        return await _save(context, request, token, ask)


async def _save(
    context: ServiceContext, request: web.BaseRequest, token: TokenRecord, ask: AskSave
) -> web.Response:
    client = context.query_pool.client(token.name, request)
    text = await client.run(expand_text, ask.query, tenant=token.tenant, now_unix_us=None)
    if not text:
        raise ProblemError("query", "a saved query has a text")
    events = save_events(ask.name, text, _stamp(context, token))
    first, last, stamp = await _log(context, token, events)
    saved = SavedQuery(
        name=ask.name,
        query=text,
        first_index=first,
        index=last,
        saved_by=token.name,
        time=stamp,
        tenant=token.tenant,
    )
    return encode_answer(saved, cache=NO_CACHE_PRIVATE)


async def list_queries(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """The saved queries that the token may use."""
    token = authenticate(context.access, request, "query")
    client = context.query_pool.client(token.name, request)
    return encode_answer(await client.run(list_saved, tenant=token.tenant), cache=NO_CACHE_PRIVATE)


async def read_saved(
    context: ServiceContext, request: web.BaseRequest, *, name: str
) -> web.Response:
    """What a name stands for."""
    token = authenticate(context.access, request, "query")
    return encode_answer(await _find(context, request, token, name), cache=NO_CACHE_PRIVATE)


async def delete_query(
    context: ServiceContext, request: web.BaseRequest, *, name: str
) -> web.Response:
    """Delete a name; the events that saved it stay in the log."""
    token = authenticate(context.access, request, "query")
    await _find(context, request, token, name)
    _, index, _ = await _log(context, token, [delete_event(name, _stamp(context, token))])
    return encode_answer(DeletedQuery(name=name, index=index), cache=NO_CACHE_PRIVATE)


async def _find(
    context: ServiceContext, request: web.BaseRequest, token: TokenRecord, name: str
) -> SavedQuery:
    client = context.query_pool.client(token.name, request)
    saved = await client.run(find_saved, name, tenant=token.tenant)
    if saved is None:
        raise ProblemError("no-query", f"no query is saved as {name}")
    return saved


def _stamp(context: ServiceContext, token: TokenRecord) -> dict[str, Any]:
    stamp = {
        "time": format_time(context.ingest.now()),
        "actor": {"type": "ledger.token", "id": token.name},
    }
    return stamp if token.tenant is None else {**stamp, "tenant": token.tenant}


async def _log(
    context: ServiceContext, token: TokenRecord, events: list[dict[str, Any]]
) -> tuple[int, int, str]:
    """Log the events of a change, and return the first and the last index, and their time."""
    ingest = context.ingest
    # One by one: a long query takes seconds, in which others have their turns.
    checked = [
        await ingest.run_beside(token.name, partial(ingest.check_own, event)) for event in events
    ]
    parsed = ParsedBody(checked, ingest.reader.read, is_batch=True)
    outcomes = await ingest.append(parsed, by=token.name, tenant=None, is_own=True)
    indices = [each.index for each in outcomes if not isinstance(each, Refused)]
    if len(indices) < len(events):
        raise MalformedError("an event that was read before is refused")
    return indices[0], indices[-1], events[-1]["time"]


_NAME: Final = Parameter("name", "The name of a saved query.", place="path")
_SAVED: Final = (Success("The saved query.", {JSON_MEDIA: SavedQuery}),)

ROUTES: Final = (
    Route(
        path="/v1/queries",
        handler=list_queries,
        summary="The saved queries, by name",
        scope="query",
        successes=(Success("Names and the beginnings of their texts.", {JSON_MEDIA: SavedNames}),),
        problems=("too-busy",),
    ),
    Route(
        method="POST",
        path="/v1/queries",
        handler=save_query,
        is_write=True,
        summary="Save a query under a name, for `@name` in other queries",
        scope="query",
        bodies={JSON_MEDIA: AskSave},
        successes=_SAVED,
        problems=(
            *("query", "not-json", "secret", "string", "too-busy"),
            *BODY_PROBLEMS,
            *WRITE_PROBLEMS,
        ),
    ),
    Route(
        path="/v1/queries/{name}",
        handler=read_saved,
        summary="What a name stands for",
        scope="query",
        parameters=(_NAME,),
        successes=_SAVED,
        problems=("no-query", "too-busy"),
    ),
    Route(
        method="DELETE",
        path="/v1/queries/{name}",
        handler=delete_query,
        is_write=True,
        summary="Delete the name of a saved query",
        scope="query",
        parameters=(_NAME,),
        successes=(Success("The name is deleted.", {JSON_MEDIA: DeletedQuery}),),
        problems=("no-query", "too-busy", *WRITE_PROBLEMS),
    ),
)
