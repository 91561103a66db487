"""The work of live streams: finds the events of each step, and formats them."""

from collections.abc import Generator
from typing import Final, NamedTuple

import msgspec

from ledger.query.answer import Row
from ledger.query.leaf_cache import LeafCache
from ledger.service.queries.found_event import make_found_event
from ledger.service.queries.job import QueryJob
from ledger.service.queries.saved import read_asked
from ledger.service.queries.store_proofs import prove_inclusion
from ledger_core.query.ast import Expression
from ledger_core.query.predicate import Matcher
from ledger_core.tlog.checkpoint import SignedCheckpoint

STEP_BYTES: Final = 1 << 20
"""Leaves after which a step ends: each stream may hold so much while its reader stops."""

_encode = msgspec.json.Encoder().encode


class Step(NamedTuple):
    """The entries `[start, end)` to look through. With a head, each event is proved against it."""

    start: int
    end: int
    head: SignedCheckpoint | None


class Scanned(NamedTuple):
    """The events found in a step, as text, the index where the next step begins, and how many."""

    text: bytes
    next_index: int
    rows: int = 0


def stream(
    job: QueryJob, query: Expression | str, *, tenant: str | None, now_unix_us: int, is_sse: bool
) -> Generator[Scanned, Step, None]:
    """Work: the events of each step that is sent. What it gives first has none."""
    query = read_asked(job, query, tenant=tenant)
    matches = job.engine.matcher(query, tenant=tenant, now_unix_us=now_unix_us)
    step = yield Scanned(b"", 0)
    while True:
        step = yield _scan(job, step, matches, is_sse=is_sse)


def _scan(job: QueryJob, step: Step, matches: Matcher, *, is_sse: bool) -> Scanned:
    """The events of a step. It ends before its end if they are large."""
    start, end, head = step
    lines: list[bytes] = []
    size = 0
    for first, leaves in LeafCache(job.store).bundles(start, end):
        if job.is_cancelled():
            return Scanned(b"".join(lines), first, len(lines))
        for index, leaf in enumerate(leaves, first):
            if size >= STEP_BYTES:
                return Scanned(b"".join(lines), index, len(lines))
            if matches(index, leaf):
                event = make_found_event(Row(index, leaf))
                if head is not None:
                    event.proof = prove_inclusion(job.store, leaf_index=index, head=head)
                lines.append(_format(index, _encode(event), is_sse=is_sse))
                size += len(leaf)
    return Scanned(b"".join(lines), end, len(lines))


def _format(index: int, json: bytes, *, is_sse: bool) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (index, json) if is_sse else json + b"\n"
