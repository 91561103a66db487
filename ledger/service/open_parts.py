"""Opens the parts of a service that each of its processes has: stores, checks and limits."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from secrets import token_bytes
from typing import Final

import structlog

from ledger.log.appender import Appender
from ledger.query.answer import IndexStatus
from ledger.query.engine import QueryEngine
from ledger.query.open_index import open_index
from ledger.runtime.loop_turns import LoopTurns
from ledger.runtime.shared_counts import ALONE, Shared
from ledger.runtime.tls import ServerTls
from ledger.service.admission import Admission
from ledger.service.append_thread import AppendThread
from ledger.service.audit_trail import AuditTrail
from ledger.service.context import ServiceContext
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.export_trailers import Trailers
from ledger.service.http.in_flight import InFlight
from ledger.service.http.openapi import make_openapi
from ledger.service.identities.identities import Identities, usable_principals
from ledger.service.ingest import IngestPipeline
from ledger.service.live_settings import LiveSettings
from ledger.service.loaded_files import LiveFiles, LoadedFiles
from ledger.service.metrics import Metrics
from ledger.service.mirrored import Heads, Mirrored
from ledger.service.policy_file import parse_policy_file
from ledger.service.private_fields import PrivateFields, parse_fields
from ledger.service.queries.frames import Connect
from ledger.service.queries.job import QueryOptions, QueryParts
from ledger.service.queries.server import QueryServer
from ledger.service.queries.supervisor import QueryProcess, connect_to, connect_within
from ledger.service.query_pool import QueryPool
from ledger.service.quotas import Quotas
from ledger.service.report import Reports
from ledger.service.secret_filter import SecretFilter
from ledger.service.secret_stores import open_digest_key, open_private
from ledger.service.settings import Settings
from ledger.service.start_record import changed_files, remember_files, remember_reloaded
from ledger.service.tracing import Tracer
from ledger.store.erasable_values import KEY_BYTES
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger.store.stored_log import StoredLog
from ledger.store.tokens import AccessStore
from ledger_core.event.commitments import PrivateReader
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.secrets import SecretRules, default_rules, parse_rules
from ledger_core.tlog.errors import MalformedError, UnavailableError

WAITING_EVENTS_MAX: Final = 1_000_000
WAITING_EVENTS_PER_TOKEN_MAX: Final = 50_000
"""Events whose answers wait for a head or for proofs: with these, those of a token take 100 MB."""

_log = structlog.get_logger("ledger.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogParts:
    """The log as the requests of one process need it, from this process or another one."""

    store: StoredLog
    sequencer: Appender
    publisher: Heads
    verifier_keys: tuple[str, ...]
    reports: Reports
    export_trailers: Trailers
    mirrored: Mirrored | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """The parts that check events and append them."""

    access: AccessStore
    private_fields: PrivateFields
    ingest: IngestPipeline
    metrics: Metrics
    quotas: Quotas


def open_intake(
    paths: DirectoryPaths,
    settings: Settings,
    opened: AsyncExitStack,
    *,
    store: StoredLog,
    sequencer: Appender,
    files: LoadedFiles,
    shared: Shared = ALONE,
) -> Intake:
    """Open tokens, private values and rules; `opened` closes them. Raises: as `app.serve`."""
    rules = open_rules(paths, files.secrets)
    fields = parse_fields(files.private_fields)
    access = opened.enter_context(closing(open_tokens(paths, settings)))
    private = open_private(paths, make_key=lambda: token_bytes(KEY_BYTES), settings=settings)
    private_fields = PrivateFields(
        opened.enter_context(closing(private)), fields, store.index_for, mask_id=rules.mask_id
    )
    reader = PrivateReader(_id_maker(_wall_us), _wall_us)
    metrics, quotas = Metrics(), Quotas(settings, shared=shared)
    ingest = IngestPipeline(
        sequencer=sequencer,
        wall_us=_wall_us,
        reader=reader,
        private_fields=private_fields,
        secret_filter=SecretFilter(rules, settings.secrets, reader, metrics),
        metrics=metrics,
        quotas=quotas,
        thread=opened.enter_context(closing(AppendThread())),
        private_thread=opened.enter_context(closing(AppendThread())),
    )
    return Intake(
        access=access,
        private_fields=private_fields,
        ingest=ingest,
        metrics=metrics,
        quotas=quotas,
    )


def open_rules(paths: DirectoryPaths, text: str) -> SecretRules:
    """The rules for secrets of a ledger, with the key of its digests. Raises: as `app.serve`.

    `text`: the content of `secrets.toml`.
    """
    digest_key = open_digest_key(paths, make_key=lambda: token_bytes(KEY_BYTES))
    return (parse_rules(text) if text else default_rules()).keyed(digest_key)


def note_files(paths: DirectoryPaths) -> None:
    """Log which files are changed or gone since the last start, and remember what is there."""
    for name in changed_files(paths):
        _log.warning("file_changed", file=name, reason="it is not as it was at the last start")
    for name in remember_files(paths):
        _log.warning("file_missing", file=name, reason="it was there at the last start")


def note_reloaded(paths: DirectoryPaths) -> None:
    """Remember the files that a person edited, and had the running service read by SIGHUP.

    Without that `ledger fsck` calls them changed until the next start. Raises nothing.
    """
    try:
        for name in remember_reloaded(paths):
            _log.info("file_changed", file=name, reason="it was edited before this reload")
    except (MalformedError, OSError, UnavailableError) as error:
        _log.error("files_not_noted", reason=str(error))


def open_context(
    paths: DirectoryPaths,
    live: LiveSettings,
    opened: AsyncExitStack,
    *,
    log: LogParts,
    intake: Intake,
    files: LiveFiles,
    connect_queries: Connect,
    shared: Shared = ALONE,
    read_status: Callable[[], IndexStatus] | None = None,
) -> ServiceContext:
    """The context of the requests of one process; `opened` closes it before the log.

    `connect_queries`: what `open_queries` returned, or `connect_to` its socket. `read_status`: the
    state of an index that isn't in the folder.
    """
    if read_status is None:
        read_status = QueryEngine(log.store, IndexStore(paths.index)).status
    policy, settings = parse_policy_file(files.current.policy), live.current
    tls = files.current.tls
    return ServiceContext(
        origin=log.store.origin(),
        verifier_keys=log.verifier_keys,
        policy=policy.policy,
        policy_text=policy.public_text,
        live=live,
        files=files,
        tls=None if tls is None else ServerTls(tls),
        store=log.store,
        access=intake.access,
        sequencer=log.sequencer,
        publisher=log.publisher,
        mirrored=log.mirrored,
        ingest=intake.ingest,
        private_fields=intake.private_fields,
        query_pool=_open_query_pool(opened, connect_queries, log, read_status),
        admission=Admission(large_max=settings.large_appends_max, wait_s=settings.append_wait_s),
        loop_turns=LoopTurns(),
        request_turns=LoopTurns(),
        bytes_in_flight=InFlight(
            "bytes",
            most=settings.in_flight_bytes_max,
            most_per_owner=settings.in_flight_bytes_per_token_max,
            shared=shared,
        ),
        requests_in_flight=InFlight(
            "requests",
            most=settings.connections_max,
            most_per_owner=settings.requests_per_token_max,
            shared=shared,
        ),
        events_waiting=InFlight(
            "events",
            most=WAITING_EVENTS_MAX,
            most_per_owner=WAITING_EVENTS_PER_TOKEN_MAX,
            shared=shared,
        ),
        shared=shared,
        metrics=intake.metrics,
        quotas=intake.quotas,
        audit=AuditTrail(
            intake.ingest,
            lambda: live.current,
            intake.metrics,
            intake.quotas,
            is_mirror=log.mirrored is not None,
        ),
        tracer=Tracer(lambda: live.current, intake.metrics),
        identities=_open_identities(files, live),
        openapi=make_openapi(),
        reports=log.reports,
        export_trailers=log.export_trailers,
        stopping=asyncio.Event(),
    )


def _open_identities(files: LiveFiles, live: LiveSettings) -> Identities:
    """The principals beside tokens, taken anew at each reload of the settings."""
    identities = Identities(usable_principals(files.current.principals))
    live.follow(lambda _settings: identities.take(usable_principals(files.current.principals)))
    return identities


def open_queries(
    paths: DirectoryPaths,
    settings: Settings,
    opened: AsyncExitStack,
    *,
    store: LogStore,
    private_fields: PrivateFields,
) -> Connect:
    """Start the query process, or its server in this process; `opened` ends it before the log.

    Returns what connects with it.
    """
    if settings.query_process:
        return connect_to(start_query_process(paths, settings, opened).socket)
    engine = QueryEngine(store, open_index(store, paths.index, sets_aside=True))
    return serve_queries(
        settings, opened, store=store, engine=engine, private_fields=private_fields
    )


def serve_queries(
    settings: Settings,
    opened: AsyncExitStack,
    *,
    store: StoredLog,
    engine: QueryEngine,
    private_fields: PrivateFields,
) -> Connect:
    """Start the server of queries in this process; `opened` ends it. Returns what connects."""
    parts = QueryParts(store=store, engine=engine, open_values=private_fields.open)
    server = QueryServer(parts, _query_options(settings))
    opened.push_async_callback(asyncio.to_thread, server.close)
    return connect_within(server)


def start_query_process(
    paths: DirectoryPaths, settings: Settings, opened: AsyncExitStack
) -> QueryProcess:
    """Start the query process, which `opened` ends."""
    process = QueryProcess(paths.root, _query_options(settings))
    process.start()
    opened.push_async_callback(asyncio.to_thread, process.stop)
    return process


def _query_options(settings: Settings) -> QueryOptions:
    return QueryOptions(
        threads=settings.query_threads,
        waiting_max=settings.query_waiting_max,
        streams_max=settings.streams_max,
        rows_max=settings.query_rows_max,
        time_s=settings.query_time_s,
        private_map_bytes=settings.private_map_bytes,
    )


def _open_query_pool(
    opened: AsyncExitStack,
    connect: Connect,
    log: LogParts,
    read_status: Callable[[], IndexStatus],
) -> QueryPool:
    """The connection with the query process."""
    pool = QueryPool(
        connect,
        tree_size=lambda: log.sequencer.head.tree_size,
        read_status=read_status,
    )
    opened.callback(pool.close)
    return pool


def _id_maker(now: Callable[[], int]) -> Callable[[], str]:
    return lambda: format_uuid7(unix_ms=now() // 1000, random=token_bytes(UUID7_RANDOM_BYTES))


def _wall_us() -> int:
    """The time of this host, which may go back."""
    return time.time_ns() // 1000
