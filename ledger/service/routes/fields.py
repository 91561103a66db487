"""`GET /v1/fields`: what a query can ask for, with values of the events that the token may read."""

from typing import Final

from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.http.responses import JSON_MEDIA, NO_CACHE_PRIVATE, make_answer
from ledger.service.http.router import Route, Success
from ledger.service.queries.search import find_fields
from ledger_client.runtime.clock import unix_us
from ledger_core.search_answers import FieldsAnswer


async def read_fields(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """The fields of the language and the keys of the context, with frequent values."""
    token = authenticate(context.access, request, "query")
    client = context.query_pool.client(token.name, request)
    found = await client.run(find_fields, tenant=token.tenant, now_unix_us=unix_us())
    return make_answer(found, media=JSON_MEDIA, cache=NO_CACHE_PRIVATE)


ROUTES: Final = (
    Route(
        path="/v1/fields",
        handler=read_fields,
        summary="The fields and context keys that a query can name, with frequent values",
        scope="query",
        successes=(Success("Fields and keys.", {JSON_MEDIA: FieldsAnswer}),),
        problems=("too-busy",),
    ),
)
