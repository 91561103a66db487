"""Each write-side system call of a program fails once with EIO and once with ENOSPC.

A program is also killed by SIGKILL before and after one call of each kind: the same call on the
same kind of file. `images` has what a kill after every other call leaves. A program that must run
as several processes, or has an interpreter of its own, has one call of each kind fail.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults import traced
from tests.faults.forked import run_without_followers
from tests.faults.outcome import Case, Outcome, Problem
from tests.faults.subjects import Subject, judge

TRIES: Final = 3
_Fault = tuple[traced.Call, str, str]
_replace_digits: Final = re.compile(r"[0-9a-f-]{8,}|\d+").sub


def injected(
    subject: Subject, prepared: Path, scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """All cases of a subject, in an order that `rng` draws: take as many as there is time for."""
    folder = scratch / "traced"
    shutil.copytree(prepared, folder)
    seen = _run(subject, folder, scratch, "--seccomp-bpf", f"--trace={','.join(traced.CALLS)}")
    found = [
        (call, name, fault)
        for call in traced.calls(seen, folder)
        for name, fault in traced.faults(call).items()
    ]
    shutil.rmtree(folder)
    rng.shuffle(found)
    faults = _each_kind_first(found, has_others=subject.forked is not None)
    totals = Counter(name for _, name, _ in faults)
    for call, name, fault in faults:
        yield partial(_inject, subject, prepared, call, name, fault, totals[name])


def _inject(
    subject: Subject,
    prepared: Path,
    call: traced.Call,
    name: str,
    fault: str,
    total: int,
    scratch: Path,
) -> Outcome:
    folder = scratch / "folder"
    # Which thread does a call, and how often, is not the same in each run.
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        ended = _run(subject, folder, scratch, *traced.injecting(call, fault, folder))
        if ended.has_fired(fault):
            break
    problems = [Problem("died by a signal", death) for death in ended.deaths]
    if ended.is_hanging:
        problems.append(Problem("hangs", ended.errors))
    problems += judge(subject, folder, ended.acknowledged)
    return Outcome(subject.name, name, str(call), ended.has_fired(fault), problems, of=total)


def _each_kind_first(faults: list[_Fault], *, has_others: bool) -> list[_Fault]:
    """The first of each fault, call and kind of file, then the others; kills have no others."""
    seen: set[tuple[str, str, str]] = set()
    first, others = [], []
    for each in faults:
        call, name, fault = each
        kind = (name, call.name, _replace_digits("N", call.path))
        if kind not in seen:
            first.append(each)
        elif has_others and not traced.is_kill(fault):
            others.append(each)
        seen.add(kind)
    return [*first, *others]


def _run(subject: Subject, folder: Path, scratch: Path, *options: str) -> traced.Run:
    """Run a program in a fork of the harness where it can be, or as a user starts it."""

    def work(output: Iterator[str]) -> Any:
        return subject.work(folder, output)

    trace = scratch / "strace"
    if subject.forked is None:
        return traced.run(subject.command(folder), work, trace, *options)
    # Python, -P, -m and `ledger` come first.
    arguments = [*subject.command(folder)[4:], *subject.forked]
    return traced.run_forked(partial(run_without_followers, arguments), work, trace, *options)
