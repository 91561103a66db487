"""Inject faults into all programs that keep data, and count what they led to: `make faults`.

    python -m tests.faults [--minutes N] [--seed N] [--only NAME …] [--jobs N] [--results FILE]
        [--write]
    python -m tests.faults --table FILE … [--write]

Each kind of fault of each program gets its share of the time; what one leaves, because all its
cases are done, the others get, and the run ends when all are. Cases are drawn by the seed, which
is printed. Exits with 1 when an
acknowledged event was lost or moved, an answer was false, a process hung or died by a signal, a
program did not start again or damage was not named. Each case is a line of the results as soon as
it is done; `--table` makes the tables of such files. `--write` puts the tables into
docs/reliability.md. A case that raises is printed and is a failure, and the run goes on.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tests.faults.bounded import STACKS
from tests.faults.clocks import set_clocks
from tests.faults.damage import damages
from tests.faults.damage_subjects import EXAMINERS, SealedLedgerExaminer
from tests.faults.forked import CaseError, ForkedCase
from tests.faults.full_disks import full_disks
from tests.faults.images import kills, partial_power_failures, power_failures
from tests.faults.injected import injected
from tests.faults.outcome import Case, Damaged, Outcome, Results, format_line, read_results
from tests.faults.processes import kill_processes
from tests.faults.subjects import SUBJECTS

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- measured: faults -->"
END: Final = "<!-- end -->"
POLL_S: Final = 0.05
CASE_MAX_S: Final = 1800.0
DAMAGE_SHARE: Final = 0.3
"""Of a program's time, to its damaged files."""
SHARES: Final = {"ledger": 4.0}
"""The time of a program, 1 where it is not named here."""
KINDS: Final = (
    (injected, 0.5, None),
    (kills, 0.15, None),
    (power_failures, 0.15, None),
    (partial_power_failures, 0.05, 24),
    (kill_processes, 0.05, 12),
    (set_clocks, 0.05, 8),
    (full_disks, 0.05, 8),
)
"""The other kinds of faults, what each gets of the rest, and its cases if they have no end."""
DAMAGE_ROUNDS: Final = 3
"""Each file is damaged so often in each way."""


def main(arguments: list[str]) -> int:
    """Run until the time is over; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--only", nargs="+", default=[], help="programs: ledger, witness, …")
    parser.add_argument("--results", type=Path, help="append each case to this file")
    parser.add_argument("--table", type=Path, nargs="+", help="make the tables of these results")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    asked = parser.parse_args(arguments)
    os.environ |= STACKS
    run = _Run(asked.results)
    if asked.table:
        run.results = read_results(asked.table)
    else:
        _say(f"seed {asked.seed}")
        with tempfile.TemporaryDirectory(prefix="ledger-faults-") as folder:
            sources = [
                each
                for each in _sources(asked.seed, Path(folder))
                if not asked.only or each.program in asked.only
            ]
            run.take(sources, jobs=asked.jobs, seconds=asked.minutes * 60)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s = round(used.ru_utime + used.ru_stime)
        _say(f"{run.cases} cases in {spent_s} s of processor time, {run.unfired} without effect")
    _say(run.results.tables())
    if asked.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        tables = run.results.tables()
        PAGE.write_text(f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}", encoding="utf-8")
    return int(bool(run.errors or run.results.failed))


@dataclass(slots=True)
class _Source:
    """The cases of a program and a kind of fault. `share`: its part of the time."""

    program: str
    share: float
    folder: Path
    cases: Iterator[Case]
    used_s: float = 0.0
    is_over: bool = False


def _sources(seed: int, scratch: Path) -> Iterator[_Source]:
    """All sources. A source prepares its data when its first case is taken."""
    for make in SUBJECTS:
        program = scratch / make.name
        subject = make()
        for number, (kind, share, most) in enumerate(KINDS):

            def cases(
                subject: Any = subject,
                kind: Any = kind,
                program: Path = program,
                number: int = number,
                most: int | None = most,
            ) -> Iterator[Case]:
                prepared, folder = program / "prepared", program / str(number)
                if not prepared.exists():
                    program.mkdir()
                    subject.prepare(prepared)
                folder.mkdir()
                found = kind(subject, prepared, folder, rng=random.Random(seed))
                yield from islice(found, most)

            of_program = SHARES.get(make.name, 1.0) * (1 - DAMAGE_SHARE)
            yield _Source(make.name, of_program * share, program / str(number), cases())
    for examine in (SealedLedgerExaminer, *EXAMINERS[1:]):
        folder = scratch / f"{examine.name}-damage"

        def damaged(examine: Any = examine, folder: Path = folder) -> Iterator[Case]:
            folder.mkdir()
            yield from damages(examine(), folder, random.Random(seed), rounds=DAMAGE_ROUNDS)

        share = SHARES.get(examine.name, 1.0) * DAMAGE_SHARE
        yield _Source(examine.name, share, folder, damaged())


@dataclass(slots=True)
class _Running:
    """A case that runs in a child."""

    source: _Source
    scratch: "tempfile.TemporaryDirectory[str]"
    forked: ForkedCase

    def is_over(self) -> bool:
        """Whether it has ended; one that hangs is ended."""
        if time.monotonic() - self.forked.begun_s > CASE_MAX_S:
            self.forked.process.kill()
        return self.forked.process.poll() is not None


@dataclass(slots=True)
class _Run:
    """One run. `errors`: cases that raised; `unfired`: calls that did not come again."""

    file: Path | None
    results: Results = field(default_factory=Results)
    errors: int = 0
    cases: int = 0
    unfired: int = 0

    def take(self, sources: Sequence[_Source], *, jobs: int, seconds: float) -> None:
        """Run cases of the sources, so many at a time, until the time is over."""
        end_s = time.monotonic() + seconds
        running: list[_Running] = []
        while True:
            waiting = [each for each in sources if not each.is_over]
            is_full = len(running) == jobs
            if waiting and not is_full and time.monotonic() < end_s:
                # The one that has had the least of its share.
                source = min(waiting, key=lambda each: each.used_s / each.share)
                begun = self._begin(source)
                if begun is not None:
                    running.append(begun)
            elif running:
                time.sleep(POLL_S)
            else:
                return
            for each in [each for each in running if each.is_over()]:
                running.remove(each)
                self._end(each)

    def _begin(self, source: _Source) -> "_Running | None":
        """Begin the next case of a source. None: there is none."""
        start_s = time.monotonic()
        try:
            run_case = next(source.cases, None)
        except Exception:  # noqa: BLE001 - said and counted; a generator that raised is over
            self._fail(source, traceback.format_exc())
            run_case = None
        source.used_s += time.monotonic() - start_s
        if run_case is None:
            source.is_over = True
            return None
        # So that the next job takes another source, before it is known how long this one takes.
        source.used_s += 1.0
        scratch = tempfile.TemporaryDirectory(prefix="case-", dir=source.folder)
        folder = Path(scratch.name)
        return _Running(source, scratch, ForkedCase(lambda: run_case(folder)))

    def _end(self, ended: "_Running") -> None:
        ended.source.used_s += time.monotonic() - ended.forked.begun_s - 1.0
        try:
            case = ended.forked.result()
        except CaseError as error:
            self._fail(ended.source, str(error))
        else:
            if case is not None:
                self._keep(case)
        ended.scratch.cleanup()

    def _fail(self, source: _Source, text: str) -> None:
        self.errors += 1
        _say(f"{source.program}: {text}")

    def _keep(self, case: Outcome | Damaged) -> None:
        self.cases += 1
        self.unfired += isinstance(case, Outcome) and not case.has_fired
        self.results.add(case)
        is_unnamed = isinstance(case, Damaged) and case.differs and not case.is_named
        if case.problems or is_unnamed:
            _say(str(case))
        if self.file is not None:
            with self.file.open("ab") as file:
                file.write(format_line(case))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
