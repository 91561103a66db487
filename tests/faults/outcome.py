"""The result of one injected fault, and the counts over many of them.

Results are kept as lines of JSON while a run goes on, so a run that is ended has its table too, and
the table of several runs can be made.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

DAMAGE: Final = ("lost", "moved", "false answer", "died by a signal", "hangs", "does not start")
"""What a fault must never lead to.

`lost`: an acknowledged event, an erasure or a cosigned head is gone. `moved`: an event has another
index. `false answer`: an answer differs from the truth and does not say so.
"""


class Problem(NamedTuple):
    """One thing that went wrong: a word of `DAMAGE`, and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One injected fault: what was done, whether it took effect, and what it led to."""

    subject: str
    fault: str
    case: str
    has_fired: bool
    problems: Sequence[Problem] = ()
    of: int | None = None
    """The number of all cases of its subject and fault, if it is known."""

    def __str__(self) -> str:
        told = "; ".join(f"{each.kind}: {each.text}" for each in self.problems) or "nothing lost"
        return f"{self.subject}, {self.fault}, {self.case}: {told}"


@dataclass(frozen=True, slots=True)
class Damaged:
    """One damaged file of a ledger that was not running, and what came of it.

    `is_named`: fsck exits with an error. `differs`: the service did not start, or an answer was
    another one than before, be it an error. Damage that nobody can see (a free page) differs in
    nothing.
    """

    path: str
    fault: str
    place: str
    is_named: bool
    differs: bool
    problems: Sequence[Problem]

    def __str__(self) -> str:
        told = "; ".join(f"{each.kind}: {each.text}" for each in self.problems) or "no false answer"
        named = "named" if self.is_named else "NOT NAMED"
        return f"{self.path}, {self.fault} {self.place}: {named}; {told}"


Case = Callable[[Path], Outcome | Damaged | None]
"""One case: runs in an empty folder of its own. None: it changed nothing and is no case."""


class Results(msgspec.Struct):
    """The cases of one run or several."""

    outcomes: list[Outcome] = msgspec.field(default_factory=list)
    damaged: list[Damaged] = msgspec.field(default_factory=list)

    def add(self, case: Outcome | Damaged) -> None:
        """Add one case."""
        if isinstance(case, Outcome):
            self.outcomes.append(case)
        else:
            self.damaged.append(case)

    @property
    def failed(self) -> list[Outcome | Damaged]:
        """The cases with a problem, and damage with an effect that its check did not name."""
        faults = [each for each in self.outcomes if each.problems]
        damage = [
            each for each in self.damaged if each.problems or (each.differs and not each.is_named)
        ]
        return [*faults, *damage]

    def tables(self) -> str:
        """The counts, as Markdown."""
        return f"{outcome_table(self.outcomes)}\n\n{damage_table(self.damaged)}"


def format_line(case: Outcome | Damaged) -> bytes:
    """One case as a line of JSON."""
    results = Results()
    results.add(case)
    return msgspec.json.encode(results) + b"\n"


def read_results(files: Iterable[Path]) -> Results:
    """The cases that runs have written."""
    results = Results()
    for file in files:
        for line in msgspec.json.Decoder(Results).decode_lines(file.read_bytes()):
            results.outcomes += line.outcomes
            results.damaged += line.damaged
    return results


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Counts by subject and fault, as rows of Markdown. Only faults that took effect count."""
    fired = [each for each in outcomes if each.has_fired]
    rows: list[Sequence[str]] = [("subject", "fault", "cases", *DAMAGE)]
    for subject, fault in dict.fromkeys((each.subject, each.fault) for each in fired):
        cases = [each for each in fired if (each.subject, each.fault) == (subject, fault)]
        total = max((each.of or 0 for each in cases), default=0)
        count = f"{len(cases)} of {total}" if total else str(len(cases))
        rows.append((subject, fault, count, *(_count(cases, kind) for kind in DAMAGE)))
    return _markdown(rows)


def damage_table(damaged: Sequence[Damaged]) -> str:
    """Counts by file and fault, as rows of Markdown."""
    kinds = ("false answer", "died by a signal", "hangs", "traceback")
    rows: list[Sequence[str]] = [
        ("file", "damage", "cases", "with effect", "named by fsck", *kinds)
    ]
    for path, fault in sorted({(each.path, each.fault) for each in damaged}):
        cases = [each for each in damaged if (each.path, each.fault) == (path, fault)]
        seen = [each for each in cases if each.differs]
        named = f"{sum(each.is_named for each in seen)} of {len(seen)}"
        counts = (_count(cases, kind) for kind in kinds)
        rows.append((path, fault, str(len(cases)), str(len(seen)), named, *counts))
    return _markdown(rows)


def _count(cases: Sequence[Outcome] | Sequence[Damaged], kind: str) -> str:
    return str(sum(any(problem.kind == kind for problem in case.problems) for case in cases))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
