"""A full spool: block for a while, raise, or drop and say so."""

import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ledger_client import Recorder, SpoolFullError
from tests.client.peer import Peer
from tests.files import files_below
from tests.recording.conftest import OpenRecorder, Running, numbers, session_of
from tests.recording.relay import relay
from tests.waiting import until

DOWN = "http://127.0.0.1:1"
LIMIT = 1 << 18
LARGE = "x" * 4000


def fill(recorder: Recorder, count: int) -> int:
    """Record so many large events; how many were kept."""
    return sum(recorder.record("a.b", reason=LARGE) is not None for _ in range(count))


def test_raise_tells_the_application_and_uses_up_no_number(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    recorder = open_recorder(url=DOWN, on_full="raise", spool_bytes_max=LIMIT)
    with pytest.raises(SpoolFullError, match="takes no more events: it is at its limit"):
        fill(recorder, 1000)
    kept = recorder.status.recorded
    assert recorder.record_quietly("a.b", reason=LARGE) is None
    assert size_of(tmp_path) <= LIMIT + 4096
    recorder.close(0.1)
    assert send_what_is_left(open_recorder, tmp_path)
    (found,) = numbers(running.recorded(name)).values()
    assert found == list(range(1, kept + 1))


def test_drop_says_how_many_and_which_numbers(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    recorder = open_recorder(url=DOWN, on_full="drop", spool_bytes_max=LIMIT)
    kept = fill(recorder, 100)
    assert 30 < kept < 100
    assert size_of(tmp_path) <= LIMIT + 4096
    instance = recorder.status.instance
    recorder.close(0.1)
    assert send_what_is_left(open_recorder, tmp_path)
    events = running.recorded(name)
    notices = [event for event in events if event["action"] == "ledger.recorder.dropped"]
    assert {event["recorder"]["instance"] for event in events} == {instance}
    # One notice tells of them all, unless the sender told of the first while others followed.
    assert 1 <= len(notices) <= 2
    told = [notice["context"]["dropped"] for notice in notices]
    assert sum(each["count"] for each in told) == len(told_of(events)) == 100 - kept
    assert {each["instance"] for each in told} == {instance}
    there = [event["recorder"]["seq"] for event in events]
    assert sorted(told_of(events) + there) == list(range(1, 101 + len(notices)))


def test_drops_are_told_of_as_soon_as_there_is_room_again(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    is_up = threading.Event()

    def busy(_: bytes) -> tuple[int, bytes] | None:
        return None if is_up.is_set() else (503, b"")

    with Peer(relay(running.url, busy)) as peer:
        recorder = open_recorder(url=peer.url, on_full="drop", spool_bytes_max=LIMIT)
        kept = fill(recorder, 100)
        is_up.set()
        assert recorder.flush(30)
        assert fill(recorder, 3) == 3
        assert recorder.flush(30)
    events = running.recorded(name)
    dropped = [e for e in events if e["action"] == "ledger.recorder.dropped"]
    told = told_of(events)
    there = [e["recorder"]["seq"] for e in events]
    assert sorted(told + there) == list(range(1, 104 + len(dropped)))
    assert len(told) == 100 - kept


def test_block_waits_once_and_then_drops_until_there_is_room(
    open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    recorder = open_recorder(url=DOWN, on_full="block", block_s=0.3, spool_bytes_max=LIMIT)
    started_s = time.monotonic()
    kept = fill(recorder, 200)
    took_s = time.monotonic() - started_s
    assert 30 < kept < 200
    assert 0.3 <= took_s < 0.3 * (200 - kept) / 2  # It waited once, not for each.
    assert size_of(tmp_path) <= LIMIT + 4096


def test_block_loses_nothing_while_the_ledger_keeps_up(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder(on_full="block", block_s=30, spool_bytes_max=LIMIT)
    assert fill(recorder, 500) == 500
    assert recorder.flush(30)
    assert numbers(running.recorded(name)) == {recorder.status.instance: list(range(1, 501))}


def test_what_others_left_counts_towards_the_limit(
    open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    first = open_recorder(url=DOWN, on_full="drop", spool_bytes_max=LIMIT)
    kept = fill(first, 100)
    second = open_recorder(url=DOWN, on_full="drop", spool_bytes_max=LIMIT)
    second.record("a.b")
    until(lambda: session_of(second).spool.others_bytes > 0)
    assert fill(second, 100) < kept // 4
    assert size_of(tmp_path) <= LIMIT + 3 * 4096


DISK_FULL = """
import resource, signal, sys
from ledger_client import Recorder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
url, token, spool, policy, tenant, room = sys.argv[1:]
recorder = Recorder(url, token, spool=spool, policy=policy, actor="u_1", tenant=tenant,
                    on_full="drop", linger_s=0.01, fsync_interval_s=0.01)
assert recorder.record("a.b")
assert recorder.flush(30)
# From here on every file ends at so many bytes, as on a disk that fills up in mid-frame.
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), unlimited[1]))
kept = [recorder.record("a.b", reason="x" * 300) for _ in range(50)]
assert (None in kept) == (int(room) < 900)
waiting = recorder.status.in_memory
assert 0 < waiting == kept.count(None) or None not in kept
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
assert recorder.record("a.b")
assert recorder.close(30)
"""


@pytest.mark.parametrize("room", [10, 100, 500, 900])
def test_a_disk_that_fills_up_in_mid_frame_loses_nothing(
    running: Running, name: str, tmp_path: Path, room: int
) -> None:
    arguments = [running.url, running.token, tmp_path / "spool", running.policy, name, room]
    subprocess.run([sys.executable, "-c", DISK_FULL, *map(str, arguments)], check=True)
    events = running.recorded(name)
    for found in numbers(events).values():
        assert sorted(found) == list(range(1, len(found) + 1))
    assert len(events) == 52
    assert not (tmp_path / "spool" / "damaged").exists()


def told_of(events: list[dict[str, Any]]) -> list[int]:
    """The numbers that the notices among these events say were dropped."""
    return [
        number
        for event in events
        if event["action"] == "ledger.recorder.dropped"
        for first, last in event["context"]["dropped"]["numbers"]
        for number in range(first, last + 1)
    ]


def size_of(folder: Path) -> int:
    total = 0
    for path in files_below(folder / "spool", ".segment"):
        with suppress(FileNotFoundError):  # Its events have been sent meanwhile.
            total += path.stat().st_size
    return total


def send_what_is_left(open_recorder: OpenRecorder, folder: Path, **options: Any) -> bool:
    """Bring what is in the folder to the good ledger, by a recorder that records nothing."""
    recorder = open_recorder(**options)
    until(lambda: size_of(folder) == 0)
    return recorder.close(30)
