"""The read-only service over an archive: the service of a ledger with its entries in a bucket."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

from ledger.log.append_request import Appended, AppendRequest
from ledger.log.hold import HoldRecord
from ledger.object_storage.fetching import refuse_to_wait, wait_for
from ledger.query.engine import QueryEngine
from ledger.reader.archived_log import ArchivedLog
from ledger.reader.data_dir import ReaderPaths, read_config
from ledger.reader.follower import ArchiveFollower
from ledger.reader.open_archive import lock_reader, open_archive
from ledger.service.app import serve_context
from ledger.service.context import ServiceContext
from ledger.service.export_trailers import ExportTrailers
from ledger.service.http.problems import ProblemError, log_failure
from ledger.service.live_settings import LiveSettings
from ledger.service.loaded_files import LiveFiles
from ledger.service.mirrored import Lag, RunningHeads
from ledger.service.open_parts import LogParts, note_files, open_context, open_intake, serve_queries
from ledger.service.report import Report
from ledger.service.settings import Settings
from ledger.store.commit_errors import CommitFailedError
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy
from ledger_core.tlog.tree import TreeHead


class ArchivedSource:
    """The archive as the log that a service mirrors, as `Mirrored`."""

    def __init__(self, url: str, follower: ArchiveFollower) -> None:
        self.log_url: str = url
        self.heads: RunningHeads = follower
        self._follower: Final = follower

    def lag(self) -> Lag:
        """The time for which the archive could not be followed."""
        return self._follower.lag()

    def reasons(self) -> Sequence[str]:
        """The reasons why nothing, or nothing new, can be served."""
        return self._follower.reasons()

    def warnings(self) -> Sequence[str]:
        """That the bucket doesn't answer rightly, or has an older head."""
        return self._follower.warnings()

    def refusal(self) -> ProblemError:
        """The refusal to append."""
        return ProblemError(
            "read-only", "this service reads an archive, and takes no events: send them to the log"
        )


class NoAppender:
    """The head of an archive, to which nothing can be appended, as `Appender`."""

    failure: CommitFailedError | None = None
    held: HoldRecord | None = None

    def __init__(self, log: ArchivedLog, follower: ArchiveFollower) -> None:
        self._log: Final = log
        self._follower: Final = follower

    @property
    def head(self) -> TreeHead:
        """The head that is served."""
        return self._log.head()

    async def append_events(self, request: AppendRequest) -> Appended:  # noqa: ARG002
        """Raises: UnavailableError."""
        _refuse()

    async def probe(self) -> None:
        """Do nothing: a reader writes nothing that could fail."""

    async def wait_past(self, tree_size: int) -> TreeHead:
        """The head, as soon as it is larger than this size."""
        while self.head.tree_size <= tree_size:
            await self._follower.wait_for(tree_size + 1, timeout_s=WAIT_S)
        return self.head


class ReaderReports:
    """The part of a reader that follows the archive, as `Reports`."""

    def __init__(self, source: ArchivedSource) -> None:
        self._source: Final = source

    async def others(self, own: Report) -> Sequence[Report]:  # noqa: ARG002 - as `Reports`
        """Its report."""
        source = self._source
        return (Report(reasons=source.reasons(), warnings=source.warnings(), lag=source.lag()),)


WAIT_S: Final = 60.0


async def serve(
    directory: Path,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    live: LiveSettings | None = None,
) -> None:
    """Serve the archive that a folder names until `stop` is set.

    Raises: as `ledger.service.app.serve`; UnavailableError when the folder is no reader, or another
    process serves it.
    """
    live = live or LiveSettings(settings)

    def open_reader(files: LiveFiles) -> AsyncIterator[ServiceContext]:
        return _open(directory, live, files)

    await serve_context(
        directory, live, asynccontextmanager(open_reader), stop=stop, on_ready=on_ready
    )


async def _open(
    directory: Path, live: LiveSettings, files: LiveFiles
) -> AsyncIterator[ServiceContext]:
    """The running parts of a reader, without a socket."""
    paths, settings = ReaderPaths(directory), live.current
    config = read_config(paths)
    policy = parse_policy(read_limited(paths.ledger.policy, POLICY_BYTES_MAX))
    async with AsyncExitStack() as opened:
        opened.enter_context(lock_reader(paths))
        archive = open_archive(paths, config, paths.cache)
        objects, index, follower = archive.objects, archive.index, archive.follower
        here = ArchivedLog(archive.state, refuse_to_wait)
        elsewhere = ArchivedLog(archive.state, wait_for)
        sequencer = NoAppender(here, follower)
        intake = open_intake(
            paths.ledger,
            settings,
            opened,
            store=here,
            sequencer=sequencer,
            files=files.current,
        )
        note_files(paths.ledger)
        source = ArchivedSource(config.url, follower)
        engine = QueryEngine(elsewhere, index)
        connect = serve_queries(
            settings,
            opened,
            store=elsewhere,
            engine=engine,
            private_fields=intake.private_fields,
        )
        # Before the queries end: their threads wait for requests.
        opened.callback(objects.close)
        context = open_context(
            paths.ledger,
            live,
            opened,
            log=LogParts(
                store=here,
                sequencer=sequencer,
                publisher=follower,
                verifier_keys=tuple(str(log.verifier) for log in policy.logs),
                reports=ReaderReports(source),
                export_trailers=ExportTrailers(),
                mirrored=source,
            ),
            intake=intake,
            connect_queries=connect,
            files=files,
            read_status=engine.status,
        )
        following = asyncio.create_task(_watched(follower))
        try:
            yield context
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _watched(follower: ArchiveFollower) -> None:
    try:
        await follower.run()
    except Exception as error:
        log_failure("task_failed", error, task="archive")
        raise


def _refuse() -> NoReturn:
    raise UnavailableError("a reader of an archive takes no events")
