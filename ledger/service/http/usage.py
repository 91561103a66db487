"""Records the use of the service: a log line for each refusal and each read, and counters.

With `access_log` each request has a line. A line names the token or the address, the route, and the
fields that a query names. It has no value of a query and no path, which may hold the id of a person
(docs/adr/0022-use-is-recorded.md).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from aiohttp import web

from ledger.service.auth import Caller
from ledger.service.context import ServiceContext
from ledger.service.http.problems import explain
from ledger.service.http.router import Route, read_note, route_path
from ledger.service.tracing import RequestFacts
from ledger.store.tokens import TokenRecord
from ledger_client.runtime.trace_context import parse_trace_id
from ledger_core.query.ast import query_fields
from ledger_core.query.parser import parse_query
from ledger_core.query.scanner import QueryError

LOGGED_REFUSALS: Final = frozenset(
    {
        *("token-unknown", "scope-missing", "wrong-tenant", "wrong-network", "too-busy"),
        "rate-exceeded",
    }
)
"""Problems that show a wrong or a greedy token, with a log line that names token or address."""

READ_SCOPES: Final = frozenset({"query", "export"})
UNTRACED_SCOPES: Final = frozenset({None, "metrics"})
"""Of routes that monitoring and strangers ask: health, metrics, checkpoints, tiles of hashes."""

SUBJECTS: Final = ("ref", "actor", "source")
"""Parameters of paths that name an event, an actor or an address."""

MS_PER_S: Final = 1_000
CHARGE_INTERVAL_S: Final = 1.0
"""Seconds after which the bytes of an answer that is being written are charged."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE"})

_CHARGED: Final = web.RequestKey("ledger.charged_bytes", int)

_log = structlog.get_logger("ledger.service")


class UsageRecorder:
    """Writes what requests did to the log and to the counters, and charges the token for it."""

    def __init__(self, context: ServiceContext) -> None:
        self._metrics = context.metrics
        self._quotas = context.quotas
        self._audit = context.audit
        self._live = context.live
        self._tracer = context.tracer

    def begin(self, caller: Caller, route: Route) -> None:
        """Count a request. Raises: ProblemError when the token has used up one of its limits."""
        self._metrics.add("token_requests_total", caller.token_name)
        if caller.revoked is not None:
            self._metrics.add("revoked_token_requests_total", caller.revoked.name)
        if caller.token is not None:
            stores = route.is_write or self._audit.logs_reads(route.path)
            self._quotas.begin(caller.token, stores=stores)

    def refuse(self, caller: Caller, request: web.BaseRequest, error: Exception) -> None:
        """Count a refusal, and log one that shows a wrong or a greedy token."""
        slug = explain(error).problem.slug
        self._metrics.add("problems_total", slug)
        if slug in LOGGED_REFUSALS:
            self._audit.refuse(caller, request.remote or "", route_path(request), slug)
            _log.info(
                "request_refused",
                problem=slug,
                by=caller.name,
                address=request.remote,
                route=route_path(request),
            )

    def begin_read(
        self, caller: Caller, request: web.BaseRequest, arguments: Mapping[str, Any]
    ) -> None:
        """Log the begin of an answer that may go on for days."""
        _log.info("read_begun", **_of_read(caller, request, arguments))
        self._read(caller, request, arguments, bytes_=0, is_begun=True)

    @asynccontextmanager
    async def charging(self, caller: Caller, request: web.BaseRequest) -> AsyncIterator[None]:
        """Charge the token for an answer while it is written, which may take days; `end` the rest.

        Otherwise a token could open one after another before it is charged for the first.
        """
        token = caller.token
        if token is None:
            yield
            return
        task = asyncio.create_task(self._charge(token, request))
        try:
            yield
        finally:
            task.cancel()

    async def _charge(self, token: TokenRecord, request: web.BaseRequest) -> None:
        while True:
            await asyncio.sleep(CHARGE_INTERVAL_S)
            sent, charged = int(request.writer.output_size), request.get(_CHARGED, 0)
            if sent > charged:
                request[_CHARGED] = sent
                self._quotas.use_bytes(token, sent - charged)

    def _read(
        self,
        caller: Caller,
        request: web.BaseRequest,
        arguments: Mapping[str, Any],
        *,
        bytes_: int,
        is_begun: bool = False,
    ) -> None:
        note = read_note(request)
        self._audit.read(
            caller,
            request.remote or "",
            route_path(request),
            query=note.query or arguments.get("q", ""),
            subject=next(filter(None, map(arguments.get, SUBJECTS)), ""),
            field_name=note.field or arguments.get("field", ""),
            format_=arguments.get("format", ""),
            rows=note.rows,
            bytes_=bytes_,
            is_begun=is_begun,
        )

    def end(
        self,
        caller: Caller,
        request: web.BaseRequest,
        answer: web.StreamResponse,
        *,
        route: Route | None,
        arguments: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Count an answer, and log one that holds events."""
        received, sent = request.content.total_bytes, _sent_bytes(request, answer)
        path = "" if route is None else route.path
        name = caller.token_name
        # Any text may stand for a method.
        method = request.method if request.method in METHODS else "other"
        self._metrics.add("requests_total", path, method, str(answer.status))
        self._metrics.add("request_seconds_total", path, amount=seconds)
        self._metrics.add("request_bytes_total", name, amount=received)
        self._metrics.add("response_bytes_total", name, amount=sent)
        if caller.token is not None:
            rest = max(0, sent - request.get(_CHARGED, 0))
            self._quotas.use_bytes(caller.token, received + rest)
        if self._live.current.access_log:
            _log.info(
                "request",
                by=caller.name,
                address=request.remote,
                method=method,
                route=path,
                status=answer.status,
                received=received,
                sent=sent,
                ms=round(seconds * MS_PER_S, 3),
                trace=parse_trace_id(request.headers.getall("traceparent", ())),
            )
        if (
            self._live.current.traces_url
            and route is not None
            and route.scope not in UNTRACED_SCOPES
        ):
            facts = RequestFacts(
                method, path, answer.status, received, sent, read_note(request).rows, seconds
            )
            self._tracer.add(request.headers.getall("traceparent", ()), facts)
        if (
            route is not None
            and route.scope in READ_SCOPES
            and answer.status == web.HTTPOk.status_code
        ):
            _log.info("read", bytes=sent, **_of_read(caller, request, arguments))
            self._read(caller, request, arguments, bytes_=sent)


def _of_read(
    caller: Caller, request: web.BaseRequest, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    fields: tuple[str, ...] = ()
    with suppress(QueryError):  # The handler has not read the query yet.
        fields = query_fields(parse_query(arguments.get("q", "")))
    return {
        "by": caller.name,
        "address": request.remote,
        "route": route_path(request),
        "format": arguments.get("format"),
        "query_fields": fields,
    }


def _sent_bytes(request: web.BaseRequest, answer: web.StreamResponse) -> int:
    """The bytes of an answer: of its body while it is not written yet, else all that were sent."""
    if answer.prepared:
        return int(request.writer.output_size)
    body = answer.body if isinstance(answer, web.Response) else None
    return len(body) if isinstance(body, bytes) and request.method != "HEAD" else 0
