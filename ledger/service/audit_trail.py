"""Reads and refusals as events: who asked what, how many events were in the answer, from where.

    action ledger.read.search    actor the token    context.query, .rows, .bytes, .reads
    action ledger.refused        actor the token    context.problem, .requests

An answer that goes on for long has an event at its begin too, `ledger.read.stream.begun`.

A request only adds to a count in memory; a task appends the events once a second, all of one turn
in one commit. What a token asks again within five minutes, from the same address, is counted and is
one event more at their end. So a program that asks each second does not fill the log, and a mirror,
whose reading would make an entry to be read again, comes to rest.
"""

import asyncio
import random
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import structlog

from ledger.runtime.tasks import finishing, turns
from ledger.service.auth import Caller
from ledger.service.http.problems import ProblemError, log_failure
from ledger.service.http.request_body import ParsedBody
from ledger.service.ingest import IngestPipeline
from ledger.service.live_settings import LiveSettings
from ledger.service.masked_query import mask_words
from ledger.service.metrics import Metrics
from ledger.service.operator_events import operator_event
from ledger.service.quotas import Quotas
from ledger.service.settings import Settings
from ledger.service.token_admin import SERVICE_NAME
from ledger.store.tokens import AccessStore
from ledger_client.runtime.clock import unix_us
from ledger_core.event.model import LIMITS, EventError
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import UnavailableError

TURN_S: Final = 1.0
REPEAT_S: Final = 300.0
"""Seconds in which the same read or refusal is one event more at most."""

KINDS_MAX: Final = 10_000
"""Different reads and refusals that are kept in memory."""

STRANGERS_MAX: Final = 100
"""Addresses of one token, or without one, whose refusals are told apart within `REPEAT_S`."""

QUERY_CHARS_MAX: Final = 4_096
"""Of a longer query, which only a body can have, an event has the beginning and the end."""

EVENTS_MAX: Final = 1_000
REFS_MAX: Final = 100_000
"""Single events that were read and are named in no event yet, as while the log is held."""

READ_KINDS: Final = {
    "/v1/search": "search",
    "/v1/events": "search",
    "/v1/events/{ref}": "event",
    "/v1/events/{ref}/around": "around",
    "/v1/actors/{actor}/timeline": "timeline",
    "/v1/sources/{source}/seen": "seen",
    "/v1/fields": "fields",
    "/v1/values": "values",
    "/v1/events/stream": "stream",
    "/v1/export": "export",
    "/tile/entries/{index}": "bundle",
}
"""The routes whose answers hold events, with the last part of the action of their event.

An export of evidence is an event of its own, `ledger.evidence.exported`.
"""

_log = structlog.get_logger("ledger.service")


class Asked(NamedTuple):
    """The values that all reads, or refusals, of one event share.

    `principal`: the token's name or the address. `subject`: an event's id or index, an actor or a
    source. `field_name`: the field whose values were listed. `problem`: of a refusal.
    """

    action: str
    principal: str
    is_token: bool
    address: str
    tenant: str | None
    route: str
    query: str = ""
    subject: str = ""
    field_name: str = ""
    format: str = ""
    problem: str = ""


@dataclass(slots=True)
class Counted:
    """The counts since the last event about it."""

    first_us: int
    last_us: int
    requests: int = 0
    rows: int = 0
    bytes_: int = 0
    refs: list[str] = field(default_factory=list)


_draw: Final = random.Random().random  # noqa: S311 - a sample, and no secret


class AuditTrail:
    """Counts the reads and refusals of one process, and appends them. Used on its event loop."""

    def __init__(
        self,
        ingest: IngestPipeline,
        settings: Callable[[], Settings],
        metrics: Metrics,
        quotas: Quotas,
        *,
        is_mirror: bool,
        draw: Callable[[], float] = _draw,
    ) -> None:
        """A mirror can't append, so it counts nothing. `draw` decides which reads are taken."""
        self._ingest: Final = ingest
        self._settings: Final = settings
        self._metrics: Final = metrics
        self._quotas: Final = quotas
        self._is_off: Final = is_mirror
        self._draw: Final = draw
        self._waiting: OrderedDict[Asked, Counted] = OrderedDict()
        self._told_at_s: OrderedDict[Asked, float] = OrderedDict()
        self._refs = 0
        self._stopping: Final = asyncio.Event()
        self._told_apart: defaultdict[str, set[Asked]] = defaultdict(set)  # By the token's name.
        self._strangers_since_s = 0.0

    def logs_reads(self, route: str) -> bool:
        """Whether a read by this route may become an event, which the reader is charged for."""
        return route in READ_KINDS and not self._is_off and self._settings().audit_reads > 0

    def read(
        self,
        caller: Caller,
        address: str,
        route: str,
        *,
        query: str,
        subject: str,
        field_name: str,
        format_: str,
        rows: int,
        bytes_: int,
        is_begun: bool = False,
    ) -> None:
        """Count a read whose answer held events; with `is_begun` one that will go on for long."""
        kind, part = READ_KINDS.get(route), self._settings().audit_reads
        if self._is_off or kind is None or (part < 1 and self._draw() >= part):
            return
        ref = subject if kind == "event" else ""
        asked = Asked(
            f"ledger.read.{kind}{'.begun' if is_begun else ''}",
            caller.token_name or address,
            caller.token is not None,
            address,
            None if caller.token is None else caller.token.tenant,
            route,
            _shown(query),
            "" if kind == "event" else subject,
            field_name,
            format_,
        )
        counted = self._count(asked)
        counted.rows += rows
        counted.bytes_ += bytes_
        if ref and self._refs < REFS_MAX:
            counted.refs.append(ref)
            self._refs += 1
        elif ref:
            self._metrics.add("audit_events_lost_total")

    def refuse(self, caller: Caller, address: str, route: str, problem: str) -> None:
        """Count a request that was refused."""
        if self._is_off or not self._settings().audit_refusals:
            return
        record = caller.token or caller.revoked or caller.elsewhere
        principal = address if record is None else caller.name
        asked = Asked(
            "ledger.refused",
            principal,
            record is not None,
            address,
            None if record is None else record.tenant,
            route,
            problem=problem,
        )
        told_apart = self._told_apart["" if record is None else record.name]
        if asked in told_apart or len(told_apart) < STRANGERS_MAX:
            told_apart.add(asked)
        else:
            shown = "many addresses" if record is None else principal
            asked = asked._replace(principal=shown, address="", route="")
        self._count(asked)

    def _count(self, asked: Asked) -> Counted:
        now = self._ingest.now()
        counted = self._waiting.get(asked)
        if counted is None:
            counted = self._waiting[asked] = Counted(now, now)
            if len(self._waiting) > KINDS_MAX:
                _, lost = self._waiting.popitem(last=False)
                self._refs -= len(lost.refs)
                self._metrics.add("audit_events_lost_total")
        counted.last_us = now
        counted.requests += 1
        return counted

    def running(self) -> AbstractAsyncContextManager[None]:
        """Append what is counted, each second, and all of it at the end."""
        return finishing(self._run(), self._stopping)

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        async for is_last in turns(self._stopping, TURN_S):
            now_s = clock()
            while self._told_at_s and next(iter(self._told_at_s.values())) <= now_s - REPEAT_S:
                self._told_at_s.popitem(last=False)
            if self._strangers_since_s <= now_s - REPEAT_S:
                self._strangers_since_s = now_s
                self._told_apart.clear()
            # An event that was not read before is no repetition.
            due = [
                asked
                for asked, counted in self._waiting.items()
                if counted.refs or asked not in self._told_at_s or is_last
            ]
            try:
                for asked in await self._append(due):
                    self._told_at_s[asked] = now_s
                    self._told_at_s.move_to_end(asked)  # They go on by their times.
            except Exception as error:  # noqa: BLE001 - a task's top; the next turn goes on
                log_failure("task_failed", error, task="audit")
            while len(self._told_at_s) > KINDS_MAX:
                self._told_at_s.popitem(last=False)

    async def _append(self, due: list[Asked]) -> list[Asked]:
        """Append the events of these, and return those whose events are in the log.

        After an error the others wait for the next turn.
        """
        done: list[Asked] = []
        left = iter(due)
        while taken := self._take(left):
            made = {each: [e async for e in self._events(each, taken[each])] for each in taken}
            events = [event for of_asked in made.values() for event in of_asked]
            try:
                for start in range(0, len(events), EVENTS_MAX):
                    some = events[start : start + EVENTS_MAX]
                    body = ParsedBody(some, self._ingest.reader.read, is_batch=True)
                    await self._ingest.append(body, by=SERVICE_NAME, tenant=None, is_own=True)
            except UnavailableError as error:
                _log.warning("audit_events_wait", count=len(events), reason=str(error))
                for asked, counted in taken.items():
                    self._put_back(asked, counted)
                break
            except Exception:
                self._metrics.add("audit_events_lost_total", amount=len(taken))
                raise
            for asked, of_asked in made.items():
                if asked.is_token and not asked.problem:
                    self._quotas.use_stored(asked.principal, sum(map(len, of_asked)))
            done += taken
        return done

    def _take(self, asked: Iterator[Asked]) -> dict[Asked, Counted]:
        """Take what was counted of the next of these, for one commit, out of what waits."""
        taken, events = dict[Asked, Counted](), 0
        for each in asked:
            counted = self._waiting.pop(each, None)
            if counted is None:
                continue  # It is lost: too many others came.
            taken[each] = counted
            self._refs -= len(counted.refs)
            events += 1 + len(counted.refs) // LIMITS["targets"].most
            if events >= EVENTS_MAX:
                break
        return taken

    def _put_back(self, asked: Asked, counted: Counted) -> None:
        self._refs += len(counted.refs)
        later = self._waiting.setdefault(asked, counted)
        if later is not counted:
            later.first_us = counted.first_us
            later.requests += counted.requests
            later.rows += counted.rows
            later.bytes_ += counted.bytes_
            later.refs[:0] = counted.refs

    async def _events(self, asked: Asked, counted: Counted) -> AsyncIterator[bytes]:
        """The events about one count: several if it names more events than one may have targets."""
        most = LIMITS["targets"].most
        parts = [counted.refs[start : start + most] for start in range(0, len(counted.refs), most)]
        # What no event can hold, such as an actor with 2,000 characters, is left out.
        bare = asked._replace(query="", subject="", field_name="", format="")
        for number, refs in enumerate(parts or [[]]):
            # What was counted is in the first of them.
            first = counted if number == 0 else None
            check = partial(self._check_first, (asked, bare), first, refs, counted.first_us)
            event = await self._ingest.run_beside(SERVICE_NAME, check)  # It may take 10 ms.
            if event is None:
                self._metrics.add("audit_events_lost_total")
            else:
                yield event

    def _check_first(
        self, options: Iterable[Asked], counted: Counted | None, refs: list[str], time_us: int
    ) -> bytes | None:
        made = (self._check(asked, counted, refs, time_us) for asked in options)
        return next(filter(None, made), None)

    def _check(
        self, asked: Asked, counted: Counted | None, refs: list[str], time_us: int
    ) -> bytes | None:
        event = _describe(asked, counted, refs, time_us)
        mask = self._ingest.mask
        try:
            masked = mask(event)
            if masked["context"].get("query", "") != asked.query:
                event["context"]["query"] = mask_words(asked.query, mask)
                masked = mask(event)
            return self._ingest.check_own(masked)
        except (EventError, ProblemError) as error:
            _log.error("audit_event_refused", action=asked.action, reason=type(error).__name__)
            return None


def _describe(
    asked: Asked, counted: Counted | None, refs: list[str], time_us: int
) -> dict[str, Any]:
    targets = [{"type": "ledger.event", "id": ref} for ref in refs]
    if asked.subject:
        targets.append({"type": "ledger.subject", "id": asked.subject})
    context: dict[str, Any] = {
        "route": asked.route,
        "query": asked.query,
        "field": asked.field_name,
        "format": asked.format,
        "problem": asked.problem,
    }
    if counted is not None:
        is_read = not asked.problem
        context["reads" if is_read else "requests"] = counted.requests
        if is_read:
            context |= {"rows": counted.rows, "bytes": counted.bytes_}
        if counted.requests > 1:
            context["until"] = format_time(counted.last_us)
    event: dict[str, Any] = {
        "time": format_time(time_us),
        "actor": {"type": "ledger.token" if asked.is_token else "address", "id": asked.principal},
        "action": asked.action,
        "targets": targets,
        "source": {"ip": asked.address} if asked.address else None,
        "outcome": "denied" if asked.problem else "success",
        "context": {name: value for name, value in context.items() if value not in ("", None)},
        "tenant": asked.tenant,
    }
    return {name: value for name, value in event.items() if value not in (None, [])}


def _shown(query: str) -> str:
    """The text of a query as an event holds it."""
    text = query.replace("\0", "�")
    if len(text) <= QUERY_CHARS_MAX:
        return text
    half = QUERY_CHARS_MAX // 2
    return f"{text[:half]} … {text[-half:]} ({len(query):,} characters)"


def log_acts(access: AccessStore, live: LiveSettings) -> None:
    """Log the start of the service, and each time that its settings are read again, as events.

    They go by the outbox, once for all processes of the service. Nothing without `audit_refusals`.
    """

    def log(action: str, **context: object) -> None:
        if not live.current.audit_refusals:
            return
        try:
            access.enqueue(operator_event(action, unix_us(), context=context))
        except UnavailableError as error:  # A full disk: the service starts, and takes settings.
            _log.error("act_not_logged", action=action, reason=str(error))

    log("ledger.service.started", version=version("witnessed-ledger"))
    live.follow(lambda _settings: log("ledger.settings.reloaded", changed=sorted(live.changed)))
