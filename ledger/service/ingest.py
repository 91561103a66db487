"""The hot path: a body's events become prepared entries, a place in the queue, and an outcome each.

    raw ── read ──> event ── stamp ──> leaf, leaf hash ── queue ──> commit ──> index
         (may yield)      └── one synchronous step, no await ──┘

The time of receipt never runs backwards along the log. So the clock is read, the leaves are made
and the entries are queued in one step of the event loop: the order of the queue is the order of the
times. Whatever takes long, decoding and checking, comes before it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import UNSET, UnsetType

from ledger.log.sequencer import Sequencer
from ledger.service.altered import AlteredEvent
from ledger.service.http.problems import ProblemError, explain, make_problem
from ledger.service.http.request_body import ParsedBody
from ledger.service.private_fields import PrivateFields
from ledger.service.secret_filter import SecretFilter
from ledger.store.writer import AppendResult, NewEntry, Placement
from ledger_core.api import Masked, Refused, Result
from ledger_core.event.canonical import format_leaf, format_time, parse_leaf, parse_time
from ledger_core.event.model import EventError, Received
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64

YIELD_EVERY: Final = 256
"""Events read between two chances for other requests: a few milliseconds of work."""


class LogClock:
    """Microseconds since 1970 that never decrease, whatever happens to the system's clock.

    `last` is when the last entry of the log was received, None for an empty log.
    """

    def __init__(self, *, last: str | None, read_unix_ns: Callable[[], int]) -> None:
        self._last_us = 0 if last is None else parse_time(last)
        self._read_unix_ns = read_unix_ns

    def now(self) -> int:
        """The time now, or that of the last call when the system's clock went back since."""
        now_us = self._read_unix_ns() // 1000
        if now_us > self._last_us:
            self._last_us = now_us
        return self._last_us


class Appender:
    """Appends the events of requests to one log."""

    def __init__(
        self,
        *,
        sequencer: Sequencer,
        clock: LogClock,
        reader: Reader,
        privacy: PrivateFields,
        guard: SecretFilter,
    ) -> None:
        self._sequencer = sequencer
        self._clock = clock
        self._privacy = privacy
        self._guard = guard
        self.reader: Final = reader

    async def append(
        self, items: ParsedBody, *, by: str, tenant: str | None
    ) -> list[Result | Refused]:
        """Log the events of a body for the principal `by`; the outcome of each, in their order.

        `tenant`: the only one whose events are taken, None for all. The new events get consecutive
        indices. When this returns they are durable.
        Raises: as `Sequencer.append`, with nothing kept; EventError when a body that should be one
        event isn't even JSON.
        """
        reads = await _read(items, tenant, self._guard)
        self._guard.report()
        await self._settle(reads)
        # From here to the queue nothing is awaited; append() queues before it awaits.
        received = Received(by=by, time=format_time(self._clock.now()))
        entries = _stamp(reads, received)
        if not entries:
            return [read for read in reads if isinstance(read, Refused)]
        commit = await self._sequencer.append(entries)
        landed = iter(zip(entries, commit.placed, strict=True))
        return [
            read if isinstance(read, Refused) else _outcome(read, *next(landed), received)
            for read in reads
        ]

    def now(self) -> int:
        """The time of the log, in microseconds since 1970."""
        return self._clock.now()

    async def _settle(self, reads: list[ReadEvent | Refused]) -> None:
        """Keep what is private in events, before any of them can be in the log."""
        concerned = [
            (position, read)
            for position, read in enumerate(reads)
            if isinstance(read, ReadEvent) and self._privacy.is_concerned(read)
        ]
        if not concerned:
            return
        settled = await asyncio.to_thread(self._privacy.settle, [read for _, read in concerned])
        for (position, _), outcome in zip(concerned, settled, strict=True):
            reads[position] = (
                Refused(explain(outcome).problem) if isinstance(outcome, EventError) else outcome
            )


async def _read(
    items: ParsedBody, tenant: str | None, guard: SecretFilter
) -> list[ReadEvent | Refused]:
    reads: list[ReadEvent | Refused] = []
    for start in range(0, len(items.raws), YIELD_EVERY):
        if start:
            await asyncio.sleep(0)
        some = items.raws[start : start + YIELD_EVERY]
        reads += guard.check([_read_one(items, bytes(raw), tenant) for raw in some])
    return reads


def _read_one(items: ParsedBody, raw: bytes, tenant: str | None) -> ReadEvent | Refused:
    try:
        read = items.read(raw)
        if tenant is not None and read.event.tenant != tenant:
            raise _wrong_tenant(read.event.tenant)
    except (EventError, ProblemError) as error:
        refused = explain(error).problem
        if not items.is_batch and refused.slug in ("not-json", "not-msgpack"):
            raise
        return Refused(refused)
    return read


def _wrong_tenant(got: str | UnsetType) -> ProblemError:
    names = "no tenant" if got is UNSET else "another tenant"
    return ProblemError(
        "wrong-tenant", f"the token is bound to one tenant, the event names {names}", field="tenant"
    )


def _stamp(reads: list[ReadEvent | Refused], received: Received) -> list[NewEntry]:
    """The entries of the events that were read; one whose leaf is too large becomes refused."""
    entries: list[NewEntry] = []
    for position, read in enumerate(reads):
        if isinstance(read, Refused):
            continue
        event_json = read.event_json
        try:
            leaf = format_leaf(event_json=event_json, by=received.by, received_time=received.time)
        except EventError as error:
            reads[position] = Refused(explain(error).problem)
            continue
        entries.append(
            NewEntry(read.id_bytes, leaf, leaf_hash(leaf), event_json, "time" in read.filled)
        )
    return entries


def _outcome(
    read: ReadEvent, entry: NewEntry, placed: AppendResult, received: Received
) -> Result | Refused:
    if placed.placement is Placement.CONFLICT:
        return Refused(
            make_problem(
                "id-conflict", f"the event at index {placed.leaf_index} has this id", field="id"
            )
        )
    result = Result(
        index=placed.leaf_index,
        id=str(read.event.id),
        received=received,
        leaf_hash=format_base64(entry.leaf_hash),
        duplicate=placed.placement is Placement.DUPLICATE,
        filled=read.filled,
    )
    if isinstance(read, AlteredEvent):
        result.masked = tuple(Masked(path=hit.path, rule=hit.rule) for hit in read.masked)
        result.committed = read.committed
    event = read.event
    if result.duplicate:
        # It is the first one that counts: whoever sent it, and whenever that was.
        stored = parse_leaf(placed.leaf)
        event = stored.event
        result.received = stored.received
        result.leaf_hash = format_base64(leaf_hash(placed.leaf))
    if "time" in read.filled:
        result.time = event.time or None
    return result
