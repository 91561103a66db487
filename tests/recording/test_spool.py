"""The spool and its other side: numbered, in order, freed when told, read after a crash."""

import errno
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ledger_client.recording.dead_letters import FILE_NAME, DeadLetters
from ledger_client.recording.encoding import EncodedEvent
from ledger_client.recording.meta_events import MetaEvents
from ledger_client.recording.open_segment import Position
from ledger_client.recording.options import Fsync, SpoolClosedError
from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_dir import (
    STALE_NEW_S,
    InstanceDir,
    adopt_orphans,
    bytes_of_other_instances,
    create_instance_dir,
)
from ledger_client.recording.spool_reader import Damage, SpoolReader, count_waiting
from ledger_client.recording.synced_marks import MARKS_FILE
from ledger_client.recording.unsynced import BYTES_MAX, Unsynced, UnsyncedFrames
from ledger_client.runtime.files import FileLock
from ledger_core.api import Problem
from tests.files import flip_bit

INSTANCE = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
OTHER = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f51"
BODY = b"x" * 100
EVENT = EncodedEvent(b"[", BODY)


unwritten: list[EncodedEvent] = []
"""What `on_unwritten` of a spool of these tests got."""


def make_spool(
    folder: Path,
    *,
    instance: str = INSTANCE,
    segment_bytes_max: int = 1000,
    fsync: Fsync = "each",
) -> Spool:
    return Spool(
        create_instance_dir(folder, instance),
        bytes_max=100_000,
        segment_bytes_max=segment_bytes_max,
        fsync=fsync,
        on_unwritten=lambda event, _: unwritten.append(event),
    )


def fill(spool: Spool, count: int) -> None:
    for _ in range(count):
        spool.append(EVENT)
    spool.sync()


def reader_of(spool: Spool, on_damage: Callable[[Damage], None] = lambda _: None) -> SpoolReader:
    return SpoolReader(
        spool.instance_dir,
        batch_events=100,
        end_position=lambda: spool.end_position,
        on_freed=spool.note_freed,
        on_damage=on_damage,
    )


def orphan_reader(
    instance_dir: InstanceDir, on_damage: Callable[[Damage], None] = lambda _: None
) -> SpoolReader:
    """A reader for a directory whose recorder is gone."""
    return SpoolReader(
        instance_dir,
        batch_events=100,
        end_position=lambda: None,
        on_freed=lambda _: None,
        on_damage=on_damage,
    )


def read_all(reader: SpoolReader, count_max: int = 3) -> list[int]:
    found: list[int] = []
    while batch := reader.read(count_max):
        for frame in batch.frames:
            assert frame.sent_json == EVENT.numbered(
                reader.instance_dir.instance.encode(), frame.seq
            )
            found.append(frame.seq)
        reader.free(batch.end)
    return found


def crash(spool: Spool) -> InstanceDir:
    """Let go of a spool as the kernel does it for a killed process; then take it over."""
    spool.close_files()
    spool.instance_dir.release_lock()
    return next(adopt_orphans(spool.instance_dir.path.parent))


def test_events_are_numbered_from_1_and_read_in_order(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    assert len(spool.instance_dir.segment_numbers()) > 2
    reader = reader_of(spool)
    assert read_all(reader) == list(range(1, 31))
    assert reader.read(1) is None
    fill(spool, 3)
    assert read_all(reader) == [31, 32, 33]


def test_what_is_freed_gives_room_back_and_its_files_go(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    before = spool.bytes_held
    assert before == sum(path.stat().st_size for path in spool.instance_dir.path.glob("*.segment"))
    read_all(reader_of(spool))
    assert spool.instance_dir.segment_numbers() == [spool.end_position.segment]
    assert (
        spool.bytes_held
        == spool.instance_dir.segment_path(spool.end_position.segment).stat().st_size
        < before
    )


def test_what_is_not_freed_is_read_again(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 5)
    reader = reader_of(spool)
    assert reader.read(2) == reader.read(2)


def test_after_a_crash_it_goes_on_where_the_ledger_has_got_to(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    reader = reader_of(spool)
    for _ in range(4):
        batch = reader.read(3)
        assert batch is not None
        reader.free(batch.end)
    reader = orphan_reader(crash(spool))
    assert read_all(reader) == list(range(13, 31))
    reader.close(remove=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cursor", [b"", b"\0" * 20, b"\xff" * 20, b"12345"])
def test_without_its_cursor_everything_is_sent_again(tmp_path: Path, cursor: bytes) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 3)
    orphan = crash(spool)
    (orphan.path / "cursor").write_bytes(cursor)
    assert read_all(orphan_reader(orphan)) == [1, 2, 3]


def test_a_last_frame_that_was_cut_off_anywhere_is_no_event_and_no_damage(tmp_path: Path) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 1)
    # Its `record` has not returned, or it is one of fsync="none".
    spool.append(EVENT)
    end_of_first = reader_of(spool).read(1)
    assert end_of_first is not None
    orphan = crash(spool)
    path = orphan.segment_path(1)
    whole = path.read_bytes()
    for cut in range(end_of_first.end.offset, len(whole)):
        path.write_bytes(whole[:cut])
        reader = orphan_reader(orphan, damages.append)
        batch = reader.read(10)
        assert batch is not None
        assert [frame.seq for frame in batch.frames] == [1]
    for tail in (bytes(5000), whole[end_of_first.end.offset : -1] + b"\0"):
        path.write_bytes(whole[: end_of_first.end.offset] + tail)
        batch = orphan_reader(orphan, damages.append).read(10)
        assert batch is not None
        assert [frame.seq for frame in batch.frames] == [1]
    reader = orphan_reader(orphan, damages.append)
    assert read_all(reader) == [1]
    assert damages == []


@pytest.mark.parametrize("length", [0, 1, 20])
def test_a_segment_whose_first_line_was_cut_off_is_empty(tmp_path: Path, length: int) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    spool.append(EVENT)
    orphan = crash(spool)
    path = orphan.segment_path(1)
    path.write_bytes(path.read_bytes()[:length])
    assert read_all(orphan_reader(orphan, damages.append)) == []
    assert damages == []


@pytest.mark.parametrize("tail", ["cut", "zeros", "older"])
@pytest.mark.parametrize("at", [0, 30, 200, -1])
def test_a_segment_that_lost_what_was_synced_is_reported_however_it_ends(
    tmp_path: Path, tail: str, at: int
) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 1)
    older = spool.instance_dir.segment_path(1).read_bytes()
    fill(spool, 3)
    orphan = crash(spool)
    path = orphan.segment_path(1)
    whole = path.read_bytes()
    left = whole[:at] + bytes(len(whole[at:]) if tail == "zeros" else 0)
    path.write_bytes(older if tail == "older" else left)
    reader = orphan_reader(orphan, damages.append)
    found = read_all(reader)
    assert found == list(range(1, len(found) + 1))
    assert len(found) < 4
    (damage,) = damages
    assert (damage.instance, damage.segment) == (INSTANCE, 1)
    assert damage.bytes_lost > 0
    assert (tmp_path / "damaged" / f"{INSTANCE}.1.segment").exists()


@pytest.mark.parametrize("marks", [None, b"", b"\0" * 20, b"\xff" * 20, b"12345"])
def test_a_spool_of_an_earlier_version_has_no_marks_and_is_read(
    tmp_path: Path, marks: bytes | None
) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 2)
    orphan = crash(spool)
    (orphan.path / MARKS_FILE).unlink()
    if marks is not None:
        (orphan.path / MARKS_FILE).write_bytes(marks)
    orphan.segment_path(1).write_bytes(orphan.segment_path(1).read_bytes()[:-1])
    assert read_all(orphan_reader(orphan, damages.append)) == [1]
    assert damages == []


def test_damage_in_the_middle_is_told_and_kept_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 30)
    orphan = crash(spool)
    path = orphan.segment_path(2)
    data = flip_bit(path, at=200)
    found = read_all(orphan_reader(orphan, damages.append))
    per_segment = len(set(range(1, 31)) - set(found))
    assert 0 < per_segment < 10
    assert found == sorted(found)
    assert found[-1] == 30
    (damage,) = damages
    assert (damage.instance, damage.segment) == (INSTANCE, 2)
    aside = tmp_path / "damaged" / f"{INSTANCE}.2.segment"
    assert aside.read_bytes() == data


def test_a_file_of_another_recorder_is_not_read_as_ones_own(tmp_path: Path) -> None:
    damages: list[Damage] = []
    first, second = make_spool(tmp_path), make_spool(tmp_path, instance=OTHER)
    fill(first, 2)
    fill(second, 1)
    second.instance_dir.segment_path(1).write_bytes(first.instance_dir.segment_path(1).read_bytes())
    assert read_all(reader_of(second, damages.append)) == []
    assert len(damages) == 1


def test_nobody_takes_over_from_the_living(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    assert list(adopt_orphans(tmp_path)) == []
    orphan = crash(spool)
    assert orphan.instance == INSTANCE
    assert list(adopt_orphans(tmp_path)) == []


def test_others_count_towards_the_limit(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(make_spool(tmp_path, instance=OTHER), 8)
    spool.others_bytes = bytes_of_other_instances(tmp_path, INSTANCE)
    assert spool.others_bytes > 8 * 100
    assert spool.has_room(99_000 - spool.others_bytes)
    assert not spool.has_room(100_000 - spool.others_bytes)


def test_a_closed_spool_takes_nothing_and_gives_no_number(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    spool.close()
    with pytest.raises(SpoolClosedError):
        spool.append(EVENT)
    with pytest.raises(SpoolClosedError):
        spool.skip_number()


def test_a_disk_that_refuses_loses_no_number(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.instance_dir.path.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        spool.append(EVENT)
    (tmp_path / "gone").rename(spool.instance_dir.path)
    fill(spool, 1)
    assert read_all(reader_of(spool)) == [1]


def test_only_the_owner_may_read_what_is_spooled(tmp_path: Path) -> None:
    spool = make_spool(tmp_path / "spool")
    fill(spool, 1)
    assert spool.instance_dir.path.stat().st_mode & 0o077 == 0
    assert spool.instance_dir.segment_path(1).stat().st_mode & 0o077 == 0


class Disk:
    """Stands in for `os.write`: writes some bytes of a frame, then runs something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = os.write
        self._interruptions: list[tuple[int, Callable[[], None]]] = []
        monkeypatch.setattr(os, "write", self.write)

    def interrupt(self, then: Callable[[], None], *, after_bytes: int = 0) -> None:
        """At the next write that isn't interrupted yet."""
        self._interruptions.append((after_bytes, then))

    def write(self, fd: int, data: bytes) -> int:
        if not self._interruptions:
            return self._write(fd, data)
        after_bytes, then = self._interruptions.pop(0)
        done = self._write(fd, data[:after_bytes])
        then()
        return done


def refuse() -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_number_that_a_signal_handler_skipped_during_a_failed_write_is_not_given_out_again(
    tmp_path: Path, disk: Disk
) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    skipped: list[int] = []

    def handle_signal_and_fail() -> None:
        skipped.append(spool.skip_number())
        refuse()

    disk.interrupt(handle_signal_and_fail)
    disk.interrupt(refuse)  # The attempt in a new file, whose header can't be written either.
    with pytest.raises(OSError, match="no space"):
        spool.append(EVENT)
    assert skipped == [3]
    fill(spool, 1)
    assert read_all(reader_of(spool)) == [1, 4]


def test_a_failed_write_gives_its_number_back(tmp_path: Path, disk: Disk) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    disk.interrupt(refuse)
    disk.interrupt(refuse)
    with pytest.raises(OSError, match="no space"):
        spool.append(EVENT)
    fill(spool, 1)
    assert read_all(reader_of(spool)) == [1, 2]


@pytest.mark.parametrize("after_bytes", [0, 1, 50, 10_000])
def test_an_exception_of_a_signal_handler_in_mid_frame_damages_no_later_frame(
    tmp_path: Path, disk: Disk, after_bytes: int
) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 1)
    disk.interrupt(press_ctrl_c, after_bytes=after_bytes)
    with pytest.raises(KeyboardInterrupt):
        spool.append(EVENT)
    fill(spool, 2)
    whole = [2] if after_bytes == 10_000 else []
    assert read_all(reader_of(spool, damages.append)) == [1, *whole, 3, 4]
    assert damages == []


@pytest.mark.parametrize("after_bytes", [0, 1, 50, 10_000])
@pytest.mark.parametrize("writes_before", [0, 1])
def test_nor_does_one_in_the_header_or_the_first_frame_of_a_new_file(
    tmp_path: Path, disk: Disk, writes_before: int, after_bytes: int
) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path, segment_bytes_max=1)
    fill(spool, 1)
    if writes_before:
        disk.interrupt(lambda: None, after_bytes=10_000)  # The header is written.
    disk.interrupt(press_ctrl_c, after_bytes=after_bytes)
    with pytest.raises(KeyboardInterrupt):
        spool.append(EVENT)
    spool._segment_bytes_max = 1000  # type: ignore[misc] # the next events share a file
    fill(spool, 2)
    whole = [2] if writes_before and after_bytes == 10_000 else []
    assert read_all(reader_of(spool, damages.append)) == [1, *whole, 3, 4]
    assert damages == []


@pytest.mark.parametrize("frames_before", [0, 1])
def test_a_half_frame_that_can_not_be_cut_off_ends_its_file(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, frames_before: int
) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, frames_before)
    if not frames_before:
        disk.interrupt(lambda: None, after_bytes=10_000)  # The header is written.
    disk.interrupt(lambda: None, after_bytes=20)
    disk.interrupt(refuse)
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: refuse())
        spool.append(EVENT)
    fill(spool, 1)
    assert read_all(reader_of(spool, damages.append)) == list(range(1, frames_before + 3))
    assert damages == []
    assert spool.end_position.segment == 2


def test_a_full_disk_does_not_collect_files_without_frames(tmp_path: Path, disk: Disk) -> None:
    spool = make_spool(tmp_path)
    disk.interrupt(lambda: None, after_bytes=10_000)  # The header is written.
    for _ in range(10):
        disk.interrupt(refuse)
        with pytest.raises(OSError, match="no space"):
            spool.append(EVENT)
    assert spool.instance_dir.segment_numbers() == [1]
    fill(spool, 1)
    assert read_all(reader_of(spool)) == [1]


def test_a_file_that_a_write_failed_in_is_ended_and_the_event_goes_into_a_new_one(
    tmp_path: Path, disk: Disk
) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    disk.interrupt(lambda: None, after_bytes=20)
    disk.interrupt(refuse)
    spool.append(EVENT)
    assert spool.instance_dir.segment_numbers() == [1, 2]
    assert read_all(reader_of(spool)) == [1, 2]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls that sync, in their order."""
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def sync(fd: int, name: str = name, real: Callable[[int], None] = real) -> None:
            synced.append(name)
            real(fd)

        monkeypatch.setattr(os, name, sync)
    return synced


@pytest.mark.parametrize(
    ("fsync", "calls"),
    [("each", ["fdatasync", "fsync"]), ("interval", ["fdatasync", "fsync"]), ("none", [])],
)
def test_what_is_closed_is_durable_unless_nothing_is_to_be_synced(
    tmp_path: Path, synced: list[str], fsync: Fsync, calls: list[str]
) -> None:
    spool = make_spool(tmp_path, fsync=fsync)
    synced.clear()
    spool.append(EVENT)
    assert synced == []
    spool.close()
    assert synced == calls
    assert read_all(reader_of(spool)) == [1]


def test_a_new_file_is_durable_with_its_name_and_an_old_one_costs_no_second_sync_of_it(
    tmp_path: Path, synced: list[str]
) -> None:
    spool = make_spool(tmp_path, segment_bytes_max=500)
    synced.clear()
    fill(spool, 1)
    assert synced == ["fdatasync", "fsync"]
    fill(spool, 1)
    assert synced == ["fdatasync", "fsync", "fdatasync"]
    spool.sync()
    assert synced == ["fdatasync", "fsync", "fdatasync"]
    fill(spool, 3)
    assert spool.end_position.segment == 2
    # The file that is full, the new one, and the name of the new one.
    assert synced[3:] == ["fdatasync", "fdatasync", "fsync"]


def test_a_segment_that_the_cursor_has_passed_is_removed_unread(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    orphan = crash(spool)
    kept = orphan.segment_path(1).read_bytes()
    reader = orphan_reader(orphan)
    assert read_all(reader) == list(range(1, 31))
    orphan.segment_path(1).write_bytes(kept)  # As when a crash came before its removal.
    freed: list[int] = []
    again = SpoolReader(
        orphan,
        batch_events=100,
        end_position=lambda: None,
        on_freed=freed.append,
        on_damage=lambda _: None,
    )
    assert again.read(1) is None
    assert freed == [len(kept)]
    assert orphan.segment_numbers() == []


def test_a_file_with_private_values_is_sealed_once_all_of_it_is_freed(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    spool.rotate(spool.end_position)
    assert spool.end_position.segment == 1
    spool.append(EncodedEvent(b'{"event":{', b'},"private":[]}'))
    spool.rotate(None)
    spool.rotate(Position(1, spool.end_position.offset - 1))
    assert spool.end_position.segment == 1
    spool.rotate(spool.end_position)
    assert spool.end_position == Position(2, 0)


def test_a_directory_that_was_never_renamed_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name, age_s in ((f".new-{INSTANCE}", STALE_NEW_S + 60), (f".new-{OTHER}", 60)):
        (tmp_path / name).mkdir()
        then_s = time.time() - age_s
        os.utime(tmp_path / name, (then_s, then_s))
    assert list(adopt_orphans(tmp_path)) == []
    assert [path.name for path in tmp_path.iterdir()] == [f".new-{OTHER}"]


def test_a_second_file_of_one_name_is_set_aside_under_another(tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    taken = tmp_path / "damaged" / f"{INSTANCE}.1.segment"
    taken.write_text("an earlier one")
    spool = make_spool(tmp_path)
    fill(spool, 2)
    orphan = crash(spool)
    data = flip_bit(orphan.segment_path(1), at=100)
    assert read_all(orphan_reader(orphan)) == []
    assert taken.read_text() == "an earlier one"
    assert taken.with_name(f"{taken.name}.1").read_bytes() == data


@pytest.mark.parametrize(
    ("mode", "is_moved_there"), [(0o777, False), (0o1777, False), (0o770, True)]
)
def test_damaged_events_go_to_no_folder_of_another_user(
    tmp_path: Path, mode: int, is_moved_there: bool
) -> None:
    """A link that somebody made in a folder that is open to all names a folder of theirs."""
    theirs, folder = tmp_path / "theirs", tmp_path / "spool"
    theirs.mkdir()
    folder.mkdir()
    folder.chmod(mode)
    (folder / "damaged").symlink_to(theirs)
    spool = make_spool(folder)
    fill(spool, 2)
    orphan = crash(spool)
    data = flip_bit(orphan.segment_path(1), at=100)
    assert read_all(orphan_reader(orphan)) == []
    (moved,) = tmp_path.rglob(f"{INSTANCE}.1.segment")
    assert (moved.parent == theirs) == is_moved_there
    assert moved.read_bytes() == data
    if not is_moved_there:
        assert moved.parent.parent == folder
        assert moved.parent.stat().st_mode & 0o777 == 0o700


def test_drops_during_a_report_of_drops_are_reported_too(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    reported: list[list[list[int]]] = []

    def write(fields: dict[str, Any]) -> None:
        reported.append(fields["context"]["dropped"]["numbers"])
        if len(reported) == 1:
            meta_events.note_dropped(3)  # By a signal handler.

    meta_events = MetaEvents(spool, write)
    for seq in (1, 2):
        meta_events.note_dropped(seq)
    meta_events.flush()
    assert reported == [[[1, 2]], [[1, 3]]]
    assert not meta_events.is_pending


def test_an_event_of_a_signal_handler_is_kept_when_the_interrupted_one_can_not_be_written(
    tmp_path: Path, disk: Disk
) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)

    def handle_signal_and_fail() -> None:
        spool.append(EncodedEvent(b"(", BODY))
        refuse()

    disk.interrupt(handle_signal_and_fail)
    disk.interrupt(refuse)  # The attempt in a new file, whose header can't be written either.
    with pytest.raises(OSError, match="no space"):
        spool.append(EVENT)
    batch = reader_of(spool).read(9)
    rest = reader_of(spool)
    found = []
    while batch := rest.read(9):
        found += [(frame.seq, frame.sent_json[:1]) for frame in batch.frames]
        rest.free(batch.end)
    assert found == [(1, b"["), (2, b"(")]


def test_an_event_of_a_signal_handler_that_can_not_be_written_is_handed_on_once(
    tmp_path: Path, disk: Disk
) -> None:
    unwritten.clear()
    spool = make_spool(tmp_path)
    fill(spool, 1)
    inner = EncodedEvent(b"(", BODY)

    def handle_signal_and_write() -> None:
        spool.append(inner)

    disk.interrupt(handle_signal_and_write)  # Nothing of the frame, and the write goes on.
    disk.interrupt(lambda: None, after_bytes=10_000)
    for _ in range(2):
        disk.interrupt(refuse)  # The inner event, in this file and in a new one.
    spool.append(EVENT)
    assert unwritten == [inner]
    fill(spool, 1)
    assert read_all(reader_of(spool)) == [1, 2, 3]


def test_frames_are_unsynced_until_they_are_forgotten() -> None:
    frames = UnsyncedFrames()
    for place in range(1, 6):
        frames.add(Unsynced(place, place, BODY))
    frames.forget_until(2)
    frames.forget_until(2)
    assert [frame.place for frame in frames] == [3, 4, 5]
    frames.forget(4)
    frames.forget(4)
    assert [frame.place for frame in frames] == [3, 5]
    frames.add(Unsynced(6, 6, bytes(BYTES_MAX)))
    assert [frame.place for frame in frames] == [6]
    frames.forget(None)
    assert list(frames) == []
    frames.forget_until(9)
    frames.add(Unsynced(7, 7, bytes(BYTES_MAX)))
    assert [frame.place for frame in frames] == [7]


def test_a_link_in_the_spool_is_not_adopted_and_its_files_stay(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1.segment").write_bytes(b"somebody's")
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / INSTANCE).symlink_to(elsewhere)
    assert list(adopt_orphans(folder)) == []
    assert (elsewhere / "1.segment").read_bytes() == b"somebody's"


def test_a_directory_that_was_put_in_the_place_of_another_keeps_its_files(tmp_path: Path) -> None:
    mine = create_instance_dir(tmp_path / "spool", INSTANCE)
    (mine.path / "cursor").touch()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    mine.path.rename(tmp_path / "aside")
    mine.path.symlink_to(theirs)
    mine.remove()
    assert (theirs / "kept").exists()
    assert list((tmp_path / "aside").iterdir()) == []


@pytest.mark.parametrize(("mode", "adopted"), [(0o777, 0), (0o1777, 0), (0o700, 1), (0o770, 1)])
def test_what_another_user_left_in_a_folder_that_is_open_to_all_is_not_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, adopted: int
) -> None:
    create_instance_dir(tmp_path, INSTANCE).release_lock()
    tmp_path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    orphans = list(adopt_orphans(tmp_path))
    assert len(orphans) == adopted
    for orphan in orphans:
        orphan.remove()


@pytest.mark.parametrize(("mode", "is_written"), [(0o777, False), (0o1777, False), (0o770, True)])
def test_dead_letters_are_not_written_to_the_file_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_written: bool
) -> None:
    tmp_path.chmod(mode)
    (tmp_path / FILE_NAME).touch(mode=0o666)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    letters = DeadLetters(tmp_path)
    with nullcontext() if is_written else pytest.raises(PermissionError, match="another user"):
        letters.append({"action": "a.b"}, Problem(type="#id-conflict"), by="ledger", at="now")
    assert bool((tmp_path / FILE_NAME).stat().st_size) == is_written


def test_dead_letters_and_locks_follow_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    for name in (FILE_NAME, "lock"):
        (tmp_path / name).symlink_to(victim)
    problem = Problem(type="#x", detail="x")
    with pytest.raises(OSError, match="symbolic"):
        DeadLetters(tmp_path).append({}, problem, by="", at="")
    with pytest.raises(OSError, match="symbolic"):
        FileLock(tmp_path / "lock", holder="me")
    assert victim.read_bytes() == b"kept"


def test_a_directory_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = tmp_path / INSTANCE
    taken.mkdir()
    (taken / "1.segment").write_text("of somebody else")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="not empty"):
        create_instance_dir(tmp_path, INSTANCE)
    assert list(tmp_path.iterdir()) == [taken]
    assert [path.name for path in taken.iterdir()] == ["1.segment"]
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_directory_is_removed_once_it_is_gone_or_another_one_has_its_name(tmp_path: Path) -> None:
    mine = create_instance_dir(tmp_path, INSTANCE)
    answers = [mine.is_removed]
    mine.path.rmdir()
    answers.append(mine.is_removed)
    mine.path.mkdir()
    answers.append(mine.is_removed)
    mine.release_lock()
    assert answers == [False, True, True]


def test_only_what_is_behind_the_cursor_is_counted_as_waiting(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    assert count_waiting(tmp_path) == 30
    reader = reader_of(spool)
    batch = reader.read(5)
    assert batch is not None
    reader.free(batch.end)
    assert count_waiting(tmp_path) == 30 - len(batch.frames)


def test_a_segment_that_a_crash_left_behind_the_cursor_hides_no_later_one(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    first, sent = spool.instance_dir.segment_path(1), 0
    content = first.read_bytes()
    reader = reader_of(spool)
    while first.exists():
        batch = reader.read(3)
        assert batch is not None
        reader.free(batch.end)
        sent = batch.frames[-1].seq
    orphan = crash(spool)
    first.write_bytes(content)
    assert read_all(orphan_reader(orphan)) == list(range(sent + 1, 31))


def test_zeros_to_the_end_of_a_file_are_no_damage(tmp_path: Path) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 3)
    orphan = crash(spool)
    with orphan.segment_path(1).open("ab") as file:
        file.write(bytes(200))
    assert read_all(orphan_reader(orphan, damages.append)) == [1, 2, 3]
    assert damages == []
