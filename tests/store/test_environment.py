"""A copy of an environment has all rows of its snapshot; a full disk is no broken one."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

from ledger.store import readers_file
from ledger.store.commit_errors import (
    CommitFailedError,
    CommitUndoneError,
    StorageFullError,
    commit_errors,
    disk_error,
)
from ledger.store.drafts import READERS_FILE
from ledger.store.environment import COPIED_ROWS, Environment, create_environment
from ledger.store.readers_file import READERS_BYTES
from ledger.store.tokens import AccessStore, create_access
from tests.store.entries import MAP_BYTES

NAMES = [b"meta", b"rows"]
FULL_BYTES = 1 << 20


def test_a_copy_has_the_rows_of_its_snapshot(tmp_path: Path) -> None:
    create_environment(tmp_path / "e", NAMES, meta={b"name": b"x"}, map_bytes=MAP_BYTES)
    rows = [(number.to_bytes(4, "big"), b"%d" % number) for number in range(2 * COPIED_ROWS + 1)]
    source = Environment.open(tmp_path / "e", NAMES, readonly=False, map_bytes=MAP_BYTES)
    with source.write() as transaction:
        for key, value in rows:
            transaction.put(b"rows", key, value)
    with source.read() as snapshot:
        with source.write() as later:
            later.put(b"rows", b"later", b"")
        source.copy_snapshot(snapshot, tmp_path / "copy")
        meta = list(snapshot.rows(b"meta"))
    source.close()
    copy = Environment.open(tmp_path / "copy", NAMES, readonly=True)
    with copy.read() as transaction:
        assert list(transaction.rows(b"rows")) == rows
        assert list(transaction.rows(b"meta")) == meta
    assert copy._raw.info()["map_size"] == 1 << 40
    copy.close()


@pytest.mark.parametrize(
    ("code", "free", "is_full"),
    [
        (errno.ENOSPC, FULL_BYTES, True),
        (errno.EDQUOT, FULL_BYTES, True),
        # LMDB reports a short write so.
        (errno.EIO, FULL_BYTES - 1, True),
        (errno.EIO, FULL_BYTES, False),
        (errno.EROFS, FULL_BYTES - 1, False),
    ],
)
def test_a_full_disk_is_told_from_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free: int, is_full: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    error = disk_error(OSError(code, os.strerror(code)), tmp_path)
    assert isinstance(error, CommitUndoneError)
    assert isinstance(error, StorageFullError) == is_full


def test_a_copy_to_a_full_disk_is_said_to_have_met_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB reports a short write as EIO; the folder of a copy is not there yet."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=1))
    error = lmdb.Error("mdb_txn_commit: Input/output error")
    setattr(error, "code", errno.EIO)  # noqa: B010 - LMDB sets it so
    copy = tmp_path / "copy"
    with (
        pytest.raises(CommitFailedError, match="copy failed: the disk is full"),
        commit_errors(copy),
    ):
        raise error


def test_all_of_the_file_of_readers_is_on_the_disk_before_it_is_mapped(tmp_path: Path) -> None:
    """A page of it without a place on a full disk is a SIGBUS."""
    folder = tmp_path / "e"
    create_environment(folder, NAMES, meta={}, map_bytes=MAP_BYTES)
    with closing(Environment.open(folder, NAMES, readonly=True, map_bytes=MAP_BYTES)):
        status = (folder / READERS_FILE).stat()
        assert status.st_size == READERS_BYTES
        assert status.st_blocks * 512 >= READERS_BYTES
    # One that an earlier version made.
    (folder / READERS_FILE).unlink()
    (folder / READERS_FILE).touch(mode=0o600)
    os.truncate(folder / READERS_FILE, READERS_BYTES)
    with closing(Environment.open(folder, NAMES, readonly=False, map_bytes=MAP_BYTES)):
        assert (folder / READERS_FILE).stat().st_blocks * 512 >= READERS_BYTES


def test_a_new_file_of_readers_on_a_full_disk_is_an_error_and_an_old_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "e"
    create_environment(folder, NAMES, meta={}, map_bytes=MAP_BYTES)
    (folder / READERS_FILE).unlink(missing_ok=True)
    monkeypatch.setattr(readers_file, "_allocate", lambda _descriptor: errno.ENOSPC)
    with pytest.raises(StorageFullError, match=f"the disk of {folder} is full"):
        Environment.open(folder, NAMES, readonly=False, map_bytes=MAP_BYTES)
    (folder / READERS_FILE).write_bytes(bytes(READERS_BYTES))
    Environment.open(folder, NAMES, readonly=False, map_bytes=MAP_BYTES).close()


def test_tokens_on_a_disk_that_is_mounted_read_only_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "access"
    create_access(folder)
    with closing(AccessStore.open(folder)) as access:
        access.enqueue(b"{}")
    disk = SimpleNamespace(f_flag=os.ST_RDONLY, f_bavail=FULL_BYTES, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with closing(AccessStore.open(folder)) as access:
        assert [event for _, event in access.outbox()] == [b"{}"]
        with pytest.raises(CommitUndoneError, match="access is read here alone: its file system"):
            access.enqueue(b"{}")
        assert not access.environment.is_broken


def replace_by_a_copy(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)


def replace_by_a_link(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    folder.rename(folder.with_name("old"))
    folder.symlink_to("copy")


@pytest.mark.parametrize(
    "displace",
    [
        shutil.rmtree,
        lambda folder: folder.rename(folder.with_name("old")),
        lambda folder: (folder / "data.mdb").unlink(),
        replace_by_a_copy,
        replace_by_a_link,
    ],
    ids=["deleted", "moved", "without its file", "a copy", "a link"],
)
def test_no_commit_succeeds_in_a_folder_that_nobody_finds(
    tmp_path: Path, displace: Callable[[Path], object]
) -> None:
    folder = tmp_path / "e"
    create_environment(folder, NAMES, meta={}, map_bytes=MAP_BYTES)
    environment = Environment.open(folder, NAMES, readonly=False, map_bytes=MAP_BYTES)
    with environment.write() as transaction:
        transaction.put(b"rows", b"1", b"")
    displace(folder)
    for _ in range(2):
        with (
            pytest.raises(CommitFailedError, match=r"deleted, moved or replaced|failed before"),
            environment.write() as transaction,
        ):
            transaction.put(b"rows", b"2", b"")
    assert environment.is_broken
    assert "was deleted, moved or replaced while it was open" in str(environment.failure)
    environment.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_where_nobody_can_look_the_open_file_is_written_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As when somebody takes the rights to a folder above: that ended a running service."""
    create_environment(tmp_path / "e", NAMES, meta={}, map_bytes=MAP_BYTES)
    environment = Environment.open(tmp_path / "e", NAMES, readonly=False, map_bytes=MAP_BYTES)

    def refuse(path: Path, **_: object) -> os.stat_result:
        raise OSError(number, os.strerror(number), str(path))

    with closing(environment):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", refuse)
            with environment.write() as transaction:
                transaction.put(b"rows", b"k", b"v")
            environment.check_place()
        assert environment.failure is None
        assert environment.get(b"rows", b"k") == b"v"
