"""Mutation testing of the code that guards against loss and of the verifiers: `make mutants`.

    python -m tests.mutants [--each N | --all] [PART OF A MODULE'S PATH …]

The run takes twelve mutants of each module, or N, the same for the same code; --all takes each.
cosmic-ray changes one operator, number or keyword at a time, in a copy of the repository, and runs
the tests of that module. A mutant that all tests survive is listed in docs/mutants.md with a
judgement; otherwise this program prints it and exits with 1. A mutant is known by its module, its
definition and the two lines, so the list stays valid when other lines move.
"""

import argparse
import ast
import os
import random
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
JUDGED: Final = ROOT / "docs" / "mutants.md"
BASELINES_MAX: Final = 6
MUTANT_MIN_S: Final = 60
"""A mutant has six times as long as the code itself, and a minute at least."""
DATA_MAX_BYTES: Final = 3 << 30
"""A mutant that never ends its loop is stopped before it takes the machine's memory."""

SAMPLE: Final = 12

TARGETS: Final = {
    "client/ledger_core/tlog/": {
        "tree": "test_tree",
        "proof": "test_proof test_verify",
        "prove": "test_prove",
        "verify": "test_verify",
        "tile": "test_tile",
        "tiled_tree": "test_tiled_tree",
        "growing_tiles": "test_growing_tiles",
        "note": "test_note",
        "checkpoint": "test_checkpoint",
        "cosignature": "test_cosignature",
        "policy": "test_policy",
        "witness": "test_witness",
    },
    "client/ledger_core/event/": {
        "canonical": "test_canonical test_leaf",
        "times": "test_times test_canonical",
        "reader": "test_reading test_refused",
        "ids": "test_ids",
    },
    "client/ledger_core/query/": {
        "scanner": "test_parser",
        "parser": "test_parser",
        "predicate": "test_predicate test_answers",
    },
    "ledger/store/": {
        "writer": "test_log",
        "log": "test_log",
        "keyspace": "test_keyspace",
        "environment": "test_created_files test_file_length test_log",
        "file_length": "test_file_length",
    },
    "ledger/log/": {
        "group_commit": "test_group_commit",
        "hold": "test_hold",
        "publisher": "test_publisher test_witness_client",
        "witness_client": "test_witness_client",
    },
    "ledger/query/": {
        "budget": "test_executor test_budget",
        "executor": "test_executor test_budget",
        "evaluator": "test_executor test_segment_terms test_phrases test_values test_answers",
        "time_run": "test_time_order test_answers",
    },
    "client/ledger_client/recording/": {
        "frames": "test_frames",
        "spool": "test_spool test_overflow",
        "spool_dir": "test_spool",
        "spool_reader": "test_spool",
    },
}
"""Each package's modules, with the files of its folder in tests/ that must notice their mutants."""

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


def main(arguments: list[str]) -> int:
    """Run the targets whose path holds one of the parts; 1 when a survivor has no judgement."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--each", type=int, default=SAMPLE, metavar="N", help="mutants a module")
    parser.add_argument("--all", action="store_true", help="every mutant; takes hours")
    parser.add_argument("parts", nargs="*", metavar="PART", help="a part of a module's path")
    asked = parser.parse_args(arguments)
    judged = JUDGED.read_text(encoding="utf-8")
    unjudged = 0
    with tempfile.TemporaryDirectory(prefix="ledger-mutants-") as scratch:
        copy = Path(scratch, "repository")
        _copy_repository(copy)
        for module, tests in _targets():
            if asked.parts and not any(part in module for part in asked.parts):
                continue
            survivors, total = _run(copy, module, tests, None if asked.all else asked.each)
            print(f"{module}: {total} mutants, {len(survivors)} survived", flush=True)  # noqa: T201 - its output
            for mutant in survivors:
                if mutant.row() not in judged:
                    unjudged += 1
                    print(mutant.row(), flush=True)  # noqa: T201 - its output
    return 1 if unjudged else 0


def _targets() -> Iterator[tuple[str, str]]:
    """Each module's path with the test files that must notice its mutants."""
    for package, modules in TARGETS.items():
        folder = f"tests/{Path(package).name}"
        for module, names in modules.items():
            yield f"{package}{module}.py", " ".join(f"{folder}/{n}.py" for n in names.split())


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


def _run(copy: Path, module: str, tests: str, sample: int | None) -> tuple[list[Mutant], int]:
    """The mutants of a module that its tests survive, and how many mutants there were."""
    session, config = copy / "session.sqlite", copy / "mutants.toml"
    session.unlink(missing_ok=True)
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
    # The copy comes before the installed packages, which are links to the original.
    # What is mapped from a file, as LMDB does, does not count.
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_MAX_BYTES, DATA_MAX_BYTES))
    environ = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'client'}"}
    run = partial(subprocess.run, cwd=copy, env=environ, check=True)
    begin_s = time.monotonic()
    baseline = run(command.split(), check=False, capture_output=True, text=True)
    if baseline.returncode:
        sys.exit(f"{tests} fails before any mutant:\n{baseline.stdout}{baseline.stderr}")
    limit_s = max(MUTANT_MIN_S, BASELINES_MAX * (time.monotonic() - begin_s))
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {limit_s}\n'
        f'excluded-modules = []\ntest-command = "{command}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n',
        encoding="utf-8",
    )
    program = str(Path(sys.executable).with_name("cosmic-ray"))
    run([program, "init", str(config), str(session)])
    _reduce(session, copy / module, sample)
    run([program, "exec", str(config), str(session)])
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


def _reduce(session: Path, module: Path, sample: int | None) -> None:
    """Remove the mutants of annotations, of decorators and of rare operators.

    `int | None` is no operation, and a dataclass without slots is as right as one with them.

    Of the others `sample` are kept, chosen by the module's name; all where it is None.
    """
    spans = list(_spans_left_out(ast.parse(module.read_text(encoding="utf-8"))))
    with closing(sqlite3.connect(session)) as database:
        rows = database.execute(
            "SELECT job_id, operator_name, start_pos_row, start_pos_col FROM mutation_specs"
            " ORDER BY start_pos_row, start_pos_col, operator_name, occurrence"
        ).fetchall()
        wanted = [
            job_id
            for job_id, operator, line, column in rows
            if _is_wanted(operator)
            and not any(start <= (line, column) < end for start, end in spans)
        ]
        if sample is not None and sample < len(wanted):
            wanted = random.Random(module.name).sample(wanted, sample)
        ids = [(row[0],) for row in rows if row[0] not in set(wanted)]
        database.executemany("DELETE FROM mutation_specs WHERE job_id = ?", ids)
        database.executemany("DELETE FROM work_items WHERE job_id = ?", ids)
        database.commit()


def _is_wanted(operator: str) -> bool:
    found = _find_operators(operator)
    return found is None or found[2] in REPLACED_BY.get(found[1], ())


def _spans_left_out(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(tree):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            found.append(node.annotation)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found += node.decorator_list
        for each in filter(None, found):
            end = (each.end_lineno or each.lineno, each.end_col_offset or 0)
            yield (each.lineno, each.col_offset), end


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
