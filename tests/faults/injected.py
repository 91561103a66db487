"""Each write-side system call of a program fails once: EIO, ENOSPC, a kill before and after it."""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.faults import traced
from tests.faults.outcome import Outcome, Problem
from tests.faults.subjects import Subject, judge

_Case = tuple[traced.Call, str, str]
_replace_digits: Final = re.compile(r"[0-9a-f-]{8,}|\d+").sub


def injected(
    subject: Subject, prepared: Path, scratch: Path, *, rng: random.Random
) -> Iterator[Outcome]:
    """All cases of a subject, in an order that `rng` draws: take as many as there is time for."""
    folder = scratch / "traced"
    shutil.copytree(prepared, folder)
    seen = _run(subject, folder, scratch, "--seccomp-bpf", f"--trace={','.join(traced.CALLS)}")
    cases = [
        (call, name, fault)
        for call in traced.calls(seen, folder)
        for name, fault in traced.faults(call).items()
    ]
    shutil.rmtree(folder)
    rng.shuffle(cases)
    totals = Counter(name for _, name, _ in cases)
    for call, name, fault in _each_kind_first(cases):
        shutil.copytree(prepared, folder)
        ended = _run(subject, folder, scratch, *traced.injecting(call, fault, folder))
        problems = [Problem("died by a signal", death) for death in ended.deaths]
        if ended.is_hanging:
            problems.append(Problem("hangs", ended.errors))
        problems += judge(subject, folder, ended.acknowledged)
        yield Outcome(
            subject.name, name, str(call), ended.has_fired(fault), problems, of=totals[name]
        )
        shutil.rmtree(folder)


def _each_kind_first(cases: list[_Case]) -> list[_Case]:
    """The same cases; a second one of a fault, call and kind of file follows all first ones."""
    seen: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for case in cases:
        call, name, _ = case
        kind = (name, call.name, _replace_digits("N", call.path))
        numbered.append((seen[kind], case))
        seen[kind] += 1
    return [case for _, case in sorted(numbered, key=lambda each: each[0])]


def _run(subject: Subject, folder: Path, scratch: Path, *options: str) -> Any:
    return traced.run(
        subject.command(folder),
        lambda output: subject.work(folder, output),
        scratch / "strace",
        *options,
    )
