"""Children whose limit is processor time, so that a loaded machine is not taken for a hang.

A child that goes beyond it, or beyond a very generous limit by the clock, hangs. It is ended by
SIGABRT, at which Python writes the stacks of all its threads (PYTHONFAULTHANDLER).
"""

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ledger.demo.child_service import end_hanging
from ledger_client.cli.app import run as run_ledger
from tests.faults.forked import CLOCK_MAX_S, Forked

PROCESSOR_MAX_S: Final = 60.0
STACKS: Final = {"PYTHONFAULTHANDLER": "1"}
_STACK_CHARACTERS: Final = 1500
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that has ended: its exit code, its errors, its stacks if it hung, and its output."""

    code: int
    errors: str
    stacks: str | None
    output: str = ""


def run(*arguments: str, processor_max_s: float = PROCESSOR_MAX_S) -> Ended:
    """Run `ledger` to its end, or until it hangs."""
    with _text_file() as errors, _text_file() as output:
        process = Forked(lambda: run_ledger([*arguments]), stdout=output, stderr=errors)
        is_hanging = not wait(process, processor_max_s=processor_max_s)
        if is_hanging:
            end_hanging(process)  # type: ignore[arg-type]  # It has what is used of `Popen`.
        errors.seek(0)
        output.seek(0)
        text, said = errors.read(), output.read()
    stacks = text[-_STACK_CHARACTERS:] if is_hanging else None
    return Ended(process.wait(), text, stacks, said)


def _text_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def wait(
    process: "subprocess.Popen[str] | Forked",
    *,
    processor_max_s: float = PROCESSOR_MAX_S,
    clock_max_s: float = CLOCK_MAX_S,
) -> bool:
    """Whether a child ends within its limits."""
    end_s = time.monotonic() + clock_max_s
    while time.monotonic() < end_s and processor_s(process.pid) < processor_max_s:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return True
    return process.poll() is not None


def processor_s(pid: int) -> float:
    """The processor time of a process and of its children that have ended; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    # The name in brackets may hold spaces. utime, stime, cutime and cstime are fields 14 to 17.
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_A_SECOND
