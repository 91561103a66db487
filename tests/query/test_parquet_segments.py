"""Full segments as Parquet are made off the path of appends, whole or not at all."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from ledger.query import parquet_segments
from ledger.query.parquet_segments import ParquetBuilder, sealed_files
from ledger.store.log import DamagedBundleError, LogStore
from ledger_client.sql.columns import COLUMNS
from ledger_core.tlog.errors import UnavailableError
from tests.store.entries import entries, new_log
from tests.waiting import until

WAIT_S = 120.0
SEGMENT = 256
SIZE = 3 * SEGMENT + 5


@pytest.fixture
def log(tmp_path: Path) -> LogStore:
    writer = new_log(tmp_path / "log")
    writer.commit(entries(0, SIZE))
    return writer.store


def seal_all(log: LogStore, folder: Path) -> list[int]:
    """The segments in the order in which they were sealed."""
    sealed = []
    with closing(ParquetBuilder(log, folder, segment_entries=SEGMENT)) as builder:
        while missing := builder.missing():
            sealed.append(missing[-1])
            builder.seal(missing[-1])
    return sealed


def rows(paths: list[Path]) -> list[tuple[int, str]]:
    with duckdb.connect() as connection:
        return connection.execute(
            'SELECT "index", leaf_hash FROM read_parquet(?) ORDER BY "index"',
            [list(map(str, paths))],
        ).fetchall()


def test_each_full_segment_has_a_file_with_its_entries(log: LogStore, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    assert seal_all(log, folder) == [2, 1, 0]
    found = sealed_files(log, folder, SIZE, segment_entries=SEGMENT)
    assert found.missing == []
    expected = [(n, each.leaf_hash.hex()) for n, each in enumerate(entries(0, 3 * SEGMENT))]
    assert rows(found.files) == expected
    assert {path.name for path in folder.iterdir()} == {"lock", *(p.name for p in found.files)}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in found.files)
    with duckdb.connect() as connection:
        described = connection.execute(f"DESCRIBE SELECT * FROM '{found.files[0]}'").fetchall()
    assert tuple(name for name, *_ in described) == COLUMNS
    assert seal_all(log, folder) == []


def test_a_file_of_other_entries_is_not_read_and_is_replaced(log: LogStore, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    seal_all(log, folder)
    found = sealed_files(log, folder, SIZE, segment_entries=SEGMENT)
    other = found.files[1].with_name(f"00000001.{'0' * 16}.v1.parquet")
    found.files[1].rename(other)
    assert sealed_files(log, folder, SIZE, segment_entries=SEGMENT).missing == [1]
    assert seal_all(log, folder) == [1]
    assert not other.exists()


def test_a_damaged_file_is_not_read(log: LogStore, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    seal_all(log, folder)
    file = sealed_files(log, folder, SIZE, segment_entries=SEGMENT).files[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = sealed_files(log, folder, SIZE, segment_entries=SEGMENT)
    assert (found.missing, found.damaged) == ([1], [file])
    assert file not in found.files
    file.unlink()
    assert seal_all(log, folder) == [1]
    assert sealed_files(log, folder, SIZE, segment_entries=SEGMENT).files[1] == file


def test_a_file_of_the_first_version_has_no_checksum_and_is_made_anew(
    log: LogStore, tmp_path: Path
) -> None:
    folder = tmp_path / "parquet"
    seal_all(log, folder)
    file = sealed_files(log, folder, SIZE, segment_entries=SEGMENT).files[0]
    name = ".".join((*file.name.split(".")[:3], "parquet"))
    file.rename(folder / name)
    assert seal_all(log, folder) == [0]
    assert not (folder / name).exists()


def test_what_a_killed_process_left_is_removed(log: LogStore, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    left = folder / ".making-abc"
    left.mkdir(parents=True)
    (left / "lines").write_text("half of it")
    assert len(seal_all(log, folder)) == 3
    assert not left.exists()


def test_one_process_at_a_time_makes_files(log: LogStore, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    with (
        closing(ParquetBuilder(log, folder)),
        pytest.raises(UnavailableError, match="being written by process"),
    ):
        ParquetBuilder(log, folder)


def test_a_segment_that_cannot_be_read_is_left_out(
    log: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = parquet_segments.write_lines

    def damaged(log: LogStore, start: int, *rest: object) -> None:
        if start == SEGMENT:
            raise DamagedBundleError(1, "a flipped bit")
        read(log, start, *rest)  # type: ignore[arg-type]  # What it was called with.

    monkeypatch.setattr(parquet_segments, "write_lines", damaged)
    assert seal_all(log, tmp_path / "parquet") == [2, 1, 0]
    found = sealed_files(log, tmp_path / "parquet", SIZE, segment_entries=SEGMENT)
    assert found.missing == [1]


def wait_for(path: Path) -> None:
    until(path.exists)


def test_the_follower_ends_when_its_parent_has_ended(log: LogStore, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", parquet_segments.__name__, tmp_path / "log", tmp_path / "parquet"],
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    wait_for(tmp_path / "parquet" / "lock")
    process.stdin.close()
    assert process.wait(WAIT_S) == 0
