"""`/v1/otlp/v1/logs`: log records of OpenTelemetry, as its SDKs and its collector send them.

Source: opentelemetry.io, "OTLP Specification 1.x", "OTLP/HTTP".
"""

from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from ledger.runtime.loop_turns import AT_ONCE
from ledger.service.admission import SMALL_BYTES
from ledger.service.auth import authenticate, authenticate_again
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS, read_body
from ledger.service.http.request_body import check_media_type
from ledger.service.http.responses import JSON_MEDIA, NDJSON_MEDIA, make_answer
from ledger.service.http.router import BYTES_SCHEMA, TEXT_SCHEMA, Route, Success
from ledger.service.ingest import WRITE_PROBLEMS
from ledger.service.otlp import split_otlp
from ledger.service.otlp_protobuf import encode_response
from ledger_core.api import Refused

PROTOBUF: Final = "application/x-protobuf"
MEDIA_TYPES: Final = (PROTOBUF, JSON_MEDIA, NDJSON_MEDIA)
OBJECT_SCHEMA: Final = {"type": "object"}


async def append_otlp_logs(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Append the log records of the body, durably; the answer counts those that were refused."""
    token = authenticate(context.access, request, "append")
    settings = context.settings
    media = check_media_type(request.headers.get("Content-Type"), MEDIA_TYPES)
    with context.bytes_in_flight.lease(token.name) as take:
        body = await read_body(
            request,
            bytes_max=settings.request_bytes_max,
            wait_s=settings.body_wait_s,
            take=take,
            turn=context.loop_turns.turn(token.name),
        )
        async with context.admission.admit(token.name, len(body)):
            authenticate_again(context.access, request)
            split = partial(
                split_otlp,
                body,
                is_json=media != PROTOBUF,
                events_max=settings.request_events_max,
                reader=context.ingest.reader,
            )
            turn = context.loop_turns.turn(token.name) if len(body) <= SMALL_BYTES else AT_ONCE
            async with turn:
                parsed = await context.ingest.split(body, token.name, split, has_lines=False)
            take(max(0, parsed.events_bytes - len(body)))
            outcomes = await context.ingest.append(
                parsed, by=token.name, tenant=token.tenant, actions=token.actions, turn=turn
            )
    refused = [outcome.error for outcome in outcomes if isinstance(outcome, Refused)]
    message = ""
    if refused:
        first = refused[0]
        message = f"{len(refused)} refused, the first for: {first.field or ''} {first.detail}"
    if media == PROTOBUF:
        return make_answer(encode_response(rejected=len(refused), message=message), media=PROTOBUF)
    rejected = {"rejectedLogRecords": str(len(refused)), "errorMessage": message}
    answer = {"partialSuccess": rejected} if refused else {}
    return make_answer(msgspec.json.encode(answer), media=JSON_MEDIA)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/otlp/v1/logs",
        handler=append_otlp_logs,
        is_write=True,
        summary="Append log records of OpenTelemetry",
        scope="append",
        bodies={PROTOBUF: BYTES_SCHEMA, JSON_MEDIA: OBJECT_SCHEMA, NDJSON_MEDIA: TEXT_SCHEMA},
        successes=(
            Success(
                "The records are in the log, durably, except those that a partial success counts.",
                {PROTOBUF: BYTES_SCHEMA, JSON_MEDIA: OBJECT_SCHEMA},
            ),
        ),
        problems=("not-json", "not-protobuf", "too-many-events", *BODY_PROBLEMS, *WRITE_PROBLEMS),
    ),
)
