"""The process of the alarms: what its state says while it fails."""

import asyncio
from pathlib import Path

import pytest

from ledger.alarms import worker
from ledger.follow.position import read_report
from ledger_core.tlog.errors import MalformedError
from tests.sinks.sinking import Folder

ALARM = """
[guessing]
query = "action:login.failed"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "ledger")
    folder.append({"action": "login.failed"})
    (folder.directory / "alarms.toml").write_text(ALARM)
    return folder


@pytest.mark.anyio
async def test_the_state_says_that_alarms_fail_as_long_as_they_do(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0
    is_damaged = True

    def read_batch(*_: object, **__: object) -> list[object]:
        nonlocal attempts
        attempts += 1
        if is_damaged:
            raise MalformedError("entry 0 is damaged")
        return []

    def error() -> str:
        return read_report(folder.directory, "alarms", "").state.error

    (folder.directory / "alarms").mkdir()
    (folder.directory / "alarms" / "position.json").write_text("{}")
    monkeypatch.setattr(worker, "read_batch", read_batch)
    monkeypatch.setattr(worker, "START_AGAIN_S", 0.01)
    monkeypatch.setattr(worker, "POLL_S", 0.01)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(folder.directory, stop))
    async with asyncio.timeout(60):
        for wanted in ("entry 0 is damaged", "", "entry 0 is damaged"):
            is_damaged, attempts = bool(wanted), 0
            while attempts < 5:
                assert not running.done()
                await asyncio.sleep(0.01)
            assert error() == wanted
        stop.set()
        await running
