"""Alarms of a mirror: they see what it holds, and its own sinks tell what fires."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from ledger.cli.sink import command as sink_command
from tests.mirror.mirroring import make_mirror, mirroring, state
from tests.service.serving import Ledger, event
from tests.waiting import until

LEDGER = Path(sys.executable).with_name("ledger")
ALARMS = """
[guessing]
query = "action:login.failed"
by = "actor"
count = 3
window_s = 3600

[silent]
query = "action:login.*"
silence_s = 3
"""


def add_sink(folder: Path, name: str, path: Path, *flags: str) -> None:
    arguments = ["add", str(folder), name, "--type", "file", "--path", str(path), *flags]
    done = CliRunner().invoke(sink_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def alarms_in(path: Path) -> list[str]:
    return [record["event"]["context"]["alarm"] for record in lines(path)]


def test_alarms_of_a_mirror_are_told_by_its_sinks(tmp_path: Path, ledger: Ledger) -> None:
    folder = tmp_path / "mirror"
    tokens = make_mirror(folder, ledger)
    told, copy = tmp_path / "told.jsonl", tmp_path / "copy.jsonl"
    add_sink(folder, "pager", told, "--query", "action:ledger.alarm.fired")
    add_sink(folder, "copy", copy)
    (folder / "alarms.toml").write_text(ALARMS)
    with mirroring(folder, tokens):
        until((folder / "alarms" / "position.json").exists, "alarms run")
        ledger.append(
            *(event(action="login.failed", outcome="failure", actor={"id": "jo"}) for _ in range(3))
        )
        size = state(ledger)["tree_size"]
        until(lambda: "guessing" in alarms_in(told), "the guesses are told")
        # Nothing is logged any more, as after the end of the log's host.
        until(lambda: "silent" in alarms_in(told), "the silence is told")
        subprocess.run([LEDGER, "alarm", "test", folder, "guessing"], check=True)
        until(lambda: alarms_in(told).count("guessing") == 2, "the test is told")
        until(lambda: len(lines(copy)) == size, "the copy is whole")
    (guessing, test) = (
        record for record in lines(told) if record["event"]["context"]["alarm"] == "guessing"
    )
    assert guessing["origin"].endswith(f"/alarms@{socket.gethostname()}")
    assert guessing["event"]["context"]["mirror"] == socket.gethostname()
    assert guessing["event"]["context"]["group"] == "jo"
    for index in guessing["event"]["context"]["indices"]:
        stored = ledger.ask(f"/v1/events/{index}").json()["event"]
        assert (stored["action"], stored["actor"]["id"]) == ("login.failed", "jo")
    assert test["event"]["context"]["test"] is True
    # They are no entries: neither of the log, nor of the copy of it.
    assert state(ledger)["tree_size"] == size
    actions = {record["event"]["action"] for record in lines(copy)}
    assert not any(action.startswith("ledger.alarm") for action in actions)
