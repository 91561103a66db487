"""A front end: a process that answers requests, over the log of the sequencer's process.

    python -m ledger.workers.front_end      reads `Start` from standard input

It ends when it is told to by SIGTERM, after the requests in flight, and when the sequencer's
process has ended: nobody else would order its events, and a new sequencer starts its own front
ends. By SIGUSR1 it is told that another one takes its place: then it closes each connection with
the next answer on it, so that no request is cut off.
"""

import asyncio
import mmap
import signal
import socket
import sys
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp import web

from ledger.follow.heartbeat import keep_beating
from ledger.log.sequencer import LIMITS
from ledger.object_storage.open_log import open_log
from ledger.runtime.listening import serve_sockets, stop_listening
from ledger.runtime.log_lines import configure_child_logs
from ledger.runtime.shared_counts import SharedCounts
from ledger.runtime.tasks import beside
from ledger.service.app import run_process, stop_answering, until_stopped
from ledger.service.context import ServiceContext
from ledger.service.data_dir import DirectoryPaths
from ledger.service.http.server import Server
from ledger.service.live_settings import LiveSettings
from ledger.service.loaded_files import LiveFiles, LoadedFiles, read_files
from ledger.service.open_parts import LogParts, open_context, open_intake
from ledger.service.queries.supervisor import connect_to
from ledger.service.routes import ROUTES
from ledger.service.settings import Settings
from ledger.service.store_watch import watch
from ledger.store.commit_errors import CommitFailedError
from ledger.workers.messages import VERSIONS, Ready, shared_version
from ledger.workers.remote import RemoteHeads, RemoteSequencer, SequencerClient
from ledger.workers.remote_reports import RemoteReports, RemoteTrailers
from ledger.workers.start import Start, decode_start
from ledger_client.runtime.process_end import end_process
from ledger_core.tlog.errors import MalformedError, UnavailableError

LOST_WAIT_S: Final = 1.0
"""Seconds for the answers that the outcome is unknown, when the sequencer's process has ended."""

IDLE_POLL_S: Final = 0.02
IDLE_WAIT_S: Final = 5.0
"""Seconds for connections without a request, when another front end takes the place of this one."""

_log = structlog.get_logger("ledger.workers")


def main() -> None:
    """Serve as one front end."""
    start = decode_start(sys.stdin.buffer.read())
    configure_child_logs(worker=start.number)
    try:
        shared_version(VERSIONS, start.versions)
    except UnavailableError as error:
        _log.error("worker_refused", reason=str(error))
        sys.exit(1)
    try:
        run_process(lambda stop: serve(start, stop))
    except CommitFailedError:  # The sequencer's process logs why; this one has nothing to add.
        sys.exit(1)
    except (MalformedError, UnavailableError) as error:
        _log.error("worker_failed", reason=str(error))
        sys.exit(1)


async def serve(start: Start, stop: asyncio.Event) -> None:
    """Answer requests until `stop` is set, or the sequencer's process has ended."""
    live = LiveSettings(start.settings)
    settings = live.adjust(partial(share_settings, processes=start.processes))
    paths = DirectoryPaths(Path(start.directory))
    files = LiveFiles(start.files or read_files(paths, settings))
    client = SequencerClient(on_lost=stop.set)
    client.reload = partial(_reload, paths, files, live)
    link = socket.socket(fileno=start.link)
    await asyncio.get_running_loop().create_unix_connection(lambda: client.link, sock=link)
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(beside(keep_beating()))
        context = _open_context(start, live, files, client, opened)
        client.report = context.own_report
        await opened.enter_async_context(context.identities.running())
        await opened.enter_async_context(context.audit.running())
        await opened.enter_async_context(context.tracer.running())
        server = Server(context, ROUTES)
        runner = web.ServerRunner(server, shutdown_timeout=settings.stop_wait_s)
        await runner.setup()
        leaving = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leaving.set)
        winding = asyncio.create_task(_wind_down(leaving, server, runner, stop))
        try:
            sockets = [socket.socket(fileno=descriptor) for descriptor in start.listening]
            await serve_sockets(runner, sockets, context.tls)
            client.link.send(Ready())
            environments = tuple(context.environments.values())
            failure = await until_stopped(
                watch(
                    context.sequencer, environments, context.descriptors, context.bytes_in_flight
                ),
                stop,
            )
        finally:
            winding.cancel()
            if client.is_lost:
                _log.error("sequencer_ended")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOST_WAIT_S if client.is_lost else None):
                    await stop_answering(context, runner)
    if failure is not None:
        raise failure
    with suppress(TimeoutError):
        async with asyncio.timeout(LOST_WAIT_S):
            await client.end_link(context.metrics.counters())


async def _wind_down(
    told: asyncio.Event, server: Server, runner: web.ServerRunner, stop: asyncio.Event
) -> None:
    """When told, take no new connection, and set `stop` when those that are open are closed."""
    await told.wait()
    server.closes_connections = True
    await stop_listening(runner)
    await asyncio.sleep(IDLE_POLL_S)  # What was accepted last is counted in the next turns.
    with suppress(TimeoutError):
        async with asyncio.timeout(IDLE_WAIT_S):
            while not server.is_idle:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(IDLE_POLL_S)
    stop.set()


def _reload(
    paths: DirectoryPaths,
    files: LiveFiles,
    live: LiveSettings,
    settings: Settings,
    loaded: LoadedFiles | None,
) -> None:
    """Take settings and files that the sequencer's process has read again."""
    if loaded is None:
        files.reload(paths, settings)
    else:
        files.current = loaded
    live.replace(settings)


def share_settings(settings: Settings, processes: int) -> Settings:
    """The settings of one of so many front ends: what each does or holds for itself is divided."""
    divided = {
        name: max(1, getattr(settings, name) // processes)
        for name in ("large_appends_max", "waiting_events_max", "waiting_bytes_max")
    }
    return msgspec.structs.replace(settings, **divided)


def _open_context(
    start: Start,
    live: LiveSettings,
    files: LiveFiles,
    client: SequencerClient,
    opened: AsyncExitStack,
) -> ServiceContext:
    paths, settings = DirectoryPaths(Path(start.directory)), live.current
    store = opened.enter_context(
        closing(open_log(paths.log, map_bytes=settings.map_bytes, waits_on_loop=False))
    )
    limits = replace(
        LIMITS,
        waiting_max=settings.waiting_events_max,
        waiting_bytes_max=settings.waiting_bytes_max,
    )
    sequencer = RemoteSequencer(client, store, limits)
    memory = mmap.mmap(start.counts, 0)
    shared = SharedCounts(memory, number=start.part, processes=start.parts, key=start.counts_key)
    intake = open_intake(
        paths,
        settings,
        opened,
        store=store,
        sequencer=sequencer,
        files=files.current,
        shared=shared,
    )
    log = LogParts(
        store=store,
        sequencer=sequencer,
        publisher=RemoteHeads(client, store),
        verifier_keys=start.verifier_keys,
        reports=RemoteReports(client),
        export_trailers=RemoteTrailers(client),
    )
    return open_context(
        paths,
        live,
        opened,
        log=log,
        intake=intake,
        connect_queries=connect_to(Path(start.queries)),
        files=files,
        shared=shared,
    )


if __name__ == "__main__":
    main()
    end_process(0)
