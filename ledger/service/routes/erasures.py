"""`/v1/private/erasures`: destroy the private values of one subject, and log the erasure."""

from functools import partial
from secrets import token_bytes
from typing import Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import (
    ParsedBody,
    check_media_type,
)
from ledger.service.http.responses import JSON_MEDIA, encode_answer
from ledger.service.http.router import Route, Success
from ledger.service.ingest import WRITE_PROBLEMS
from ledger_core.api import Erase, Erased, Refused
from ledger_core.event.commitments import erasure_event
from ledger_core.event.diagnostics import check_json_of
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError, UnavailableError

BODY_BYTES_MAX: Final = 65_536


async def erase_subject(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Destroy key, salts and values of a subject, then log the erasure."""
    token = authenticate(context.access, request, "erase")
    if token.tenant is not None:
        raise ProblemError("wrong-tenant", "a subject's values may be of every tenant")
    check_media_type(request.headers.get("Content-Type"), (JSON_MEDIA,))
    body = await context.read_body(request, owner=token.name, bytes_max=BODY_BYTES_MAX)
    check_json_of(body, Erase)
    erase = msgspec.json.decode(body, type=Erase)
    store = context.private_fields.store
    # A step may wait for the disk, and for the lock of others: each at the turn of this token.
    beside = partial(context.ingest.run_beside, token.name)
    unix_us = context.ingest.now()
    names = context.private_fields.names_of(erase.subject)
    values = await beside(partial(store.count, *names))
    event = erasure_event(
        subject=erase.subject,
        reason=erase.reason,
        actor={"type": "ledger.token", "id": token.name},
        values=values,
        tree_size=context.tree_size,
        event_id=format_uuid7(unix_ms=unix_us // 1000, random=token_bytes(UUID7_RANDOM_BYTES)),
        time=format_time(unix_us),
    )
    # Read before anything is destroyed: an erasure whose event can't be logged must not happen.
    read = context.ingest.reader.read_object(context.ingest.mask(event))
    erasure = await beside(partial(store.erase, *names, event_json=read.event_json))
    parsed = ParsedBody([read.event_json], context.ingest.reader.read, is_batch=False)
    try:
        (outcome,) = await context.ingest.append(parsed, by=token.name, tenant=None, is_own=True)
    except UnavailableError:
        # The values are destroyed already, so the outbox must bring the event into the log.
        context.access.enqueue(read.event_json)
        store.finish(erasure)
        raise
    if isinstance(outcome, Refused):
        raise MalformedError("an event that was read before is refused")
    await beside(partial(store.finish, erasure))
    return encode_answer(
        Erased(subject=erase.subject, values=values, index=outcome.index, id=outcome.id)
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/private/erasures",
        handler=erase_subject,
        is_write=True,
        summary="Destroy what is private of one subject",
        scope="erase",
        bodies={JSON_MEDIA: Erase},
        successes=(
            Success(
                "Key, salts and values are destroyed, and the event of it is logged.",
                {JSON_MEDIA: Erased},
            ),
        ),
        problems=(
            *("wrong-tenant", "not-json", "repeated-key", "unknown-key", "missing-field"),
            *("wrong-type", "string", "too-short", "too-long", "too-deep", "unavailable"),
            *BODY_PROBLEMS,
            *WRITE_PROBLEMS,
        ),
    ),
)
