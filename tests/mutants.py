"""Mutation testing of the code that guards against loss and of the verifiers: `make mutants`.

    python -m tests.mutants [PART OF A MODULE'S PATH …]

cosmic-ray changes one operator, number or keyword at a time, in a copy of the repository, and runs
the tests of that module. A mutant that all tests survive is listed in docs/mutants.md with a
judgement; otherwise this program prints it and exits with 1. A mutant is known by its module, its
definition and the two lines, so the list stays valid when other lines move.
"""

import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
JUDGED: Final = ROOT / "docs" / "mutants.md"
MUTANT_MAX_S: Final = 120

TARGETS: Final = {
    "ledger/store/writer.py": "tests/store/test_log.py",
    "ledger/log/group_commit.py": "tests/log/test_group_commit.py",
    "client/ledger_core/tlog/verify.py": "tests/tlog/test_verify.py",
    "ledger/log/publisher.py": "tests/log/test_publisher.py",
    "client/ledger_client/recording/spool.py": "tests/recording/test_spool.py",
}
"""Each module with the tests that must notice its mutants."""

# cosmic-ray replaces each operator by every other one; these are the ones that tell most.
REPLACED_BY: Final = {
    "Add": ("Sub",),
    "Sub": ("Add",),
    "Mul": ("FloorDiv",),
    "FloorDiv": ("Mul",),
    "Mod": ("Mul",),
    "LShift": ("RShift",),
    "RShift": ("LShift",),
    "BitAnd": ("BitOr",),
    "BitOr": ("BitAnd",),
    "Lt": ("LtE", "GtE"),
    "LtE": ("Lt", "Gt"),
    "Gt": ("GtE", "LtE"),
    "GtE": ("Gt", "Lt"),
    "Eq": ("NotEq",),
    "NotEq": ("Eq",),
    "Is": ("IsNot",),
    "IsNot": ("Is",),
}

_find_operators = re.compile(r"core/Replace(?:Binary|Comparison)Operator_(\w+)_(\w+)").fullmatch
_find_lines = re.compile(r"^([-+])(?![-+])(.*)$", re.MULTILINE).findall


class Mutant(NamedTuple):
    """A change that all tests survived."""

    module: str
    definition: str
    before: str
    after: str

    def row(self) -> str:
        """Its row in docs/mutants.md, without the judgement."""
        before, after = (text.replace("|", "\\|") for text in (self.before, self.after))
        return f"| `{self.module}` | `{self.definition}` | `{before}` | `{after}` |"


def main(parts: list[str]) -> int:
    """Run the targets whose path holds one of the parts; 1 when a survivor has no judgement."""
    judged = JUDGED.read_text(encoding="utf-8")
    unjudged = 0
    with tempfile.TemporaryDirectory(prefix="ledger-mutants-") as scratch:
        copy = Path(scratch, "repository")
        _copy_repository(copy)
        for module, tests in TARGETS.items():
            if parts and not any(part in module for part in parts):
                continue
            survivors, total = _run(copy, module, tests)
            print(f"{module}: {total} mutants, {len(survivors)} survived", flush=True)  # noqa: T201 - its output
            for mutant in survivors:
                if mutant.row() not in judged:
                    unjudged += 1
                    print(mutant.row(), flush=True)  # noqa: T201 - its output
    return 1 if unjudged else 0


def _copy_repository(to: Path) -> None:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, names.stdout.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (to.parent / "shared").symlink_to(shared)


def _run(copy: Path, module: str, tests: str) -> tuple[list[Mutant], int]:
    """The mutants of a module that its tests survive, and how many mutants there were."""
    session, config = copy / "session.sqlite", copy / "mutants.toml"
    session.unlink(missing_ok=True)
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {MUTANT_MAX_S}\n'
        f'excluded-modules = []\ntest-command = "{command}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n',
        encoding="utf-8",
    )
    # The copy comes before the installed packages, which are links to the original.
    environ = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'client'}"}
    program = str(Path(sys.executable).with_name("cosmic-ray"))
    for step in (("baseline", config), ("init", config, session), ("exec", config, session)):
        if step[0] == "exec":
            _reduce(session, copy / module)
        subprocess.run([program, *map(str, step)], cwd=copy, env=environ, check=True)
    with closing(sqlite3.connect(session)) as database:
        rows = database.execute(
            "SELECT definition_name, diff, test_outcome FROM mutation_specs"
            " JOIN work_results USING (job_id) ORDER BY start_pos_row, start_pos_col, operator_name"
        ).fetchall()
    survivors = [
        Mutant(module, definition or "", *_changed_lines(diff))
        for definition, diff, outcome in rows
        if outcome == "SURVIVED"
    ]
    return list(dict.fromkeys(survivors)), len(rows)


def _changed_lines(diff: str) -> tuple[str, str]:
    lines = {sign: text.strip() for sign, text in _find_lines(diff)}
    return lines.get("-", ""), lines.get("+", "")


def _reduce(session: Path, module: Path) -> None:
    """Remove the mutants of annotations (`int | None` is no operation) and of rare operators."""
    spans = list(_annotation_spans(ast.parse(module.read_text(encoding="utf-8"))))
    with closing(sqlite3.connect(session)) as database:
        rows = database.execute(
            "SELECT job_id, operator_name, start_pos_row, start_pos_col FROM mutation_specs"
        ).fetchall()
        ids = [
            (job_id,)
            for job_id, operator, line, column in rows
            if not _is_wanted(operator)
            or any(start <= (line, column) < end for start, end in spans)
        ]
        database.executemany("DELETE FROM mutation_specs WHERE job_id = ?", ids)
        database.executemany("DELETE FROM work_items WHERE job_id = ?", ids)
        database.commit()


def _is_wanted(operator: str) -> bool:
    found = _find_operators(operator)
    return found is None or found[2] in REPLACED_BY.get(found[1], ())


def _annotation_spans(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(tree):
        annotations: list[ast.expr | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            annotations.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            annotations.append(node.returns)
        for found in annotations:
            if found is not None:
                end = (found.end_lineno or found.lineno, found.end_col_offset or 0)
                yield (found.lineno, found.col_offset), end


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
