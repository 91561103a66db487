"""`GET /v1/export`: everything that a query finds, as one file that is written while it is found.

* `jsonl`: a line an event, `{"index":…,` then the leaf's own bytes `"event":…,"received":…,"v":1`
  then `,"leaf_hash":"…"}`; at the end `{"trailer":{"rows":…,"sha256":…,"tree_size":…}}`.
* `csv`: the columns of `ledger_core.event.csv`, and nothing else.

The SHA-256 covers every byte before the trailer. A reader that names its export by `id` gets the
trailer of either format from `GET /v1/export/trailer` once the export has ended (docs/adr/0027).
"""

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal

import msgspec
from aiohttp import web

from ledger.query.answer import Row
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
from ledger.service.http.router import TEXT_SCHEMA, Route, Success
from ledger.service.http.streaming_response import stream_answer
from ledger.service.query_pool import QueryClient
from ledger.service.routes.proofs import HEAD_PROBLEMS
from ledger_client.runtime.clock import unix_us
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.event.csv import format_header, format_rows, table_row
from ledger_core.query.order import Order
from ledger_core.query.parser import parse_query
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64

CSV: Final = "text/csv"
BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 1 << 20
BATCH_S: Final = 0.2
"""Seconds after which an export leaves its thread to others, whether it found rows or not."""

_ID_PATTERN: Final = "[A-Za-z0-9_-]{16,64}"

Format = Literal["jsonl", "csv"]
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
    token = authenticate(context.access, request, "read")
    client = context.query_pool.client(token.name, request)
    query = parse_query(q)
    tree_size = context.tree_size
    now = unix_us()
    if proof:
        tree_size = (await _published(context)).head.tree_size
    batches = context.query_pool.engine.row_batches(
        query,
        tenant=token.tenant,
        now_unix_us=now,
        order=order,
        tree_size=tree_size,
        is_cancelled=client.is_cancelled,
    )
    trailers: list[ExportTrailer] = []
    rows = _csv(batches) if format == "csv" else _jsonl(batches)
    chunks = _with_trailer(rows, tree_size, format=format, keep=trailers.append)
    media = _MEDIA[format]
    name = f"events-{datetime.fromtimestamp(now / 1e6, UTC):%Y%m%dT%H%M%SZ}.{format}"
    async with aclosing(_on_threads(client, chunks)) as pieces:
        return await stream_answer(
            request,
            pieces if id is None else _keep_trailer(context, pieces, trailers, token.name, id),
            media=f"{media}; charset=utf-8" if media == CSV else media,
            reader_wait_s=context.settings.reader_wait_s,
            is_authorized=partial(is_authorized, context.access, request, "read"),
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


async def _on_threads(client: QueryClient, chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The chunks, each made on a thread of the query pool; an empty one only ends a turn there."""
    while (chunk := await client.run(partial(next, chunks, None))) is not None:
        if chunk:
            yield chunk


async def _keep_trailer(
    context: ServiceContext,
    pieces: AsyncGenerator[bytes, None],
    trailers: Sequence[ExportTrailer],
    token: str,
    export_id: str,
) -> AsyncGenerator[bytes, None]:
    """The pieces; the trailer is kept before the reader sees their end, and can ask for it."""
    async for piece in pieces:
        yield piece
    for trailer in trailers:
        await context.export_trailers.keep(token, export_id, trailer)


def _gather(batches: Iterator[list[Row]]) -> list[Row] | None:
    """The next rows: as many as one chunk holds, or as are found in its time, perhaps none.

    None at the end.
    """
    rows: list[Row] = []
    size, end_s = 0, time.monotonic() + BATCH_S
    for batch in batches:
        rows += batch
        size += sum(len(row.leaf) for row in batch)
        if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES or time.monotonic() >= end_s:
            return rows
    return rows or None


def _with_trailer(
    batches: Iterable[tuple[int, bytes]],
    tree_size: int,
    *,
    format: Format,  # noqa: A002 - the name of the parameter
    keep: Callable[[ExportTrailer], None],
) -> Iterator[bytes]:
    sha256, rows = hashlib.sha256(), 0
    for count, chunk in batches:
        sha256.update(chunk)
        rows += count
        yield chunk
    trailer = ExportTrailer(rows=rows, sha256=sha256.hexdigest(), tree_size=tree_size)
    keep(trailer)
    if format == "jsonl":
        yield format_jsonl_trailer(trailer)


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
    token = authenticate(context.access, request, "read")
    trailer = await context.export_trailers.find(token.name, id)
    if trailer is None:
        raise ProblemError(
            "no-export", "no export of this token with this id has ended", field="id"
        )
    return encode_answer(trailer)


def _jsonl(batches: Iterator[list[Row]]) -> Iterator[tuple[int, bytes]]:
    while (rows := _gather(batches)) is not None:
        yield len(rows), b"".join(map(_format_line, rows))


def _format_line(row: Row) -> bytes:
    """A row with the leaf's own bytes, which its hash covers."""
    hash_ = format_base64(leaf_hash(row.leaf)).encode()
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (row.index, row.leaf[1:-1], hash_)


def format_jsonl_trailer(trailer: ExportTrailer) -> bytes:
    """The last line of JSON lines."""
    return msgspec.json.encode(TrailerLine(trailer)) + b"\n"


def _csv(batches: Iterator[list[Row]]) -> Iterator[tuple[int, bytes]]:
    yield 0, format_header().encode()
    while (rows := _gather(batches)) is not None:
        cells = (table_row(row.index, row.leaf) for row in rows)
        yield len(rows), format_rows(cells).encode()


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
        scope="read",
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
        scope="read",
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
