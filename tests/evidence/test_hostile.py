"""A file of evidence from a stranger costs no more than its size, whatever it states."""

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from ledger_core.evidence.bundle import EVENTS_MAX
from ledger_core.evidence.verifier import DIRECTORY_BYTES_MAX, check_evidence
from ledger_core.tlog.errors import MalformedError
from tests.evidence.test_verifier import POLICY, write

BOMB_BYTES = 1 << 26


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["events/000000000007.leaf.json", "checkpoint", "policy"])
def test_an_entry_that_is_not_deflated_is_refused_unread(
    tmp_path: Path, method: int, name: str
) -> None:
    path = tmp_path / "evidence.zip"
    write(path)
    with zipfile.ZipFile(path) as archive:
        files = {each: archive.read(each) for each in archive.namelist()}
    files[name] = bytes(BOMB_BYTES)
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in files.items():
            archive.writestr(each, data, method if each == name else None)
    assert path.stat().st_size < 1 << 16
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="not compressed with deflate"):
            check_evidence(path, POLICY)
        assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES // 8
    finally:
        tracemalloc.stop()


def test_a_deflated_bomb_is_read_up_to_the_limit_of_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "evidence.zip")
    bomb = {"events/000000000007.tlog-proof": bytes(BOMB_BYTES)}
    with zipfile.ZipFile(path) as archive:
        files = {each: archive.read(each) for each in archive.namelist()} | bomb
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in files.items():
            archive.writestr(each, data)
    tracemalloc.start()
    try:
        (fault,) = [f for f in check_evidence(path, POLICY).faults if "longer than" in f]
        assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES // 8
    finally:
        tracemalloc.stop()
    assert "000000000007.tlog-proof" in fault


def test_a_directory_with_an_absurd_number_of_files_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "evidence.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2 * EVENTS_MAX):
            archive.writestr(f"{number:090d}", b"")
    with pytest.raises(MalformedError, match=f"at most {DIRECTORY_BYTES_MAX}"):
        check_evidence(path, POLICY)
