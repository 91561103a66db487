"""Reads single events and bundles for routes.

To read from a large bundle takes up to half a second, for which the event loop has no time: the
query process does it. From an ordinary one it takes less than a millisecond, and is done here: that
waits for no search, and for no turn.

A bundle that left this disk is read in this process too: its bucket may take minutes to answer, for
which the event loop waits beside all else, and no thread of searches does. What came is inflated
and verified on a thread, at the caller's turn.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from aiohttp import web

from ledger.service.auth import caller_name
from ledger.service.context import ServiceContext
from ledger.service.http.streaming_response import Body
from ledger.service.queries.stored_events import (
    LargeReadError,
    StoredEvent,
    compress,
    find_event,
    find_stored,
    read_bundle,
    read_stored_bundle,
)
from ledger.store.stored_log import reading
from ledger_core.tlog.tile import TILE_WIDTH, TileRef

READ_HERE_MAX = 1 << 18
"""Bytes of a bundle on this disk that are read on the event loop; with 256 events of 1 KB."""

COMPRESSED_HERE_MAX = 1 << 20
"""Bytes of a bundle that are compressed in this process, in some milliseconds."""


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
    open_values = context.private_fields.open if may_open else None
    find = partial(find_stored, store, open_values, ref, tenant=tenant)
    try:
        return await reading(partial(find, bytes_max=READ_HERE_MAX))
    except LargeReadError as error:
        if error.is_elsewhere:
            return await reading(find, beside=_turns(context, request))
        client = context.query_pool.caller_client(request)
        return await client.run(find_event, ref, tenant=tenant, may_open=may_open)


async def bundle_of(
    context: ServiceContext, request: web.BaseRequest, ref: TileRef, *, accepts_gzip: bool
) -> tuple[Body, bool]:
    """The entries of a bundle, and whether they are compressed. Raises: as `read_bundle`."""
    store, index, width = context.store, ref.index, ref.width

    def read() -> tuple[bytes, bool]:
        whole = read_stored_bundle(store, index=index, width=width)
        is_gzip = accepts_gzip and len(whole) <= COMPRESSED_HERE_MAX
        return compress(whole) if is_gzip else whole, is_gzip

    if index * TILE_WIDTH < store.local_start():
        return await reading(read, beside=_turns(context, request))
    # What is on this disk and not full yet has none, and may have 16 MiB.
    if 0 < store.bundle_bytes(index) <= READ_HERE_MAX:
        return await reading(read)
    client = context.query_pool.caller_client(request).holding()
    body = await client.run(read_bundle, index=index, width=width, is_gzip=accepts_gzip)
    return body, accepts_gzip


def _turns(
    context: ServiceContext, request: web.BaseRequest
) -> Callable[[], AbstractAsyncContextManager[None]]:
    """The caller's turns at inflating and verifying what left this disk."""
    return partial(context.loop_turns.turn, caller_name(request))
