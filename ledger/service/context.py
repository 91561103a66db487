"""The parts of a running service, and the signed heads that answers are proved against."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from ledger.log.appender import Appender
from ledger.runtime.loop_turns import LoopTurns
from ledger.runtime.shared_counts import Shared
from ledger.runtime.tls import ServerTls
from ledger.service.admission import Admission
from ledger.service.audit_trail import AuditTrail
from ledger.service.auth import authenticate_again, caller_name, is_stranger
from ledger.service.export_trailers import Trailers
from ledger.service.http.body_reader import read_body
from ledger.service.http.in_flight import STRANGERS, InFlight
from ledger.service.http.problems import retry_later
from ledger.service.identities.identities import Identities
from ledger.service.ingest import IngestPipeline
from ledger.service.live_settings import LiveSettings
from ledger.service.loaded_files import LiveFiles
from ledger.service.metrics import Metrics
from ledger.service.mirrored import Heads, Mirrored
from ledger.service.private_fields import PrivateFields
from ledger.service.query_pool import QueryPool
from ledger.service.quotas import Quotas
from ledger.service.report import (
    Report,
    Reports,
    SharedReport,
    combine,
    map_warnings,
    write_warnings,
)
from ledger.service.settings import Settings
from ledger.service.store_watch import Descriptors
from ledger.service.tracing import Tracer
from ledger.store.environment import Environment
from ledger.store.stored_log import StoredLog
from ledger.store.tokens import AccessStore
from ledger_client.runtime.sender_network import sender_network
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.policy import Policy

QUERY_COPIES: Final = 3
"""Of a query in a body, beside its text: that body, and two on the way to the query process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext:
    """The parts, made once at the start; the first argument of every handler."""

    origin: str
    verifier_keys: tuple[str, ...]
    policy: Policy
    policy_text: str
    """The policy as others may read it: `public_policy`."""
    live: LiveSettings
    files: LiveFiles
    store: StoredLog
    access: AccessStore
    sequencer: Appender
    publisher: Heads
    ingest: IngestPipeline
    private_fields: PrivateFields
    query_pool: QueryPool
    admission: Admission
    loop_turns: LoopTurns
    request_turns: LoopTurns
    """At beginning a request. Work of tokens, for which those of `loop_turns` may wait, holds none
    of them up."""
    bytes_in_flight: InFlight
    requests_in_flight: InFlight
    events_waiting: InFlight
    """Events in the log whose answers wait for a head or for proofs."""
    metrics: Metrics
    quotas: Quotas
    audit: AuditTrail
    identities: Identities
    shared: Shared
    """The counts that all processes of the service share."""
    openapi: bytes
    reports: Reports
    export_trailers: Trailers
    tracer: Tracer
    stopping: asyncio.Event
    """Set when the service is told to stop: streams end then."""
    descriptors: Descriptors = field(default_factory=Descriptors)
    mirrored: Mirrored | None = None
    """The log on another host that this service mirrors, if it does."""
    tls: ServerTls | None = None
    _shared_report: SharedReport = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shared_report", SharedReport(self._make_report))

    @property
    def settings(self) -> Settings:
        """The settings in use; some change at a reload."""
        return self.live.current

    @property
    def environments(self) -> dict[str, Environment]:
        """The environments that every process of the service writes, by their folders."""
        return {
            "access": self.access.environment,
            "private": self.private_fields.store.environment,
        }

    async def report(self) -> Report:
        """The report of all processes of the service."""
        return await self._shared_report.newest()

    async def _make_report(self) -> Report:
        own = self.own_report()
        return combine((own, *await self.reports.others(own)))

    def own_report(self) -> Report:
        """The report of this process, without what another part of the service reports."""
        warnings = write_warnings(self.environments) + map_warnings(self.environments)
        if self.descriptors.are_used_up:
            warnings.append("all open files are used up: raise LimitNOFILE or ulimit -n")
        if self.tls is not None:
            warnings += self.tls.warnings()
        return Report(
            warnings=warnings,
            counters=self.metrics.counters(),
            bytes_in_flight=self.bytes_in_flight.used,
            requests_in_flight=self.requests_in_flight.used,
        )

    @property
    def tree_size(self) -> int:
        """The durable size of the log."""
        return self.sequencer.head.tree_size

    async def begin_strange(self, request: web.BaseRequest) -> None:
        """Wait for the turn of an address, for a request without a token or with one to verify.

        All of these have one turn together, and addresses take turns at it.
        """
        address = sender_network(request.remote or "")
        await self.request_turns.begin(address, group=STRANGERS)

    async def begin_quick_work(self, request: web.BaseRequest) -> None:
        """Wait for the caller's turn at the loop, for work of less than a millisecond."""
        if is_stranger(request):
            await self.begin_strange(request)
        else:
            await self.request_turns.begin(caller_name(request))

    async def read_body(
        self, request: web.BaseRequest, *, owner: str, bytes_max: int, is_stranger: bool = False
    ) -> bytes:
        """The body of a request, counted among the bytes in flight of `owner` while it is read.

        `is_stranger`: the owner is a caller without a token. Raises: as `body_reader.read_body`,
        and `authenticate_again`.
        """
        with self.bytes_in_flight.lease(owner, is_stranger=is_stranger) as take:
            body = await read_body(
                request,
                bytes_max=bytes_max,
                wait_s=self.settings.body_wait_s,
                take=take,
                turn=self.loop_turns.turn(owner),
            )
        authenticate_again(self.access, request)
        return body

    @contextmanager
    def holding_query(self, owner: str, query: str) -> Iterator[None]:
        """Count a query from a body among the bytes in flight of `owner` until it is answered.

        A text with one character beyond the Basic Multilingual Plane takes four bytes for each.
        Raises: ProblemError when too much is in flight.
        """
        with self.bytes_in_flight.lease(owner) as take:
            take(sys.getsizeof(query) + QUERY_COPIES * len(query))
            yield

    async def acknowledged_head(self, tree_size: int) -> SignedCheckpoint:
        """A signed head of at least this durable size, against which an append is proved.

        Under a policy without a quorum it is signed now; only a published head meets a quorum.
        Raises: as `published_covering`.
        """
        if self.policy.quorum is None:
            return await self.publisher.newest()
        return await self.published_covering(tree_size, wait_s=self.settings.witnessed_wait_s)

    async def published_covering(
        self, tree_size: int, *, wait_s: float | None = None
    ) -> SignedCheckpoint:
        """Wait until the published head is at least this large.

        Raises: ProblemError when that takes too long, VerificationError when signing has stopped.
        """
        published = self.publisher.published
        waited_s = self.settings.published_wait_s if wait_s is None else wait_s
        if published is None or published.head.tree_size < tree_size:
            if self.publisher.failure is not None:
                raise self.publisher.failure
            published = await self.publisher.wait_for(tree_size, timeout_s=waited_s)
        if published is not None:
            return published
        said = f"no checkpoint of size {tree_size} or more is published yet"
        interval_s = self.settings.publish_interval_s
        if (missing := self.publisher.quorum_missing) is not None:
            raise retry_later("not-yet-published", f"{said}: {missing}")
        if interval_s <= waited_s:
            raise retry_later("not-yet-published", said)
        raise retry_later(
            "not-yet-published",
            f"{said}: one is published each {interval_s:g} s",
            after_s=interval_s - waited_s + 1,
        )
