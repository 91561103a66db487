"""A program under strace: its write-side system calls, and one of them made to fail."""

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from tests.faults.bounded import STACKS
from tests.faults.forked import Forked

WRITES: Final = ("write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate")
SYNCS: Final = ("fsync", "fdatasync", "msync")
NAMES: Final = ("openat", "mkdir", "mkdirat", "rename", "renameat", "unlink", "unlinkat", "link")
CALLS: Final = (*WRITES, *SYNCS, *NAMES)
STACKS_WAIT_S: Final = 5.0
ERROR_CHARACTERS: Final = 1500
UNFINISHED: Final = " <unfinished ...>"
_STRACE: Final = ("strace", "-f", "-y", "-ttt")
RUN_MAX_S: Final = 600.0
STOP_MAX_S: Final = 120.0
"""Very generous: only a hang takes so long, also on a loaded machine."""

_find_call = re.compile(r"^(\d+) +(\d+\.\d+) (\w+)\((.*)$").match
_find_end = re.compile(r"^(\d+) +\d+\.\d+ <\.\.\. \w+ resumed>(.*)$").match
_find_paths = re.compile(r'\d+<(/[^>]*)>|"(/[^"]*)"').findall
# A name that is drawn anew in each run.
_is_drawn = re.compile(r"\.new-|\.tmp|[0-9a-f]{8}-|\d{5,}").search
_find_death = re.compile(r"\+\+\+ killed by (SIG\w+)").findall
# How we end it ourselves.
_OUR_SIGNALS: Final = {"SIGKILL", "SIGTERM"}


class Call(NamedTuple):
    """The n-th system call of one name on one path (below the folder), in one thread."""

    name: str
    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} {self.number} of {self.path}"


class Line(NamedTuple):
    """A system call as strace wrote it: thread, Unix seconds at its begin, name, the rest."""

    thread: str
    unix_s: float
    name: str
    rest: str


@dataclass(frozen=True, slots=True)
class Run:
    """A program that has ended: the result of `work` and what strace wrote."""

    acknowledged: Any
    text: str = ""
    is_hanging: bool = False
    errors: str = ""
    """The end of its errors, with its stacks when it hung."""

    def has_fired(self, fault: str) -> bool:
        """Whether a fault, as strace was asked for it, took effect."""
        return ("+++ killed by SIGKILL" if is_kill(fault) else "(INJECTED)") in self.text

    @property
    def deaths(self) -> set[str]:
        """The signals that ended one of its processes, without those that we sent."""
        ours = _OUR_SIGNALS | {"SIGABRT"} if self.is_hanging else _OUR_SIGNALS
        return set(_find_death(self.text)) - ours

    def lines(self) -> Iterator[Line]:
        """The calls in the order of their ends; one that never ended is not among them."""
        begun: dict[str, Line] = {}
        for text in self.text.splitlines():
            if (resumed := _find_end(text)) and resumed[1] in begun:
                line = begun.pop(resumed[1])
                yield line._replace(rest=line.rest.removesuffix(UNFINISHED) + resumed[2])
            elif found := _find_call(text):
                line = Line(found[1], float(found[2]), found[3], found[4])
                if line.rest.endswith(UNFINISHED):
                    begun[line.thread] = line
                else:
                    yield line


def run(
    command: Sequence[str],
    work: Callable[[Iterator[str]], Any],
    output: Path,
    *options: str,
) -> Run:
    """Run a command under strace, give its output to `work`, and then end it by SIGTERM."""

    def start(errors: IO[str]) -> "subprocess.Popen[str]":
        tracing = (*_STRACE, "-qq", "-o", str(output), *options)
        return subprocess.Popen(
            [*tracing, "--", *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | STACKS,
            start_new_session=True,
        )

    return _with_text(_run(start, work), output)


def run_forked(
    function: Callable[[], int],
    work: Callable[[Iterator[str]], Any],
    output: Path,
    *options: str,
) -> Run:
    """The same of a function in a forked child, which saves the start of its interpreter.

    strace is attached before the function begins. Attached, it has no --seccomp-bpf.
    """
    with ExitStack() as stack:

        def start(errors: IO[str]) -> Forked:
            read_end, write_end = os.pipe()

            def begin() -> int:
                os.close(write_end)
                os.read(read_end, 1)
                return function()

            child = Forked(begin, stdout=subprocess.PIPE, stderr=errors)
            os.close(read_end)
            try:
                stack.enter_context(_attached(child.pid, output, options))
            except BaseException:
                child.kill()
                raise
            finally:
                os.close(write_end)
            return child

        ended = _run(start, work)
    return _with_text(ended, output)


@contextmanager
def _attached(process_id: int, output: Path, options: Sequence[str]) -> Iterator[None]:
    """strace on a process, until that has ended."""
    wanted = [each for each in options if each != "--seccomp-bpf"]
    tracer = subprocess.Popen(
        [*_STRACE, "--quiet=exit", "-o", str(output), *wanted, "-p", str(process_id)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    assert "attached" in said, said
    try:
        yield
    finally:
        # It ends with the process, whose threads it names until then.
        tracer.communicate()


def _run(
    start: "Callable[[IO[str]], subprocess.Popen[str] | Forked]",
    work: Callable[[Iterator[str]], Any],
) -> Run:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = start(errors)
        is_late = threading.Event()

        def end_late() -> None:
            is_late.set()
            _end(process.pid, signal.SIGABRT)
            time.sleep(STACKS_WAIT_S)
            # strace itself blocks SIGTERM while it writes to a file.
            _end(process.pid, signal.SIGKILL)

        late = threading.Timer(RUN_MAX_S, end_late)
        late.start()
        assert process.stdout is not None
        try:
            acknowledged = work(iter(process.stdout))
            _end(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_MAX_S)
            except subprocess.TimeoutExpired:
                end_late()
        finally:
            late.cancel()
            _end(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        errors.seek(0)
        said = errors.read()[-ERROR_CHARACTERS:]
    return Run(acknowledged, is_hanging=is_late.is_set(), errors=said)


def _with_text(ended: Run, output: Path) -> Run:
    return replace(ended, text=output.read_text(encoding="utf-8", errors="replace"))


def _end(process_id: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process_id, number)


def calls(run: Run, folder: Path) -> list[Call]:
    """The write-side calls below a folder, each instance once, in the order of the run.

    A call whose path has a drawn name has the number among all calls of its name in its thread, and
    no path: the next run gives the file another name.
    """
    on_path: Counter[tuple[str, str, str]] = Counter()
    in_thread: Counter[tuple[str, str]] = Counter()
    found: dict[Call, None] = {}
    for line in run.lines():
        in_thread[line.thread, line.name] += 1
        paths = [one or other for one, other in _find_paths(line.rest)]
        below = [each for each in paths if Path(each).is_relative_to(folder)]
        # LMDB's lock file is no data.
        if not below or below[0].endswith("lock.mdb"):
            continue
        on_path[line.thread, line.name, below[0]] += 1
        if line.name == "openat" and "O_CREAT" not in line.rest:
            continue
        if _is_drawn(below[0]):
            found[Call(line.name, "", in_thread[line.thread, line.name])] = None
        else:
            path = str(Path(below[0]).relative_to(folder))
            found[Call(line.name, path, on_path[line.thread, line.name, below[0]])] = None
    return list(found)


def faults(call: Call) -> dict[str, str]:
    """What can be done to a call: a name, and how strace is asked for it."""
    found = {
        "EIO": "error=EIO",
        "SIGKILL before a call": "error=EIO:signal=SIGKILL",
        "SIGKILL after a call": "signal=SIGKILL",
    }
    if call.name not in SYNCS:
        found["ENOSPC"] = "error=ENOSPC"
    return found


def is_kill(fault: str) -> bool:
    """Whether a fault, as strace is asked for it, ends the process."""
    return "signal=" in fault


def injecting(call: Call, fault: str, folder: Path) -> list[str]:
    """The options of strace that put a fault to one call."""
    path = ("-P", str(folder / call.path)) if call.path else ()
    # With --seccomp-bpf, strace 6.1 injects errors but no signals.
    fast = () if is_kill(fault) else ("--seccomp-bpf",)
    return [
        *fast,
        *path,
        f"--trace={call.name}",
        f"--inject={call.name}:{fault}:when={call.number}",
    ]
