"""Inject faults into ledger, witness and recorder, and count what they led to: `make faults`.

    python -m tests.faults [--minutes N] [--seed N] [--write]

Each kind of fault gets its share of the time. Cases are drawn by the seed, which is printed. Exits
with 1 when an acknowledged event was lost or moved, an answer was false, a process died by a signal
or a program did not start again. `--write` puts the tables into docs/reliability.md.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Final, TypeVar

from tests.faults.clocks import set_clocks
from tests.faults.damage import damages
from tests.faults.damage_subjects import EXAMINERS
from tests.faults.full_disks import full_disks
from tests.faults.images import power_failures
from tests.faults.injected import injected
from tests.faults.outcome import Damaged, Outcome, damage_table, outcome_table
from tests.faults.subjects import SUBJECTS

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- measured: faults -->"
END: Final = "<!-- end -->"
DAMAGE_SHARE: Final = 0.3
"""Of the time, to damaged files: most of it to those of a ledger."""
LEDGER_SHARE: Final = 0.6
KINDS: Final = ((injected, 0.5), (power_failures, 0.3), (set_clocks, 0.1), (full_disks, 0.1))
"""The other kinds of faults, and what each gets of a subject's part of the rest."""

Case = TypeVar("Case", Outcome, Damaged)


def main(arguments: list[str]) -> int:
    """Run until the time is over; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    asked = parser.parse_args(arguments)
    _say(f"seed {asked.seed}")
    seconds = asked.minutes * 60
    outcomes, damaged = list(_faults(asked.seed, seconds)), list(_damages(asked.seed, seconds))
    tables = f"{outcome_table(outcomes)}\n\n{damage_table(damaged)}"
    _say(tables)
    if asked.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}", encoding="utf-8")
    return int(any(each.problems for each in outcomes) or any(each.problems for each in damaged))


def _faults(seed: int, seconds: float) -> Iterator[Outcome]:
    for make in SUBJECTS:
        for kind, share in KINDS:
            subject = make()
            with tempfile.TemporaryDirectory(prefix="ledger-faults-") as folder:
                scratch = Path(folder)
                subject.prepare(scratch / "prepared")
                rng = random.Random(seed)
                cases = kind(subject, scratch / "prepared", scratch, rng=rng)
                share_s = seconds * (1 - DAMAGE_SHARE) * _share(subject.name) * share
                yield from _said(cases, share_s)


def _damages(seed: int, seconds: float) -> Iterator[Damaged]:
    for make in EXAMINERS:
        examiner = make()
        with tempfile.TemporaryDirectory(prefix="ledger-faults-") as folder:
            cases = damages(examiner, Path(folder), random.Random(seed))
            yield from _said(cases, seconds * DAMAGE_SHARE * _share(examiner.name))


def _share(name: str) -> float:
    """What a program gets of the time: the others share what the ledger leaves."""
    return LEDGER_SHARE if name == "ledger" else (1 - LEDGER_SHARE) / (len(SUBJECTS) - 1)


def _said(cases: Iterable[Case], seconds: float) -> Iterator[Case]:
    """The cases until the time is over; one with a problem is printed."""
    end_s = time.monotonic() + seconds
    for case in takewhile(lambda _: time.monotonic() < end_s, cases):
        if case.problems:
            _say(str(case))
        yield case


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
