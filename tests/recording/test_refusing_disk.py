"""A spool that is removed, belongs to somebody else, or is on a disk that refuses.

The application's work is done when it records: `record` does not raise, and the event goes on.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger_client import Recorder, SpoolFullError
from ledger_client.recording import fallback, sender, spool
from ledger_client.recording.sink import SpoolSink
from tests.files import files_below
from tests.recording.conftest import OpenRecorder, Running, numbers, session_of
from tests.recording.test_overflow import told_of
from tests.waiting import until

DOWN = "http://127.0.0.1:1"
NOBODY = 65534


def spool_of(folder: Path) -> Path:
    return folder / "spool"


@contextmanager
def in_the_way(folder: Path) -> Iterator[None]:
    """A file stands where the spool folder should be."""
    spool = spool_of(folder)
    shutil.rmtree(spool, ignore_errors=True)
    spool.write_text("no folder")
    yield
    spool.unlink()


def deliver(open_recorder: OpenRecorder, folder: Path) -> None:
    """Send what waits in the spool with a recorder that reaches the ledger."""
    good = open_recorder()
    until(lambda: not any(files_below(spool_of(folder), ".segment")))
    assert good.close(30)


def ids(events: list[dict[str, Any]]) -> list[str]:
    return sorted(event["id"] for event in events)


@pytest.mark.parametrize("fsync", ["each", "interval", "none"])
def test_a_folder_that_is_removed_is_made_again_and_no_id_is_returned_in_vain(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    fsync: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "NAME_CHECK_S", 0.0)
    recorder = open_recorder(url=DOWN, fsync=fsync)
    recorded = [recorder.record("a.before") for _ in range(3)]
    first = recorder.status.instance
    shutil.rmtree(spool_of(tmp_path))
    recorded += [recorder.record("a.after") for _ in range(2)]
    assert None not in recorded
    assert "spool_removed" in caplog.text
    assert "saved=3 lost=0" in caplog.text
    assert recorder.status.instance != first
    assert not recorder.close(0.1)
    deliver(open_recorder, tmp_path)
    events = running.recorded(name)
    assert ids(events) == sorted(filter(None, recorded))
    assert sorted(numbers(events)[str(first)]) == [1, 2, 3]


def test_what_a_removed_folder_took_with_it_is_reported_by_number(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "NAME_CHECK_S", 0.0)
    recorder = open_recorder(url=DOWN, fsync="each", spool_bytes_max=1 << 18)
    for _ in range(28):  # A segment is full after 32 KB, and closed once it is synced.
        assert recorder.record("a.b", reason="x" * 4000)
    instance = recorder.status.instance
    shutil.rmtree(spool_of(tmp_path))
    assert recorder.record("a.b")
    assert not recorder.close(0.1)
    deliver(open_recorder, tmp_path)
    events = running.recorded(name)
    found = numbers(events)[str(instance)]
    (report,) = (e["context"]["dropped"] for e in events if e["action"].endswith(".dropped"))
    assert report["instance"] == instance
    assert sorted(told_of(events) + found) == list(range(1, 29))
    assert 28 > len(found) > 8  # Of the segments that were open, the reader's and the writer's.


def test_an_event_that_is_written_before_the_next_look_at_the_file_is_saved(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "NAME_CHECK_S", 3600.0)
    recorder = open_recorder(url=DOWN)
    recorded = [recorder.record("a.before")]
    shutil.rmtree(spool_of(tmp_path))
    recorded += [recorder.record("a.after") for _ in range(2)]
    assert not recorder.close(0.1)
    deliver(open_recorder, tmp_path)
    assert ids(running.recorded(name)) == sorted(filter(None, recorded))


def test_the_sender_notices_a_removed_folder_by_itself(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "SCAN_S", 0.05)
    recorder = open_recorder(url=DOWN)
    event_id = recorder.record("a.b")
    shutil.rmtree(spool_of(tmp_path))
    until(lambda: any(files_below(spool_of(tmp_path), ".segment")))
    recorder.close(0.1)
    deliver(open_recorder, tmp_path)
    assert ids(running.recorded(name)) == [event_id]


def test_without_any_spool_events_are_sent_from_memory(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with in_the_way(tmp_path):
        recorder = open_recorder(on_full="drop")
        assert [recorder.record("a.b") for _ in range(3)] == [None, None, None]
        assert recorder.flush(30)
        assert recorder.close(1)
    (found,) = numbers(running.recorded(name)).values()
    assert sorted(found) == [1, 2, 3]
    assert caplog.text.count("spool_not_made") == 1
    # Once a cause.
    assert caplog.text.count("spool_takes_no_events") == 1
    assert "File exists: they are kept in memory; will retry" in caplog.text


def test_memory_moves_to_the_spool_when_that_can_be_written_again(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    with in_the_way(tmp_path):
        recorder = open_recorder(url=DOWN, on_full="drop")
        recorder.record("a.b")
        assert recorder.status.in_memory == 1
        assert recorder.status.instance is None
    until(lambda: recorder.status.in_memory == 0 or not recorder.flush(0.3))
    assert not recorder.close(0.1)


def test_beyond_memory_events_are_lines_of_json_on_stderr_and_are_reported(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fallback, "MEMORY_BYTES_MAX", 0)
    with in_the_way(tmp_path):
        recorder = open_recorder(on_full="drop")
        for _ in range(3):
            assert recorder.record("a.b", context={"password": "Xy7-open-sesame-99"}) is None
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["action"] for line in lines] == ["a.b"] * 3
    assert "sesame" not in json.dumps(lines)
    assert all("recorder" not in line for line in lines)
    assert "written to standard error" in caplog.text
    assert recorder.record("a.c")
    until(lambda: len(running.recorded(name)) == 2)
    assert len(told_of(running.recorded(name))) == 3
    # The lines are events that the ledger takes.
    with running.client() as client:
        client.append_many(lines)
    assert {line["id"] for line in lines} < {event["id"] for event in running.recorded(name)}


def test_what_is_in_memory_at_the_end_is_on_stderr(
    open_recorder: OpenRecorder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with in_the_way(tmp_path):
        recorder = open_recorder(url=DOWN, on_full="drop")
        recorder.record("a.b", reason="the last")
        assert not recorder.flush(1.0)  # It is sent in vain.
        assert not recorder.close(0.1)
        assert isinstance(recorder._sink, SpoolSink)
        recorder._sink.at_exit()
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["reason"] == "the last"


def test_block_waits_also_for_a_folder_that_can_not_be_made(
    open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    with in_the_way(tmp_path):
        recorder = open_recorder(on_full="block", block_s=30)
        recorded: list[str | None] = []
        thread = threading.Thread(target=lambda: recorded.append(recorder.record("a.b")))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(30)
    assert recorded != [None]


def test_block_waits_once(open_recorder: OpenRecorder, tmp_path: Path) -> None:
    with in_the_way(tmp_path):
        recorder = open_recorder(url=DOWN, on_full="block", block_s=0.2)
        for _ in range(500):  # A wait for each would take 100 s.
            assert recorder.record("a.b") is None
        assert recorder.status.in_memory == 500


def test_raise_raises_also_for_a_folder_that_can_not_be_made(
    open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    with in_the_way(tmp_path):
        recorder = open_recorder(on_full="raise")
        with pytest.raises(SpoolFullError, match="there is no spool"):
            recorder.record("a.b")


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync", "cursor"])
def test_a_folder_that_can_not_be_made_leaves_nothing_behind(
    open_recorder: OpenRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    recorder = open_recorder(url=DOWN, on_full="drop")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        refuse_call(patch, call)
        assert recorder.record("a.b") is None
        assert list(spool_of(tmp_path).iterdir()) == []
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert recorder.record("a.b")


def refuse_call(patch: pytest.MonkeyPatch, call: str) -> None:
    real: Any = getattr(os, "open" if call == "cursor" else call)

    def refuse(path: Any, *arguments: Any, **more: Any) -> Any:
        if call != "cursor" or str(path).endswith("/cursor"):
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(path, *arguments, **more)

    patch.setattr(os, "open" if call == "cursor" else call, refuse)


class Syncs:
    """Stands in for `os.fdatasync`, which fails so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
        self._real: Callable[[int], None] = os.fdatasync
        self.failures = failures
        self.failed: list[int] = []
        self.synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", self.sync)

    def sync(self, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if self.failures:
            self.failures -= 1
            self.failed.append(inode)
            raise OSError(errno.EIO, "input/output error")
        self._real(fd)
        self.synced.append(inode)


def test_after_a_failed_sync_the_event_is_synced_in_a_new_segment(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = open_recorder(url=DOWN, fsync="each")
    assert recorder.record("a.b")
    syncs = Syncs(monkeypatch, failures=1)
    assert recorder.record("a.b")
    segments = {path.name: path for path in files_below(spool_of(tmp_path), ".segment")}
    assert [segments["1.segment"].stat().st_ino] == syncs.failed
    # A second sync of the first file would succeed without the data.
    assert [segments["2.segment"].stat().st_ino] == syncs.synced
    assert segments["2.segment"].read_bytes().count(b'"seq":2') == 1
    assert recorder.record("a.b")
    assert recorder.close(0.1) is False
    deliver(open_recorder, tmp_path)
    (found,) = numbers(running.recorded(name)).values()
    assert found == [1, 2, 3]


def test_threads_that_share_a_failed_sync_are_all_written_again(
    open_recorder: OpenRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = open_recorder(url=DOWN, fsync="interval", fsync_interval_s=3600)
    for _ in range(5):
        assert recorder.record("a.b")
    syncs = Syncs(monkeypatch, failures=1)
    spool = session_of(recorder).spool
    spool.sync()
    segments = {path.name: path for path in files_below(spool_of(tmp_path), ".segment")}
    assert [segments["2.segment"].stat().st_ino] == syncs.synced
    assert all(b'"seq":%d}' % n in segments["2.segment"].read_bytes() for n in range(1, 6))


@pytest.mark.parametrize("on_full", ["raise", "drop", "block"])
def test_a_sync_that_keeps_failing_is_as_on_full_says(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    on_full: str,
) -> None:
    recorder = open_recorder(url=DOWN, fsync="each", on_full=on_full, block_s=0.1)
    syncs = Syncs(monkeypatch, failures=1_000_000)
    for _ in range(3):
        if on_full == "raise":
            with pytest.raises(SpoolFullError, match="not durable: input/output error"):
                recorder.record("a.b")
        else:
            assert recorder.record("a.b") is None
    if on_full != "raise":
        assert caplog.text.count("events_not_durable") == 1
    syncs.failures = 0
    assert recorder.record("a.b")
    recorder.close(0.1)
    deliver(open_recorder, tmp_path)
    (found,) = numbers(running.recorded(name)).values()
    assert found == [1, 2, 3, 4]


def test_drops_are_logged_once_a_cause(
    open_recorder: OpenRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = open_recorder(url=DOWN, on_full="drop", spool_bytes_max=1 << 18)
    for _ in range(100):
        recorder.record("a.b", reason="x" * 4000)
    assert caplog.text.count("events_dropped") == 1
    assert "spool_bytes_max=262144" in caplog.text


AT_EXIT = """
import sys
from ledger_client import Recorder
url, token, spool, policy, tenant = sys.argv[1:]
class Connection:
    def __init__(self): self.recorder = Recorder(url, token, spool=spool, policy=policy,
                                                 actor="u_1", tenant=tenant)
    def __del__(self): print(self.recorder.record("connection.closed"), flush=True)
connection = Connection()  # It is deleted while the interpreter ends.
"""


def run_program(running: Running, name: str, folder: Path, program: str, **more: Any) -> str:
    arguments = [running.url, running.token, spool_of(folder), running.policy, name]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return str(done.stdout)


def test_del_may_record_while_the_interpreter_ends(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    event_id = run_program(running, name, tmp_path, AT_EXIT).strip()
    deliver(open_recorder, tmp_path)
    assert ids(running.recorded(name)) == [event_id]


AS_NOBODY = """
import os, sys
from ledger_client import Recorder
url, token, spool, policy, tenant = sys.argv[1:]
policy = open(policy, "rb").read()
# Python itself may be below a folder that the other user can't read: import it all before.
Recorder(url, token, spool=spool + "-of-root", policy=policy, actor="u_1").close()
"127.0.0.1".encode("idna")
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
recorder = Recorder(url, token, spool=spool, policy=policy, actor="u_1", tenant=tenant,
                    block_s=0.1)
print(recorder.record("worker.started"))
assert recorder.close(30)
"""


def test_a_folder_of_another_user_keeps_no_worker_from_starting(
    running: Running, name: str, tmp_path: Path
) -> None:
    spool_of(tmp_path).mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    assert run_program(running, name, tmp_path, AS_NOBODY) == "None\n"
    (event,) = running.recorded(name)
    assert event["action"] == "worker.started"


def test_recording_in_a_thread_that_may_not_start_the_sender_keeps_the_event(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    recorder = open_recorder()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert recorder.record("a.b")
    assert "sender_not_started" in caplog.text
    recorder.close(0.1)
    good: Recorder = open_recorder()
    until(lambda: len(running.recorded(name)) == 1)
    assert good.close(30)


def test_a_disk_without_room_for_the_cursor_is_emptied_all_the_same(
    open_recorder: OpenRecorder,
    running: Running,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is sent makes room; the sender waited 30 s after each batch."""
    down = open_recorder(DOWN, exit_flush_s=0.0)
    said = [down.record("a.b") for _ in range(5)]
    assert not down.close(0.0)

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    good = open_recorder(batch_events_max=2)
    said += [good.record("a.b") for _ in range(5)]
    assert good.flush(60)
    until(lambda: len(list(files_below(spool_of(tmp_path), ".segment"))) <= 1)
    assert good.close(60)
    assert not any(files_below(spool_of(tmp_path), ".segment"))
    assert "recorder_fault" not in caplog.text
    assert ids(running.recorded(name)) == sorted(str(each) for each in said)


def test_a_directory_that_can_not_be_adopted_is_adopted_later(
    open_recorder: OpenRecorder,
    running: Running,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stayed locked until the process ended."""
    monkeypatch.setattr(sender, "SCAN_S", 0.05)
    down = open_recorder(DOWN, exit_flush_s=0.0)
    said = down.record("a.b")
    assert not down.close(0.0)
    (directory,) = {path.parent for path in files_below(spool_of(tmp_path), ".segment")}
    (directory / "cursor").unlink()
    (directory / "cursor").mkdir()
    good = open_recorder()
    for _ in range(3):
        good.record("a.b")
        assert good.flush(60)
    (directory / "cursor").rmdir()
    until(lambda: not directory.exists())
    assert good.close(60)
    assert said in ids(running.recorded(name))
