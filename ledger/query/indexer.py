"""What keeps the index up beside a service: a process for what is full, a thread for what is new.

Sealing a segment computes for a second, which on a thread of the service would hold up its event
loop; in a process of its own it holds up nothing. The keeper may be killed at any time. It ends
when its parent does: that holds the other end of a pipe, which nothing is ever written to.

The newest entries are indexed in the service's memory, by the first query that wants them or, so
that no query waits for it, by a follower that works for a millisecond and then rests: for thirty
while events come in, for three while none do, as after a start.
"""

import gc
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import structlog

from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import SegmentBuilder, open_index_writer
from ledger.store.log import LogStore
from ledger_core.tlog.errors import UnavailableError

LOOK_S: Final = 1.0
"""Between two looks for a segment that is full."""

FOLLOW_S: Final = 0.05
"""Between two looks for entries that are new."""

FOLLOWED_AT_ONCE: Final = 128
RESTS_FOR: Final = 30
RESTS_FOR_WHEN_QUIET: Final = 3
STOP_WAIT_S: Final = 10.0
NICENESS: Final = 10

_log = structlog.get_logger("ledger.query")


class IndexFollower:
    """Indexes the newest entries in memory, on a thread of its own, before anybody asks."""

    def __init__(self, engine: QueryEngine) -> None:
        self._engine = engine
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-follower", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the log may be closed when this returns."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        rest_s = 0.0
        size = -1
        while not self._stopping.wait(rest_s):
            start = time.monotonic()
            try:
                size_before, size = size, self._engine.tree_size()
                is_behind = self._engine.advance(FOLLOWED_AT_ONCE)
            except Exception:  # noqa: BLE001 - the thread's top; queries do its work, and tell
                _log.exception("index_follower_failed")
                return
            # One processor's share is all that Python has: most of it belongs to the requests.
            worked_s = time.monotonic() - start
            rests_for = RESTS_FOR_WHEN_QUIET if size == size_before else RESTS_FOR
            rest_s = worked_s * rests_for if is_behind else FOLLOW_S


class IndexerProcess:
    """Runs the keeper of one log's index."""

    def __init__(self, log_path: Path, index_path: Path) -> None:
        self._log_path = log_path
        self._index_path = index_path
        self._process: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        """Whether segments are being sealed."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", __name__, str(self._log_path), str(self._index_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Ctrl-C is for the service, which then ends this in order.
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the process; a segment that it was at is sealed by the next."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def keep(log_path: Path, index_path: Path) -> None:
    """Seal whatever is full until standard input ends.

    Raises: UnavailableError while another process, such as `ledger reindex`, writes the index.
    """
    log = LogStore.open(log_path)
    writer = open_index_writer(index_path)
    try:
        sealer = SegmentBuilder(log, writer)
        sealer.prepare()
        while not _is_alone(0.0):
            if not sealer.seal_next() and _is_alone(LOOK_S):
                return
    finally:
        writer.close()
        log.close()


def _is_alone(wait_s: float) -> bool:
    """Whether the parent is gone, which ends the pipe; wait so long for it."""
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


def main() -> None:
    """Keep the index that the command line names, after what is more urgent."""
    os.nice(NICENESS)
    gc.disable()  # Nothing here has cycles, and a segment is half a million objects.
    log_path, index_path = map(Path, sys.argv[1:])
    while True:
        try:
            return keep(log_path, index_path)
        except UnavailableError:
            if _is_alone(LOOK_S):
                return None


if __name__ == "__main__":
    main()
