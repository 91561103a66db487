"""Forks and the end of a process, while its threads look for secrets."""

import subprocess
import sys
from pathlib import Path

CHILDREN = 200
ENDS = 5


def run(children: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.secrets.forking", str(children)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_a_child_does_not_wait_for_what_its_parents_threads_held() -> None:
    done = run(CHILDREN)
    assert "a child ended" not in done.stderr


def test_a_process_ends_in_order_although_its_daemon_threads_still_look() -> None:
    ends = [run(3) for _ in range(ENDS)]
    assert [(done.returncode, done.stderr) for done in ends] == [(0, "")] * ENDS
