"""The list of followers, and starting and stopping all of them.

A follower with a file of configuration runs once for each table of that file, `[NAME]` in TOML, or
once for the whole file. The file is looked at once a second, so a follower that is added, changed,
paused or removed needs no restart of the service.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from ledger.follow.position import FollowerPaths, FollowerReport, is_name, read_report
from ledger.follow.process import FollowerProcess
from ledger_client.runtime.files import read_utf8
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml

WATCH_S: Final = 1.0
RELEASING_KEY: Final = "retain_local_segments"

_log = structlog.get_logger("ledger.follow")


class FollowerSpec(NamedTuple):
    """The command of a follower: `python -m module`, then paths below the ledger's folder.

    `file`: its configuration, also below that folder; without the file it does not run.
    `is_each`: it runs for each table of the file, with the table's name as the last argument.
    `variable_key`: the key of a table that names the variable of the environment that it needs.
    `variables`: others that it needs, by name.
    """

    name: str
    module: str
    paths: tuple[str, ...]
    file: str = ""
    is_each: bool = False
    variable_key: str = ""
    variables: tuple[str, ...] = ()


AWS_VARIABLES: Final = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CA_BUNDLE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    *("AWS_EC2_METADATA_DISABLED", "AWS_STS_REGIONAL_ENDPOINTS"),
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
)
"""By which the AWS tools find credentials, and the server.

The indexer, the process of Parquet, that of queries and front ends always get them: entries that
they read may be in an archive (`retain_local_segments`). The others get them where entries are,
since they speak to strangers.
"""

FOLLOWERS: Final = (
    FollowerSpec("index", "ledger.query.indexer", ("log", "index"), variables=AWS_VARIABLES),
    FollowerSpec(
        *("sinks", "ledger.sinks.worker", ("",)),
        file="sinks.toml",
        is_each=True,
        variable_key="token_env",
    ),
    FollowerSpec("alarms", "ledger.alarms.worker", ("",), file="alarms.toml"),
    FollowerSpec(
        *("archive", "ledger.archive.worker", ("",)),
        file="archive.toml",
        is_each=True,
        variables=AWS_VARIABLES,
    ),
    FollowerSpec(
        *("mirrors", "ledger.mirror_push.worker", ("",)), file="mirrors.toml", is_each=True
    ),
)
PARQUET: Final = FollowerSpec(
    "parquet", "ledger.query.parquet_segments", ("log", "parquet"), variables=AWS_VARIABLES
)
"""With the setting `parquet` only."""


class _Wanted(NamedTuple):
    """A process that should run. It is started anew when any of this changes."""

    name: str
    module: str
    arguments: tuple[str, ...]
    configuration: str
    variables: tuple[str, ...] = ()


class Followers:
    """The followers of one ledger, each in its process."""

    def __init__(
        self,
        folder: Path,
        specs: Sequence[FollowerSpec] = FOLLOWERS,
        *,
        watch_s: float = WATCH_S,
    ) -> None:
        """`watch_s`: seconds between two looks at the files of configuration."""
        self._folder: Final = folder
        self._fixed: Final = [
            FollowerProcess(
                spec.name,
                spec.module,
                [str(folder / path) for path in spec.paths],
                variables=spec.variables,
            )
            for spec in specs
            if not spec.file
        ]
        self._configured: Final = [spec for spec in specs if spec.file]
        self._running: dict[_Wanted, FollowerProcess] = {}  # Of the thread, after `start`.
        self._faults: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        self._watch_s: Final = watch_s
        self._stopping: Final = threading.Event()
        self._watcher: Final = threading.Thread(
            target=self._watch, name="ledger-followers", daemon=True
        )
        self._started: Final = ExitStack()

    def start(self) -> None:
        """Start every follower; when one can't be started, stop the others."""
        with ExitStack() as starting:
            for process in self._fixed:
                process.start()
                starting.callback(process.stop)
            if self._configured:
                self._watcher.start()
                starting.callback(self._stop_watching)
            self._started.push(starting.pop_all())

    def stop(self) -> None:
        """Stop every follower."""
        self._started.close()

    def not_running(self) -> list[str]:
        """The names of the followers whose process has ended and isn't started again yet."""
        processes = [*self._fixed, *self._running.copy().values()]
        return [process.name for process in processes if process.process_id is None]

    def reports(self) -> list[FollowerReport]:
        """How far each follower is that has a file of configuration, `sinks/siem`, as it wrote it.

        One whose files can't be read is left out, and is one of the `faults`.
        """
        return [each for each in self._read_reports() if isinstance(each, FollowerReport)]

    def faults(self) -> list[str]:
        """The faults of the files of configuration and of positions, a line each."""
        unread = [each for each in self._read_reports() if isinstance(each, str)]
        return [*self._faults.copy().values(), *unread]

    def _read_reports(self) -> Iterator[FollowerReport | str]:
        """The report of each follower, or why it can't be read."""
        for kind, names in self._names.copy().items():
            for name in names:
                try:
                    yield read_report(self._folder, kind, name)
                except (MalformedError, OSError) as error:
                    yield f"{error}: run ledger fsck"

    def _stop_watching(self) -> None:
        self._stopping.set()
        self._watcher.join()
        for process in self._running.values():
            process.stop()

    def _watch(self) -> None:
        while True:
            self._adjust()
            if self._stopping.wait(self._watch_s):
                return

    def _adjust(self) -> None:
        """Start what is wanted and does not run; stop what runs and is not wanted."""
        released = AWS_VARIABLES if self._is_releasing() else ()
        wanted = {each for spec in self._configured for each in self._wanted(spec, released)}
        for gone in self._running.keys() - wanted:
            self._running.pop(gone).stop()
        for new in wanted - self._running.keys():
            process = FollowerProcess(new.name, new.module, new.arguments, variables=new.variables)
            try:
                process.start()
            except OSError as error:
                _log.warning("follower_not_started", follower=new.name, error=error.strerror)
                continue
            self._running[new] = process

    def _is_releasing(self) -> bool:
        """Whether entries leave this disk for an archive, where each follower may have to read."""
        try:
            tables = parse_toml(read_utf8(self._folder / "archive.toml"))
        except (OSError, ValueError):
            return False
        return any(isinstance(each, dict) and RELEASING_KEY in each for each in tables.values())

    def _wanted(self, spec: FollowerSpec, released: tuple[str, ...]) -> Iterator[_Wanted]:
        """The processes of a file. One that can't be read leaves those that run as they are."""
        path = self._folder / spec.file
        try:
            text = read_utf8(path)
            tables = parse_toml(text)
        except FileNotFoundError:
            self._faults.pop(spec.name, None)
            self._names[spec.name] = []
            return
        except (OSError, ValueError) as error:  # tomllib's and Unicode's errors are ValueErrors
            fault = f"{path} can't be read: {error}"
            if self._faults.get(spec.name) != fault:
                _log.error("followers_not_read", follower=spec.name, error=str(error))
            self._faults[spec.name] = fault
            yield from (each for each in self._running if each.module == spec.module)
            return
        self._faults.pop(spec.name, None)
        arguments = tuple(str(self._folder / path) for path in spec.paths)
        if not spec.is_each:
            self._names[spec.name] = [""]
            yield _Wanted(spec.name, spec.module, arguments, text, released)
            return
        self._names[spec.name] = sorted(filter(is_name, tables))
        for name, table in tables.items():
            if not (isinstance(table, dict) and is_name(name)):
                self._faults[spec.name] = f"{path}: {name!a} is not the table of a follower"
            elif not FollowerPaths(self._folder, spec.name, name).paused.exists():
                yield _Wanted(
                    name=f"{spec.name}/{name}",
                    module=spec.module,
                    arguments=(*arguments, name),
                    configuration=repr(table),
                    variables=tuple(
                        filter(
                            None,
                            (str(table.get(spec.variable_key, "")), *spec.variables, *released),
                        )
                    ),
                )
