"""Traces: a span for each request that uses a token, sent to a collector by OTLP/HTTP as JSON.

A request with `traceparent` goes on the trace of its application, unless that says that the trace
is not sampled. A span has the method, the route, the status, the sizes and the number of events. It
has no path, no query, no token, no address and nothing of an event: spans go to another system.

A request only adds its span to a queue in memory. A task sends the queue once a second. A collector
that does not answer costs spans, which are counted, and never a request.

Source: opentelemetry-proto 1.x, `trace.proto`, in the JSON of OTLP/HTTP: ids are hexadecimal, and
64-bit numbers are text. W3C Trace Context §3.2. The names are those of the semantic conventions.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import structlog

from ledger.runtime.tasks import finishing, turns
from ledger.service.http.problems import log_failure
from ledger.service.metrics import Metrics
from ledger.service.settings import Settings
from ledger_client.runtime.name_lookup import make_connector
from ledger_client.runtime.trace_context import parse_traceparent

TURN_S: Final = 1.0
ANSWER_WAIT_S: Final = 5.0
SPANS_MAX: Final = 4_096
"""Spans that wait; one more takes the place of the oldest."""

BATCH_SPANS: Final = 512
KIND_SERVER: Final = 2
STATUS_ERROR: Final = 2
_TRACE_BITS: Final = 128
_SPAN_BITS: Final = 64
_NS: Final = 1_000_000_000

_log = structlog.get_logger("ledger.service")


class RequestFacts(NamedTuple):
    """What a span says of a request. `events`: those that it appended or was answered with."""

    method: str
    route: str
    status: int
    received_bytes: int
    sent_bytes: int
    events: int
    seconds: float


class Tracer:
    """Makes and sends the spans of one process. Used on the event loop."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        metrics: Metrics,
        *,
        random_bits: Callable[[int], int] = secrets.randbits,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings: Final = settings
        self._metrics: Final = metrics
        self._random_bits: Final = random_bits
        self._now_ns: Final = now_ns
        self._waiting: Final[deque[dict[str, Any]]] = deque()
        self._stopping: Final = asyncio.Event()
        self._failure = ""

    def add(self, traceparents: Sequence[str], facts: RequestFacts) -> None:
        """Add the span of a request that has ended, if it is to be traced.

        `traceparents`: the values of its header `traceparent`.
        """
        settings = self._settings()
        if not settings.traces_url:
            return
        parent = parse_traceparent(traceparents)
        if parent is None:
            # 53 bits, as a float has them.
            if self._random_bits(53) >= settings.traces_ratio * (1 << 53):
                return
        elif not parent.is_sampled:
            return
        if len(self._waiting) >= SPANS_MAX:
            self._waiting.popleft()
            self._metrics.add("spans_lost_total")
        end_ns = self._now_ns()
        span = {
            "traceId": parent.trace_id if parent else f"{self._random_bits(_TRACE_BITS):032x}",
            "spanId": f"{self._random_bits(_SPAN_BITS):016x}",
            "name": f"{facts.method} {facts.route}",
            "kind": KIND_SERVER,
            "startTimeUnixNano": str(end_ns - round(facts.seconds * _NS)),
            "endTimeUnixNano": str(end_ns),
            "attributes": [
                _text("http.request.method", facts.method),
                _text("http.route", facts.route),
                _number("http.response.status_code", facts.status),
                _number("http.request.body.size", facts.received_bytes),
                _number("http.response.body.size", facts.sent_bytes),
                _number("ledger.events", facts.events),
            ],
        }
        if parent is not None:
            span["parentSpanId"] = parent.parent_id
        if facts.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span["status"] = {"code": STATUS_ERROR}
        self._waiting.append(span)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Send what waits, each second, and the rest at the end."""
        return finishing(self._run_safely(), self._stopping)

    async def _run_safely(self) -> None:
        try:
            await self._run()
        except Exception as error:  # noqa: BLE001 - the task's top: requests go on without spans
            log_failure("tracing_failed", error)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(
            connector=make_connector(),
            timeout=aiohttp.ClientTimeout(total=ANSWER_WAIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            async for _is_last in turns(self._stopping, TURN_S):
                with suppress(TimeoutError):
                    # A slow collector must not hold up a stop.
                    async with asyncio.timeout(ANSWER_WAIT_S):
                        while self._waiting and await self._send(session):
                            pass

    async def _send(self, session: aiohttp.ClientSession) -> bool:
        """Send a batch; False when the collector did not take it, and its spans are lost."""
        url = self._settings().traces_url
        batch = [self._waiting.popleft() for _ in range(min(BATCH_SPANS, len(self._waiting)))]
        failure = "" if url else "traces_url was taken away"
        try:
            if url:
                async with session.post(
                    url,
                    data=encode_spans(batch),
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as answer:
                    if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                        failure = f"status {answer.status}"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The text of the error may quote the address.
            failure = type(error).__name__
        if failure:
            self._metrics.add("spans_lost_total", amount=len(batch))
        if failure != self._failure:  # Once a state, not once a second.
            log = _log.warning if failure else _log.info
            log("traces_not_sent" if failure else "traces_sent_again", reason=failure or None)
            self._failure = failure
        return not failure


def encode_spans(spans: Sequence[dict[str, Any]]) -> bytes:
    """An ExportTraceServiceRequest as JSON."""
    resource = {"attributes": [_text("service.name", "witnessed-ledger")]}
    scope = {"scope": {"name": "witnessed-ledger"}, "spans": spans}
    return msgspec.json.encode({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})


def _text(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def _number(key: str, value: int) -> dict[str, Any]:
    return {"key": key, "value": {"intValue": str(value)}}
