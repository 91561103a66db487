"""The processes that a service starts, each killed by SIGKILL while the service works.

The service goes on: it starts that process again, what was acknowledged is there, and a search
finds every event, without a restart.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults import bounded
from tests.faults.outcome import Case, Outcome, Problem
from tests.faults.subjects import LedgerSubject, Subject, judge

PAUSE_MAX_S: Final = 1.5
_find_module = re.compile(r"\0-m\0([\w.]+)\0").search


class Child(NamedTuple):
    """A process that a service started: its id and the module that it runs."""

    process_id: int
    module: str


def kill_processes(
    subject: Subject, prepared: Path, scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """Runs without end, in each of which one of the processes is killed."""
    if not isinstance(subject, LedgerSubject):
        return
    folder = scratch / "probed"
    shutil.copytree(prepared, folder)
    process = _start(subject, folder)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        modules = sorted({each.module for each in children(process.pid)})
    finally:
        _end(process)
    while True:
        for module in modules:
            yield partial(_kill, subject, prepared, module, rng.uniform(0.0, PAUSE_MAX_S))


def _kill(
    subject: LedgerSubject, prepared: Path, module: str, pause_s: float, scratch: Path
) -> Outcome:
    folder = scratch / "folder"
    shutil.copytree(prepared, folder)
    process = _start(subject, folder)
    assert process.stdout is not None
    has_killed = threading.Event()
    killer = threading.Timer(pause_s, _kill_child, (process.pid, module, has_killed))
    try:
        first = process.stdout.readline()
        killer.start()
        acknowledged = subject.work(folder, chain([first], process.stdout))
        killer.join()
        url = first.strip().rpartition(" ")[2]
        found: list[Problem] = []
        try:
            found += subject.problems(folder, url, acknowledged)
        except Exception as error:  # noqa: BLE001 - a service that does not answer is a result
            found.append(Problem("does not start", f"after the kill: {error!r}"))
    finally:
        killer.cancel()
        is_hanging = not _end(process)
    problems = [*found, *judge(subject, folder, acknowledged)]
    if is_hanging:
        problems.append(Problem("hangs", "it does not end at SIGTERM"))
    case = f"{module}, {pause_s:.2f} s after the start"
    return Outcome(subject.name, "a child killed", case, has_killed.is_set(), problems)


def children(process_id: int) -> list[Child]:
    """The processes below one, with the module that each runs."""
    found = []
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                command = Path(f"/proc/{child}/cmdline").read_text(errors="replace")
                if named := _find_module(command):
                    found.append(Child(child, named[1]))
                found += children(child)
    return found


def _kill_child(process_id: int, module: str, has_killed: threading.Event) -> None:
    """Kill a child of a module; one that is not there yet is waited for."""
    deadline_s = time.monotonic() + bounded.PROCESSOR_MAX_S
    while time.monotonic() < deadline_s:
        for child in children(process_id):
            if child.module == module:
                with suppress(ProcessLookupError):
                    os.kill(child.process_id, signal.SIGKILL)
                    has_killed.set()
                return
        time.sleep(0.01)


def _start(subject: Subject, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        subject.command(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _end(process: "subprocess.Popen[str]") -> bool:
    """Whether it ended at SIGTERM."""
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    is_ended = bounded.wait(process)
    process.kill()
    process.wait()
    process.stdout.close()
    return is_ended
