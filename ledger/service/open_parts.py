"""Opens the parts of a service: its stores, its engine, and what the requests share."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes

import structlog

from ledger.follow.followers import FOLLOWERS, PARQUET, Followers
from ledger.log.hold import Hold
from ledger.log.public_policy import public_policy
from ledger.log.publisher import LogSigner, Publisher, PublisherOptions
from ledger.log.sequencer import LIMITS, Sequencer
from ledger.query.budget import QueryLimits
from ledger.query.engine import QueryEngine
from ledger.service.admission import Admission, AppendsInWork
from ledger.service.append_thread import AppendThread
from ledger.service.clock import LogClock
from ledger.service.context import ServiceContext
from ledger.service.data_dir import (
    DirectoryPaths,
    changed_files,
    open_digest_key,
    open_private,
    open_tokens,
    read_signers,
    remember_files,
)
from ledger.service.http.in_flight import InFlight
from ledger.service.http.openapi import make_openapi
from ledger.service.ingest import IngestPipeline
from ledger.service.metrics import Metrics
from ledger.service.mirrored import MakeMirrored
from ledger.service.old_values import bind_old_values
from ledger.service.private_fields import PrivateFields, parse_fields
from ledger.service.query_pool import QueryPool
from ledger.service.quotas import Quotas
from ledger.service.recovery_journal import check_finished
from ledger.service.secret_filter import SecretFilter
from ledger.service.settings import Settings
from ledger.store.erasable_values import KEY_BYTES
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger.store.log_start import last_received_time
from ledger.store.writer import LogWriter
from ledger_client.sql.parquet import check_parquet
from ledger_core.event.commitments import PrivateReader
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.secrets import default_rules, parse_rules
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.policy import Policy, parse_policy

_log = structlog.get_logger("ledger.service")


def open_parts(
    paths: DirectoryPaths,
    settings: Settings,
    opened: AsyncExitStack,
    make_mirrored: MakeMirrored | None,
) -> ServiceContext:
    """The parts of a ledger; `opened` closes them. The readers of the log close before the log."""
    check_finished(paths)
    signers = read_signers(paths) if make_mirrored is None else ()
    policy_bytes = _read_policy(paths)
    policy = parse_policy(policy_bytes)
    rules_text = _read_optional(paths.secrets)
    digest_key = open_digest_key(paths, make_key=lambda: token_bytes(KEY_BYTES))
    rules = (parse_rules(rules_text) if rules_text else default_rules()).keyed(digest_key)
    fields = parse_fields(_read_optional(paths.private_fields))
    writer = LogWriter.open(paths.log, map_bytes=settings.map_bytes)
    limits = replace(
        LIMITS,
        waiting_max=settings.waiting_events_max,
        waiting_bytes_max=settings.waiting_bytes_max,
    )
    clock = LogClock(last=last_received_time(writer.store), read_unix_ns=time.time_ns)
    hold = Hold(paths.hold)
    sequencer = Sequencer(writer, limits=limits, hold=hold, receive_us=clock.now)
    opened.push_async_callback(sequencer.stop)
    if make_mirrored is None:
        clock.check_start(settings)
    access = opened.enter_context(closing(open_tokens(paths, settings)))
    private = open_private(paths, make_key=lambda: token_bytes(KEY_BYTES), settings=settings)
    for name in changed_files(paths):
        _log.warning("file_changed", file=name, reason="it is not as it was at the last start")
    for name in remember_files(paths):
        _log.warning("file_missing", file=name, reason="it was there at the last start")
    private_fields = PrivateFields(
        opened.enter_context(closing(private)), fields, writer.store.index_for
    )
    bind_old_values(private, writer.store)
    in_work = AppendsInWork()
    query_pool = _open_query_pool(paths, writer.store, settings, in_work, opened)
    if settings.parquet:
        check_parquet()
    followers = Followers(paths.root, (*FOLLOWERS, PARQUET) if settings.parquet else FOLLOWERS)
    followers.start()
    opened.callback(followers.stop)
    origin = writer.store.origin()
    mirrored = None if make_mirrored is None else make_mirrored(sequencer)
    heads = (
        mirrored.heads if mirrored else _open_publisher(paths, settings, sequencer, signers, policy)
    )
    keys = [log.verifier for log in policy.logs] if mirrored else [s.verifier for s in signers]
    reader = PrivateReader(_id_maker(clock.wall_us), clock.wall_us)
    metrics, quotas = Metrics(), Quotas(settings)
    append_thread = opened.enter_context(closing(AppendThread()))
    return ServiceContext(
        origin=origin,
        verifier_keys=tuple(map(str, keys)),
        policy=policy,
        policy_text=public_policy(policy_bytes.decode(errors="replace")),
        settings=settings,
        store=writer.store,
        access=access,
        sequencer=sequencer,
        publisher=heads,
        mirrored=mirrored,
        ingest=IngestPipeline(
            sequencer=sequencer,
            wall_us=clock.wall_us,
            reader=reader,
            private_fields=private_fields,
            secret_filter=SecretFilter(rules, settings.secrets, reader, metrics),
            metrics=metrics,
            quotas=quotas,
            thread=append_thread,
            in_work=in_work,
        ),
        private_fields=private_fields,
        query_pool=query_pool,
        followers=followers,
        admission=Admission(large_max=settings.large_appends_max, wait_s=settings.append_wait_s),
        bytes_in_flight=InFlight(
            "bytes",
            most=settings.in_flight_bytes_max,
            most_per_owner=settings.in_flight_bytes_per_token_max,
        ),
        requests_in_flight=InFlight(
            "requests",
            most=settings.connections_max,
            most_per_owner=settings.requests_per_token_max,
        ),
        clock=clock,
        metrics=metrics,
        quotas=quotas,
        openapi=make_openapi(),
        stopping=asyncio.Event(),
    )


def _open_publisher(
    paths: DirectoryPaths,
    settings: Settings,
    sequencer: Sequencer,
    signers: Sequence[LogSigner],
    policy: Policy,
) -> Publisher:
    """The publisher of a ledger. Raises: MalformedError, VerificationError for an unfit key."""
    origin = sequencer.store.origin()
    for signer in signers:
        if signer.verifier.name != origin:
            raise MalformedError(f"a key is {signer.verifier.name}'s, the log's origin is {origin}")
    publisher = Publisher(
        sequencer,
        signers,
        policy,
        evidence=paths.evidence,
        options=PublisherOptions(
            interval_s=settings.publish_interval_s,
            heartbeat_s=settings.heartbeat_interval_s,
            witness_timeout_s=settings.witness_timeout_s,
            marker=Path(settings.marker_file) if settings.marker_file else paths.marker,
        ),
    )
    # A policy that doesn't know our keys must end the start, not the first publication.
    replace(policy, quorum=None).check(publisher.sign().note)
    publisher.check_marker()
    return publisher


def _open_query_pool(
    paths: DirectoryPaths,
    store: LogStore,
    settings: Settings,
    in_work: AppendsInWork,
    opened: AsyncExitStack,
) -> QueryPool:
    """The query engine over the log and its index, which the indexer makes."""
    index = IndexStore(paths.index, sets_aside=True)
    query_pool = QueryPool(
        QueryEngine(store, index),
        limits=QueryLimits(rows_scanned=settings.query_rows_max, time_s=settings.query_time_s),
        threads=settings.query_threads,
        waiting_max=settings.query_waiting_max,
        streams_max=settings.streams_max,
        appends=in_work,
    )
    opened.push_async_callback(asyncio.to_thread, query_pool.close)
    return query_pool


def _id_maker(now: Callable[[], int]) -> Callable[[], str]:
    return lambda: format_uuid7(unix_ms=now() // 1000, random=token_bytes(UUID7_RANDOM_BYTES))


def _read_policy(paths: DirectoryPaths) -> bytes:
    try:
        return paths.policy.read_bytes()
    except FileNotFoundError:
        raise UnavailableError(f"there is no policy at {paths.policy}") from None


def _read_optional(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
