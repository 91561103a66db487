"""The life cycle of a service: its parts are opened, run, and stopped in order.

A stop takes no new connection, answers the requests in flight (the writer and the publisher still
run for them), publishes the last head, and ends the writer. Acknowledged events are on the disk in
any case.
"""

import asyncio
import gc
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes
from typing import Final

import msgspec
import structlog
from aiohttp import web

from ledger.follow.followers import Followers
from ledger.log.hold import Hold
from ledger.log.public_policy import public_policy
from ledger.log.publisher import LogSigner, Publisher, PublisherOptions
from ledger.log.sequencer import LIMITS, Sequencer
from ledger.query.budget import QueryLimits
from ledger.query.engine import QueryEngine
from ledger.runtime.memory import map_large_blocks
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
from ledger.service.http.problems import log_failure
from ledger.service.http.router import Route
from ledger.service.http.server import Server
from ledger.service.ingest import IngestPipeline
from ledger.service.metrics import Metrics
from ledger.service.mirrored import Heads, MakeMirrored
from ledger.service.old_values import bind_old_values
from ledger.service.outbox import Outbox
from ledger.service.private_fields import PrivateFields, parse_fields
from ledger.service.query_pool import QueryPool
from ledger.service.quotas import Quotas
from ledger.service.recovery_journal import check_finished
from ledger.service.routes import ROUTES
from ledger.service.secret_filter import SecretFilter
from ledger.service.settings import Settings
from ledger.service.store_watch import watch
from ledger.service.token_admin import revoke_revived
from ledger.store.commit_errors import CommitFailedError
from ledger.store.erasable_values import KEY_BYTES
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger.store.log_start import last_received_time
from ledger.store.writer import LogWriter
from ledger_client.runtime.server import listen, run_until_signal
from ledger_core.event.commitments import PrivateReader
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.secrets import default_rules, parse_rules
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy, parse_policy

DESCRIPTORS_WANTED = 65_536
OWN_DESCRIPTORS: Final = 256
"""Open files that a service keeps for itself: connections may have the others."""

SWITCH_INTERVAL_S: Final = 0.001
COLLECTION_THRESHOLDS: Final = (20_000, 10, 100)

SEARCH_STOP_WAIT_S: Final = 1.0
"""Seconds that running searches and exports have at a stop."""

_log = structlog.get_logger("ledger.service")


def run(
    directory: Path, settings: Settings, *, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve a ledger until SIGTERM or SIGINT. `on_ready` gets the address, `http://host:port`.

    Raises: as `serve`.
    """
    run_process(lambda stop: serve(directory, settings, stop=stop, on_ready=on_ready))


def run_process(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a service, of a ledger or a mirror, as the only work of this process, until a signal."""
    _shorten_pauses()
    map_large_blocks()
    run_until_signal(serve)


async def serve(
    directory: Path,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    make_mirrored: MakeMirrored | None = None,
    routes: Sequence[Route] = ROUTES,
) -> None:
    """Serve a ledger until `stop` is set, or with `make_mirrored` a mirror of one.

    Raises: UnavailableError when another process writes the ledger, a part of it is missing, the
    address is taken or a commit failed with an unknown outcome; MalformedError and
    VerificationError when what is there can't be trusted.
    """
    descriptors_max = _raise_descriptor_limit()
    settings = _limit_connections(settings, descriptors_max)
    async with open_service(directory, settings, make_mirrored) as context:
        runner = web.ServerRunner(Server(context, routes), shutdown_timeout=settings.stop_wait_s)
        await runner.setup()
        try:
            address = await listen(runner, settings.listen)
            _log.info(
                "serving",
                address=address,
                tree_size=context.tree_size,
                descriptors_max=descriptors_max,
            )
            if on_ready is not None:
                on_ready(address)
            failure = await _until_stopped(context, stop)
            _log.info("stopping")
        finally:
            context.stopping.set()
            # Searches and exports have the least claim on the time for requests in flight.
            asyncio.get_running_loop().call_later(SEARCH_STOP_WAIT_S, context.query_pool.cancel)
            await runner.cleanup()
    if failure is not None:
        raise failure


async def _until_stopped(context: ServiceContext, stop: asyncio.Event) -> CommitFailedError | None:
    """Until `stop` is set, or a commit failed so that only a new process can go on."""
    others = tuple(each for name, each in context.environments.items() if name != "log")
    watching = asyncio.create_task(
        watch(context.sequencer, others, context.descriptors, context.bytes_in_flight)
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        return watching.result() if watching.done() else None
    finally:
        watching.cancel()
        stopping.cancel()


@asynccontextmanager
async def open_service(
    directory: Path, settings: Settings, make_mirrored: MakeMirrored | None = None
) -> AsyncIterator[ServiceContext]:
    """The running parts of a ledger, without a socket. Raises: as `serve`."""
    paths = DirectoryPaths(directory)
    async with AsyncExitStack() as opened:
        context = _open_parts(paths, settings, opened, make_mirrored)
        async with _background(context):
            yield context
        with suppress(UnavailableError, VerificationError):  # either has been logged already
            await context.publisher.publish()


def _open_parts(
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
    sequencer = Sequencer(writer, limits=limits, hold=Hold(paths.hold))
    opened.push_async_callback(sequencer.stop)
    clock = LogClock(last=last_received_time(writer.store), read_unix_ns=time.time_ns)
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
    followers = Followers(paths.root)
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
            clock=clock,
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
) -> Heads:
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


@asynccontextmanager
async def _background(context: ServiceContext) -> AsyncIterator[None]:
    """Run the tasks beside the requests; one that fails makes the service not ready."""
    outbox = Outbox(
        access=context.access,
        ingest=context.ingest,
        interval_s=context.settings.outbox_interval_s,
    )
    work = {"publisher": context.publisher.run}
    if context.mirrored is None:
        # A crash may have come between an erasure and its event.
        for erasure in context.private_fields.store.unlogged():
            context.access.enqueue(erasure.event_json)
            context.private_fields.store.finish(erasure)
        # The log has the event of a token before anybody can use the token. The events of a
        # mirror's tokens wait: no log takes them unless the mirror is promoted.
        await outbox.append_waiting()
        work["outbox"] = outbox.run
    revoke_revived(context.store, context.access)
    tasks = [asyncio.create_task(_watched(context, name, run())) for name, run in work.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watched(context: ServiceContext, name: str, work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - a task's top; /readyz reports it
        log_failure("task_failed", error, task=name)
    context.broken.append(f"the task {name} has ended")


def _shorten_pauses() -> None:
    """Bound how long searches on other threads keep the event loop waiting.

    A thread that computes gives up the interpreter's lock 5 ms after another one asks for it, and
    a collection of all objects holds it for as long as that takes. What is there at the start, the
    code, is never collected, and what came later only after many new objects.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)


def _raise_descriptor_limit() -> int:
    """Raise the number of files that this process may have open; the limit afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if wanted > soft >= 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def _limit_connections(settings: Settings, descriptors_max: int) -> Settings:
    """Settings whose connections leave descriptors for the ledger's own files."""
    own = min(OWN_DESCRIPTORS, descriptors_max // 2)
    if settings.connections_max <= descriptors_max - own:
        return settings
    most = max(descriptors_max - own, 1)
    _log.warning(
        "connections_limited",
        connections_max=most,
        reason=f"this process may open {descriptors_max} files; raise LimitNOFILE or ulimit -n",
    )
    return msgspec.structs.replace(settings, connections_max=most)


def _id_maker(now: Callable[[], int]) -> Callable[[], str]:
    return lambda: format_uuid7(unix_ms=now() // 1000, random=token_bytes(UUID7_RANDOM_BYTES))


def _read_policy(paths: DirectoryPaths) -> bytes:
    try:
        return paths.policy.read_bytes()
    except FileNotFoundError:
        raise UnavailableError(f"there is no policy at {paths.policy}") from None


def _read_optional(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
