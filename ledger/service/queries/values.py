"""The work of lists of values: a line for each, piece by piece, then the trailer."""

import time
from collections.abc import Generator
from typing import Final

from msgspec.json import encode

from ledger.service.queries.job import QueryJob
from ledger.service.queries.saved import read_asked
from ledger_core.asking import ValuesTrailer, ValuesTrailerLine
from ledger_core.query.ast import Expression
from ledger_core.query.counting import parse_count_field
from ledger_core.search_answers import FacetValue

PIECE_VALUES: Final = 1000
PIECE_S: Final = 0.2
"""Seconds after which a list leaves its thread to others."""


def stream_values(
    job: QueryJob,
    query: Expression | str,
    field: str,
    *,
    tenant: str | None,
    now_unix_us: int,
) -> Generator[bytes, None, None]:
    """Work: the values of a field with their counts. Precondition: the field can be counted."""
    expression = read_asked(job, query, tenant=tenant)
    tree_size = job.engine.tree_size()
    stream = job.engine.value_stream(
        expression,
        parse_count_field(field),
        tenant=tenant,
        now_unix_us=now_unix_us,
        tree_size=tree_size,
        is_cancelled=job.is_cancelled,
    )
    lines: list[bytes] = []
    values, end_s = 0, time.monotonic() + PIECE_S
    for found in stream:
        if found is not None:
            lines.append(encode(FacetValue(*found)) + b"\n")
        if len(lines) >= PIECE_VALUES or time.monotonic() >= end_s:
            yield b"".join(lines)
            values += len(lines)
            lines, end_s = [], time.monotonic() + PIECE_S
    values += len(lines)
    trailer = ValuesTrailer(
        values=values, total=stream.total, exact=stream.is_exact, tree_size=tree_size
    )
    yield b"".join(lines) + encode(ValuesTrailerLine(trailer)) + b"\n"
