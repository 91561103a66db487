"""The query process: opens the log and the index, and serves the front ends on a Unix socket.

    python -m ledger.service.queries.process DIR SOCKET OPTIONS

`OPTIONS` are `QueryOptions` as JSON. The service starts it, and again when it ended: `supervisor`.
It ends with the service, even by SIGKILL: then its standard input closes. It may be killed at any
time, for it keeps nothing that is not in the log.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Final, NoReturn

import msgspec

from ledger.follow.heartbeat import keep_beating
from ledger.follow.process import is_orphaned, lower_priority
from ledger.object_storage.open_log import open_log
from ledger.query.engine import QueryEngine
from ledger.query.open_index import open_index
from ledger.runtime.log_lines import configure_child_logs
from ledger.runtime.tasks import beside
from ledger.service.data_dir import DirectoryPaths
from ledger.service.private_fields import PrivateFields
from ledger.service.process_limits import shorten_pauses
from ledger.service.queries.handover import HeldAnswers, handover_path
from ledger.service.queries.job import QueryOptions, QueryParts
from ledger.service.queries.server import QueryServer
from ledger.service.secret_stores import open_private
from ledger.service.settings import Settings
from ledger.store.log import LogStore
from ledger_client.runtime.process_end import end_process
from ledger_client.runtime.server import run_until_signal
from ledger_core.event.commitments import Opening
from ledger_core.tlog.errors import UnavailableError

NICENESS: Final = 5
"""Appends go first, and searches before the indexer."""

CONNECTIONS_WAITING_MAX: Final = 128
STOP_WAIT_S: Final = 5.0
"""Seconds that running pieces of work have at a stop."""


class _PrivateValues:
    """Opens the store of private values when the first one is to be disclosed."""

    def __init__(self, paths: DirectoryPaths, map_bytes: int, store: LogStore) -> None:
        self._paths = paths
        self._settings = Settings(private_map_bytes=map_bytes)
        self._index_for = store.index_for
        self._lock = threading.Lock()
        self._fields: PrivateFields | None = None

    def open(self, event_json: bytes) -> Sequence[Opening]:
        """The openings of an event's private values. Raises: UnavailableError."""
        with self._lock:
            if self._fields is None:
                private = open_private(self._paths, make_key=_no_key, settings=self._settings)
                self._fields = PrivateFields(private, (), self._index_for)
        return self._fields.open(event_json)


def _no_key() -> NoReturn:
    raise UnavailableError("the key of the private values is gone")


@contextmanager
def open_server(
    paths: DirectoryPaths, options: QueryOptions, held: HeldAnswers
) -> Iterator[QueryServer]:
    """The server of queries on a log that other processes write. Precondition: a running loop."""
    with closing(open_log(paths.log, caches=True)) as store:
        private = _PrivateValues(paths, options.private_map_bytes, store)
        parts = QueryParts(
            store=store,
            engine=QueryEngine(store, open_index(store, paths.index, sets_aside=True)),
            open_values=private.open,
        )
        with closing(QueryServer(parts, options, held)) as server:
            yield server


async def serve(
    paths: DirectoryPaths, socket: Path, options: QueryOptions, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set or standard input ends."""
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, stop.set)
    with (
        closing(HeldAnswers(handover_path(socket))) as held,
        open_server(paths, options, held) as server,
    ):
        # The listener is closed once nothing refers to it: then no front end could connect again.
        listener = await loop.create_unix_server(
            server.connection, str(socket), backlog=CONNECTIONS_WAITING_MAX
        )
        async with beside(keep_beating()):
            await stop.wait()
        listener.close()
        loop.remove_reader(sys.stdin)
        # A piece of work asks every now and then whether it is cancelled; this is if it doesn't.
        timer = threading.Timer(STOP_WAIT_S, os._exit, (1,))
        timer.daemon = True
        timer.start()
    if is_orphaned(0.0):
        rmtree(socket.parent, ignore_errors=True)


def main() -> None:
    """Serve queries on the ledger that the command line names, at low priority."""
    lower_priority(NICENESS)
    configure_child_logs()
    shorten_pauses()
    folder, socket, options_json = sys.argv[1:]
    Path(socket).unlink(missing_ok=True)  # Of the process before this one.
    options = msgspec.json.decode(options_json, type=QueryOptions)
    run_until_signal(lambda stop: serve(DirectoryPaths(Path(folder)), Path(socket), options, stop))


if __name__ == "__main__":
    main()
    end_process(0)
