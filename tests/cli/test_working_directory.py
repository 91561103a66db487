"""No process that we start imports a module from the folder in which it was started."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger.follow.process import FollowerProcess
from ledger.query import indexer
from ledger.store.log import create_log
from tests.query.events import make_entries, make_log, random_event
from tests.waiting import until

WAIT_S = 120.0
MODULES = ("structlog", "msgspec", "lmdb", "click", "nacl", "multiprocessing", "uvicorn", "logging")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules that leave a file `sprung` when they are imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    sprung = folder / "sprung"
    for module in MODULES:
        (folder / f"{module}.py").write_text(
            f"open({str(sprung)!r}, 'a').write({module!r})\nraise SystemExit('trapped')\n"
        )
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return sprung


def test_a_served_ledger_imports_nothing_from_the_working_directory(
    trap: Path, tmp_path: Path
) -> None:
    make_ledger(tmp_path / "ledger", origin="example.com/audit")
    with Service(tmp_path / "ledger", listen="127.0.0.1:0") as service:
        assert service.url.startswith("http://127.0.0.1:")
    assert not trap.exists()


def test_a_follower_imports_nothing_from_the_working_directory(trap: Path, tmp_path: Path) -> None:
    create_log(tmp_path / "log", origin="example.com/audit")
    process = FollowerProcess("indexer", indexer.__name__, [f"{tmp_path}/log", f"{tmp_path}/index"])
    process.start()
    until(lambda: any((tmp_path / "index").glob("*")))
    process.stop()
    assert not trap.exists()


BUILD = """
import sys
from pathlib import Path
from ledger.query.segment_builder import reindex
from ledger.store.log import LogStore
if __name__ == "__main__":
    log = LogStore.open(Path(sys.argv[1]))
    assert reindex(log, Path(sys.argv[2]), segment_entries=256, processes=2) == 2
"""


def test_the_processes_of_reindex_import_nothing_from_the_working_directory(
    trap: Path, tmp_path: Path
) -> None:
    rng = random.Random(1)
    events = [random_event(rng, number) for number in range(512)]
    make_log(tmp_path / "log", make_entries(events)).close()
    program = tmp_path / "build.py"
    program.write_text(BUILD)
    arguments = [str(program), str(tmp_path / "log"), str(tmp_path / "index")]
    subprocess.run([sys.executable, *arguments], check=True, timeout=2 * WAIT_S)
    assert not trap.exists()


@pytest.mark.parametrize("module", ["ledger", "ledger_client"])
def test_the_command_as_a_module_imports_nothing_from_the_working_directory(
    trap: Path, module: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, trap.exists()) == (0, False), done.stderr
    assert "serve" in done.stdout
