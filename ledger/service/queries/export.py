"""The work of exports: JSON lines or CSV, piece by piece, then the trailer."""

import hashlib
import time
from collections.abc import Generator, Iterator
from typing import Final, Literal

import msgspec

from ledger.query.answer import Row
from ledger.service.queries.job import QueryJob
from ledger.service.queries.saved import read_asked
from ledger_core.event.csv import format_header, format_rows, table_row
from ledger_core.query.ast import Expression
from ledger_core.query.order import Order
from ledger_core.search_answers import ExportTrailer, TrailerLine
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64

BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 1 << 20
BATCH_S: Final = 0.2
"""Seconds after which an export leaves its thread to others, whether it found rows or not."""

Format = Literal["jsonl", "csv"]


def export(
    job: QueryJob,
    query: Expression | str,
    *,
    tenant: str | None,
    now_unix_us: int,
    order: Order,
    tree_size: int,
    format: Format,  # noqa: A002 - the name of the parameter
) -> Generator[bytes | ExportTrailer, None, None]:
    """Work: the file in pieces, an empty one when a turn ends before rows were found.

    When all rows are found it gives the trailer, and for JSON lines then the line with it.
    """
    batches = job.engine.row_batches(
        read_asked(job, query, tenant=tenant),
        tenant=tenant,
        now_unix_us=now_unix_us,
        order=order,
        tree_size=tree_size,
        is_cancelled=job.is_cancelled,
    )
    sha256, rows = hashlib.sha256(), 0
    for count, chunk in _csv(batches) if format == "csv" else _jsonl(batches):
        sha256.update(chunk)
        rows += count
        yield chunk
    trailer = ExportTrailer(rows=rows, sha256=sha256.hexdigest(), tree_size=tree_size)
    yield trailer
    if format == "jsonl":
        yield format_jsonl_trailer(trailer)


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
