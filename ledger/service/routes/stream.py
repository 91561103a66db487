"""`GET /v1/events/stream`: the events that a query finds, as they come in.

The format is NDJSON, or server-sent events when `Accept` names them. Both carry the position of the
stream, so a reader that was cut off continues without a gap, with `from` or Last-Event-ID. Nothing
is queued for a reader: the service keeps only the position of the stream.

    {"index":17,"event":{…},"received":{…},"leaf_hash":"…","leaf":"…"}      an event
    {"next":42,"tree_size":42}            the position; also sent as a heartbeat

    id: 17
    data: {"index":17,…}

Source: html.spec.whatwg.org, "Server-sent events".
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.parameters import QUERY, flag_parameter, size_parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import NDJSON_MEDIA
from ledger.service.http.router import TEXT_SCHEMA, Route, Success, note_read
from ledger.service.http.streaming_response import stream_answer
from ledger.service.queries.stream import Scanned, Step, stream
from ledger.service.query_text import read_query
from ledger.service.routes.proofs import check_within
from ledger.store.log import PrunedError
from ledger_client.runtime.clock import unix_us
from ledger_core.search_answers import StreamPosition
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import parse_size

EVENTS: Final = "text/event-stream"
STEP_EVENTS: Final = 1024
"""Entries scanned in one step, or fewer if those found are large."""

STOP_POLL_S: Final = 0.5
"""The longest wait before a stream notices that the service stops."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class _EventStream:
    """One stream: where its events are found, and whether they carry proofs."""

    context: ServiceContext
    found: AsyncGenerator[Scanned, Step]
    proof: bool

    async def scan(self, start: int) -> AsyncIterator[tuple[Scanned, int]]:
        """Step after step from `start` on, with the tree size; one without events is the heartbeat.

        Precondition: the first value of `found` was taken.
        """
        heartbeat_s = self.context.settings.stream_heartbeat_s
        tree_size, head = await self._wait_for_size(start, wait_s=0)
        yield Scanned(b"", start), tree_size
        while not self.context.stopping.is_set():
            if start >= tree_size:
                tree_size, head = await self._wait_for_size(start + 1, wait_s=heartbeat_s)
                if start >= tree_size:
                    yield Scanned(b"", start), tree_size
                    continue
            end = min(tree_size, start + STEP_EVENTS)
            scanned = await self.found.asend(Step(start, end, head))
            start = scanned.next_index
            yield scanned, tree_size

    async def _wait_for_size(
        self, tree_size: int, *, wait_s: float
    ) -> tuple[int, SignedCheckpoint | None]:
        """The size up to which events are shown, once it is this large or the wait is over.

        With proofs it is the size of the published head, against which every event is proved.
        """
        waited_s = 0.0
        while True:
            if not self.proof:
                size, head = self.context.tree_size, None
            else:
                head = self.context.publisher.published
                size = 0 if head is None else head.head.tree_size
            if size >= tree_size or waited_s >= wait_s or self.context.stopping.is_set():
                return size, head
            step_s = min(STOP_POLL_S, wait_s - waited_s)
            await self._wait(tree_size, step_s)
            waited_s += step_s

    async def _wait(self, tree_size: int, wait_s: float) -> None:
        if self.proof:
            await self.context.publisher.wait_for(tree_size, timeout_s=wait_s)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self.context.sequencer.wait_past(tree_size - 1)
        except TimeoutError:
            return


async def stream_events(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    q: str = "",
    from_: int | None = None,
    proof: bool = False,
) -> web.StreamResponse:
    """The events that a query finds, from an index on and without an end."""
    token = authenticate(context.access, request, "query")
    is_sse = EVENTS in request.headers.get("Accept", "")
    query = read_query(q)
    start = _start(context, request, from_)
    client = context.query_pool.stream_client(token.name, token.tenant, request)
    found = client.pieces(stream, query, tenant=token.tenant, now_unix_us=unix_us(), is_sse=is_sse)
    events = _EventStream(context=context, found=found, proof=proof)
    async with (
        aclosing(found),
        aclosing(_write(events, start, is_sse=is_sse, note=partial(note_read, request))) as chunks,
    ):
        await anext(found)  # Raises ProblemError when too many streams are open.
        return await stream_answer(
            request,
            chunks,
            media=EVENTS if is_sse else NDJSON_MEDIA,
            reader_wait_s=context.settings.reader_wait_s,
            is_authorized=partial(is_authorized, context.access, request, "query"),
        )


def _start(context: ServiceContext, request: web.BaseRequest, from_: int | None) -> int:
    """The first index of the stream. Last-Event-ID wins: a browser repeats its first request."""
    last = request.headers.get("Last-Event-ID")
    if last:
        try:
            from_ = parse_size(last) + 1
        except MalformedError as error:
            raise ProblemError("bad-parameter", str(error), field="Last-Event-ID") from None
    if from_ is None:
        return context.tree_size
    check_within("from", from_, tree_size=context.tree_size)
    if context.store.pruning is not None and from_ < context.store.minimum_index:
        # Nothing is left out silently: the reader decides to begin later.
        raise PrunedError(context.store.pruning)
    return from_


async def _write(
    events: _EventStream, start: int, *, is_sse: bool, note: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    position_sent_s = 0.0
    heartbeat_s = events.context.settings.stream_heartbeat_s
    clock = asyncio.get_running_loop().time
    async for (text, next_index, rows), tree_size in events.scan(start):
        note(rows)
        is_caught_up = next_index >= tree_size
        if text or is_caught_up or clock() - position_sent_s >= heartbeat_s:
            position = StreamPosition(next=next_index, tree_size=tree_size)
            position_sent_s = clock()
            yield text + _format_position(position, is_sse=is_sse)


def _format_position(position: StreamPosition, *, is_sse: bool) -> bytes:
    """The position of the stream. Browsers remember an id without data and show no event for it."""
    if not is_sse:
        return _encode(position) + b"\n"
    if position.next == 0:
        return b": nothing yet\n\n"
    return b": position\nid: %d\n\n" % (position.next - 1)


ROUTES: Final = (
    Route(
        path="/v1/events/stream",
        handler=stream_events,
        summary="The events that a query finds, as they come in",
        scope="query",
        parameters=(
            QUERY,
            size_parameter(
                "from", "Begin with the entry at this index; left out, with the next to come."
            ),
            flag_parameter(
                "proof",
                "1 adds to each event a tlog-proof against the published head, and so shows an "
                "event when it is published.",
            ),
        ),
        successes=(
            Success(
                "Without an end: a line for each event found, and now and then one that says where "
                "the stream is.",
                {NDJSON_MEDIA: TEXT_SCHEMA, EVENTS: TEXT_SCHEMA},
            ),
        ),
        problems=("past-the-end", "pruned", "query", "too-busy"),
        is_streamed=True,
    ),
)
