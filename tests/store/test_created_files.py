"""A new ledger is durable: each of its files and folders was synced."""

import os
from pathlib import Path

import pytest

from ledger.service.data_dir import create_directory


def test_every_file_and_folder_of_a_new_ledger_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()  # Inodes: a file may have had another name then.
    sync = os.fsync

    def record(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", record)
    paths = create_directory(tmp_path / "ledger", origin="example.com/audit", seed=bytes(32))
    root = paths.root
    # LMDB syncs its own files: it does so in every commit.
    wanted = {paths.key, paths.policy, paths.settings, paths.log, paths.access, root, tmp_path}
    assert [path for path in wanted if path.stat().st_ino not in synced] == []
