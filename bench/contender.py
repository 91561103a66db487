"""What `bench.peers` measures of each contender: load over a number of connections, and syncs."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from bench.rows import Row

CONNECTIONS: Final = (1, 32, 90, 256)
SYNCS_S: Final = 5.0
SYNC_CALLS: Final = "fsync,fdatasync,msync,sync_file_range"
_ANY_SYNC: Final = SYNC_CALLS.replace(",", "|")


@contextmanager
def count_syncs(name: str, process_ids: Sequence[int], rows: list[Row]) -> Iterator[None]:
    """Count the calls that sync files while the block runs, and add their number to the rows."""
    if shutil.which("strace") is None:
        print("LEFT OUT: strace is not installed, so syncs are not counted", file=sys.stderr)
        yield
        return
    attached = [part for each in process_ids for part in ("-p", str(each))]
    tracer = subprocess.Popen(
        ["strace", "-f", "-q", "-c", "-U", "name,calls", "-e", f"trace={SYNC_CALLS}", *attached],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.5)  # Until strace has attached: it says nothing of it.
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        assert tracer.stderr is not None
        table = tracer.stderr.read()
        tracer.wait()
    calls = sum(int(found[1]) for found in re.finditer(rf"(?m)^(?:{_ANY_SYNC})\s+(\d+)", table))
    rows.append(Row(f"{name}, syncs in 5 seconds of 32 connections", calls, "calls"))


def single_event_rows(name: str, connections: int, figures: dict[str, float]) -> list[Row]:
    """The rate and the 99th percentile of single events, as `bench.append.load` measured them."""
    what = f"{name}, single events, {connections} connections"
    return [
        Row(what, figures["requests_per_s"], "events/s"),
        Row(f"{what}, p99", figures["p99_ms"], "ms"),
    ]
