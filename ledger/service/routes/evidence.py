"""`POST /v1/evidence`: everything that a query finds, as a bundle that anybody can verify offline.

The format is that of `ledger_core.evidence`. The bundle is written while the events are found, in
constant memory. When all are found, the statement about the export is appended to the log, and
comes into the bundle with the proof that it is there: an export that was cut short before left no
statement, and no complete bundle.

While a quorum of witnesses is missing, the bundle is of the published tree, and the statement has
no proof: the manifest says why.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from hashlib import sha256
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate, is_authorized
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import ParsedBody, check_media_type
from ledger.service.http.responses import JSON_MEDIA
from ledger.service.http.router import BYTES_SCHEMA, Route, Success
from ledger.service.http.streaming_response import stream_answer
from ledger.service.ingest import WRITE_PROBLEMS
from ledger.service.queries.evidence import EvidenceExport, StatementEntry, write_evidence
from ledger.service.queries.saved import expand_text
from ledger.service.queries.store_proofs import prove_inclusion
from ledger.service.query_pool import QueryClient
from ledger.service.routes.proofs import HEAD_PROBLEMS
from ledger.service.token_admin import SERVICE_NAME
from ledger.store.tokens import TokenRecord, TokenScope
from ledger_core.api import AskEvidence, Refused
from ledger_core.event.commitments import may_be_private
from ledger_core.event.times import format_time
from ledger_core.evidence.layout import ACTION, STATED, Statement, to_object
from ledger_core.evidence.page import Asked
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.text import format_base64

ZIP: Final = "application/zip"
BODY_BYTES_MAX: Final = 1 << 18


async def export_evidence(context: ServiceContext, request: web.BaseRequest) -> web.StreamResponse:
    """Everything that a query finds, as a bundle."""
    token = authenticate(context.access, request, "export")
    ask = await _read_ask(context, request, token)
    scope: TokenScope = "private" if ask.disclose else "export"
    authenticate(context.access, request, scope)
    with context.holding_query(token.name, ask.query):
        export = await _begin(context, request, token, ask)
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


async def _begin(
    context: ServiceContext, request: web.BaseRequest, token: TokenRecord, ask: AskEvidence
) -> EvidenceExport:
    now = context.ingest.now()
    client = context.query_pool.client(token.name, request)
    text = await client.run(expand_text, ask.query, tenant=token.tenant, now_unix_us=now)
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
    return EvidenceExport(
        asked=asked,
        now_unix_us=now,
        head=head,
        policy_text=context.policy_text,
    )


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
    context: ServiceContext, client: QueryClient, export: EvidenceExport
) -> AsyncGenerator[bytes, None]:
    async with aclosing(client.pieces(write_evidence, export)) as pieces:
        async for piece in pieces:
            if isinstance(piece, dict):
                event = context.ingest.check_own(_event(export.asked, piece))
                entry = await _record(context, event)
                yield cast("bytes", await pieces.asend(entry))
            elif piece:
                yield piece


async def _record(context: ServiceContext, event_json: bytes) -> StatementEntry:
    """Append the statement to the log; its entry with the proof that it is there."""
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
            return StatementEntry(leaf=leaf, proof=proof, head=head)
    return StatementEntry(
        leaf=leaf,
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


def _sample(export: EvidenceExport) -> dict[str, Any]:
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


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/evidence",
        handler=export_evidence,
        is_write=True,
        summary="Everything that a query finds, as a bundle that anybody can verify",
        scope="export",
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
