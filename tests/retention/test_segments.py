"""The index and the Parquet files of a log that was pruned inside a segment and behind one."""

from contextlib import closing
from pathlib import Path

import pytest

from ledger.query.engine import QueryEngine
from ledger.query.parquet_segments import sealed_files
from ledger.query.segment_builder import check_index, reindex
from ledger.retention.legal_holds import LegalHold, check_not_held, first_held
from ledger.retention.removal import delete_segments
from ledger.service.data_dir import DirectoryPaths
from ledger.store.index.index_store import IndexStore
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger.store.minimum_index import Pruning
from ledger.store.pruning import prune_log
from ledger.store.writer import entry_of
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import VerificationError
from tests.store.entries import entries, new_log

SIZE = SEGMENT_ENTRIES_MAX + 1000
INSIDE = 1024
BEHIND = SEGMENT_ENTRIES_MAX + 512


def engine_of(paths: DirectoryPaths, log: LogStore) -> QueryEngine:
    return QueryEngine(log, IndexStore(paths.index))


def count(paths: DirectoryPaths, text: str) -> tuple[int, bool, bool]:
    """The number of events that a query finds, whether it is exact, and complete."""
    with closing(LogStore.open(paths.log)) as log:
        engine = engine_of(paths, log)
        while engine.advance(8192):  # As the service does meanwhile.
            pass
        found = [
            engine.search(parse_query(text), tenant=None, now_unix_us=0, limit=10, order=order)
            for order in ("newest", "oldest", "time")
        ]
        assert len({answer.total for answer in found}) == 1
        assert min((row.index for a in found for row in a.rows), default=SIZE) >= log.minimum_index
        return found[0].total, found[0].total_exact, found[0].complete


def test_segments_go_with_their_entries(tmp_path: Path) -> None:
    paths = DirectoryPaths(tmp_path)
    with closing(new_log(paths.log)) as writer:
        for start in range(0, SIZE, 8192):
            writer.commit(entries(start, min(SIZE, start + 8192)))
    with closing(LogStore.open(paths.log)) as log:
        assert reindex(log, paths.index, processes=1) == 1
    for folder, name in (
        (paths.index, "00000000.damaged"),
        (paths.index, "00000000.filter"),
        (paths.parquet, "00000000.5f1a0c77d20b9e41.v1.93b885adfe0da089.parquet"),
        (tmp_path / "index.new", "00000000.segment"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"made of entries that go")
    assert count(paths, "actor:u_3") == ((SIZE + 3) // 7, True, True)

    prune_log(paths.log, Pruning(INSIDE, SIZE - 1))
    with (
        closing(LogStore.open(paths.log)) as log,
        pytest.raises(VerificationError, match="segment 0 has entries that were pruned"),
    ):
        check_index(log, IndexStore(paths.index))
    delete_segments(paths)
    assert not any(path.is_file() for path in paths.index.rglob("*"))
    assert not list(paths.parquet.glob("*.parquet"))
    assert not (tmp_path / "index.new").exists()
    # What stays of the segment is indexed in memory, as the open one is.
    kept = len([index for index in range(INSIDE, SIZE) if index % 7 == 3])
    assert count(paths, "actor:u_3") == (kept, True, True)
    with closing(LogStore.open(paths.log)) as log:
        assert reindex(log, paths.index, processes=1) == 0
        assert engine_of(paths, log).status().full_segments == 0
        assert sealed_files(log, paths.parquet, SIZE).missing == []

    prune_log(paths.log, Pruning(BEHIND, SIZE - 1))
    kept = len([index for index in range(BEHIND, SIZE) if index % 7 == 3])
    assert count(paths, "actor:u_3") == (kept, True, True)
    assert count(paths, "NOT actor:u_3") == (SIZE - BEHIND - kept, True, True)
    assert count(paths, "") == (SIZE - BEHIND, True, True)


def test_what_stays_of_a_pruned_segment_is_read_once_and_not_by_each_search(
    tmp_path: Path,
) -> None:
    size, segment, minimum_index = 6144, 1024, 1280
    with closing(new_log(tmp_path / "log")) as writer:
        for start in range(0, size, 2048):
            writer.commit(entries(start, start + 2048))
    prune_log(tmp_path / "log", Pruning(minimum_index, size - 1))
    with closing(LogStore.open(tmp_path / "log")) as log:
        assert reindex(log, tmp_path / "index", segment_entries=segment, processes=1) == 4
        store = IndexStore(tmp_path / "index", segment_entries=segment)
        engine = QueryEngine(log, store, segment_entries=segment)
        while engine.advance(segment):
            pass
        answer = engine.search(parse_query("actor:u_3"), tenant=None, now_unix_us=0, limit=10)
    kept = len([index for index in range(minimum_index, size) if index % 7 == 3])
    assert (answer.total, answer.total_exact, answer.scanned) == (kept, True, 0)


def test_an_index_that_hides_an_entry_from_a_hold_is_noticed(tmp_path: Path) -> None:
    """Somebody puts a segment of the index there that was built from other events."""
    size, index = 2048, tmp_path / "index"
    hold = LegalHold(name="case-7", reason="r", added="", by="op", query="actor:u_3")
    for name, path in (("other", index), ("log", tmp_path / "unused")):
        with closing(new_log(tmp_path / name)) as writer:
            made = entries(0, size)
            if name == "other":
                made = [entry_of(each.leaf.replace(b'"u_3"', b'"u_9"')) for each in made]
            writer.commit(made)
        with closing(LogStore.open(tmp_path / name)) as log:
            assert reindex(log, path, segment_entries=1024, processes=1) == 2
    with closing(LogStore.open(tmp_path / "log")) as log:
        store = IndexStore(index, segment_entries=1024)
        engine = QueryEngine(log, store, segment_entries=1024)
        assert first_held(engine, hold, size, now_unix_us=0) is None, "the index hides it"
        check = check_not_held((hold,), 0)
        leaves = [log.leaf(index) or b"" for index in range(4)]
    for index_, leaf in enumerate(leaves[:3]):
        check(index_, leaf)
    with pytest.raises(VerificationError, match="the legal hold case-7 names entry 3, and"):
        check(3, leaves[3])
