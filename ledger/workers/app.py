"""Serves a ledger: in one process, or with front ends around the sequencer's process.

A stop takes no new connection; the front ends answer what is in flight, for which the writer and
the publisher still run, and end; then the last head is published, and the writer ends.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import structlog

from ledger.runtime.listening import open_listening
from ledger.runtime.systemd import notify
from ledger.runtime.tasks import beside
from ledger.runtime.tls import scheme
from ledger.service import app
from ledger.service.app import log_serving, open_log, until_stopped
from ledger.service.audit_trail import log_acts
from ledger.service.background import enqueue_erasures, watched
from ledger.service.data_dir import DirectoryPaths
from ledger.service.engine import Engine
from ledger.service.live_settings import LiveSettings
from ledger.service.loaded_files import LiveFiles, LoadedFiles, read_files
from ledger.service.open_parts import Intake, note_reloaded, start_query_process
from ledger.service.process_limits import limit_connections, raise_descriptor_limit
from ledger.service.report import Report, engine_report, write_warnings
from ledger.service.settings import Settings
from ledger.service.store_watch import Descriptors, watch
from ledger.workers.cores import choose_workers, usable_cores
from ledger.workers.gateway import Gateway
from ledger.workers.messages import VERSIONS
from ledger.workers.pool import CountsMemory, FrontEnds, counts_memory
from ledger.workers.start import Start
from ledger_core.tlog.errors import UnavailableError

_log = structlog.get_logger("ledger.workers")


async def serve(
    directory: Path,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    live: LiveSettings | None = None,
) -> None:
    """Serve a ledger until `stop` is set, with as many front ends as the settings say.

    Raises: as `ledger.service.app.serve`; UnavailableError when a front end doesn't start.
    """
    workers = settings.workers if settings.workers >= 0 else choose_workers(usable_cores())
    if workers == 0:
        await app.serve(directory, settings, stop=stop, on_ready=on_ready, live=live)
        return
    replacing = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, replacing.set)
    live = live or LiveSettings(settings)
    descriptors_max = raise_descriptor_limit()

    def adjust(asked: Settings) -> Settings:
        chosen = msgspec.structs.replace(asked, workers=workers)
        return limit_connections(chosen, descriptors_max)

    settings = live.adjust(adjust)
    paths = DirectoryPaths(directory)
    # A fault in what the front ends are given is found before all else.
    files = LiveFiles(read_files(paths, settings))
    async with (
        open_log(directory, settings, files.current) as (engine, intake, parts),
        _sequencing(engine, intake) as (
            gateway,
            descriptors,
        ),
    ):
        with ExitStack() as opened:
            listening, address = open_listening(
                settings.listen, settings.workers, scheme=scheme(files.current.tls)
            )
            for each in {each for sockets in listening for each in sockets}:
                opened.enter_context(each)
            memory = opened.enter_context(counts_memory(settings.workers))
            front_ends = FrontEnds(
                gateway,
                _start(directory, settings, files.current, engine, memory),
                listening,
                start_queries=partial(start_query_process, engine.paths, settings, parts),
                on_end=partial(_clean_up, engine, intake, memory),
            )
            gateway.not_running = front_ends.not_running

            def reload(settings: Settings) -> None:
                files.reload(paths, settings)
                note_reloaded(paths)
                front_ends.reload(settings, files.current)

            live.follow(reload)
            log_acts(intake.access, live)
            try:
                await front_ends.start(stop)
                if not stop.is_set():
                    log_serving(address, engine.sequencer.head.tree_size, workers=settings.workers)
                    if on_ready is not None:
                        on_ready(address)
                environments = (intake.access.environment, intake.private_fields.store.environment)
                async with beside(_when_told(replacing, front_ends.replace_all)):
                    failure = await until_stopped(
                        watch(engine.sequencer, environments, descriptors, gateway.bytes_in_flight),
                        stop,
                    )
                _log.info("stopping")
                notify("STOPPING=1")
            finally:
                # Nobody takes what would wait for a front end from now on.
                opened.close()
                await front_ends.stop()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _sequencing(engine: Engine, intake: Intake) -> AsyncIterator[tuple[Gateway, Descriptors]]:
    """Serve the links of the front ends."""
    descriptors = Descriptors()

    def own_reports() -> list[Report]:
        environments = {
            "access": intake.access.environment,
            "private": intake.private_fields.store.environment,
        }
        warnings = write_warnings(environments)
        if descriptors.are_used_up:
            warnings.append("all open files are used up: raise LimitNOFILE or ulimit -n")
        return [
            engine_report(engine),
            Report(warnings=warnings, counters=intake.metrics.counters()),
        ]

    gateway = Gateway(engine.sequencer, engine.publisher, own_reports=own_reports)
    async with beside(watched(engine, "gateway", gateway.run())):
        yield gateway, descriptors


def _start(
    directory: Path, settings: Settings, files: LoadedFiles, engine: Engine, memory: CountsMemory
) -> Start:
    """What all front ends are given; each is given the rest when it is started."""
    return Start(
        directory=str(directory),
        settings=settings,
        files=files,
        number=0,
        processes=settings.workers,
        part=0,
        parts=memory.parts,
        link=-1,
        listening=(),
        counts=memory.descriptor,
        counts_key=memory.key,
        verifier_keys=engine.verifier_keys,
        queries="",
        versions=VERSIONS,
    )


async def _when_told(told: asyncio.Event, replace: Callable[[], Awaitable[None]]) -> None:
    """Replace the front ends whenever the event is set, until cancelled."""
    while True:
        await told.wait()
        told.clear()
        try:
            await replace()
        except (OSError, UnavailableError) as error:
            _log.error("workers_not_replaced", reason=str(error))


def _clean_up(engine: Engine, intake: Intake, memory: CountsMemory, part: int) -> None:
    """Release what a front end had that has ended."""
    memory.counts.forget_in_use(part)
    for environment in (
        engine.store.environment,
        intake.access.environment,
        intake.private_fields.store.environment,
    ):
        environment.clear_dead_readers()
    # It may have erased values and not logged that.
    enqueue_erasures(intake)
