"""`GET /v1/export`: everything that a query finds, as one file that is written while it is found.

* `jsonl`: a line an event, `{"index":…,` then the leaf's own bytes `"event":…,"received":…,"v":1`
  then `,"leaf_hash":"…"}`; at the end `{"trailer":{"rows":…,"sha256":…,"tree_size":…}}`.
* `csv`: the columns of `ledger_core.event.csv`; at the end a record that begins with `#trailer`,
  and then has rows, SHA-256 and tree size.
* `evidence`: the .zip of `ledger_core.evidence.bundle`.

The SHA-256 covers every byte before the trailer. A file without a trailer was cut short.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Final, Literal

import msgspec
from aiohttp import web

from ledger.query.cursor import ORDERS, Order
from ledger.query.engine import Row
from ledger.query.leaf_cache import LeafCache
from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.parameters import QUERY, choice_parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import NDJSON_MEDIA
from ledger.service.http.router import BYTES_SCHEMA, TEXT_SCHEMA, Route, Success
from ledger.service.http.streaming_response import stream_answer
from ledger.service.query_pool import QueryClient
from ledger.service.routes.proofs import HEAD_PROBLEMS, prove_inclusion
from ledger_client.runtime.clock import unix_us
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.event.csv import COLUMNS, Cell, format_header, format_rows, table_row
from ledger_core.evidence.bundle import EVENTS_MAX, EvidenceEvent, write_evidence
from ledger_core.query.ast import format_query
from ledger_core.query.parser import parse_query
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tile import TILE_WIDTH

CSV: Final = "text/csv"
ZIP: Final = "application/zip"
BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 1 << 20
BATCH_S: Final = 0.2
"""Seconds after which an export leaves its thread to others, whether it found rows or not."""

Format = Literal["jsonl", "csv", "evidence"]
_MEDIA: Final = {"jsonl": (NDJSON_MEDIA, "jsonl"), "csv": (CSV, "csv"), "evidence": (ZIP, "zip")}


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
    head: SignedCheckpoint | None = None
    if format == "evidence":
        head = await context.published_covering(tree_size)
        tree_size = head.head.tree_size
    batches = context.query_pool.engine.row_batches(
        query,
        tenant=token.tenant,
        now_unix_us=now,
        order=order,
        tree_size=tree_size,
        is_cancelled=client.is_cancelled,
    )
    chunks: Iterator[bytes]
    if head is not None:
        indices = await _find_indices(client, batches)
        chunks = _evidence(context, indices, query=format_query(query), head=head)
    elif format == "csv":
        chunks = _with_trailer(_csv(batches), tree_size, format_csv_trailer)
    else:
        chunks = _with_trailer(_jsonl(batches), tree_size, format_jsonl_trailer)
    media, ending = _MEDIA[format]
    name = f"events-{datetime.fromtimestamp(now / 1e6, UTC):%Y%m%dT%H%M%SZ}.{ending}"
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


async def _find_indices(client: QueryClient, batches: Iterator[list[Row]]) -> list[int]:
    """All that a query finds. Raises: ProblemError if evidence can't hold so many."""
    indices: list[int] = []
    while (rows := await client.run(partial(_gather, batches))) is not None:
        indices += [row.index for row in rows]
        if len(indices) > EVENTS_MAX:
            raise ProblemError(
                "too-many-rows",
                f"the query finds more than the {EVENTS_MAX} events that evidence holds",
                field="q",
                limit=EVENTS_MAX,
            )
    return indices


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


def _evidence(
    context: ServiceContext, indices: Sequence[int], *, query: str, head: SignedCheckpoint
) -> Iterator[bytes]:
    leaf_cache = LeafCache(context.store, bytes_max=0)

    def prove() -> Iterator[EvidenceEvent]:
        for _, some in groupby(indices, lambda index: index // TILE_WIDTH):
            found = list(some)
            for index, leaf in zip(found, leaf_cache.leaves(found), strict=True):
                proof = prove_inclusion(context.store, leaf_index=index, head=head)
                yield EvidenceEvent(index=index, leaf=leaf, proof=proof)

    return write_evidence(
        prove(),
        query=query,
        origin=context.origin,
        tree_size=head.head.tree_size,
        checkpoint=head.note,
        policy=context.policy_text,
    )


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
                "JSON lines, CSV, or a .zip of events with their proofs that anybody can verify "
                "offline. jsonl when left out.",
            ),
            choice_parameter("order", ORDERS, "Which come first; the oldest when left out."),
        ),
        successes=(
            Success(
                "The file. Its trailer holds the number of rows and a SHA-256: a file without one "
                "was cut short.",
                {NDJSON_MEDIA: TEXT_SCHEMA, CSV: TEXT_SCHEMA, ZIP: BYTES_SCHEMA},
            ),
        ),
        problems=("query", "too-many-rows", "too-busy", *HEAD_PROBLEMS),
        is_streamed=True,
    ),
)
