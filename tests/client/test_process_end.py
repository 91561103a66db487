"""A process with foreign threads ends without taking the interpreter down, and loses no output."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from ledger_client.runtime.process_end import end_process, note_foreign_threads

class Left:
    def __del__(self):
        print("taken down", flush=True)

left = Left()
left.itself = left  # Only the end of the interpreter deletes it.
atexit.register(print, "at exit")
if {foreign}:
    note_foreign_threads()
print("buffered")
{before}
end_process(4)
"""


def end(*, foreign: bool, before: str = "") -> "subprocess.CompletedProcess[str]":
    script = SCRIPT.format(foreign=foreign, before=before)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("foreign", [False, True])
def test_the_code_and_the_output_are_kept_and_functions_of_atexit_run(foreign: bool) -> None:
    done = end(foreign=foreign)
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[:2] == ["buffered", "at exit"]
    assert ("taken down" in done.stdout) is not foreign


def test_output_that_nobody_reads_keeps_no_process_from_its_end() -> None:
    closed = "import os; os.close(1)"
    assert end(foreign=True, before=closed).returncode == 4


def test_the_package_for_object_stores_has_such_threads() -> None:
    pytest.importorskip("obstore")
    check = "import ledger.archive.object_store; from ledger_client.runtime import process_end"
    done = subprocess.run(
        [sys.executable, "-c", f"{check}; assert process_end._has_foreign_threads"], check=False
    )
    assert done.returncode == 0
