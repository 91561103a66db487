"""The cache of objects of a bucket: files that are gone."""

from pathlib import Path

import structlog

from ledger.object_storage.object_cache import ObjectCache


def test_a_file_that_another_thread_evicts_is_missed_and_is_no_damage(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, bytes_max=1 << 20)
    cache.keep("tile/0/000", b"hashes")
    (file,) = (each for each in tmp_path.rglob("*") if each.is_file())
    file.unlink()
    with structlog.testing.capture_logs() as lines:
        assert cache.read("tile/0/000") is None
    assert lines == []
    assert cache.bytes_used == 0
    cache.keep("tile/0/000", b"hashes")
    assert cache.read("tile/0/000") == b"hashes"
