"""`/v1/events`: append events, and read one back."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import Service
from ledger.service.http.problems import ProblemError, make_problem
from ledger.service.http.request_body import JSON, MSGPACK, NDJSON, read_body, split_body
from ledger.service.http.responses import NO_STORE, PROBLEM_MEDIA, encode_answer
from ledger.service.http.router import (
    Content,
    Route,
    Success,
    choice_parameter,
    flag_parameter,
    path_parameter,
    size_parameter,
)
from ledger.service.routes.proving import (
    check_within,
    prove_consistency,
    prove_inclusion,
    prove_range,
)
from ledger_core.api import AllRefused, AppendAnswer, Batch, Envelope, EventAnswer, Refused, Result
from ledger_core.event.canonical import Leaf, parse_leaf
from ledger_core.event.model import Event
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64, parse_size

PROOFS_BETWEEN_YIELDS: Final = 64
PRIVATE: Final = "private, no-cache"

_is_uuid = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch


async def append_events(
    service: Service,
    request: web.BaseRequest,
    *,
    proof: bool = False,
    from_size: int | None = None,
    wait: str | None = None,
) -> web.Response:
    """Append the events of the body."""
    token = authenticate(service.access, request.headers.get("Authorization"), "append")
    if from_size is not None:
        if not proof:
            raise ProblemError("bad-parameter", "needs proof=1", field="from_size")
        check_within("from_size", from_size, tree_size=service.tree_size)
    if proof and service.publisher.failure is not None:
        # Before anything is kept: the answer could not say what was asked.
        raise service.publisher.failure
    settings = service.settings
    body = await read_body(
        request, bytes_max=settings.request_bytes_max, wait_s=settings.body_wait_s
    )
    items = split_body(
        body,
        content_type=request.headers.get("Content-Type"),
        events_max=settings.request_events_max,
        reader=service.appender.reader,
    )
    outcomes = await service.appender.append(items, by=token.name, tenant=token.tenant)
    logged = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    if not logged:
        return _all_refused(outcomes)
    answer = AppendAnswer(results=outcomes)
    head: SignedCheckpoint | None = None
    needed = max(max(result.index for result in logged) + 1, from_size or 0)
    if wait is not None:
        head = await service.publisher.wait_for(needed, timeout_s=settings.witnessed_wait_s)
        answer.witnessed = head is not None
    if proof:
        if head is None:
            head = await service.acknowledged_head(needed)
        await _prove(service, logged, head, answer, is_batch=items.is_batch)
        if from_size is not None:
            answer.consistency = prove_consistency(
                service.store, old_size=from_size, new_size=head.head.tree_size
            )
    return encode_answer(answer, status=200 if len(logged) == len(outcomes) else 207)


async def read_event(
    service: Service,
    request: web.BaseRequest,
    *,
    ref: str,
    proof: bool = False,
    from_size: int | None = None,
) -> web.Response:
    """One event by its index or id."""
    tenant = None
    authorization = request.headers.get("Authorization")
    may_open = False
    if not service.settings.public_entries:
        token = authenticate(service.access, authorization, "read")
        tenant, may_open = token.tenant, token.may("private")
    if from_size is not None and not proof:
        raise ProblemError("bad-parameter", "needs proof=1", field="from_size")
    found = find_event(service, ref, tenant=tenant)
    index, stored, parsed = found.index, found.stored, found.leaf
    answer = EventAnswer(
        index=index,
        event=msgspec.Raw(parsed.event_json),
        received=parsed.received,
        leaf_hash=format_base64(leaf_hash(stored)),
        leaf=stored.decode(),
    )
    if may_open:
        answer.private = service.privacy.open(found.leaf.event_json)
    if proof:
        if from_size is not None:
            check_within("from_size", from_size, tree_size=service.tree_size)
        head = await service.published_covering(max(index + 1, from_size or 0))
        answer.proof = prove_inclusion(service.store, leaf_index=index, head=head)
        if from_size is not None:
            answer.consistency = prove_consistency(
                service.store, old_size=from_size, new_size=head.head.tree_size
            )
    return encode_answer(answer, cache=NO_STORE if answer.private else PRIVATE)


def _all_refused(outcomes: Sequence[Result | Refused]) -> web.Response:
    """A problem document of its own, with the outcomes in it."""
    first = next(outcome.error for outcome in outcomes if isinstance(outcome, Refused))
    where = f"{first.field}: " if first.field else ""
    detail = f"{len(outcomes)} refused, the first for: {where}{first.detail}"
    problem = make_problem("all-refused", detail)
    answer = AllRefused(**problem.members(), results=list(outcomes))
    return encode_answer(answer, status=problem.status, media=PROBLEM_MEDIA)


async def _prove(
    service: Service,
    logged: Sequence[Result],
    head: SignedCheckpoint,
    answer: AppendAnswer,
    *,
    is_batch: bool,
) -> None:
    """Add the proofs: one for all new events of a batch, else one for each event."""
    alone = logged
    if is_batch:
        new = [result.index for result in logged if not result.duplicate]
        alone = [result for result in logged if result.duplicate]
        if new:
            answer.range_proof = prove_range(
                service.store, start=new[0], end=new[-1] + 1, head=head
            )
    for position, result in enumerate(alone, start=1):
        result.proof = prove_inclusion(service.store, leaf_index=result.index, head=head)
        if position % PROOFS_BETWEEN_YIELDS == 0:
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Found:
    """An event that was asked for by its index or id."""

    index: int
    stored: bytes
    leaf: Leaf


def find_event(service: Service, ref: str, *, tenant: str | None) -> Found:
    """The event at an index or with an id. Raises: ProblemError, also for another tenant's."""
    if _is_uuid(ref):
        known = service.store.index_of(bytes.fromhex(ref.replace("-", "")))
        if known is None:
            raise ProblemError("no-event", "no event has this id")
        index = known
    else:
        try:
            index = parse_size(ref)
        except MalformedError as error:
            raise ProblemError(
                "bad-parameter", f"neither an index nor a UUID: {error}", field="ref"
            ) from None
    stored = service.store.leaf(index)
    if stored is None:
        raise ProblemError(
            "no-event",
            f"no event has the index {index}, the tree has size {service.tree_size}",
            limit=service.tree_size,
            got=index,
        )
    leaf = parse_leaf(stored)
    if tenant is not None and leaf.event.tenant != tenant:
        raise ProblemError("wrong-tenant", "the token is bound to one tenant, this is another's")
    return Found(index, stored, leaf)


_PROOF = flag_parameter("proof", "1 adds a proof against a signed head.")
_FROM_SIZE = size_parameter(
    "from_size", "With proof=1: also prove that the tree of the head begins with this one."
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/events",
        handler=append_events,
        summary="Append one event, or up to 10,000",
        scope="append",
        parameters=(
            flag_parameter(
                "proof",
                "1 adds a tlog-proof to a single event, and to a batch one range proof over its "
                "new events and a tlog-proof for each duplicate, all against one signed head.",
            ),
            _FROM_SIZE,
            choice_parameter(
                "wait",
                ("witnessed",),
                "Answer when a published checkpoint covers the events, or when that takes too "
                "long; `witnessed` says which.",
            ),
        ),
        bodies=(
            Content(media=JSON, type=(Event, Envelope, Batch)),
            Content(media=NDJSON, type={"type": "string", "description": "One event a line."}),
            Content(media=MSGPACK, type=(Event, Envelope, Batch)),
        ),
        successes=(
            Success(
                help="All events are in the log, durably.",
                contents=(Content(media=JSON, type=AppendAnswer),),
            ),
            Success(
                status=207,
                help="Some events are in the log, durably; `results` says which.",
                contents=(Content(media=JSON, type=AppendAnswer),),
            ),
            Success(
                status=422,
                help="No event is in the log.",
                contents=(Content(media=PROBLEM_MEDIA, type=AllRefused),),
            ),
        ),
        problems=(
            "bad-parameter",
            "past-the-end",
            "not-json",
            "not-msgpack",
            "body-cut-short",
            "body-too-slow",
            "body-too-large",
            "too-many-events",
            "unsupported-media-type",
            "expectation-failed",
            "empty-batch",
            "unknown-key",
            "repeated-key",
            "wrong-type",
            "too-deep",
            "queue-full",
            "writing-stopped",
            "signing-stopped",
            "storage-full",
        ),
    ),
    Route(
        path="/v1/events/{ref}",
        handler=read_event,
        summary="One event by its index or id",
        scope="read",
        parameters=(
            path_parameter("ref", "An index, or the UUID of an event."),
            _PROOF,
            _FROM_SIZE,
        ),
        successes=(Success(help="The event.", contents=(Content(media=JSON, type=EventAnswer),)),),
        problems=(
            "bad-parameter",
            "past-the-end",
            "wrong-tenant",
            "no-event",
            "not-yet-published",
            "signing-stopped",
        ),
    ),
)
