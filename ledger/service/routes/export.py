"""`GET /v1/export`: everything that a query finds, as one file that is written while it is found.

* `jsonl`: a line an event, `{"index":…,` then the leaf's own bytes `"event":…,"received":…,"v":1`
  then `,"leaf_hash":"…"}`; at the end `{"trailer":{"rows":…,"sha256":…,"tree_size":…}}`.
* `csv`: the columns of `ledger_core.event.csv`, and nothing else.

The SHA-256 covers every byte before the trailer. A reader that names its export by `id` gets the
trailer of either format from `GET /v1/export/trailer` once the export has ended (docs/adr/0027).
"""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Final

from aiohttp import web

from ledger.query.cursor import ORDERS
from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.parameters import (
    QUERY,
    Parameter,
    choice_parameter,
    flag_parameter,
)
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import JSON_MEDIA, NDJSON_MEDIA, encode_answer
from ledger.service.http.router import TEXT_SCHEMA, Route, Success, note_read
from ledger.service.http.streaming_response import Body, stream_answer
from ledger.service.queries.export import Format, export
from ledger.service.query_text import read_query
from ledger.service.routes.proofs import HEAD_PROBLEMS
from ledger_client.runtime.clock import unix_us
from ledger_core.query.order import Order
from ledger_core.search_answers import ExportTrailer
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError

CSV: Final = "text/csv"

_ID_PATTERN: Final = "[A-Za-z0-9_-]{16,64}"

_MEDIA: Final[dict[Format, str]] = {"jsonl": NDJSON_MEDIA, "csv": CSV}


async def export_events(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    q: str = "",
    format: Format = "jsonl",  # noqa: A002 - the name of the parameter
    order: Order = "oldest",
    proof: bool = False,
    id: str | None = None,  # noqa: A002 - the name of the parameter
) -> web.StreamResponse:
    """Everything that a query finds, as a file."""
    token = authenticate(context.access, request, "export")
    client = context.query_pool.client(token.name, request).holding()
    query = read_query(q)
    tree_size = context.tree_size
    now = unix_us()
    if proof:
        tree_size = (await _published(context)).head.tree_size
    exported = client.pieces(
        export,
        query,
        tenant=token.tenant,
        now_unix_us=now,
        order=order,
        tree_size=tree_size,
        format=format,
    )
    media = _MEDIA[format]
    name = f"events-{datetime.fromtimestamp(now / 1e6, UTC):%Y%m%dT%H%M%SZ}.{format}"
    async with aclosing(
        _pieces(context, exported, token.name, id, partial(note_read, request))
    ) as pieces:
        return await stream_answer(
            request,
            pieces,
            media=f"{media}; charset=utf-8" if media == CSV else media,
            reader_wait_s=context.settings.reader_wait_s,
            is_authorized=partial(is_authorized, context.access, request, "export"),
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


async def _pieces(
    context: ServiceContext,
    exported: AsyncGenerator[Body | ExportTrailer, None],
    token: str,
    export_id: str | None,
    note: Callable[[int], None],
) -> AsyncGenerator[Body, None]:
    """The pieces; the trailer is kept before the reader sees their end, and can ask for it."""
    async with aclosing(exported):
        async for piece in exported:
            if isinstance(piece, ExportTrailer):
                note(piece.rows)
                if export_id is not None:
                    await context.export_trailers.store(token, export_id, piece)
            else:
                yield piece


async def _published(context: ServiceContext) -> SignedCheckpoint:
    """The published head that covers the whole log, or the last one while witnesses are missing."""
    published = context.publisher.published
    if published is not None and context.publisher.quorum_missing is not None:
        return published
    return await context.published_covering(context.tree_size)


async def read_trailer(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    id: str,  # noqa: A002 - the name of the parameter
) -> web.Response:
    """The trailer of an export that has ended."""
    token = authenticate(context.access, request, "export")
    trailer = await context.export_trailers.find(token.name, id)
    if trailer is None:
        raise ProblemError(
            "no-export", "no export of this token with this id has ended", field="id"
        )
    return encode_answer(trailer)


def _id_parameter(help_: str, *, required: bool) -> Parameter:
    def parse(text: str) -> str:
        if re.fullmatch(_ID_PATTERN, text) is None:
            raise MalformedError("want 16 to 64 letters, digits, - and _")
        return text

    schema = {"type": "string", "pattern": f"^{_ID_PATTERN}$"}
    return Parameter("id", help_, parse=parse, schema=schema, required=required)


ROUTES: Final = (
    Route(
        path="/v1/export",
        handler=export_events,
        summary="Everything that a query finds, as one file",
        scope="export",
        parameters=(
            QUERY,
            choice_parameter(
                "format",
                tuple(_MEDIA),
                "JSON lines or CSV; jsonl when left out. `POST /v1/evidence` makes a bundle that "
                "anybody can verify offline.",
            ),
            choice_parameter(
                "order",
                ORDERS,
                "Which come first, as in a search; the oldest by index when left out.",
            ),
            flag_parameter(
                "proof", "1: only what is published, so that each event can be proven at once."
            ),
            _id_parameter("A name for this export, by which its trailer is found.", required=False),
        ),
        successes=(
            Success(
                "The file. JSON lines end with a trailer: the number of rows and a SHA-256. A file "
                "without one was cut short.",
                {NDJSON_MEDIA: TEXT_SCHEMA, CSV: TEXT_SCHEMA},
            ),
        ),
        problems=("query", "too-busy", *HEAD_PROBLEMS),
        is_streamed=True,
    ),
    Route(
        path="/v1/export/trailer",
        handler=read_trailer,
        summary="The trailer of an export that has ended",
        scope="export",
        parameters=(_id_parameter("The name that the export was given.", required=True),),
        successes=(
            Success(
                "The number of rows, the SHA-256 of their bytes, and the size of the tree.",
                {JSON_MEDIA: ExportTrailer},
            ),
        ),
        problems=("no-export",),
    ),
)
