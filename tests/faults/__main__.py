"""Inject faults into ledger, witness and recorder, and count what they led to: `make faults`.

    python -m tests.faults [--minutes N] [--seed N] [--only NAME …] [--results FILE] [--write]
    python -m tests.faults --table FILE … [--write]

Each kind of fault gets its share of the time. Cases are drawn by the seed, which is printed. Exits
with 1 when an acknowledged event was lost or moved, an answer was false, a process hung or died by
a signal, a program did not start again or damage was not named. Each case is a line of the results
as soon as it is done; `--table` makes the tables of such files. `--write` puts the tables into
docs/reliability.md. A case that raises is printed and is a failure, and the run goes on.
"""

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.faults.bounded import STACKS
from tests.faults.clocks import set_clocks
from tests.faults.damage import damages
from tests.faults.damage_subjects import EXAMINERS
from tests.faults.full_disks import full_disks
from tests.faults.images import power_failures
from tests.faults.injected import injected
from tests.faults.outcome import Damaged, Outcome, Results, format_line, read_results
from tests.faults.subjects import SUBJECTS

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- measured: faults -->"
END: Final = "<!-- end -->"
DAMAGE_SHARE: Final = 0.3
"""Of the time, to damaged files: most of it to those of a ledger."""
LEDGER_SHARE: Final = 0.6
TRIES: Final = 4
"""How often a kind is begun again after a case that raised."""
KINDS: Final = ((injected, 0.5), (power_failures, 0.3), (set_clocks, 0.1), (full_disks, 0.1))
"""The other kinds of faults, and what each gets of a subject's part of the rest."""

Case = TypeVar("Case", Outcome, Damaged)


def main(arguments: list[str]) -> int:
    """Run until the time is over; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--only", nargs="+", default=[], help="programs: ledger, witness, …")
    parser.add_argument("--results", type=Path, help="append each case to this file")
    parser.add_argument("--table", type=Path, nargs="+", help="make the tables of these results")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    asked = parser.parse_args(arguments)
    os.environ |= STACKS
    run = _Run(asked.seed, asked.minutes * 60, asked.results, asked.only)
    if asked.table:
        run.results = read_results(asked.table)
    else:
        _say(f"seed {asked.seed}")
        run.faults()
        run.damages()
    _say(run.results.tables())
    if asked.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        tables = run.results.tables()
        PAGE.write_text(f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}", encoding="utf-8")
    return int(bool(run.errors or run.results.failed))


@dataclass(slots=True)
class _Run:
    """One run. `errors` counts the cases that raised."""

    seed: int
    seconds: float
    file: Path | None
    only: Sequence[str]
    results: Results = field(default_factory=Results)
    errors: int = 0

    def faults(self) -> None:
        """Injected faults, for each program and kind."""
        for make in SUBJECTS:
            for kind, share in KINDS:

                def cases(scratch: Path, make: Any = make, kind: Any = kind) -> Iterator[Outcome]:
                    subject = make()
                    subject.prepare(scratch / "prepared")
                    rng = random.Random(self.seed + self.errors)
                    yield from kind(subject, scratch / "prepared", scratch, rng=rng)

                self._take(make.name, (1 - DAMAGE_SHARE) * share, cases)

    def damages(self) -> None:
        """Damaged files, for each program."""
        for make in EXAMINERS:

            def cases(scratch: Path, make: Any = make) -> Iterator[Damaged]:
                yield from damages(make(), scratch, random.Random(self.seed + self.errors))

            self._take(make.name, DAMAGE_SHARE, cases)

    def _take(self, name: str, share: float, make: Callable[[Path], Iterator[Case]]) -> None:
        """Take cases until their part of the time is over."""
        if self.only and name not in self.only:
            return
        part = LEDGER_SHARE if name == "ledger" else (1 - LEDGER_SHARE) / (len(SUBJECTS) - 1)
        end_s = time.monotonic() + self.seconds * share * part
        for _ in range(TRIES):
            with tempfile.TemporaryDirectory(prefix="ledger-faults-") as folder:
                try:
                    for case in make(Path(folder)):
                        self._keep(case)
                        if time.monotonic() > end_s:
                            return
                except Exception:  # noqa: BLE001 - said and counted; the other cases go on
                    self.errors += 1
                    _say(f"{name}: {traceback.format_exc()}")
                else:
                    return

    def _keep(self, case: Outcome | Damaged) -> None:
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
