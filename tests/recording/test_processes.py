"""Processes: killed, forked, several on one folder. Each is a real process with a real ledger.

What a program printed is what `record` had returned for; all of that must be in the log, each event
once, and each instance's numbers without a gap.
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ledger_client import Recorder
from tests.files import files_below
from tests.recording.conftest import Running, numbers
from tests.waiting import until

KILLS = 12
END_WAIT_S = 120.0


class Programs:
    """Runs the programs of one test on one spool folder."""

    def __init__(self, running: Running, folder: Path, name: str) -> None:
        self._running = running
        self.spool = folder / "spool"
        self._name = name
        self.said: list[str] = []

    def settings(self, url: str | None = None, **more: Any) -> dict[str, Any]:
        return {
            "url": url or self._running.url,
            "token": self._running.token,
            "spool": str(self.spool),
            "policy": str(self._running.policy),
            "tenant": self._name,
            **more,
        }

    def start(self, program: str, **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.recording.programs", program),
                json.dumps(self.settings(**more)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def run(self, program: str, **more: Any) -> list[str]:
        """Run a program to its end; what it said."""
        with self.start(program, **more) as process:
            output, errors = process.communicate(timeout=END_WAIT_S)
            assert process.returncode == 0, errors
            assert "Traceback" not in errors
        said = output.split()
        self.said += said
        return said

    def kill_after(self, process: "subprocess.Popen[str]", lines: int) -> None:
        """Kill a program when it has said so much, or a little later."""
        assert process.stdout is not None
        for _ in range(lines):
            self.said.append(process.stdout.readline().strip())
        process.kill()
        # A line that the kill cut short says nothing.
        self.said += (line.strip() for line in process.stdout if line.endswith("\n"))
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()

    def send_what_is_left(self) -> None:
        recorder = Recorder(
            self._running.url, self._running.token, spool=self.spool, policy=self._running.policy
        )
        until(lambda: not any(files_below(self.spool, ".segment")))
        assert recorder.close(30)

    def check(self) -> list[dict[str, Any]]:
        """Hold what was said against the whole verified log; the events of this test."""
        # `Running.events` verifies the log, and that no id is in it twice.
        events = self._running.recorded(self._name)
        missing = set(self.said) - {event["id"] for event in events}
        assert not missing
        for found in numbers(events).values():
            assert sorted(found) == list(range(1, len(found) + 1))
        return events


@pytest.fixture
def programs(running: Running, tmp_path: Path, name: str) -> Programs:
    return Programs(running, tmp_path, name)


@pytest.mark.parametrize("fsync", ["each", "interval", "none"])
def test_killed_at_any_moment_nothing_is_lost_that_was_recorded_and_nothing_is_there_twice(
    programs: Programs, fsync: str
) -> None:
    rng = random.Random(fsync)
    for _ in range(KILLS):
        process = programs.start("endless", options={"fsync": fsync})
        programs.kill_after(process, rng.randrange(1, 150))
    programs.send_what_is_left()
    events = programs.check()
    # Of each killed process at most the events that three threads were in may be there unsaid.
    assert len(programs.said) <= len(events) <= len(programs.said) + 3 * KILLS
    assert not (programs.spool / "damaged").exists()


def test_killed_while_the_ledger_is_down_nothing_is_lost(programs: Programs) -> None:
    for lines in (1, 40, 90):
        process = programs.start("endless", url="http://127.0.0.1:1")
        programs.kill_after(process, lines)
    programs.send_what_is_left()
    assert len(numbers(programs.check())) == 3


def test_several_processes_on_one_folder_take_over_from_the_killed(programs: Programs) -> None:
    killed = [programs.start("endless", options={"fsync": "each"}) for _ in range(3)]
    for process in killed:
        programs.kill_after(process, 30)
    together = [programs.start("some", count=200) for _ in range(4)]
    for process in together:
        output, errors = process.communicate(timeout=END_WAIT_S)
        assert (process.returncode, errors) == (0, "")
        programs.said += output.split()
    programs.send_what_is_left()
    assert len(numbers(programs.check())) == 7


def test_the_end_of_a_process_sends_what_it_recorded(programs: Programs) -> None:
    programs.run("some", count=50)
    programs.check()
    assert [path.name for path in programs.spool.iterdir()] == ["state"]


def test_the_end_of_a_process_is_not_held_up_by_a_ledger_that_is_down(programs: Programs) -> None:
    started_s = time.monotonic()
    programs.run("some", count=5, url="http://127.0.0.1:1", options={"exit_flush_s": 0.5})
    assert time.monotonic() - started_s < 100  # A ledger that is waited for is down for ever.
    programs.send_what_is_left()
    programs.check()


def test_what_a_hard_exit_leaves_is_sent_by_the_next(programs: Programs) -> None:
    programs.run("exit_hard", count=20)
    programs.send_what_is_left()
    programs.check()


def test_what_is_recorded_at_the_very_end_is_not_lost(programs: Programs) -> None:
    assert len(programs.run("at_the_very_end")) == 2
    programs.send_what_is_left()
    programs.check()


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("prefork", {"master_records_first": False}),
        ("prefork", {"master_records_first": True}),
        ("prefork_in_c", {"options": {"fsync": "none"}}),
    ],
)
def test_workers_of_a_preforking_server_have_instances_of_their_own(
    programs: Programs, program: str, options: dict[str, Any]
) -> None:
    programs.run(program, workers=4, count=50, **options)
    programs.send_what_is_left()
    events = programs.check()
    by_instance = {event["recorder"]["instance"]: event["actor"]["id"] for event in events}
    assert len(by_instance) == 5
    assert sum(event["action"] == "worker.served" for event in events) == 200


def test_a_child_does_not_keep_what_its_killed_parent_left(programs: Programs) -> None:
    process = programs.start("fork_and_die", url="http://127.0.0.1:1")
    assert process.stdout is not None
    assert process.stdin is not None
    said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
    process.wait()
    assert "ready" in said
    programs.said += said - {"ready"}
    programs.send_what_is_left()
    programs.check()
    process.communicate(timeout=END_WAIT_S)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_record(programs: Programs, method: str) -> None:
    programs.run("multi", method=method, workers=3, count=30)
    events = programs.check()
    assert len(events) == 91
    assert [path.name for path in programs.spool.iterdir()] == ["state"]


@pytest.mark.parametrize("fsync", ["each", "interval"])
def test_a_signal_handler_may_record_in_the_middle_of_recording(
    programs: Programs, fsync: str
) -> None:
    said = programs.run("in_a_signal_handler", count=3000, options={"fsync": fsync})
    assert len(said) > 3000
    assert len(programs.check()) == len(said)


def test_tasks_of_an_event_loop_may_record(programs: Programs) -> None:
    programs.run("in_an_event_loop", workers=20, count=20)
    assert len(programs.check()) == 400
