"""`POST /v1/evidence`: everything that a query finds, as a bundle that anybody can verify offline.

The format is that of `ledger_core.evidence`. The bundle is written while the events are found, in
constant memory. When all are found, the statement about the export is appended to the log, and
comes into the bundle with the proof that it is there: an export that was cut short before left no
statement, and no complete bundle.

While a quorum of witnesses is missing, the bundle is of the published tree, and the statement has
no proof: the manifest says why.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final

import msgspec
from aiohttp import web

from ledger.query.answer import Row
from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import ParsedBody, check_media_type
from ledger.service.http.responses import JSON_MEDIA
from ledger.service.http.router import BYTES_SCHEMA, Route, Success
from ledger.service.http.streaming_response import stream_answer
from ledger.service.ingest import WRITE_PROBLEMS
from ledger.service.query_pool import QueryClient
from ledger.service.routes.proofs import HEAD_PROBLEMS, prove_inclusion
from ledger.service.token_admin import SERVICE_NAME
from ledger.store.kept_heads import kept_heads
from ledger.store.log import LogStore
from ledger.store.tokens import TokenRecord, TokenScope
from ledger_core.api import AskEvidence, Refused
from ledger_core.event.canonical import format_time, parse_leaf
from ledger_core.event.commitments import Opening, find_values, may_be_private
from ledger_core.evidence.layout import ACTION, STATED, Statement, to_object
from ledger_core.evidence.page import Asked
from ledger_core.evidence.writer import EvidenceWriter, Sources, TooManyPartsError
from ledger_core.query.ast import Expression, format_query, resolve
from ledger_core.query.parser import parse_query
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, Hash
from ledger_core.tlog.prove import plan_multi
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tree import Node, TreeHead

ZIP: Final = "application/zip"
BODY_BYTES_MAX: Final = 65_536
TURN_ROWS: Final = 2000
TURN_S: Final = 0.2
"""Rows or seconds after which an export leaves its thread to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    """One export: what was asked, and the tree that it is of."""

    asked: Asked
    expression: Expression
    now_unix_us: int
    head: SignedCheckpoint


async def export_evidence(context: ServiceContext, request: web.BaseRequest) -> web.StreamResponse:
    """Everything that a query finds, as a bundle."""
    token = authenticate(context.access, request, "read")
    ask = await _read_ask(context, request, token)
    scope: TokenScope = "private" if ask.disclose else "read"
    authenticate(context.access, request, scope)
    export = await _begin(context, token, ask)
    context.ingest.check_own(_event(export.asked, _sample(export)))
    client = context.query_pool.client(token.name, request)
    name = f"evidence-{export.asked.time[:19].replace('-', '').replace(':', '')}Z.zip"
    async with aclosing(_write(context, client, export)) as pieces:
        return await stream_answer(
            request,
            pieces,
            media=ZIP,
            reader_wait_s=context.settings.reader_wait_s,
            is_authorized=partial(is_authorized, context.access, request, scope),
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


async def _read_ask(
    context: ServiceContext, request: web.BaseRequest, token: TokenRecord
) -> AskEvidence:
    check_media_type(request.headers.get("Content-Type"), (JSON_MEDIA,))
    body = await context.read_body(request, owner=token.name, bytes_max=BODY_BYTES_MAX)
    try:
        ask = msgspec.json.decode(body, type=AskEvidence)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProblemError(
            "not-json", "want query, case, reason and disclose, each of them optional"
        ) from None
    for path in ask.disclose:
        if not may_be_private(path):
            raise ProblemError("private", "no private value can stand there", field="disclose")
    return ask


async def _begin(context: ServiceContext, token: TokenRecord, ask: AskEvidence) -> _Export:
    now = context.ingest.now()
    expression = resolve(parse_query(ask.query), now)
    text = format_query(expression)
    if parse_query(text) != expression:
        raise ProblemError(
            "query", "with its relative times resolved, the query would be read as another one"
        )
    head = await _published(context)
    asked = Asked(
        origin=context.origin,
        tree_size=head.head.tree_size,
        query=text,
        token=token.name,
        time=format_time(now),
        tenant=token.tenant,
        case=ask.case,
        reason=ask.reason,
        disclose=ask.disclose,
    )
    return _Export(asked=asked, expression=expression, now_unix_us=now, head=head)


async def _published(context: ServiceContext) -> SignedCheckpoint:
    """The published head that covers the whole log, or the last one while witnesses are missing."""
    published = context.publisher.published
    if published is not None and context.publisher.quorum_missing is not None:
        return published
    try:
        return await context.published_covering(context.tree_size)
    except ProblemError:
        if published is None:
            raise
        return published


async def _write(
    context: ServiceContext, client: QueryClient, export: _Export
) -> AsyncGenerator[bytes, None]:
    tree = export.head.head
    sources = make_sources(context.store, tree)
    writer = EvidenceWriter(export.asked, sources, head=export.head, policy=context.policy_text)
    batches = context.query_pool.engine.row_batches(
        export.expression,
        tenant=export.asked.tenant,
        now_unix_us=export.now_unix_us,
        tree_size=tree.tree_size,
        is_cancelled=client.is_cancelled,
    )
    add = partial(_add_rows, context, writer, batches, export.asked.disclose)
    while await client.run(add):
        if piece := writer.take():
            yield piece
    event = _event(export.asked, await client.run(writer.state))
    await _record(context, writer, context.ingest.check_own(event))
    yield writer.take()


def _add_rows(
    context: ServiceContext,
    writer: EvidenceWriter,
    batches: Iterator[list[Row]],
    disclose: Sequence[str],
) -> bool:
    """Write the next rows; False at the end. Raises: ProblemError when the bundle is full."""
    count, end_s = 0, time.monotonic() + TURN_S
    try:
        for rows in batches:
            for row in rows:
                openings = _openings(context, row, disclose) if disclose else ()
                writer.add(row.index, row.leaf, openings)
            count += len(rows)
            if count >= TURN_ROWS or time.monotonic() >= end_s:
                return True
    except TooManyPartsError as error:
        raise ProblemError("too-many-rows", str(error)) from None
    return False


def _openings(context: ServiceContext, row: Row, disclose: Sequence[str]) -> tuple[Opening, ...]:
    """The openings of an event's private values at some places, unless they were erased."""
    if b"commitment" not in row.leaf:
        return ()
    event_json = parse_leaf(row.leaf).event_json
    event = msgspec.json.decode(event_json)
    paths = {found[0] for path in disclose for found in find_values(event, path)}
    return tuple(each for each in context.private_fields.open(event_json) if each.path in paths)


async def _record(context: ServiceContext, writer: EvidenceWriter, event_json: bytes) -> None:
    """Append the statement to the log, and end the bundle with it and its proof."""
    parsed = ParsedBody([event_json], context.ingest.reader.read, is_batch=False)
    (outcome,) = await context.ingest.append(parsed, by=SERVICE_NAME, tenant=None, is_own=True)
    if isinstance(outcome, Refused):
        raise MalformedError("an event that was read before is refused")
    leaf = context.store.leaf(outcome.index)
    if leaf is None:
        raise MalformedError(f"entry {outcome.index} is missing")
    missing = context.publisher.quorum_missing
    if missing is None:
        try:
            head = await context.published_covering(outcome.index + 1)
        except ProblemError as error:
            missing = context.publisher.quorum_missing or str(error)
        else:
            proof = prove_inclusion(context.store, leaf_index=outcome.index, head=head)
            writer.finish(leaf, proof=proof, head=head)
            return
    writer.finish(
        leaf,
        missing=f"entry {outcome.index} of the log records this export, but no published head"
        f" covers it yet: {missing}",
    )


def _event(asked: Asked, stated: dict[str, Any]) -> dict[str, Any]:
    """The event that records an export."""
    event: dict[str, Any] = {
        "time": asked.time,
        "actor": {"type": "ledger.token", "id": asked.token},
        "action": ACTION,
        "targets": [] if asked.case is None else [{"type": "case", "id": asked.case}],
        "outcome": "success",
        "reason": asked.reason,
        "context": {"evidence": stated},
        "tenant": asked.tenant,
    }
    return {name: value for name, value in event.items() if value not in (None, [])}


def _sample(export: _Export) -> dict[str, Any]:
    """A statement like the one to come, so that one that can't be logged is refused at once."""
    digest = sha256().hexdigest()
    statement = Statement(
        v=2,
        query=export.asked.query,
        order="oldest",
        fields="all",
        tree_size=export.asked.tree_size,
        root_hash=format_base64(EMPTY_ROOT_HASH),
        total=0,
        leaf_hashes_sha256=digest,
        files=dict.fromkeys(STATED, digest),
        disclose=export.asked.disclose,
    )
    return to_object(statement)


def make_sources(store: LogStore, head: TreeHead) -> Sources:
    """What a writer of evidence asks of a log, about the entries of a published head."""

    def prove(indices: Sequence[int]) -> tuple[Hash, ...]:
        plan = plan_multi(indices=indices, tree_size=head.tree_size)
        return store.prove(plan, [Node(0, index) for index in indices], head)

    def first_head(size: int) -> SignedCheckpoint | None:
        return next(iter(kept_heads(store.environment, start=size, most=1)), None)

    def consistency(old_size: int, new_size: int) -> tuple[Hash, ...]:
        new = head if new_size == head.tree_size else store.head_at(new_size)
        return store.prove_consistency(old_size, new)

    return Sources(prove=prove, first_head=first_head, consistency=consistency)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/evidence",
        handler=export_evidence,
        is_write=True,
        summary="Everything that a query finds, as a bundle that anybody can verify",
        scope="read",
        bodies={JSON_MEDIA: AskEvidence},
        successes=(
            Success(
                "The bundle, a .zip. The log records the export as an event, which is in the"
                " bundle too.",
                {ZIP: BYTES_SCHEMA},
            ),
        ),
        problems=(
            *("query", "not-json", "private", "secret", "string", "too-long", "too-many-rows"),
            "leaf-too-large",
            *BODY_PROBLEMS,
            *HEAD_PROBLEMS,
            *WRITE_PROBLEMS,
        ),
        is_streamed=True,
    ),
)
