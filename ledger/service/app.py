"""The life cycle of a service: its parts are opened, run, and stopped in order.

A stop takes no new connection, answers the requests in flight (the writer and the publisher still
run for them), publishes the last head, and ends the writer. Acknowledged events are on the disk in
any case.
"""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog
from aiohttp import web

from ledger.runtime.hangup import reload_at_hangup
from ledger.runtime.listening import open_listening, serve_sockets
from ledger.runtime.memory import map_large_blocks
from ledger.runtime.systemd import notify, notify_ready
from ledger.runtime.tls import scheme
from ledger.service.audit_trail import log_acts
from ledger.service.background import background
from ledger.service.context import ServiceContext
from ledger.service.data_dir import DirectoryPaths
from ledger.service.engine import Engine, open_engine
from ledger.service.export_trailers import ExportTrailers
from ledger.service.http.router import Route
from ledger.service.http.server import Server
from ledger.service.live_settings import LiveSettings
from ledger.service.loaded_files import LiveFiles, LoadedFiles, read_files
from ledger.service.mirrored import MakeMirrored
from ledger.service.old_values import bind_old_values
from ledger.service.open_parts import (
    Intake,
    LogParts,
    note_files,
    note_reloaded,
    open_context,
    open_intake,
    open_queries,
)
from ledger.service.process_limits import limit_connections, raise_descriptor_limit, shorten_pauses
from ledger.service.report import EngineReports
from ledger.service.routes import ROUTES
from ledger.service.settings import Settings
from ledger.service.store_watch import watch
from ledger.store.commit_errors import CommitFailedError
from ledger_client.runtime.server import run_until_signal
from ledger_core.tlog.errors import UnavailableError, VerificationError

SEARCH_STOP_WAIT_S: Final = 1.0
"""Seconds that running searches and exports have at a stop."""

_log = structlog.get_logger("ledger.service")


def run_process(
    serve: Callable[[asyncio.Event], Awaitable[None]], *, reload: Callable[[], None] | None = None
) -> None:
    """Run a service, of a ledger or a mirror, as the only work of this process, until a signal.

    `reload` is called at SIGHUP. With it this is a service's main process, which SIGUSR1 must not
    end: one without workers logs that it has none.
    """

    async def serve_and_reload(stop: asyncio.Event) -> None:
        if reload is not None:
            reload_at_hangup(reload, stop)
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _note_no_workers)
        await serve(stop)

    shorten_pauses()
    map_large_blocks()
    run_until_signal(serve_and_reload)


def _note_no_workers() -> None:
    _log.warning(
        "workers_not_replaced",
        reason="this service has no workers: restart it to have the installed version",
    )


class Serve(Protocol):
    """`serve` of a ledger or of a mirror."""

    def __call__(
        self,
        directory: Path,
        settings: Settings,
        *,
        stop: asyncio.Event,
        on_ready: Callable[[str], None],
        live: LiveSettings,
    ) -> Awaitable[None]: ...


def run_service(
    serve: Serve,
    directory: Path,
    settings: Settings,
    *,
    on_ready: Callable[[str], None],
    read_settings: Callable[[], Settings],
) -> None:
    """Serve a ledger or a mirror in this process until SIGTERM or SIGINT.

    `on_ready` gets the address, such as `http://host:port`. At SIGHUP the certificate is read
    again, and the settings by `read_settings`. Raises: as `serve`.
    """
    live = LiveSettings(settings, read_settings)
    run_process(
        lambda stop: serve(directory, settings, stop=stop, on_ready=on_ready, live=live),
        reload=live.reload,
    )


async def serve(
    directory: Path,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    live: LiveSettings | None = None,
    make_mirrored: MakeMirrored | None = None,
    routes: Sequence[Route] = ROUTES,
) -> None:
    """Serve a ledger in this process until `stop` is set, or with `make_mirrored` a mirror of one.

    `on_ready` gets the address, such as `http://host:port`. `live` has the same settings, and may
    get others.

    Raises: UnavailableError when another process writes the ledger, a part of it is missing, the
    address is taken or a commit failed with an unknown outcome; MalformedError and
    VerificationError when what is there can't be trusted.
    """
    live = live or LiveSettings(settings)

    def open_ledger(files: LiveFiles) -> AbstractAsyncContextManager[ServiceContext]:
        return open_service(directory, live.current, make_mirrored, live=live, files=files)

    await serve_context(directory, live, open_ledger, stop=stop, on_ready=on_ready, routes=routes)


OpenService = Callable[[LiveFiles], AbstractAsyncContextManager[ServiceContext]]
"""Opens the running parts of a service, without a socket."""


async def serve_context(
    directory: Path,
    live: LiveSettings,
    open_parts: OpenService,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    routes: Sequence[Route] = ROUTES,
) -> None:
    """Answer requests in this process until `stop` is set. Raises: as `serve`, and `open_parts`."""
    descriptors_max = raise_descriptor_limit()
    settings = live.adjust(partial(limit_connections, descriptors_max=descriptors_max))
    paths = DirectoryPaths(directory)
    files = LiveFiles(read_files(paths, settings))  # A fault is found before all else.

    def reload(settings: Settings) -> None:
        files.reload(paths, settings)
        note_reloaded(paths)

    live.follow(reload)
    async with (
        open_parts(files) as context,
        context.identities.running(),
        context.audit.running(),
        context.tracer.running(),
    ):
        if context.mirrored is None:
            log_acts(context.access, live)
        runner = web.ServerRunner(Server(context, routes), shutdown_timeout=settings.stop_wait_s)
        await runner.setup()
        try:
            (sockets,), address = open_listening(settings.listen, 1, scheme=scheme(context.tls))
            await serve_sockets(runner, sockets, context.tls)
            log_serving(address, context.tree_size)
            if on_ready is not None:
                on_ready(address)
            environments = tuple(context.environments.values())
            watching = watch(
                context.sequencer, environments, context.descriptors, context.bytes_in_flight
            )
            failure = await until_stopped(watching, stop)
            _log.info("stopping")
            notify("STOPPING=1")
        finally:
            await stop_answering(context, runner)
    if failure is not None:
        raise failure


def log_serving(address: str, tree_size: int, **fields: int) -> None:
    """Log that requests are answered, and tell the service manager."""
    notify_ready(f"serving on {address}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    _log.info("serving", address=address, tree_size=tree_size, descriptors_max=most, **fields)


async def stop_answering(context: ServiceContext, runner: web.ServerRunner) -> None:
    """Take no new request, and answer those in flight."""
    context.stopping.set()
    # Searches and exports have the least claim on the time for requests in flight.
    asyncio.get_running_loop().call_later(SEARCH_STOP_WAIT_S, context.query_pool.cancel)
    await runner.cleanup()


async def until_stopped(
    watch: Coroutine[None, None, CommitFailedError], stop: asyncio.Event
) -> CommitFailedError | None:
    """Until `stop` is set, or `watch` returns why only a new process can go on."""
    watching, stopping = asyncio.create_task(watch), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        return watching.result() if watching.done() else None
    finally:
        watching.cancel()
        stopping.cancel()


@asynccontextmanager
async def open_service(
    directory: Path,
    settings: Settings,
    make_mirrored: MakeMirrored | None = None,
    *,
    live: LiveSettings | None = None,
    files: LiveFiles | None = None,
) -> AsyncIterator[ServiceContext]:
    """The running parts of a ledger in one process, without a socket. Raises: as `serve`."""
    files = files or LiveFiles(read_files(DirectoryPaths(directory), settings))
    async with open_log(directory, settings, files.current, make_mirrored) as (
        engine,
        intake,
        opened,
    ):
        log = LogParts(
            store=engine.store,
            sequencer=engine.sequencer,
            publisher=engine.publisher,
            verifier_keys=engine.verifier_keys,
            reports=EngineReports(engine),
            export_trailers=ExportTrailers(),
            mirrored=engine.mirrored,
        )
        connect = open_queries(
            engine.paths,
            settings,
            opened,
            store=engine.store,
            private_fields=intake.private_fields,
        )
        yield open_context(
            engine.paths,
            live or LiveSettings(settings),
            opened,
            log=log,
            intake=intake,
            connect_queries=connect,
            files=files,
        )


@asynccontextmanager
async def open_log(
    directory: Path,
    settings: Settings,
    files: LoadedFiles,
    make_mirrored: MakeMirrored | None = None,
) -> AsyncIterator[tuple[Engine, Intake, AsyncExitStack]]:
    """The running parts that order events and append those of the service itself.

    What is pushed on the stack is closed before them. Raises: as `serve`.
    """
    paths = DirectoryPaths(directory)
    async with AsyncExitStack() as opened:
        engine = open_engine(paths, settings, opened, make_mirrored)
        intake = open_intake(
            paths, settings, opened, store=engine.store, sequencer=engine.sequencer, files=files
        )
        note_files(paths)
        # On a thread: it may wait for an archive that has the first entries.
        await asyncio.to_thread(bind_old_values, intake.private_fields.store, engine.store)
        async with background(engine, intake):
            yield engine, intake, opened
        with suppress(UnavailableError, VerificationError):  # either has been logged already
            await engine.publisher.publish()
