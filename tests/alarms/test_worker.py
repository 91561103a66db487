"""The process of the alarms: what its state says while it fails."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from ledger.alarms import worker
from ledger.alarms.config import read_alarms
from ledger.follow import worker as follow_worker
from ledger.follow.position import Cursor, FollowerPaths, Position, read_report
from ledger.runtime.records import write_record
from ledger.store.log import LogStore
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


def _follower(folder: Folder, store: LogStore) -> worker.AlarmFollower:
    return worker.AlarmFollower(folder.directory, store, read_alarms(folder.directory))


def test_alarms_that_lost_their_place_say_so_and_skip_nothing(folder: Folder) -> None:
    paths = FollowerPaths(folder.directory, "alarms", "")
    with closing(LogStore.open(folder.directory / "log")) as store:
        _follower(folder, store)
        assert paths.position.exists()
        write_record(paths.position, Position(next_index=7))
        with pytest.raises(MalformedError, match=r"the log has 1 entries, not 7.*alarm replay"):
            _follower(folder, store)
        write_record(paths.root / "fired.json", worker.FiredRecord(fired={"guessing": 1}))
        paths.position.unlink()
        with pytest.raises(MalformedError, match="is gone: deleting"):
            _follower(folder, store)


def test_alarms_of_an_empty_log_have_a_place_before_they_fire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill behind the first firing, before the position moves, has it evaluated again."""
    folder = Folder(tmp_path / "ledger")
    (folder.directory / "alarms.toml").write_text(ALARM)
    with closing(LogStore.open(folder.directory / "log")) as store:
        _follower(folder, store)
    folder.append({"action": "login.failed"})
    with closing(LogStore.open(folder.directory / "log")) as store:
        follower = _follower(folder, store)
        with monkeypatch.context() as killed:
            killed.setattr(Cursor, "move", _kill)
            with pytest.raises(KeyboardInterrupt):
                follower.step()
        assert _follower(folder, store).step()


def _kill(*_: object) -> None:
    raise KeyboardInterrupt


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
    monkeypatch.setattr(follow_worker, "START_AGAIN_S", 0.01)
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
