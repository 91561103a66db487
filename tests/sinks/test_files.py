"""JSON lines in files: each entry once, whole lines, rotation, and a full disk."""

import json
import os
from pathlib import Path

from ledger.follow.position import Position
from ledger.runtime.records import write_record
from tests.sinks.sinking import ORIGIN, Folder, deliver, processes, running
from tests.waiting import until


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_each_line_is_the_leaf_with_index_leaf_hash_and_origin(
    folder: Folder, tmp_path: Path
) -> None:
    folder.append(count=300)
    out = tmp_path / "out.jsonl"
    folder.add("copy", type="file", path=str(out), batch_events=64)
    deliver(folder, "copy")
    lines = lines_of(out)
    assert [line["index"] for line in lines] == list(range(300))
    assert [line["leaf_hash"] for line in lines] == folder.leaf_hashes()
    assert {line["origin"] for line in lines} == {ORIGIN}
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_sink_goes_on_where_it_was(folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    folder.add("copy", type="file", path=str(out))
    for size in (3, 5, 9):
        folder.append(count=size - folder.size())
        deliver(folder, "copy")
    assert [line["index"] for line in lines_of(out)] == list(range(9))


def test_a_query_chooses_the_entries(folder: Folder, tmp_path: Path) -> None:
    folder.append({"action": "login.failed", "outcome": "failure"}, {}, {"action": "login.failed"})
    out = tmp_path / "out.jsonl"
    folder.add("copy", type="file", path=str(out), query="action:login.failed")
    deliver(folder, "copy")
    assert [line["index"] for line in lines_of(out)] == [0, 2]
    assert folder.report("copy").next_index == 3


def test_lines_of_somebody_else_are_appended_to(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=1)
    out = tmp_path / "out.jsonl"
    out.write_bytes(b'{"a":' + b"[" * 100_000 + b"\n")
    folder.add("copy", type="file", path=str(out))
    deliver(folder, "copy")
    assert json.loads(out.read_bytes().splitlines()[1])["index"] == 0


def test_a_torn_line_is_cut_off_and_sent_whole(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=4)
    out = tmp_path / "out.jsonl"
    paths = folder.add("copy", type="file", path=str(out))
    deliver(folder, "copy")
    # As a kill leaves it: a part of a line on the disk, and the position before it.
    os.truncate(out, out.stat().st_size - 17)
    moved = Position(next_index=3, last_leaf_hash=folder.leaf_hashes()[2])
    write_record(paths.position, moved)
    deliver(folder, "copy")
    assert [line["index"] for line in lines_of(out)] == [0, 1, 2, 3]


def test_files_are_rotated_and_named_by_their_indices(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=40)
    out = tmp_path / "out" / "audit.jsonl"
    out.parent.mkdir()
    folder.add("copy", type="file", path=str(out), batch_events=10, rotate_bytes=1)
    deliver(folder, "copy")
    names = sorted(path.name for path in out.parent.iterdir())
    assert names == [
        "audit.000000000000-000000000009.jsonl",
        "audit.000000000010-000000000019.jsonl",
        "audit.000000000020-000000000029.jsonl",
        "audit.jsonl",
    ]
    kept = [line["index"] for name in names for line in lines_of(out.parent / name)]
    assert kept == list(range(40))


def test_the_oldest_files_are_deleted(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=40)
    out = tmp_path / "out" / "audit.jsonl"
    out.parent.mkdir()
    folder.add("copy", type="file", path=str(out), batch_events=10, rotate_bytes=1, keep_files=1)
    deliver(folder, "copy")
    names = sorted(path.name for path in out.parent.iterdir())
    assert names == ["audit.000000000020-000000000029.jsonl", "audit.jsonl"]


def test_a_file_that_another_program_moved_is_begun_anew(folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    folder.add("copy", type="file", path=str(out))
    folder.append(count=2)
    with processes(folder, "copy"):
        until(lambda: folder.report("copy").next_index == 2)
        out.rename(tmp_path / "old.jsonl")
        folder.append(count=2)
        until(lambda: folder.report("copy").next_index == 4)
    assert [line["index"] for line in lines_of(tmp_path / "old.jsonl")] == [0, 1]
    assert [line["index"] for line in lines_of(out)] == [2, 3]


def test_a_folder_that_is_not_there_is_waited_for(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=2)
    out = tmp_path / "mount" / "out.jsonl"
    folder.add("copy", type="file", path=str(out), retry_max_s=0.05)
    with running(folder, "copy"):
        until(lambda: "No such file" in folder.report("copy").state.error)
        assert folder.report("copy").next_index == 0
        out.parent.mkdir()
        until(lambda: folder.report("copy").next_index == 2)
    assert [line["index"] for line in lines_of(out)] == [0, 1]


def test_a_path_that_is_no_regular_file_is_refused(folder: Folder) -> None:
    folder.append(count=2)
    folder.add("copy", type="file", path="/dev/zero", retry_max_s=0.05)
    with running(folder, "copy"):
        until(lambda: "not a regular file" in folder.report("copy").state.error)
