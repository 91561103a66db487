"""A child that stands still is killed, and one that works or never gave a sign is not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.follow import heartbeat
from ledger.follow.heartbeat import wait_silent
from ledger.follow.process import FollowerProcess
from tests.follow.conftest import Lines
from tests.waiting import until

BEATING = """\
import sys
from ledger.follow.heartbeat import beat
for _ in sys.stdin:
    beat()
"""
"""Gives a sign for each line that it reads."""

HANGING = """\
import os, signal, sys
from pathlib import Path
from ledger.follow.process import is_orphaned
with Path(sys.argv[1]).open("a") as file:
    file.write(f"{os.getpid()}\\n")
is_orphaned(0)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def child(code: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def ask(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def test_a_child_that_gives_signs_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 60.0)
    turns = 0
    with child(BEATING) as process:

        def is_over() -> bool:
            nonlocal turns
            turns += 1
            ask(process)
            return turns > 3

        assert not wait_silent(process, is_over, turns_max=1)
        assert process.stdin is not None
        process.stdin.close()
        assert not wait_silent(process, lambda: False, turns_max=1)
        assert process.wait(60) == 0


def test_one_that_gives_no_more_signs_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    with child(BEATING) as process:
        ask(process)
        assert wait_silent(process, lambda: False, turns_max=5)


def test_one_that_never_gave_a_sign_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a child of a version before there were any."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    turns = iter(range(20))
    with child(BEATING) as process:
        assert not wait_silent(process, lambda: next(turns) == 19, turns_max=1)
        assert process.poll() is None


def test_a_parent_that_stands_still_holds_up_no_child() -> None:
    """More signs than a pipe holds, which nobody reads."""
    code = "from ledger.follow.heartbeat import beat\nfor _ in range(70_000): beat()"
    with child(code) as process:
        assert process.wait(120) == 0


def test_a_follower_that_stands_still_is_killed_named_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    (tmp_path / "hanging_follower.py").write_text(HANGING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    process = FollowerProcess(
        "hanging", "hanging_follower", [str(tmp_path / "starts")], restart_s=0.01, silent_s=0.2
    )
    process.start()
    until(lambda: len(lines) >= 4)
    process.stop()
    assert lines[0] == ("follower_hangs", {"follower": "hanging", "silent_s": 0})
    assert lines[1][0] == "follower_ended"
    assert lines[1][1]["exit_code"] == -signal.SIGKILL
    started = (tmp_path / "starts").read_text().split()
    assert len(set(started)) >= 2
    assert not any(Path(f"/proc/{each}").exists() for each in started)
