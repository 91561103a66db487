"""Keeps the index of a service up to date: a process for full segments, a thread for new entries.

Sealing a segment computes for a second, which on a thread of the service would delay its event
loop. So the indexer is a follower (`ledger/follow/`): a process of its own that may be killed at
any time.

New entries are indexed in the memory of the process that answers queries. A query does this itself
for the entries it needs. The index follower does it beforehand, so that queries need not wait. It
works for a millisecond and then rests: for thirty while events come in, for three while none do, as
after a start.
"""

import gc
import sys
import threading
import time
from pathlib import Path
from typing import Final

import structlog

from ledger.follow.process import is_orphaned, lower_priority
from ledger.object_storage.open_log import open_log
from ledger.query.engine import QueryEngine
from ledger.query.open_index import fault_of
from ledger.query.segment_builder import SegmentBuilder
from ledger.runtime.log_lines import configure_child_logs
from ledger.store.index.index_writer import IndexWriter
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger_client.runtime.process_end import end_process
from ledger_core.tlog.errors import UnavailableError

SEAL_POLL_S: Final = 1.0
"""Seconds between two checks for a full segment."""

FOLLOW_POLL_S: Final = 0.05
"""Seconds between two checks for new entries."""

FOLLOW_ENTRIES: Final = 128
REST_RATIO: Final = 30
REST_RATIO_WHEN_QUIET: Final = 3

_log = structlog.get_logger("ledger.query")


class IndexFollower:
    """Indexes new entries in memory on a thread of its own, before a query needs them."""

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
                is_behind = self._engine.advance(FOLLOW_ENTRIES)
            except Exception:  # noqa: BLE001 - the thread's top; queries index for themselves
                _log.exception("index_follower_failed")
                return
            # All threads share one processor, and most of it belongs to the requests.
            worked_s = time.monotonic() - start
            ratio = REST_RATIO_WHEN_QUIET if size == size_before else REST_RATIO
            rest_s = worked_s * ratio if is_behind else FOLLOW_POLL_S


def seal_until_orphaned(log_path: Path, index_path: Path) -> None:
    """Seal full segments until standard input ends.

    Raises: UnavailableError while another process, such as `ledger reindex`, writes the index.
    """
    log = open_log(log_path)
    writer = IndexWriter.open(index_path, fault_of=fault_of(log, SEGMENT_ENTRIES_MAX))
    try:
        builder = SegmentBuilder(log, writer)
        while not is_orphaned(0.0):
            if not builder.seal_next() and is_orphaned(SEAL_POLL_S):
                return
    finally:
        writer.close()
        log.close()


def main() -> None:
    """Seal the segments of the log and index that the command line names, at low priority."""
    lower_priority()
    configure_child_logs()
    gc.disable()  # A segment is half a million objects without a cycle.
    log_path, index_path = map(Path, sys.argv[1:])
    while True:
        try:
            return seal_until_orphaned(log_path, index_path)
        except UnavailableError:
            if is_orphaned(SEAL_POLL_S):
                return None


if __name__ == "__main__":
    main()
    end_process(0)
