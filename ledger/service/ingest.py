"""The append path: the events of a body become prepared entries, are queued, and get outcomes.

    raw ── read, check ──> event ── time of receipt, leaf, leaf hash, commit ──> index
           (may yield)            └────────────── sequencer ──────────────┘

The sequencer, in this process or another one, reads the clock, so slow work is done before.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
from msgspec import UNSET
from msgspec.structs import force_setattr

from ledger.log.append_request import Appended, AppendRequest, Place, UnstampedEvent
from ledger.log.appender import Appender
from ledger.runtime.loop_turns import AT_ONCE
from ledger.service.admission import SMALL_BYTES
from ledger.service.allowed_events import Allowed
from ledger.service.append_results import all_results_of_new, result_of, results_of_new
from ledger.service.append_thread import AppendThread
from ledger.service.conflicts import conflict_json
from ledger.service.http.problems import ProblemError, explain
from ledger.service.http.request_body import ParsedBody
from ledger.service.metrics import Metrics
from ledger.service.private_fields import PrivateFields
from ledger.service.quotas import Quotas
from ledger.service.secret_filter import Checked, RefusedSecret, SecretFilter, found_nothing
from ledger.service.token_admin import SERVICE_NAME
from ledger.service.work_pieces import (
    OUTCOME_COST,
    QUICK_EVENTS,
    YIELD_BYTES,
    Pacer,
    cost_of,
    pieces_of,
    split_work,
)
from ledger.store.writer import Placement
from ledger_core.api import Refused, Result
from ledger_core.event.canonical import LeafFormat, leaf_format, parse_leaf
from ledger_core.event.model import EventError, Received
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.event.times import format_time, parse_time
from ledger_core.tlog.errors import UnavailableError

WALKED_BYTES: Final = 1_024
"""Events with so many bytes are searched for secrets on the loop, whatever is in them."""

LINES_BYTES: Final = 131_072
"""A body of lines with so many bytes is cut at its line ends on the loop, in a millisecond."""

PRIVATE_EVENTS: Final = 64
"""Events whose private values are stored in one turn, with two syncs of the disk."""

SHORT_BYTES: Final = 512
"""An event with fewer bytes is kept in decoded form until it is logged, and its leaf fits."""

WRITE_PROBLEMS: Final = ("queue-full", "writing-stopped", "storage-full", "log-held")
"""What `IngestPipeline.append` may refuse a request with."""

_ANY_TIME: Final = format_time(0)
"""A time of receipt: all are of one length."""

_PLAIN: Final = frozenset({ReadEvent, Refused})
"""Outcomes of reading that have no private values."""

T = TypeVar("T")

_log = structlog.get_logger("ledger.service")


class IngestPipeline:
    """Appends the events of requests to one log."""

    def __init__(
        self,
        *,
        sequencer: Appender,
        wall_us: Callable[[], int],
        reader: Reader,
        private_fields: PrivateFields,
        secret_filter: SecretFilter,
        metrics: Metrics,
        quotas: Quotas,
        thread: AppendThread,
        private_thread: AppendThread,
    ) -> None:
        """`wall_us`: this host's time in microseconds since 1970, which may go back.

        `private_thread` stores private values, and waits for the disk.
        """
        self._thread = thread
        self._private_thread = private_thread
        self._sequencer = sequencer
        self._wall_us = wall_us
        self._private_fields = private_fields
        self._secret_filter = secret_filter
        self._metrics = metrics
        self._quotas = quotas
        self.reader: Final = reader

    async def append(
        self,
        body: ParsedBody,
        *,
        by: str,
        tenant: str | None,
        actions: Sequence[str] = (),
        is_own: bool = False,
        charged_to: str | None = None,
        turn: AbstractAsyncContextManager[None] = AT_ONCE,
    ) -> list[Result | Refused]:
        """Log the events of a body for the principal `by`; the outcome of each, in their order.

        `tenant` is the only one whose events are accepted; None accepts all. `actions` are those
        that are accepted, exact or ending in `.*`; none accepts all. With `is_own` the service made
        the events, so their actions may be reserved ones. `turn` is held while they are read. What
        is stored counts as the use of `charged_to`, by default of `by`. The new events get
        consecutive indices, and are durable when this returns. An event whose id is taken is
        refused, and logged inside an event of the service's own, so that it does not vanish.
        Raises: as `Appender.append_events`, with nothing kept; EventError when a body that should
        be one event isn't even JSON.
        """
        charged_to = charged_to or by
        allowed = None if is_own else Allowed(tenant, tuple(actions))
        async with turn:
            reads, secret = await self._read(body, allowed, by=by)
        self._secret_filter.report()
        if self._private_fields.has_fields or not _PLAIN.issuperset(map(type, reads)):
            reads = await self._store_private(reads, by=by, charged_to=charged_to)
        outcomes = await self._log(reads, by=by, is_own=is_own, charged_to=charged_to)
        if secret and not is_own:
            described = self._secret_filter.describe_refused(
                secret, by=by, unix_us=self._wall_us(), own_id=self._private_fields.store.own_id
            )
            await self._log_own(described, charged_to=by)
        for refused in [each for each in outcomes if isinstance(each, Refused)]:
            self._metrics.add("events_refused_total", refused.error.slug)
        return outcomes

    async def _log(
        self, reads: Sequence[ReadEvent | Refused], *, by: str, is_own: bool, charged_to: str
    ) -> list[Result | Refused]:
        queued = [read for read in reads if isinstance(read, ReadEvent)]
        if not queued:
            return [refused for refused in reads if isinstance(refused, Refused)]
        quick = len(queued) <= QUICK_EVENTS
        request = _request_of(by, queued) if quick else await _make_request(by, queued)
        appended = await self._sequencer.append_events(request)
        self._count_new(request, appended, charged_to=charged_to)
        received = Received(by=by, time=appended.received_time)
        if len(queued) == len(reads) and not appended.not_appended:
            if quick:
                return results_of_new(queued, appended, received)
            return await all_results_of_new(queued, appended, received)
        pacer = Pacer()
        places = appended.places()
        outcomes: list[Result | Refused] = []
        conflicts: list[bytes] = []
        for read in reads:
            if isinstance(read, Refused):
                outcomes.append(read)
                continue
            place = next(places)
            is_new = place.placement is Placement.APPENDED
            await pacer.after(OUTCOME_COST if is_new else OUTCOME_COST + len(place.leaf))
            if place.placement is Placement.CONFLICT:
                if is_own:
                    renamed = [self._with_next_id(read)]
                    outcomes += await self._log(renamed, by=by, is_own=True, charged_to=charged_to)
                    continue
                conflicts.append(self._conflict_event(read, place, by=by))
                await pacer.after(len(conflicts[-1]))
            outcomes.append(result_of(read, place, received))
        if conflicts:
            await self._log_own(conflicts, charged_to=by)
        return outcomes

    def _with_next_id(self, read: ReadEvent) -> ReadEvent:
        """An event of the service's own, whose id somebody took, under the id that follows.

        The same event again gets the same id, which the taker can't predict.
        """
        _log.error("own_event_id_taken", id=str(read.event.id), action=read.event.action)
        unix_ms = int.from_bytes(read.id_bytes[:6])  # What a UUID of version 7 begins with.
        event_id = self._private_fields.store.own_id(b"taken", read.id_bytes, unix_ms=unix_ms)
        event = msgspec.json.decode(read.event_json, type=dict[str, Any])
        renamed = self.reader.read_object({**event, "id": event_id})
        return msgspec.structs.replace(renamed, filled=read.filled)

    def _conflict_event(self, read: ReadEvent, placed: Place, *, by: str) -> bytes:
        """The event that records a refused one, whose id another event has, with its content.

        Its id follows from both, so the same refusal again is a duplicate.
        """
        received = parse_leaf(placed.leaf).received
        parts = (b"conflicted", by.encode(), read.event_json)
        unix_ms = parse_time(received.time) // 1000
        event_id = self._private_fields.store.own_id(*parts, unix_ms=unix_ms)
        return conflict_json(read, placed.leaf_index, by=by, event_id=event_id)

    def _count_new(self, request: AppendRequest, appended: Appended, *, charged_to: str) -> None:
        by, others = request.by, appended.not_appended
        if count := len(request.events) - len(others):
            size = count * leaf_format(by, appended.received_time).length(b"")
            size += request.events_bytes
            size -= sum([len(request.events[other.position].event_json) for other in others])
            self._metrics.add("events_logged_total", by, amount=count)
            self._metrics.add("stored_bytes_total", by, amount=size)
            self._quotas.use_stored(charged_to, size)

    async def _log_own(self, events: Sequence[bytes], *, charged_to: str) -> None:
        """Log events of the service itself; one that is refused is a fault of ours.

        They count as bytes that `charged_to` stored, whose request caused them.

        Raises nothing when the queue is full: what the client sent is in the log already.
        """
        body = ParsedBody(events, self.reader.read, is_batch=True)
        try:
            outcomes = await self.append(
                body, by=SERVICE_NAME, tenant=None, is_own=True, charged_to=charged_to
            )
        except UnavailableError as error:
            _log.error("own_events_not_logged", count=len(events), reason=str(error))
            return
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                _log.error("own_event_refused", reason=outcome.error.slug)

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event of the service's own without its secrets; an id becomes a digest."""
        return self._secret_filter.mask(event)

    async def run_beside(self, by: str, work: Callable[[], T]) -> T:
        """Run a slow step beside the event loop, at the turn of `by`."""
        return await self._thread.run(by, work)

    def check_own(self, event: Mapping[str, Any]) -> bytes:
        """The JSON of an event of the service's own that would be logged as it is.

        Raises: EventError, ProblemError.
        """
        read = self.reader.read_object(event)
        (checked,) = self._secret_filter.check([read]).outcomes
        if isinstance(checked, Refused):
            problem = checked.error
            raise ProblemError(problem.slug, problem.detail, field=problem.field, rule=problem.rule)
        if checked.event_json != read.event_json:
            raise ProblemError("secret", "looks like a secret, which would be masked in the log")
        return read.event_json

    def now(self) -> int:
        """This host's time, in microseconds since 1970: never the log's, which may stand still."""
        return self._wall_us()

    async def split(
        self, body: bytes, by: str, split: Callable[[], ParsedBody], *, has_lines: bool
    ) -> ParsedBody:
        """The events of a body, found by `split`: beside the loop unless that is quick."""
        is_quick = len(body) <= (LINES_BYTES if has_lines else SMALL_BYTES)
        return split() if is_quick else await self._thread.run(by, split)

    async def _read(
        self, body: ParsedBody, allowed: Allowed | None, *, by: str
    ) -> tuple[list[ReadEvent | Refused], list[RefusedSecret]]:
        """The events of a body, and those that the filter of secrets refused."""
        if len(body.raws) == 1 and cost_of(raw := bytes(body.raws[0])) <= WALKED_BYTES:
            checked = self._secret_filter.check(self._read_some(body, (raw,), allowed))
            if checked.rules:
                self._secret_filter.count(checked.rules)
            return _fit(checked.outcomes, by=by), [*checked.refused]
        reads: list[ReadEvent | Refused] = []
        secret: list[RefusedSecret] = []
        for some, cost in split_work(body.raws):
            if reads:
                await asyncio.sleep(0)
            read = partial(self._read_some, body, some, allowed)
            checked = await self._check(read, cost=cost, by=by)
            if checked.rules:
                self._secret_filter.count(checked.rules)
            reads += _fit(checked.outcomes, by=by)
            secret += checked.refused
        return reads, secret

    async def _check(
        self, read: Callable[[], Sequence[ReadEvent | Refused]], *, cost: int, by: str
    ) -> Checked:
        """Read some events and look for secrets in them; what may take long, beside the loop."""
        check = self._secret_filter.check
        if cost > YIELD_BYTES:
            return await self._thread.run(by, lambda: check(read()))
        reads = read()
        if cost <= WALKED_BYTES:
            return check(reads)
        if self._secret_filter.are_clean(reads):
            return found_nothing(reads)
        return await self._thread.run(by, partial(check, reads))

    def _read_some(
        self, body: ParsedBody, raws: Sequence[bytes], allowed: Allowed | None
    ) -> list[ReadEvent | Refused]:
        reads: list[ReadEvent | Refused] = []
        for raw in raws:
            try:
                read = body.read(raw)
                if allowed is not None:
                    allowed.check(read.event)
            except (EventError, ProblemError) as error:
                refused = explain(error).problem
                if not body.is_batch and refused.slug in ("not-json", "not-msgpack"):
                    raise
                reads.append(Refused(refused))
            else:
                reads.append(read)
        return reads

    async def _store_private(
        self, reads: list[ReadEvent | Refused], *, by: str, charged_to: str
    ) -> list[ReadEvent | Refused]:
        """Store the private values of events, before any of the events can be in the log.

        In pieces, each at the token's turn: others store theirs in between. Values whose events
        are not logged after all, for a later piece failed, wait for the request to be sent again.
        """
        affected = {
            position: read
            for position, read in enumerate(reads)
            if isinstance(read, ReadEvent) and self._private_fields.applies_to(read)
        }
        if not affected:
            return reads
        outcomes: list[ReadEvent | Refused] = []
        pending = list(affected.values())
        for start in range(0, len(pending), PRIVATE_EVENTS):
            some = pending[start : start + PRIVATE_EVENTS]
            store = partial(self._private_fields.commit_and_store, some)
            stored = await self._private_thread.run(by, store)
            self._quotas.use_stored(charged_to, stored.stored_bytes)
            outcomes += _fit([_refuse_error(each) for each in stored.outcomes], by=by)
        replaced = dict(zip(affected, outcomes, strict=True))
        return [replaced.get(position, read) for position, read in enumerate(reads)]


async def _make_request(by: str, reads: Sequence[ReadEvent]) -> AppendRequest:
    """As `_request_of`, in pieces."""
    events: list[UnstampedEvent] = []
    events_bytes = 0
    for some in pieces_of(reads):
        if events:
            await asyncio.sleep(0)
        made = _request_of(by, some)
        events += made.events
        events_bytes += made.events_bytes
    return AppendRequest(by, events, events_bytes)


def _request_of(by: str, reads: Sequence[ReadEvent]) -> AppendRequest:
    """What the sequencer gets of events."""
    events = [
        UnstampedEvent(read.id_bytes, read.event_json, "time" in read.filled) for read in reads
    ]
    return AppendRequest(by, events, sum([len(read.event_json) for read in reads]))


def _fit(reads: Sequence[ReadEvent | Refused], *, by: str) -> list[ReadEvent | Refused]:
    """Events as they are kept until they are logged, and the refusals of those that are too long.

    The leaf of an event fits or doesn't, whenever it is received. The decoded values of a large
    event are forgotten: they may take 25 times the memory of their JSON.
    """
    form = leaf_format(by, _ANY_TIME)
    return [
        read
        if isinstance(read, Refused) or len(read.event_json) < SHORT_BYTES
        else _fit_one(read, form)
        for read in reads
    ]


def _fit_one(read: ReadEvent, form: LeafFormat) -> ReadEvent | Refused:
    try:
        form.check(read.event_json)
    except EventError as error:
        return Refused(explain(error).problem)
    # In place, for the event is ours alone, and a copy costs twenty times as much.
    force_setattr(read.event, "context", UNSET)
    force_setattr(read.event, "changes", UNSET)
    return read


def _refuse_error(read: ReadEvent | Exception) -> ReadEvent | Refused:
    return Refused(explain(read).problem) if isinstance(read, Exception) else read
