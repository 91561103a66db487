"""Reads the query of a request, in which `@name` stands for a saved query."""

from aiohttp import web

from ledger.service.context import ServiceContext
from ledger.service.queries.saved import read_named
from ledger.store.tokens import TokenRecord
from ledger_core.query.ast import Expression
from ledger_core.query.parser import is_naming, parse_query


async def read_query(
    context: ServiceContext,
    request: web.BaseRequest,
    token: TokenRecord,
    text: str,
    *,
    is_long: bool = False,
) -> Expression:
    """The expression of a query, with each `@name` expanded. Raises: QueryError."""
    if not is_long and not is_naming(text):
        return parse_query(text)
    # A long query takes tenths of a second to read, for which the event loop has no time.
    client = context.query_pool.client(token.name, request)
    return await client.run(read_named, text, tenant=token.tenant, is_long=is_long)
