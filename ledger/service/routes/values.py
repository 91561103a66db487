"""`/v1/values`: every value of a field among the events that a query finds, with its count.

A line of JSON for each value, `{"value":…,"count":…}`, in the order of the index, and at the end
`{"trailer":{"values":…,"total":…,"exact":…,"tree_size":…}}`: a list without it was cut short.
"""

from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.parameters import QUERY, Parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import check_media_type
from ledger.service.http.responses import JSON_MEDIA, NDJSON_MEDIA
from ledger.service.http.router import TEXT_SCHEMA, Route, Success, note_read
from ledger.service.http.streaming_response import stream_answer
from ledger.service.queries.values import stream_values
from ledger.service.query_text import read_query
from ledger.service.routes.search import BODY_BYTES_MAX
from ledger.store.tokens import TokenRecord
from ledger_client.runtime.clock import unix_us
from ledger_core.asking import AskValues
from ledger_core.query.ast import Expression
from ledger_core.query.counting import parse_count_field
from ledger_core.tlog.errors import MalformedError


async def list_values(
    context: ServiceContext, request: web.BaseRequest, *, field: str, q: str = ""
) -> web.StreamResponse:
    """All values of a field, of a query in the URL."""
    token = authenticate(context.access, request, "query")
    return await _stream(context, request, token, field, read_query(q))


async def ask_values(context: ServiceContext, request: web.BaseRequest) -> web.StreamResponse:
    """All values of a field, of a query in the body."""
    token = authenticate(context.access, request, "query")
    check_media_type(request.headers.get("Content-Type"), (JSON_MEDIA,))
    body = await context.read_body(request, owner=token.name, bytes_max=BODY_BYTES_MAX)
    try:
        ask = msgspec.json.decode(body, type=AskValues)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("not-json", f"no request for values: {str(error)[:200]}") from None
    with context.holding_query(token.name, ask.query):
        return await _stream(context, request, token, ask.field, ask.query)


async def _stream(
    context: ServiceContext,
    request: web.BaseRequest,
    token: TokenRecord,
    field: str,
    query: Expression | str,
) -> web.StreamResponse:
    try:
        parse_count_field(field)
    except MalformedError as error:
        raise ProblemError("bad-parameter", str(error), field="field") from None
    note_read(request, 0, query if isinstance(query, str) else "", field)
    client = context.query_pool.client(token.name, request)
    found = client.pieces(stream_values, query, field, tenant=token.tenant, now_unix_us=unix_us())
    async with aclosing(found) as pieces:
        return await stream_answer(
            request,
            pieces,
            media=NDJSON_MEDIA,
            reader_wait_s=context.settings.reader_wait_s,
            is_authorized=partial(is_authorized, context.access, request, "query"),
        )


_VALUES: Final = (Success("A line for each value, and the trailer.", {NDJSON_MEDIA: TEXT_SCHEMA}),)

ROUTES: Final = (
    Route(
        path="/v1/values",
        handler=list_values,
        summary="Every value of a field, with the number of its events, as a stream",
        scope="query",
        parameters=(
            Parameter(
                "field",
                "A field that a search can count by: `actor`, `context.KEY`, `source/24`.",
                required=True,
            ),
            QUERY,
        ),
        successes=_VALUES,
        problems=("query", "bad-parameter", "too-busy"),
        is_streamed=True,
    ),
    Route(
        method="POST",
        path="/v1/values",
        handler=ask_values,
        summary="The same, with the query in the body",
        scope="query",
        bodies={JSON_MEDIA: AskValues},
        successes=_VALUES,
        problems=("query", "not-json", "bad-parameter", *BODY_PROBLEMS, "too-busy"),
        is_streamed=True,
    ),
)
