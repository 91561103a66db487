"""`/v1/private/erasures`: destroy what is private of one subject, and log that it was done."""

import asyncio
from secrets import token_bytes
from typing import Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import Service
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import ParsedBody, read_body
from ledger.service.http.responses import JSON_MEDIA, encode_answer
from ledger.service.http.router import Content, Route, Success
from ledger_core.api import Erase, Erased, Refused
from ledger_core.event.canonical import format_time
from ledger_core.event.commitments import erasure_event
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.secrets import mask
from ledger_core.tlog.errors import MalformedError, UnavailableError

BODY_BYTES_MAX: Final = 65_536


async def erase_subject(service: Service, request: web.BaseRequest) -> web.Response:
    """Destroy key, salts and values of a subject, then log it."""
    token = authenticate(service.access, request.headers.get("Authorization"), "admin")
    if token.tenant is not None:
        raise ProblemError("wrong-tenant", "a subject's values may be of every tenant")
    body = await read_body(request, bytes_max=BODY_BYTES_MAX, wait_s=service.settings.body_wait_s)
    try:
        erase = msgspec.json.decode(body, type=Erase)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProblemError("not-json", "want subject and reason, both texts of an event") from None
    store = service.privacy.store
    unix_us = service.appender.now()
    values = store.count(erase.subject)
    event = erasure_event(
        subject=erase.subject,
        reason=erase.reason,
        actor={"type": "ledger.token", "id": token.name},
        values=values,
        event_id=format_uuid7(unix_ms=unix_us // 1000, random=token_bytes(UUID7_RANDOM_BYTES)),
        time=format_time(unix_us),
    )
    # Read before anything is destroyed: an event that can't be logged must stop it.
    read = service.appender.reader.read_object(mask(event))
    erasure = await asyncio.to_thread(store.erase, erase.subject, event_json=read.event_json)
    items = ParsedBody([read.event_json], service.appender.reader.read, is_batch=False)
    try:
        (outcome,) = await service.appender.append(items, by=token.name, tenant=None)
    except UnavailableError:
        # It is erased all the same, so its event must get into the log: by the outbox, then.
        service.access.enqueue(read.event_json)
        store.finish(erasure)
        raise
    if isinstance(outcome, Refused):
        raise MalformedError("an event that was read before is refused")
    await asyncio.to_thread(store.finish, erasure)
    return encode_answer(
        Erased(subject=erase.subject, values=values, index=outcome.index, id=outcome.id)
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/private/erasures",
        handler=erase_subject,
        summary="Destroy what is private of one subject",
        scope="admin",
        bodies=(Content(media=JSON_MEDIA, type=Erase),),
        successes=(
            Success(
                help="Key, salts and values are destroyed, and the event that says so is logged.",
                contents=(Content(media=JSON_MEDIA, type=Erased),),
            ),
        ),
        problems=(
            "wrong-tenant",
            "not-json",
            "body-cut-short",
            "body-too-slow",
            "body-too-large",
            "unsupported-media-type",
            "expectation-failed",
            "string",
            "queue-full",
            "writing-stopped",
            "storage-full",
            "unavailable",
        ),
    ),
)
