"""`GET /v1/export`: everything that a query finds, as one file, written while it is found.

* `jsonl`: a line an event, `{"index":…,` then the leaf's own bytes `"event":…,"received":…,"v":1`
  then `,"leaf_hash":"…"}`; at the end `{"trailer":{"rows":…,"sha256":…,"tree_size":…}}`.
* `csv`: the columns of `ledger_core.event.csv`; at the end a record that begins with `#trailer`,
  and then has rows, SHA-256 and tree size.
* `evidence`: the .zip of `ledger_core.evidence.bundle`.

The SHA-256 covers every byte before the trailer. A file without a trailer was cut short.
"""

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final, Literal

import msgspec
from aiohttp import web

from ledger.query.cursor import ORDERS, Order
from ledger.query.engine import Row
from ledger.service.context import Service
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import NDJSON
from ledger.service.http.router import Content, Route, Success, choice_parameter
from ledger.service.http.streaming_response import stream_answer
from ledger.service.routes.proving import prove_inclusion
from ledger.service.routes.search import QUERY_PARAMETER, reading_tenant
from ledger_client.runtime.clock import unix_us
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.event.csv import COLUMNS, Cell, format_header, format_rows, table_row
from ledger_core.evidence.bundle import EVENTS_MAX, EvidenceEvent, write_evidence
from ledger_core.query.ast import Expression, format_query
from ledger_core.query.parser import parse_query
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64

CSV: Final = "text/csv"
ZIP: Final = "application/zip"
BATCH_ROWS: Final = 1000

Format = Literal["jsonl", "csv", "evidence"]
_MEDIA: Final = {"jsonl": (NDJSON, "jsonl"), "csv": (CSV, "csv"), "evidence": (ZIP, "zip")}


async def export_events(
    service: Service,
    request: web.BaseRequest,
    *,
    q: str = "",
    format: Format = "jsonl",  # noqa: A002 - the name of the parameter
    order: Order = "oldest",
) -> web.StreamResponse:
    """Everything that a query finds, as a file."""
    tenant = reading_tenant(service, request)
    query = parse_query(q)
    tree_size = service.tree_size
    now = unix_us()
    head: SignedCheckpoint | None = None
    if format == "evidence":
        head = await service.published_covering(tree_size)
        tree_size = head.head.tree_size
        await _check_count(service, query, tenant=tenant, now=now, tree_size=tree_size)
    rows = service.searcher.engine.rows(
        query, tenant=tenant, now_unix_us=now, order=order, tree_size=tree_size
    )
    chunks: Iterator[bytes]
    if head is not None:
        chunks = _evidence(service, rows, query=format_query(query), head=head)
    elif format == "csv":
        chunks = _with_trailer(_csv(rows), tree_size, format_csv_trailer)
    else:
        chunks = _with_trailer(_jsonl(rows), tree_size, format_jsonl_trailer)
    media, ending = _MEDIA[format]
    name = f"events-{datetime.fromtimestamp(now / 1e6, UTC):%Y%m%dT%H%M%SZ}.{ending}"
    async with aclosing(_on_threads(service, chunks)) as pieces:
        return await stream_answer(
            request,
            pieces,
            media=f"{media}; charset=utf-8" if media == CSV else media,
            reader_wait_s=service.settings.reader_wait_s,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


async def _on_threads(service: Service, chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The chunks, each made on a thread while the loop does something else."""
    while (chunk := await service.searcher.run(partial(next, chunks, None))) is not None:
        yield chunk


async def _check_count(
    service: Service, query: Expression, *, tenant: str | None, now: int, tree_size: int
) -> None:
    """Refuse what is too much for one file of evidence before its first byte."""
    answer = await service.searcher.run(
        lambda: service.searcher.engine.search(
            query, tenant=tenant, now_unix_us=now, limit=0, tree_size=tree_size
        )
    )
    if answer.total > EVENTS_MAX:
        raise ProblemError(
            "too-many-rows",
            f"the query finds {answer.total} events, evidence holds {EVENTS_MAX}",
            field="q",
            limit=EVENTS_MAX,
            got=answer.total,
        )


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


def _jsonl(rows: Iterator[Row]) -> Iterator[tuple[int, bytes]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield len(batch), b"".join(map(_format_line, batch))


def _format_line(row: Row) -> bytes:
    """The leaf's bytes stay as they are: they are what the hash covers."""
    hash_ = format_base64(leaf_hash(row.leaf)).encode()
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (row.index, row.leaf[1:-1], hash_)


def format_jsonl_trailer(trailer: ExportTrailer) -> bytes:
    """The last line."""
    return msgspec.json.encode(TrailerLine(trailer)) + b"\n"


def _csv(rows: Iterator[Row]) -> Iterator[tuple[int, bytes]]:
    yield 0, format_header().encode()
    while batch := list(islice(rows, BATCH_ROWS)):
        cells = (table_row(row.index, row.leaf) for row in batch)
        yield len(batch), format_rows(cells).encode()


def format_csv_trailer(trailer: ExportTrailer) -> bytes:
    """The last record, as wide as the others (RFC 4180 §2.4)."""
    cells: list[Cell] = ["#trailer", trailer.rows, trailer.sha256, trailer.tree_size]
    return format_rows([cells + [""] * (len(COLUMNS) - len(cells))]).encode()


def _evidence(
    service: Service, rows: Iterator[Row], *, query: str, head: SignedCheckpoint
) -> Iterator[bytes]:
    def prove() -> Iterator[EvidenceEvent]:
        for row in rows:
            proof = prove_inclusion(service.store, leaf_index=row.index, head=head)
            yield EvidenceEvent(index=row.index, leaf=row.leaf, proof=proof)

    return write_evidence(
        islice(prove(), EVENTS_MAX),
        query=query,
        origin=service.origin,
        tree_size=head.head.tree_size,
        checkpoint=head.note,
        policy=service.policy_text,
    )


_BINARY: Final = {"type": "string", "format": "binary"}

ROUTES: Final = (
    Route(
        path="/v1/export",
        handler=export_events,
        summary="Everything that a query finds, as one file",
        scope="read",
        parameters=(
            QUERY_PARAMETER,
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
                help="The file. Its trailer holds the number of rows and a SHA-256: a file without "
                "one was cut short.",
                contents=(
                    Content(media=NDJSON, type={"type": "string"}),
                    Content(media=CSV, type={"type": "string"}),
                    Content(media=ZIP, type=_BINARY),
                ),
            ),
        ),
        problems=(
            "bad-parameter",
            "query",
            "too-many-rows",
            "too-busy",
            "not-yet-published",
            "signing-stopped",
        ),
    ),
)
