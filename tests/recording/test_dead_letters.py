"""What a dead letter keeps, whatever a service names as the field that it refused."""

import json
import os
from pathlib import Path

import pytest

from ledger_client.recording.dead_letters import FILE_NAME, DeadLetters, redact
from ledger_core.api import Problem
from tests.recording.conftest import OpenRecorder

EVENT = {"action": "a.b", "context": {"a": "x"}, "targets": [{"id": "secret"}, {"id": "t_2"}]}


@pytest.mark.parametrize(
    "field",
    [
        'targets[0]["\\x"]',
        'targets["\\ud800"]',
        "targets.\N{SUPERSCRIPT TWO}",
        f"targets[{'9' * 5000}]",
        "targets",
        "targets[0].id.more",
    ],
)
def test_a_field_of_any_form_takes_the_refused_value_away(field: str) -> None:
    kept = redact(EVENT, Problem(type="#secret", detail="", field=field))
    assert "secret" not in str(kept)
    assert kept["action"] == "a.b"


def test_what_a_proxy_finds_too_large_is_kept_whole() -> None:
    # As `decode_problem` reads a page that is none of the ledger's.
    assert redact(EVENT, Problem(title="status 413", status=413)) == EVENT
    assert redact(EVENT, Problem(title="status 403", status=403)) != EVENT


def test_a_line_that_a_full_disk_cut_short_leaves_the_next_one_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetters(tmp_path)
    problem = Problem(type="#wrong-tenant", status=403, detail="x")

    def append(action: str) -> bool:
        return letters.append({"action": action}, problem, by="ledger", at="now")

    room = [40]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        done = os.pwritev(fd, [data[: room[0]]], os.fstat(fd).st_size)
        room[0] -= done
        return done

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space left"):
            append("a.cut")
    assert append("a.next")
    assert append("a.last")
    cut, *whole = (tmp_path / FILE_NAME).read_text().splitlines()
    assert len(cut) == 40
    assert [json.loads(line)["event"]["action"] for line in whole] == ["a.next", "a.last"]


@pytest.mark.parametrize(("fsync", "count"), [("each", 1), ("interval", 0), ("none", 0)])
def test_an_event_with_a_mistake_waits_for_the_disk_only_where_each_event_does(
    fsync: str,
    count: int,
    open_recorder: OpenRecorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = open_recorder(
        url="http://127.0.0.1:1", fsync=fsync, fsync_interval_s=3600.0, on_invalid="dead-letter"
    )
    synced = []
    sync = os.fdatasync

    def note(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    assert recorder.record("not an action") is None
    letters = tmp_path / "spool" / FILE_NAME
    assert "not an action" in letters.read_text()
    assert synced.count(str(letters)) == count
