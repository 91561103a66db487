"""`started.json`: the service and commands write it at once, and none undoes another's writing."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from ledger.service import start_record
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import (
    changed_files,
    changing_files,
    remember_files,
    remember_reloaded,
)
from ledger_core.tlog.errors import UnavailableError
from tests.service.serving import make_ledger

ROUNDS = 60


@pytest.fixture
def paths(tmp_path: Path) -> DirectoryPaths:
    made = DirectoryPaths(tmp_path / "ledger")
    make_ledger(made.root)
    for name in ("sinks.toml", "alarms.toml"):
        (made.root / name).write_text("# 0\n", encoding="utf-8")
    remember_files(made)
    return made


COMMAND = f"""
import sys
from pathlib import Path
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import changing_files
paths = DirectoryPaths(Path(sys.argv[1]))
for each in range({ROUNDS}):
    with changing_files(paths, "sinks.toml"):
        (paths.root / "sinks.toml").write_text(f"# {{each}}\\n", encoding="utf-8")
"""


def test_a_reload_and_a_command_at_once_leave_no_file_that_is_called_changed(
    paths: DirectoryPaths,
) -> None:
    """Each reads the record, and writes it anew with what it knows: alone, or it undoes the other.

    What the command has written last must be known when both have ended.
    """
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(paths.root)])
    rounds = 0
    while command.poll() is None or rounds < ROUNDS:
        (paths.root / "alarms.toml").write_text(f"# {rounds}\n", encoding="utf-8")
        remember_reloaded(paths)
        rounds += 1
    assert command.returncode == 0
    assert changed_files(paths) == []


def test_who_writes_the_record_waits_for_another_one(paths: DirectoryPaths) -> None:
    (paths.root / "alarms.toml").write_text("# changed\n", encoding="utf-8")
    folder = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    before = paths.started.read_bytes()
    reload = Thread(target=remember_reloaded, args=(paths,))
    reload.start()
    reload.join(0.5)  # Without the lock it is done long before.
    assert paths.started.read_bytes() == before
    os.close(folder)
    reload.join()
    assert changed_files(paths) == []


def test_a_folder_that_stays_locked_is_an_error_and_no_wait_without_end(
    paths: DirectoryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_record, "LOCK_WAIT_S", 0.1)
    folder = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    locked = pytest.raises(UnavailableError, match="another process has locked the folder")
    with locked, changing_files(paths, "sinks.toml"):
        pass
    os.close(folder)
    with changing_files(paths, "sinks.toml"):
        pass
