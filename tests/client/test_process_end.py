"""A process with daemon threads ends without taking the interpreter down, and loses no output."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor
from ledger_client.runtime.process_end import end_process

class Left:
    def __del__(self):
        print("taken down", flush=True)

left = Left()
left.itself = left  # Only the end of the interpreter deletes it.
atexit.register(print, "at exit")
if {threads!r} == "daemon":
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
pool = ThreadPoolExecutor(1)  # Its thread waits for more until the end.
pool.submit(lambda: (time.sleep(0.2), print("buffered")))
{before}
end_process(4)
"""


def end(threads: str, *, before: str = "") -> "subprocess.CompletedProcess[str]":
    script = SCRIPT.format(threads=threads, before=before)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("threads", ["none", "daemon"])
def test_the_code_and_the_output_are_kept_and_what_runs_is_awaited(threads: str) -> None:
    done = end(threads)
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[:2] == ["buffered", "at exit"]
    assert ("taken down" in done.stdout) is (threads == "none")


def test_output_that_nobody_reads_keeps_no_process_from_its_end() -> None:
    closed = "import os; os.close(1)"
    assert end("daemon", before=closed).returncode == 4
