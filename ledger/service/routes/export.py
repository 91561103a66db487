"""`GET /v1/export`: everything that a query finds, as one file that is written while it is found.

* `jsonl`: a line an event, `{"index":…,` then the leaf's own bytes `"event":…,"received":…,"v":1`
  then `,"leaf_hash":"…"}`; at the end `{"trailer":{"rows":…,"sha256":…,"tree_size":…}}`.
* `csv`: the columns of `ledger_core.event.csv`; at the end a record that begins with `#trailer`,
  and then has rows, SHA-256 and tree size.

The SHA-256 covers every byte before the trailer. A file without a trailer was cut short.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal

import msgspec
from aiohttp import web

from ledger.query.cursor import ORDERS, Order
from ledger.query.engine import Row
from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.parameters import QUERY, choice_parameter
from ledger.service.http.responses import NDJSON_MEDIA
from ledger.service.http.router import TEXT_SCHEMA, Route, Success
from ledger.service.http.streaming_response import stream_answer
from ledger.service.query_pool import QueryClient
from ledger_client.runtime.clock import unix_us
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.event.csv import COLUMNS, Cell, format_header, format_rows, table_row
from ledger_core.query.parser import parse_query
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64

CSV: Final = "text/csv"
BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 1 << 20
BATCH_S: Final = 0.2
"""Seconds after which an export leaves its thread to others, whether it found rows or not."""

Format = Literal["jsonl", "csv"]
_MEDIA: Final[dict[Format, str]] = {"jsonl": NDJSON_MEDIA, "csv": CSV}


async def export_events(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    q: str = "",
    format: Format = "jsonl",  # noqa: A002 - the name of the parameter
    order: Order = "oldest",
) -> web.StreamResponse:
    """Everything that a query finds, as a file."""
    token = authenticate(context.access, request, "read")
    client = context.query_pool.client(token.name, request)
    query = parse_query(q)
    tree_size = context.tree_size
    now = unix_us()
    batches = context.query_pool.engine.row_batches(
        query,
        tenant=token.tenant,
        now_unix_us=now,
        order=order,
        tree_size=tree_size,
        is_cancelled=client.is_cancelled,
    )
    chunks: Iterator[bytes]
    if format == "csv":
        chunks = _with_trailer(_csv(batches), tree_size, format_csv_trailer)
    else:
        chunks = _with_trailer(_jsonl(batches), tree_size, format_jsonl_trailer)
    media = _MEDIA[format]
    name = f"events-{datetime.fromtimestamp(now / 1e6, UTC):%Y%m%dT%H%M%SZ}.{format}"
    async with aclosing(_on_threads(client, chunks)) as pieces:
        return await stream_answer(
            request,
            pieces,
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
    format_trailer: Callable[[ExportTrailer], bytes],
) -> Iterator[bytes]:
    sha256, rows = hashlib.sha256(), 0
    for count, chunk in batches:
        sha256.update(chunk)
        rows += count
        yield chunk
    yield format_trailer(ExportTrailer(rows=rows, sha256=sha256.hexdigest(), tree_size=tree_size))


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


def format_csv_trailer(trailer: ExportTrailer) -> bytes:
    """The last record of CSV, as wide as the others (RFC 4180 §2.4)."""
    cells: list[Cell] = ["#trailer", trailer.rows, trailer.sha256, trailer.tree_size]
    return format_rows([cells + [""] * (len(COLUMNS) - len(cells))]).encode()


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
            choice_parameter("order", ORDERS, "Which come first; the oldest when left out."),
        ),
        successes=(
            Success(
                "The file. Its trailer holds the number of rows and a SHA-256: a file without one "
                "was cut short.",
                {NDJSON_MEDIA: TEXT_SCHEMA, CSV: TEXT_SCHEMA},
            ),
        ),
        problems=("query", "too-busy"),
        is_streamed=True,
    ),
)
