"""`/v1/events`: append events, and read one back by its index or id."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from ledger.runtime.loop_turns import AT_ONCE
from ledger.service.admission import SMALL_BYTES
from ledger.service.append_results import encode_outcomes
from ledger.service.auth import authenticate, authenticate_again
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS, read_body
from ledger.service.http.parameters import EVENT_REF, FROM_SIZE, choice_parameter, flag_parameter
from ledger.service.http.problems import explain, log_failure, make_problem
from ledger.service.http.request_body import (
    BATCH_PROBLEMS,
    MSGPACK,
    NDJSON_NAMES,
    split_body,
)
from ledger.service.http.responses import (
    JSON_MEDIA,
    NDJSON_MEDIA,
    NO_CACHE_PRIVATE,
    NO_STORE,
    PROBLEM_MEDIA,
    encode_answer,
)
from ledger.service.http.router import TEXT_SCHEMA, Route, Success, note_read
from ledger.service.ingest import WALKED_BYTES, WRITE_PROBLEMS
from ledger.service.queries.store_proofs import prove_growth, prove_inclusion, prove_range
from ledger.service.routes.proofs import PROOF_PROBLEMS, check_from_size
from ledger.service.stored_events import event_of
from ledger.service.work_pieces import QUICK_EVENTS
from ledger.store.stored_log import StoredLog, reading
from ledger.store.tokens import TokenRecord
from ledger_core.api import (
    AllRefused,
    AppendAnswer,
    Batch,
    Envelope,
    EventAnswer,
    Refused,
    Result,
    Unproven,
)
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.model import Event
from ledger_core.event.times import late_s
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64

PROOFS_AT_ONCE: Final = 6
"""Proofs that are made in one turn of the loop, in a millisecond."""


async def append_events(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    proof: bool = False,
    from_size: int | None = None,
    wait: str | None = None,
) -> web.Response:
    """Append the events of the body."""
    token = authenticate(context.access, request, "append")
    check_from_size(context, from_size, has_proof=proof)
    with context.events_waiting.lease(token.name) as take:
        count = take if proof or wait is not None else _count_nothing
        return await _append(
            context, request, token, count, proof=proof, from_size=from_size, wait=wait
        )


def _count_nothing(_events: int) -> None:
    """In the place of a count, for a request that is answered as soon as its events are logged."""


async def _append(
    context: ServiceContext,
    request: web.BaseRequest,
    token: TokenRecord,
    count: Callable[[int], None],
    *,
    proof: bool,
    from_size: int | None,
    wait: str | None,
) -> web.Response:
    """As `append_events`. `count` is told of the events before any of them is logged.

    Raises: ProblemError, as `count` does when too many of the token wait already.
    """
    if proof and context.publisher.failure is not None:
        # Refused before anything is logged, for no answer could hold the proof.
        raise context.publisher.failure
    settings = context.settings
    is_whole = request.content.is_eof()  # Else it may take `body_wait_s`.
    with context.bytes_in_flight.lease(token.name) as take:
        body = await read_body(
            request,
            bytes_max=settings.request_bytes_max,
            wait_s=settings.body_wait_s,
            take=take,
            turn=context.loop_turns.turn(token.name),
        )
        split = partial(
            split_body,
            content_type=request.headers.get("Content-Type"),
            events_max=settings.request_events_max,
            reader=context.ingest.reader,
        )
        append = partial(
            context.ingest.append, by=token.name, tenant=token.tenant, actions=token.actions
        )
        if len(body) <= SMALL_BYTES:  # Admitted at once, and quickly split.
            if not is_whole:
                authenticate_again(context.access, request)
            is_quick = len(body) <= WALKED_BYTES
            async with AT_ONCE if is_quick else context.loop_turns.turn(token.name):
                parsed = split(body)
            count(len(parsed.raws))
            is_quick = is_quick and len(parsed.raws) == 1
            turn = AT_ONCE if is_quick else context.loop_turns.turn(token.name)
            outcomes = await append(parsed, turn=turn)
        else:
            has_lines = request.headers.get("Content-Type") in NDJSON_NAMES
            async with context.admission.admit(token.name, len(body)):
                authenticate_again(context.access, request)
                parsed = await context.ingest.split(
                    body, token.name, partial(split, body), has_lines=has_lines
                )
                count(len(parsed.raws))
                outcomes = await append(parsed)
        is_batch = parsed.is_batch
        del body, parsed  # They are counted no longer.
    kinds = set(map(type, outcomes))
    if Result not in kinds:
        return _all_refused(outcomes)
    status = 207 if Refused in kinds else 200
    if settings.traces_url:
        note_read(request, sum(type(outcome) is Result for outcome in outcomes))
    if wait is None and not proof:
        quick = len(outcomes) <= QUICK_EVENTS
        results = [*outcomes] if quick else await encode_outcomes(outcomes)
        answer = AppendAnswer(results=results)
        return encode_answer(answer, status=status)
    answer = AppendAnswer(results=outcomes)
    logged = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    head: SignedCheckpoint | None = None
    needed = max(max(result.index for result in logged) + 1, from_size or 0)
    try:
        if wait is not None:
            head = await context.publisher.wait_for(needed, timeout_s=settings.witnessed_wait_s)
            answer.witnessed = head is not None
        if proof:
            if head is None:
                head = await context.acknowledged_head(needed)
            begin = partial(context.begin_quick_work, request)
            await begin()
            answer.consistency = prove_growth(context.store, from_size, head)
            await _prove(context.store, logged, head, answer, begin, is_batch=is_batch)
    except Exception as error:  # noqa: BLE001 - whatever it is, the events are in the log
        return _unproven(outcomes, needed, error)
    answer.results = await encode_outcomes(outcomes)
    return encode_answer(answer, status=status)


async def read_event(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    ref: str,
    proof: bool = False,
    from_size: int | None = None,
) -> web.Response:
    """One event by its index or id."""
    tenant, may_open = None, False
    if not context.settings.public_entries:
        token = authenticate(context.access, request, "query")
        tenant, may_open = token.tenant, token.may("private")
    check_from_size(context, from_size, has_proof=proof)
    found = await event_of(context, request, ref, tenant=tenant, may_open=may_open)
    index, parsed = found.index, parse_leaf(found.leaf)
    note_read(request, 1)
    answer = EventAnswer(
        index=index,
        event=msgspec.Raw(parsed.event_json),
        received=parsed.received,
        leaf_hash=format_base64(leaf_hash(found.leaf)),
        leaf=found.leaf.decode(),
        late_s=late_s(str(parsed.event.time), parsed.received.time),
        private=found.private,
    )
    if proof:
        head = await context.published_covering(max(index + 1, from_size or 0))
        await context.begin_quick_work(request)
        store = context.store
        answer.proof = await reading(lambda: prove_inclusion(store, leaf_index=index, head=head))
        answer.consistency = await reading(lambda: prove_growth(store, from_size, head))
    return encode_answer(answer, cache=NO_STORE if answer.private else NO_CACHE_PRIVATE)


def _all_refused(outcomes: Sequence[Result | Refused]) -> web.Response:
    """A problem document with the outcome of every event."""
    first = next(outcome.error for outcome in outcomes if isinstance(outcome, Refused))
    where = f"{first.field}: " if first.field else ""
    detail = f"{len(outcomes)} refused, the first for: {where}{first.detail}"
    problem = make_problem("all-refused", detail)
    answer = AllRefused(**problem.members(), results=list(outcomes))
    return encode_answer(answer, status=problem.status, media=PROBLEM_MEDIA)


def _unproven(
    outcomes: Sequence[Result | Refused], tree_size: int, failure: Exception
) -> web.Response:
    """A problem document with the outcome of every event: they are durable, and not proven yet."""
    error = explain(failure)
    problem = error.problem
    if problem.slug == "internal":
        log_failure("proof_failed", failure)
    detail = (
        f"the events are in the log, durably, at the indices in `results`, up to "
        f"{tree_size - 1}; their proof is missing: {problem.detail}"
    )
    members = problem.members() | {"detail": detail}
    answer = Unproven(**members, results=list(outcomes))
    return encode_answer(answer, status=problem.status, media=PROBLEM_MEDIA, headers=error.headers)


async def _prove(
    store: StoredLog,
    logged: Sequence[Result],
    head: SignedCheckpoint,
    answer: AppendAnswer,
    begin: Callable[[], Awaitable[None]],
    *,
    is_batch: bool,
) -> None:
    """Add the proofs: one range proof for all new events of a batch, one proof for each other.

    `begin` waits for the caller's turn. All requests that wait for one head go on at once: without
    turns the proofs of 200 of them would come between two turns of others.
    """
    alone = logged
    if is_batch:
        new = [result.index for result in logged if not result.duplicate]
        alone = [result for result in logged if result.duplicate]
        if new:
            answer.range_proof = prove_range(store, start=new[0], end=new[-1] + 1, head=head)
    for start in range(0, len(alone), PROOFS_AT_ONCE):
        await begin()
        for result in alone[start : start + PROOFS_AT_ONCE]:
            result.proof = prove_inclusion(store, leaf_index=result.index, head=head)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/events",
        handler=append_events,
        is_write=True,
        summary="Append one event, or up to 10,000",
        scope="append",
        parameters=(
            flag_parameter(
                "proof",
                "1 adds a tlog-proof to a single event, and to a batch one range proof over its "
                "new events and a tlog-proof for each duplicate, all against one signed head.",
            ),
            FROM_SIZE,
            choice_parameter(
                "wait",
                ("witnessed",),
                "Answer when a published checkpoint covers the events, or when that takes too "
                "long; `witnessed` says which.",
            ),
        ),
        bodies={
            JSON_MEDIA: (Event, Envelope, Batch),
            NDJSON_MEDIA: TEXT_SCHEMA | {"description": "One event a line."},
            MSGPACK: (Event, Envelope, Batch),
        },
        successes=(
            Success("All events are in the log, durably.", {JSON_MEDIA: AppendAnswer}),
            Success(
                "Some events are in the log, durably; `results` says which.",
                {JSON_MEDIA: AppendAnswer},
                207,
            ),
            Success("No event is in the log.", {PROBLEM_MEDIA: AllRefused}, 422),
            Success(
                "With `proof`: the events are in the log, durably, and not proven yet.",
                {PROBLEM_MEDIA: Unproven},
                503,
            ),
            Success(
                "With `proof`: the events are in the log, durably, and damage to the tree lets no "
                "proof be made.",
                {PROBLEM_MEDIA: Unproven},
                500,
            ),
        ),
        problems=(
            "past-the-end",
            *BODY_PROBLEMS,
            *BATCH_PROBLEMS,
            "signing-stopped",
            *WRITE_PROBLEMS,
        ),
    ),
    Route(
        path="/v1/events/{ref}",
        handler=read_event,
        summary="One event by its index or id",
        scope="query",
        parameters=(
            EVENT_REF,
            flag_parameter("proof", "1 adds a proof against a signed head."),
            FROM_SIZE,
        ),
        successes=(Success("The event.", {JSON_MEDIA: EventAnswer}),),
        problems=("wrong-tenant", "no-event", "pruned", "too-busy", *PROOF_PROBLEMS),
    ),
)
