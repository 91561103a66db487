"""Programs whose clock is set, back or ahead, while they run: libfaketime gives them the time.

The steady clocks of the program stay true, as they do when somebody sets the time of a machine.
"""

import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from tests.faults import bounded
from tests.faults.outcome import Case, Outcome, Problem
from tests.faults.subjects import Subject, judge

STEPS: Final = ("-1h", "+1h", "-40d", "+40d", "-20y", "+5y", "+0")


def library() -> Path | None:
    """The library of faketime, or None where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


def set_clocks(
    subject: Subject, prepared: Path, _scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """Runs without end whose clock is set some times while they work."""
    while True:
        steps = rng.choices(STEPS, k=rng.randint(1, 3))
        pauses_s = [rng.uniform(0.02, 0.5) for _ in steps]
        yield partial(_set_clock, subject, prepared, steps, pauses_s)


def _set_clock(
    subject: Subject, prepared: Path, steps: list[str], pauses_s: list[float], scratch: Path
) -> Outcome:
    preloaded = library()
    assert preloaded is not None, "the tests of clocks need the package faketime"
    folder, times = scratch / "clock", scratch / "faketime"
    shutil.copytree(prepared, folder)
    _set(times, "+0")
    startup = [str(Path(__file__).parent / "startup"), *filter(None, [os.getenv("PYTHONPATH")])]
    environment = os.environ | {
        "LD_PRELOAD": str(preloaded),
        "FAKETIME_TIMESTAMP_FILE": str(times),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join(startup),
    }
    process = subprocess.Popen(
        subject.command(folder),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    done = threading.Event()
    setter = threading.Thread(target=_step, args=(times, steps, pauses_s, done))
    # A clock that is wrong at the start is another case, which tests of their own have.
    first = process.stdout.readline()
    setter.start()
    try:
        acknowledged = subject.work(folder, chain([first], process.stdout))
        process.send_signal(signal.SIGTERM)
        is_hanging = not bounded.wait(process)
    finally:
        done.set()
        setter.join()
        process.kill()
        process.wait()
        process.stdout.close()
    problems = judge(subject, folder, acknowledged)
    if is_hanging:
        problems = [Problem("hangs", "it does not end at SIGTERM"), *problems]
    elif process.returncode not in (0, -signal.SIGTERM):
        problems = [Problem("died by a signal", f"exit code {process.returncode}"), *problems]
    return Outcome(subject.name, "clock set", ", ".join(steps), True, problems)


def _step(times: Path, steps: list[str], pauses_s: list[float], done: threading.Event) -> None:
    for step, pause_s in zip(steps, pauses_s, strict=True):
        done.wait(pause_s)
        _set(times, step)


def _set(times: Path, step: str) -> None:
    draft = times.with_suffix(".new")
    draft.write_text(step, encoding="utf-8")
    draft.replace(times)
