"""Followers run in processes of their own, are started again when they end, and can be stopped."""

import os
import signal
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ledger.cli.alarm import command as alarm_command
from ledger.cli.archive import command as archive_command
from ledger.cli.mirror_push import push as push_command
from ledger.cli.sink import command as sink_command
from ledger.follow.followers import Followers, FollowerSpec
from ledger.follow.process import FollowerProcess
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import remember_files
from tests.follow.conftest import Lines
from tests.sinks.sinking import Folder
from tests.waiting import until

COUNTING = """\
import sys
from pathlib import Path
from typing import Any
from ledger.follow.process import is_orphaned
starts = Path(sys.argv[1])
with starts.open("a") as file:
    file.write("started\\n")
is_orphaned(60)
"""


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FollowerProcess:
    """A follower that writes a line whenever it starts."""
    (tmp_path / "counting_follower.py").write_text(COUNTING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    starts = str(tmp_path / "starts")
    return FollowerProcess("counting", "counting_follower", [starts], restart_s=0.05)


def starts(tmp_path: Path) -> int:
    file = tmp_path / "starts"
    return file.read_text().count("\n") if file.exists() else 0


def test_a_killed_follower_is_started_again(tmp_path: Path, counting: FollowerProcess) -> None:
    counting.start()
    for number in range(1, 4):
        until(lambda number=number: starts(tmp_path) == number)  # type: ignore[misc]  # its default
        process_id = counting.process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
    until(lambda: starts(tmp_path) == 4)
    counting.stop()
    assert counting.process_id is None


def test_a_stopped_follower_is_not_started_again(tmp_path: Path, counting: FollowerProcess) -> None:
    counting.start()
    until(lambda: starts(tmp_path) == 1)
    counting.stop()
    time.sleep(0.3)
    assert starts(tmp_path) == 1
    assert counting.process_id is None


def test_a_follower_that_cannot_run_is_tried_with_growing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    monkeypatch.chdir(tmp_path)
    process = FollowerProcess("missing", "no_such_module", [], restart_s=0.01)
    process.start()
    until(lambda: len(lines) >= 3)
    process.stop()
    assert process.process_id is None
    assert lines[:3] == [
        ("follower_ended", {"follower": "missing", "exit_code": 1, "restart_s": wait_s})
        for wait_s in (0.01, 0.02, 0.04)
    ]


NAMING = """\
import os, sys
from pathlib import Path
from typing import Any
from ledger.follow.process import is_orphaned
folder, name = sys.argv[1:]
draft = Path(folder, name + ".draft")
draft.write_text("\\n".join(os.environ))
draft.rename(Path(folder, name + ".names"))
is_orphaned(60)
"""


def test_a_child_gets_the_variables_that_it_needs_and_no_other_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "naming_follower.py").write_text(NAMING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    for name in ("SIEM_TOKEN", "MAIL_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "wl_secret")
    (tmp_path / "tables.toml").write_text("[siem]\ntoken_env = 'SIEM_TOKEN'\n[mail]\n")
    spec = FollowerSpec(
        "naming", "naming_follower", ("",), "tables.toml", is_each=True, variable_key="token_env"
    )
    followers = Followers(tmp_path, [spec], watch_s=0.02)
    followers.start()
    secrets = {}
    try:
        for name in ("siem", "mail"):
            names = tmp_path / f"{name}.names"
            until(names.exists)
            secrets[name] = {"PATH", "SIEM_TOKEN", "MAIL_PASSWORD", "AWS_SECRET_ACCESS_KEY"} & set(
                names.read_text().split("\n")
            )
    finally:
        followers.stop()
    assert secrets == {"siem": {"PATH", "SIEM_TOKEN"}, "mail": {"PATH"}}


@pytest.mark.parametrize(
    ("command", "arguments", "file"),
    [
        (sink_command, ["list"], "sinks.toml"),
        (archive_command, ["list"], "archive.toml"),
        (archive_command, ["status"], "archive.toml"),
        (alarm_command, ["list"], "alarms.toml"),
        (push_command, ["list"], "mirrors.toml"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_list_says_that_its_file_is_gone_and_not_that_nothing_was_ever_there(
    tmp_path: Path, command: click.Command, arguments: list[str], file: str, flags: list[str]
) -> None:
    directory = Folder(tmp_path / "ledger").directory
    paths = DirectoryPaths(directory)
    (directory / file).touch()
    remember_files(paths)
    line = [*arguments, str(directory), *flags]
    there = CliRunner().invoke(command, line)
    assert ("yet; " in there.stderr) is not bool(flags), there.output
    (directory / file).unlink()
    gone = CliRunner().invoke(command, line)
    assert f"{file} was there when the service was last started, and is gone" in gone.stderr
    assert "yet; " not in gone.output
