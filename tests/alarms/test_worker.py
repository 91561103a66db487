"""The process of the alarms: what its state says while it fails."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger.alarms import worker
from ledger.alarms.config import read_alarms
from ledger.follow import worker as follow_worker
from ledger.follow.position import Cursor, FollowerPaths, Position, read_report
from ledger.runtime.records import write_record
from ledger.store.log import LogStore
from ledger.store.tokens import AccessStore
from ledger.store.writer import LogWriter, entry_of
from ledger_client.runtime.clock import unix_us
from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.cosignature import TIME_MAX, CosignatureSigner
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Note, Signer, format_note
from tests.sinks.sinking import ORIGIN, Folder

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


WITNESS = CosignatureSigner.generate("there", algorithm=ED25519_COSIGNATURE, seed=b"w" * 32)
GAP = '[gap]\nkind = "gap"\n[witness]\nkind = "witness"\n'


def add_witnesses(folder: Folder, *lines: str) -> None:
    path = folder.directory / "policy"
    log, _, quorum = path.read_text().partition("quorum")
    path.write_text(log + "".join(f"{line}\n" for line in lines) + "quorum" + quorum)


def _fired(folder: Folder) -> list[dict[str, Any]]:
    with closing(AccessStore.open(folder.directory / "access")) as access:
        return [json.loads(event) for _, event in access.outbox()]


@pytest.mark.parametrize("is_orderly", [True, False])
def test_the_numbers_of_recorders_outlast_a_restart(tmp_path: Path, *, is_orderly: bool) -> None:
    folder = Folder(tmp_path / "ledger")
    (folder.directory / "alarms.toml").write_text(GAP)
    add_witnesses(folder, f"witness there {WITNESS.verifier}")

    def step(*numbers: int) -> None:
        folder.append(*({"recorder": {"instance": "r", "seq": number}} for number in numbers))
        with closing(LogStore.open(folder.directory / "log")) as store:
            follower = _follower(folder, store)
            while follower.step():
                pass
            if is_orderly:
                follower.close()

    with closing(LogStore.open(folder.directory / "log")) as store:
        _follower(folder, store)
    step(1, 2)
    assert _fired(folder) == []
    # Hours later, by the times of receipt: the windows have none of the events before.
    folder._count += 20_000
    step(5, 6)
    (firing,) = _fired(folder)
    assert firing["context"] | {"severity": ""} == {
        "alarm": "gap",
        "severity": "",
        "count": 2,
        "indices": [2],
        "window_s": 300.0,
        "by": "recorder",
        "group": "app r",
        "missing": [[3, 4]],
    }
    step(7)
    assert len({each["id"] for each in _fired(folder)}) == 1


def publish(folder: Folder, *, cosigned_at_unix_s: int) -> None:
    """Publish the head of a log, cosigned by `WITNESS`."""
    with closing(LogWriter.open(folder.directory / "log")) as writer:
        head = writer.store.head()
        text = format_checkpoint(Checkpoint(ORIGIN, head.tree_size, head.root_hash))
        signatures = (
            Signer.generate(ORIGIN, seed=bytes(range(32))).sign(text),
            WITNESS.sign(text, time_unix_s=cosigned_at_unix_s),
        )
        writer.commit([], checkpoints=[(head.tree_size, format_note(Note(text, signatures)))])


def test_a_witness_is_missed_by_the_published_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "ledger")
    folder.append({})
    (folder.directory / "alarms.toml").write_text(GAP)
    other = CosignatureSigner.generate("other", algorithm=ED25519_COSIGNATURE, seed=b"o" * 32)
    add_witnesses(folder, f"witness there {WITNESS.verifier}", f"witness gone {other.verifier}")
    now_us = unix_us()
    publish(folder, cosigned_at_unix_s=now_us // 1_000_000)
    with closing(LogStore.open(folder.directory / "log")) as store:
        follower = _follower(folder, store)
        assert not follower.step()
        monkeypatch.setattr(worker, "unix_us", lambda: now_us + 299_000_000)
        assert not follower.step()
        assert _fired(folder) == []
        # The other one never cosigned: it is missed since the start of the alarms.
        monkeypatch.setattr(worker, "unix_us", lambda: unix_us() + 300_000_000)
        assert not follower.step()
        missed = [each["context"]["group"] for each in _fired(folder)]
        assert sorted(missed) == ["gone", "there"]


def test_alarms_go_on_whatever_time_a_witness_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "ledger")
    folder.append({})
    (folder.directory / "alarms.toml").write_text(GAP + ALARM)
    add_witnesses(folder, f"witness there {WITNESS.verifier}")
    with closing(LogStore.open(folder.directory / "log")) as store:
        _follower(folder, store).close()
    publish(folder, cosigned_at_unix_s=TIME_MAX)
    now_us = unix_us()
    with closing(LogStore.open(folder.directory / "log")) as store:
        follower = _follower(folder, store)
        assert not follower.step()
        follower.close()
        # After a start from what was stored, too.
        follower = _follower(folder, store)
        monkeypatch.setattr(worker, "unix_us", lambda: now_us + 600_000_000)
        assert not follower.step()
    assert [each["context"]["group"] for each in _fired(folder)] == ["there"]


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


def test_the_firings_of_many_groups_take_one_commit(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.directory / "alarms.toml").write_text(ALARM + 'by = "actor"\n')
    commits: list[int] = []
    enqueue_all = AccessStore.enqueue_all

    def count(access: AccessStore, events: Sequence[bytes]) -> None:
        commits.append(len(events))
        enqueue_all(access, events)

    monkeypatch.setattr(AccessStore, "enqueue_all", count)
    with closing(LogStore.open(folder.directory / "log")) as store:
        _follower(folder, store)
    made = [{"action": "login.failed", "actor": {"id": f"u_{number}"}} for number in range(300)]
    folder.append(*made)
    with closing(LogStore.open(folder.directory / "log")) as store:
        assert _follower(folder, store).step()
    assert commits == [300]
    with closing(AccessStore.open(folder.directory / "access")) as access:
        assert len(access.outbox()) == 300


def test_a_firing_each_second_writes_the_groups_that_fired_in_a_twentieth_of_the_time(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rests between steps at the end of the log, with a disk that takes 0.1 s a file."""
    now_s, rests_s, written = 0.0, list[float](), list[float]()

    def write(path: Path, record: Any) -> None:
        nonlocal now_s
        write_record(path, record)
        if path.name == worker.FIRED_FILE:
            written.append(now_s)
            now_s += 0.1

    async def rest(_stop: asyncio.Event, wait_s: float) -> bool:
        nonlocal now_s
        now_s += wait_s
        rests_s.append(wait_s)
        event = {"action": "login.failed", "actor": {"id": f"u_{len(rests_s)}"}}
        writer.commit([entry_of(folder._leaf(event, 1.0, "app"))])
        return len(rests_s) == 6

    writer = LogWriter.open(folder.directory / "log")
    monkeypatch.setattr(worker, "open_log", lambda _directory: writer.store)
    (folder.directory / "alarms.toml").write_text(f'{ALARM}by = "actor"\n')
    monkeypatch.setattr("ledger.alarms.worker.time.monotonic", lambda: now_s)
    monkeypatch.setattr(worker, "write_record", write)
    monkeypatch.setattr(worker, "wait_set", rest)
    asyncio.run(worker._follow(folder.directory, asyncio.Event(), lambda: None))
    assert len(written) == 5
    assert rests_s == pytest.approx([worker.POLL_S, *[worker.FIRED_REST * 0.1] * 5])
