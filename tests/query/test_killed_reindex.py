"""A reindex that is killed leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.query.events import make_entries, make_log

SEGMENT_ENTRIES = 16
PROCESSES = 2
LONG_S = 60.0

PROGRAM = """
import sys
from pathlib import Path
from ledger.query.segment_builder import reindex
from ledger.store.log import LogStore

def wait_for_the_kill(done, total):
    if done:
        print("building", flush=True)
        sys.stdin.read()

if __name__ == "__main__":
    log, index = map(Path, sys.argv[1:3])
    reindex(LogStore.open(log), index, segment_entries=%d, processes=%d,
            progress=wait_for_the_kill)
"""


def children_of(process_id: int) -> set[int]:
    found: set[int] = set()
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = each.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == process_id:
                found.add(int(each.parent.name))
    return found


def is_running(process_id: int) -> bool:
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_its_processes_end_with_it(tmp_path: Path) -> None:
    event = {
        "time": "2026-09-01T12:00:00Z",
        "actor": {"id": "u_1"},
        "action": "login",
        "outcome": "success",
    }
    events = [{**event, "id": f"00000000-0000-4000-8000-{n:012d}"} for n in range(64)]
    make_log(tmp_path / "log", make_entries(events)).close()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM % (SEGMENT_ENTRIES, PROCESSES), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, program, tmp_path / "log", tmp_path / "index"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        children = children_of(process.pid)
        assert len(children) >= PROCESSES
        process.send_signal(signal.SIGKILL)
    end_s = time.monotonic() + LONG_S
    while running := [each for each in children if is_running(each)]:
        assert time.monotonic() < end_s, f"{running} go on"
        time.sleep(0.05)
