"""The spool and its other side: numbered, in order, freed when told, read after a crash."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ledger_client.recording.options import SpoolClosedError
from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_dir import (
    InstanceDir,
    bytes_of_others,
    make_home,
    take_abandoned,
)
from ledger_client.recording.spool_reader import Damage, SpoolReader

INSTANCE = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
OTHER = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f51"
BODY = b"x" * 100


def make_spool(folder: Path, *, instance: str = INSTANCE, segment_bytes_max: int = 1000) -> Spool:
    return Spool(
        make_home(folder, instance),
        bytes_max=100_000,
        segment_bytes_max=segment_bytes_max,
        fsync="each",
    )


def fill(spool: Spool, count: int) -> None:
    for _ in range(count):
        spool.append(b"[", b"," + BODY)
    spool.sync_each()


def drain_of(spool: Spool, on_damage: Callable[[Damage], None] = lambda _: None) -> SpoolReader:
    return SpoolReader(spool.home, tip=lambda: spool.tip, on_freed=spool.freed, on_damage=on_damage)


def left_by(home: InstanceDir, on_damage: Callable[[Damage], None] = lambda _: None) -> SpoolReader:
    """A drain for a directory whose recorder is gone."""
    return SpoolReader(home, tip=lambda: None, on_freed=lambda _: None, on_damage=on_damage)


def read_all(drain: SpoolReader, count_max: int = 3) -> list[int]:
    found: list[int] = []
    while batch := drain.read(count_max):
        for frame in batch.frames:
            assert frame.sent_json == b"[%d,%b" % (frame.seq, BODY)
            found.append(frame.seq)
        drain.free(batch.end)
    return found


def crash(spool: Spool) -> InstanceDir:
    """Let go of a spool as the kernel does it for a killed process; then take it over."""
    spool.close()
    spool.home.leave()
    return next(take_abandoned(spool.home.path.parent))


def test_events_are_numbered_from_1_and_read_in_order(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    assert len(spool.home.segments()) > 2
    drain = drain_of(spool)
    assert read_all(drain) == list(range(1, 31))
    assert drain.read(1) is None
    fill(spool, 3)
    assert read_all(drain) == [31, 32, 33]


def test_what_is_freed_gives_room_back_and_its_files_go(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    before = spool.bytes_held
    assert before == sum(path.stat().st_size for path in spool.home.path.glob("*.segment"))
    read_all(drain_of(spool))
    assert spool.home.segments() == [spool.tip.segment]
    assert spool.bytes_held == spool.home.segment_path(spool.tip.segment).stat().st_size < before


def test_what_is_not_freed_is_read_again(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 5)
    drain = drain_of(spool)
    assert drain.read(2) == drain.read(2)


def test_after_a_crash_it_goes_on_where_the_ledger_has_got_to(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 30)
    drain = drain_of(spool)
    for _ in range(4):
        batch = drain.read(3)
        assert batch is not None
        drain.free(batch.end)
    drain = left_by(crash(spool))
    assert read_all(drain) == list(range(13, 31))
    drain.close(remove=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cursor", [b"", b"\0" * 20, b"\xff" * 20, b"12345"])
def test_without_its_cursor_everything_is_sent_again(tmp_path: Path, cursor: bytes) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 3)
    home = crash(spool)
    (home.path / "cursor").write_bytes(cursor)
    assert read_all(left_by(home)) == [1, 2, 3]


def test_a_last_frame_that_was_cut_off_anywhere_is_no_event_and_no_damage(tmp_path: Path) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 2)
    end_of_first = drain_of(spool).read(1)
    assert end_of_first is not None
    home = crash(spool)
    path = home.segment_path(1)
    whole = path.read_bytes()
    for cut in range(end_of_first.end.offset, len(whole)):
        path.write_bytes(whole[:cut])
        drain = left_by(home, damages.append)
        batch = drain.read(10)
        assert batch is not None
        assert [frame.seq for frame in batch.frames] == [1]
    for tail in (bytes(5000), whole[end_of_first.end.offset : -1] + b"\0"):
        path.write_bytes(whole[: end_of_first.end.offset] + tail)
        batch = left_by(home, damages.append).read(10)
        assert batch is not None
        assert [frame.seq for frame in batch.frames] == [1]
    drain = left_by(home, damages.append)
    assert read_all(drain) == [1]
    assert damages == []


@pytest.mark.parametrize("length", [0, 1, 20])
def test_a_segment_whose_first_line_was_cut_off_is_empty(tmp_path: Path, length: int) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 1)
    home = crash(spool)
    path = home.segment_path(1)
    path.write_bytes(path.read_bytes()[:length])
    assert read_all(left_by(home, damages.append)) == []
    assert damages == []


def test_damage_in_the_middle_is_told_and_kept_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    damages: list[Damage] = []
    spool = make_spool(tmp_path)
    fill(spool, 30)
    home = crash(spool)
    path = home.segment_path(2)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    found = read_all(left_by(home, damages.append))
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
    second.home.segment_path(1).write_bytes(first.home.segment_path(1).read_bytes())
    assert read_all(drain_of(second, damages.append)) == []
    assert len(damages) == 1


def test_nobody_takes_over_from_the_living(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    assert list(take_abandoned(tmp_path)) == []
    home = crash(spool)
    assert home.instance == INSTANCE
    assert list(take_abandoned(tmp_path)) == []


def test_others_count_towards_the_limit(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(make_spool(tmp_path, instance=OTHER), 8)
    spool.others_bytes = bytes_of_others(tmp_path, INSTANCE)
    assert spool.others_bytes > 8 * 100
    assert spool.has_room(99_000 - spool.others_bytes)
    assert not spool.has_room(100_000 - spool.others_bytes)


def test_a_closed_spool_takes_nothing_and_gives_no_number(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    fill(spool, 1)
    spool.close()
    with pytest.raises(SpoolClosedError):
        spool.append(b"", b"")
    with pytest.raises(SpoolClosedError):
        spool.take_number()


def test_a_disk_that_refuses_loses_no_number(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.home.path.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        spool.append(b"[", BODY)
    (tmp_path / "gone").rename(spool.home.path)
    fill(spool, 1)
    assert read_all(drain_of(spool)) == [1]


def test_only_the_owner_may_read_what_is_spooled(tmp_path: Path) -> None:
    spool = make_spool(tmp_path / "spool")
    fill(spool, 1)
    assert spool.home.path.stat().st_mode & 0o077 == 0
    assert spool.home.segment_path(1).stat().st_mode & 0o077 == 0
