"""Reads single events and bundles for routes.

To read from a bundle takes up to half a second, for which the event loop has no time: the query
process does it. A bundle that left this disk is read here: its bucket may take minutes to answer,
for which the event loop waits beside all else, and no thread of searches does.
"""

from aiohttp import web

from ledger.service.context import ServiceContext
from ledger.service.http.streaming_response import Body
from ledger.service.queries.stored_events import (
    StoredEvent,
    compress,
    find_event,
    find_stored,
    read_bundle,
    read_stored_bundle,
)
from ledger.store.stored_log import StoredLog, reading
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import parse_size
from ledger_core.tlog.tile import TILE_WIDTH, TileRef

COMPRESSED_HERE_MAX = 1 << 20
"""Bytes of a bundle that are compressed on the event loop, in some milliseconds."""


async def event_of(
    context: ServiceContext,
    request: web.BaseRequest,
    ref: str,
    *,
    tenant: str | None,
    may_open: bool = False,
) -> StoredEvent:
    """The event at an index or with an id. Raises: as `find_event`."""
    store = context.store
    if _may_be_elsewhere(store, ref):
        open_values = context.private_fields.open if may_open else None
        return await reading(lambda: find_stored(store, open_values, ref, tenant=tenant))
    client = context.query_pool.caller_client(request)
    return await client.run(find_event, ref, tenant=tenant, may_open=may_open)


async def bundle_of(
    context: ServiceContext, request: web.BaseRequest, ref: TileRef, *, accepts_gzip: bool
) -> tuple[Body, bool]:
    """The entries of a bundle, and whether they are compressed. Raises: as `read_bundle`."""
    store, index, width = context.store, ref.index, ref.width
    if index * TILE_WIDTH < store.local_start():
        whole = await reading(lambda: read_stored_bundle(store, index=index, width=width))
        is_gzip = accepts_gzip and len(whole) <= COMPRESSED_HERE_MAX
        return compress(whole) if is_gzip else whole, is_gzip
    client = context.query_pool.caller_client(request).holding()
    body = await client.run(read_bundle, index=index, width=width, is_gzip=accepts_gzip)
    return body, accepts_gzip


def _may_be_elsewhere(store: StoredLog, ref: str) -> bool:
    """Whether the event at an index, or with an id, may have left this disk."""
    start = store.local_start()
    if start <= store.minimum_index:
        return False
    try:
        return parse_size(ref) < start
    except MalformedError:
        return True  # An id.
