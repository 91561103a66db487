"""Each write-side system call of a program fails once: EIO, ENOSPC, a kill before and after it."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults import traced
from tests.faults.outcome import Outcome, Problem
from tests.faults.subjects import Subject


def injected(
    subject: Subject, prepared: Path, scratch: Path, *, rng: random.Random
) -> Iterator[Outcome]:
    """All cases of a subject, in an order that `rng` draws: take as many as there is time for."""
    folder = scratch / "traced"
    shutil.copytree(prepared, folder)
    seen = _run(subject, folder, scratch, f"--trace={','.join(traced.CALLS)}")
    cases = [
        (call, name, fault)
        for call in traced.calls(seen, folder)
        for name, fault in traced.faults(call).items()
    ]
    shutil.rmtree(folder)
    rng.shuffle(cases)
    for call, name, fault in cases:
        shutil.copytree(prepared, folder)
        ended = _run(subject, folder, scratch, *traced.injecting(call, fault, folder))
        problems = [Problem("died by a signal", death) for death in ended.deaths]
        problems += subject.judge(folder, ended.acknowledged)
        yield Outcome(subject.name, name, str(call), ended.has_fired, problems)
        shutil.rmtree(folder)


def _run(subject: Subject, folder: Path, scratch: Path, *options: str) -> Any:
    return traced.run(
        subject.command(folder),
        lambda output: subject.work(folder, output),
        scratch / "strace",
        *options,
    )
