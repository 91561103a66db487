"""The log's name and size, the health of the service, and the description of this interface."""

from typing import Final

import msgspec
from aiohttp import web

from ledger.log.public_policy import public_url
from ledger.query.answer import IndexStatus
from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.follower_lag import lag_gauges
from ledger.service.http.problems import PROBLEMS, ProblemError, make_problem
from ledger.service.http.responses import (
    JSON_MEDIA,
    NO_CACHE,
    PROBLEM_MEDIA,
    TEXT_MEDIA,
    encode_answer,
    make_answer,
)
from ledger.service.http.router import TEXT_SCHEMA, Route, Success
from ledger.service.metrics import METRICS_MEDIA, render
from ledger.service.report import Report
from ledger_core.status import (
    Alive,
    IndexAnswer,
    LogAnswer,
    NotReady,
    ProblemKinds,
    PruningAnswer,
    Ready,
    WitnessAnswer,
)

SEGMENTS_BEHIND_WARNED: Final = 1
DAMAGES_NAMED: Final = 5


async def read_log(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """The name, keys, witnesses and size of the log."""
    index = context.query_pool.status()
    published = context.publisher.published
    report = await _report(context, request)
    pruning = context.store.pruning
    answer = LogAnswer(
        origin=context.origin,
        verifier_keys=context.verifier_keys,
        witnesses=_witnesses(context, report),
        policy=context.policy_text,
        tree_size=context.tree_size,
        clock_behind_s=report.clock_behind_s,
        published_size=0 if published is None else published.head.tree_size,
        index=IndexAnswer(
            sealed_segments=index.sealed_segments,
            full_segments=index.full_segments,
            current=index.is_current,
        ),
        mirror_of=None if context.mirrored is None else context.mirrored.log_url,
        pruning=None if pruning is None else PruningAnswer(**pruning._asdict()),
    )
    return encode_answer(answer, cache=NO_CACHE)


async def read_alive(_context: ServiceContext, _request: web.BaseRequest) -> web.Response:
    """Whether the process answers."""
    return encode_answer(Alive(status="ok"))


async def read_ready(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Whether events are taken and heads are signed."""
    report = await _report(context, request)
    if report.reasons:
        problem = make_problem("not-ready", "; ".join(report.reasons))
        answer = NotReady(
            **problem.members(),
            reasons=tuple(report.reasons),
            warnings=_warnings(context, report),
        )
        return encode_answer(answer, status=problem.status, media=PROBLEM_MEDIA)
    return encode_answer(Ready(status="ready", warnings=_warnings(context, report)))


async def read_metrics(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """The counters and gauges of `ledger.service.metrics`."""
    if authenticate(context.access, request, "metrics").tenant is not None:
        raise ProblemError("wrong-tenant", "the counters are those of all tenants")
    published = context.publisher.published
    index = context.query_pool.status()
    report = await _report(context, request)
    text = render(
        report.counters,
        {
            "tree_size": context.tree_size,
            "published_size": 0 if published is None else published.head.tree_size,
            "minimum_index": context.store.minimum_index,
            "released_end": report.released_end,
            "ready": not report.reasons,
            "warnings": len(_warnings(context, report)),
            "map_fill_ratio": context.store.fill_ratio(),
            "bytes_in_flight": report.bytes_in_flight,
            "clock_behind_seconds": report.clock_behind_s,
            "requests_in_flight": report.requests_in_flight,
            "index_segments_behind": index.full_segments - index.sealed_segments,
            "mirror_lag_entries": report.lag.entries,
            "mirror_lag_seconds": report.lag.seconds,
            **lag_gauges(report.followers),
        },
    )
    return make_answer(text, media=METRICS_MEDIA)


async def read_problems(_context: ServiceContext, _request: web.BaseRequest) -> web.Response:
    """The table of problem documents."""
    return encode_answer(ProblemKinds(problems=tuple(PROBLEMS.values())), cache=NO_CACHE)


async def read_openapi(context: ServiceContext, _request: web.BaseRequest) -> web.Response:
    """The OpenAPI document."""
    return make_answer(context.openapi, media=JSON_MEDIA, cache=NO_CACHE)


async def _report(context: ServiceContext, request: web.BaseRequest) -> Report:
    """The report of all processes, at the caller's turn: all who wait for it have it at once."""
    report = await context.report()
    await context.begin_quick_work(request)
    return report


def _warnings(context: ServiceContext, report: Report) -> tuple[str, ...]:
    """The conditions that will soon prevent the service from being ready, or make it slower."""
    index = context.query_pool.status()
    damages = [f"{each}: run ledger fsck" for each in index.unreadable[:DAMAGES_NAMED]]
    return (*report.warnings, *damages, *_query_warnings(context), *_index_warnings(index))


def _query_warnings(context: ServiceContext) -> tuple[str, ...]:
    if not context.query_pool.is_missing:
        return ()
    return (
        "the process that answers searches is not there, or does not answer: they are refused "
        "until it does",
    )


def _index_warnings(index: IndexStatus) -> list[str]:
    """Warnings while the index is behind or damaged: searches are slower, but never wrong."""
    warnings = []
    if index.failure:
        warnings.append(f"the folder of the index can't be read: {index.failure}")
    if index.damaged_segments:
        segments = ", ".join(map(str, index.damaged_segments[:DAMAGES_NAMED]))
        warnings.append(
            f"{len(index.damaged_segments)} of the index's segments were damaged and are being "
            f"made anew ({segments}): look at the disk"
        )
    if index.full_segments - index.sealed_segments > SEGMENTS_BEHIND_WARNED:
        what = "is behind" if index.is_current else "is being made anew"
        warnings.append(
            f"the index {what}: {index.sealed_segments} of {index.full_segments} segments are "
            "sealed, and searches are slow until it has caught up"
        )
    return warnings


def _witnesses(context: ServiceContext, report: Report) -> tuple[WitnessAnswer, ...]:
    """The witnesses of the policy, each with the result of the last request to it."""
    statuses = {name: status for status in report.witnesses for name in status.names}
    answers = []
    for witness in context.policy.witnesses:
        answer = WitnessAnswer(name=_printable(witness.name), verifier_key=str(witness.verifier))
        if (status := statuses.get(witness.name)) is not None:
            answer = msgspec.structs.replace(
                answer,
                url=public_url(status.url),
                cosigned_size=status.cosigned_size,
                cosigned_at_unix_s=status.cosigned_at_unix_s,
                error=status.error,
            )
        answers.append(answer)
    return tuple(answers)


def _printable(name: str) -> str:
    """The name of a witness as text; its bytes need not be UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


ROUTES: Final = (
    Route(
        path="/v1/log",
        handler=read_log,
        summary="Which log this is, and how large",
        successes=(Success("The log.", {JSON_MEDIA: LogAnswer}),),
    ),
    Route(
        path="/healthz",
        handler=read_alive,
        summary="Whether the process answers",
        successes=(Success("It does.", {JSON_MEDIA: Alive}),),
    ),
    Route(
        path="/readyz",
        handler=read_ready,
        summary="Whether events are taken and heads are signed",
        successes=(
            Success("They are.", {JSON_MEDIA: Ready}),
            Success("They are not.", {PROBLEM_MEDIA: NotReady}, PROBLEMS["not-ready"].status),
        ),
    ),
    Route(
        path="/metrics",
        handler=read_metrics,
        summary="Counters and gauges, for Prometheus",
        scope="metrics",
        successes=(Success("Text format 0.0.4.", {TEXT_MEDIA: TEXT_SCHEMA}),),
        problems=("wrong-tenant",),
    ),
    Route(
        path="/v1/problems",
        handler=read_problems,
        summary="What the types of problem documents mean",
        successes=(Success("The table.", {JSON_MEDIA: ProblemKinds}),),
    ),
    Route(
        path="/v1/openapi.json",
        handler=read_openapi,
        summary="This document",
        successes=(Success("OpenAPI 3.1.", {JSON_MEDIA: {"type": "object"}}),),
    ),
)
