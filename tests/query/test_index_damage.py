"""A damaged index gives no wrong answer, ends no process, and is made anew."""

import itertools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from ledger.query.answer import Answer
from ledger.query.budget import QueryLimits
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import LeafCache
from ledger.query.open_index import fault_of
from ledger.query.segment_builder import (
    OtherAnalysisError,
    SegmentBuilder,
    build_segment,
    check_index,
    reindex,
)
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter, write_segment
from ledger.store.index.segment_file import MAGIC, DamagedSegmentError
from ledger.store.log import LogStore
from ledger.store.writer import NewEntry
from ledger_core.query.ast import Expression, Is, Not, Words
from ledger_core.query.fields import FACETS
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.tile import TILE_WIDTH
from tests.query.events import make_entries, make_log, random_event
from tests.query.oracle import matching_indices
from tests.query.queries import NOW_UNIX_US

SEGMENT_ENTRIES = 64
SEGMENTS = 4
ENTRIES = SEGMENTS * SEGMENT_ENTRIES + 10
QUERIES: tuple[Expression, ...] = (
    Is("actor", "u_1"),
    Is("action", "login", is_prefix=True),
    Not(Is("outcome", "failure")),
    Is("target", "r_1"),
    Words("", "review"),
)
FURTHER = range(ENTRIES, ENTRIES + 3 * SEGMENT_ENTRIES)
STEP_BYTES = 53
"""Between two damaged bytes of a file: each part of it is hit many times."""


class Damaged:
    """A log, its index, and the bytes of the file of segment 1."""

    def __init__(self, path: Path) -> None:
        rng = random.Random(11)
        entries = make_entries([random_event(rng, number) for number in range(ENTRIES)])
        make_log(path / "log", entries).close()
        self.entries = entries
        self.events = [json.loads(entry.leaf) for entry in entries]
        self.log = LogStore.open(path / "log")
        self.folder = path / "index"
        reindex(self.log, self.folder, segment_entries=SEGMENT_ENTRIES, processes=1)
        self.file = self.folder / "00000001.segment"
        self.whole = self.file.read_bytes()
        self._expected: dict[Expression, list[int]] = {}

    def expected(self, query: Expression) -> list[int]:
        """What a query finds, by a test of all events, which is made once."""
        if query not in self._expected:
            found = matching_indices(query, self.events, now_unix_us=NOW_UNIX_US)
            self._expected[query] = found
        return self._expected[query]

    def damage(self, data: bytes) -> None:
        """Replace the file of segment 1, as a disk does: the rest of the index stays."""
        self.file.unlink(missing_ok=True)
        self.file.with_suffix(".damaged").unlink(missing_ok=True)
        self.file.write_bytes(data)

    def engine(self, *, sets_aside: bool = True) -> QueryEngine:
        index = IndexStore(self.folder, segment_entries=SEGMENT_ENTRIES, sets_aside=sets_aside)
        return QueryEngine(self.log, index, segment_entries=SEGMENT_ENTRIES)

    def check_answers(self, engine: QueryEngine) -> None:
        """Compare the answers, counts and exports of the engine with what the log holds."""
        for query in QUERIES:
            expected = self.expected(query)
            answer = search(engine, query)
            assert [row.index for row in answer.rows] == expected
            assert answer.complete
            assert answer.total_exact
            assert all(facet.is_exact for facet in answer.facets)
            batches = engine.row_batches(query, tenant=None, now_unix_us=NOW_UNIX_US)
            assert [row.index for batch in batches for row in batch] == expected
        counted = search(engine, QUERIES[0]).facets[FACETS.index("action")]
        assert sum(each.count for each in counted.values) == counted.counted


def search(
    engine: QueryEngine,
    query: Expression,
    *,
    rows: float = 1e9,
    facets: Sequence[str] = FACETS,
) -> Answer:
    return engine.search(
        query,
        tenant=None,
        now_unix_us=NOW_UNIX_US,
        limit=1000,
        order="oldest",
        facets=facets,
        limits=QueryLimits(rows_scanned=rows),
    )


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    made = Damaged(tmp_path_factory.mktemp("damaged"))
    yield made
    made.log.close()


@pytest.mark.parametrize("start", range(4))
def test_no_damaged_bit_changes_an_answer(damaged: Damaged, start: int) -> None:
    rng = random.Random(start)
    for at in range(start * STEP_BYTES // 4, len(damaged.whole), STEP_BYTES):
        data = bytearray(damaged.whole)
        data[at] ^= 1 << rng.randrange(8)
        damaged.damage(bytes(data))
        number = at // STEP_BYTES
        query, facet = QUERIES[number % len(QUERIES)], FACETS[number % len(FACETS)]
        found = search(damaged.engine(), query, facets=(facet,))
        assert [row.index for row in found.rows] == damaged.expected(query)
    damaged.damage(damaged.whole)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _data: b"",
    "cut in the head": lambda data: data[:40],
    "cut in the body": lambda data: data[: len(data) // 2],
    "a zeroed page": lambda data: data[:4096] + bytes(4096) + data[8192:],
    "zeros": lambda data: bytes(len(data)),
    "another segment's bytes": lambda data: data.replace(b'"segment":1', b'"segment":2', 1),
    "a head that is too long": lambda data: MAGIC + b"\xff" * (len(data) - len(MAGIC)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_damaged_segment_is_set_aside_and_built_again(damaged: Damaged, name: str) -> None:
    damaged.damage(CHANGES[name](damaged.whole))
    engine = damaged.engine()
    damaged.check_answers(engine)
    aside = damaged.file.with_suffix(".damaged")
    assert aside.read_bytes() == CHANGES[name](damaged.whole)
    assert not damaged.file.exists()
    assert engine.status().damaged_segments == (1,)
    assert engine.status().sealed_segments == SEGMENTS - 1

    writer = IndexWriter.open(damaged.folder, segment_entries=SEGMENT_ENTRIES)
    builder = SegmentBuilder(damaged.log, writer)
    assert builder.seal_next()
    assert not builder.seal_next()
    writer.close()
    assert damaged.file.read_bytes() == damaged.whole
    # The same engine reads the new file.
    damaged.check_answers(engine)
    assert engine.status().sealed_segments == SEGMENTS
    assert engine.status().damaged_segments == ()
    assert search(engine, QUERIES[0]).scanned == 0


def other_index(folder: Path, entries: list[NewEntry]) -> Path:
    """The index of another log, of these entries."""
    with closing(make_log(folder / "log", entries)):
        pass
    with closing(LogStore.open(folder / "log")) as log:
        reindex(log, folder / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    return folder / "index"


@pytest.mark.parametrize(
    ("kept", "segment"),
    [(0, 1), (SEGMENT_ENTRIES * 3 // 2, 1), (SEGMENT_ENTRIES * SEGMENTS, SEGMENTS)],
    ids=["another log", "another past", "entries that the log lacks"],
)
def test_a_segment_of_other_entries_is_set_aside_and_built_again(
    damaged: Damaged, tmp_path: Path, kept: int, segment: int
) -> None:
    """A folder of another ledger, or of a log before an older copy of it was put back.

    Its files are whole. The entries of the log that they lack were not found, without a word.
    """
    entries = damaged.entries[:kept] + damaged.entries[SEGMENT_ENTRIES + kept :]
    rng = random.Random(5)
    entries += make_entries([random_event(rng, number) for number in FURTHER], start=ENTRIES)
    name = f"{segment:08d}.segment"
    there, whole = damaged.folder / name, damaged.whole
    there.unlink(missing_ok=True)
    shutil.copy(other_index(tmp_path, entries) / name, there)

    fault = fault_of(damaged.log, SEGMENT_ENTRIES)
    for sets_aside in (False, True):
        index = IndexStore(
            damaged.folder,
            segment_entries=SEGMENT_ENTRIES,
            sets_aside=sets_aside,
            fault_of=fault,
        )
        engine = QueryEngine(damaged.log, index, segment_entries=SEGMENT_ENTRIES)
        damaged.check_answers(engine)
        assert there.exists() != sets_aside
    there.with_suffix(".damaged").rename(there)

    writer = IndexWriter.open(damaged.folder, segment_entries=SEGMENT_ENTRIES, fault_of=fault)
    builder = SegmentBuilder(damaged.log, writer)
    while builder.seal_next():
        pass
    writer.close()
    assert damaged.file.read_bytes() == whole
    assert there.exists() == (segment < SEGMENTS)
    assert (
        check_index(damaged.log, IndexStore(damaged.folder, segment_entries=SEGMENT_ENTRIES))
        == SEGMENTS
    )


def test_a_search_that_may_not_read_the_rows_of_a_damaged_segment_says_so(
    damaged: Damaged,
) -> None:
    damaged.damage(b"")
    answer = search(damaged.engine(), QUERIES[0], rows=10)
    assert not answer.complete
    assert not answer.total_exact
    damaged.damage(damaged.whole)


def test_a_reader_that_does_not_own_the_index_renames_nothing(damaged: Damaged) -> None:
    damaged.damage(CHANGES["a zeroed page"](damaged.whole))
    damaged.check_answers(damaged.engine(sets_aside=False))
    assert damaged.file.exists()
    index = IndexStore(damaged.folder, segment_entries=SEGMENT_ENTRIES)
    with pytest.raises(DamagedSegmentError, match="segment 1 of the index"):
        check_index(damaged.log, index)
    damaged.damage(damaged.whole)
    index = IndexStore(damaged.folder, segment_entries=SEGMENT_ENTRIES)
    assert check_index(damaged.log, index) == SEGMENTS


def test_a_reindex_replaces_the_folder_when_it_is_done_and_not_before(damaged: Damaged) -> None:
    engine = damaged.engine()

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == SEGMENTS
        if done == SEGMENTS - 1:
            raise StopError

    damaged.damage(CHANGES["cut in the body"](damaged.whole))
    with pytest.raises(StopError):
        reindex(
            damaged.log,
            damaged.folder,
            segment_entries=SEGMENT_ENTRIES,
            processes=1,
            progress=stop,
        )
    assert damaged.file.read_bytes() == CHANGES["cut in the body"](damaged.whole)
    for _ in range(2):
        assert (
            reindex(damaged.log, damaged.folder, segment_entries=SEGMENT_ENTRIES, processes=1)
            == SEGMENTS
        )
        assert damaged.file.read_bytes() == damaged.whole
        assert sorted(path.name for path in damaged.folder.parent.iterdir()) == ["index", "log"]
        damaged.check_answers(engine)


def test_a_reindex_of_a_folder_on_another_disk_replaces_it_there_each_time(
    damaged: Damaged, tmp_path: Path
) -> None:
    """The first one ended with an error, and all later ones failed before they had begun."""
    index, disk = tmp_path / "index", tmp_path / "disk"
    shutil.copytree(damaged.folder, disk / "index")
    index.symlink_to(disk / "index")
    for _ in range(2):
        shutil.rmtree(disk / "index")
        (disk / "index").mkdir()
        made = reindex(damaged.log, index, segment_entries=SEGMENT_ENTRIES, processes=1)
        assert made == len(list((disk / "index").glob("*.segment"))) == SEGMENTS
        assert index.is_symlink()
        assert [each.name for each in disk.iterdir()] == ["index"]


def test_a_reindex_of_a_disk_of_its_own_says_what_to_do(damaged: Damaged) -> None:
    """Nothing takes the place of the root of a mounted disk: it failed when all was built."""
    with pytest.raises(UnavailableError, match="delete all files in it and start the service"):
        reindex(damaged.log, Path("/proc"), segment_entries=SEGMENT_ENTRIES, processes=1)


def test_an_index_folder_that_is_missing_empty_or_of_version_0_1_0_is_made_anew(
    damaged: Damaged, tmp_path: Path
) -> None:
    def missing(_path: Path) -> None:
        pass

    def empty(path: Path) -> None:
        path.mkdir()

    def a_file(path: Path) -> None:
        path.write_bytes(b"x")

    def half_made(path: Path) -> None:
        path.mkdir()
        for name in ("data.mdb", "lock.mdb", ".00000000.segment.tmp"):
            (path / name).write_bytes(b"\0" * 8192)

    for number, make in enumerate((missing, empty, a_file, half_made)):
        path = tmp_path / str(number)
        make(path)
        index = IndexStore(path, segment_entries=SEGMENT_ENTRIES, sets_aside=True)
        engine = QueryEngine(damaged.log, index, segment_entries=SEGMENT_ENTRIES)
        damaged.check_answers(engine)
        assert engine.status().sealed_segments == 0
        assert bool(engine.status().failure) == (make == a_file)
        writer = IndexWriter.open(path, segment_entries=SEGMENT_ENTRIES)
        builder = SegmentBuilder(damaged.log, writer)
        # The last piece of work is the filter over the segments.
        assert sum(itertools.takewhile(bool, iter(builder.seal_next, None))) == SEGMENTS + 1
        writer.close()
        names = [found.name for found in sorted(path.iterdir())]
        segments = [f"{n:08d}.segment" for n in range(SEGMENTS)]
        assert names == ["00000000.filter", *segments, "writer.lock"]
        damaged.check_answers(engine)
        assert engine.status().failure == ""


def test_a_segment_made_by_other_rules_is_not_read_and_is_built_again(
    damaged: Damaged, tmp_path: Path
) -> None:
    damaged.damage(damaged.whole)
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / damaged.file.name).write_bytes(damaged.whole)
    (folder / "00000002.segment").write_bytes(b"ledger segment 9\n of a later version")
    for entries in (SEGMENT_ENTRIES, SEGMENT_ENTRIES // 2):
        index = IndexStore(folder, segment_entries=entries, sets_aside=True)
        engine = QueryEngine(damaged.log, index, segment_entries=entries)
        damaged.check_answers(engine)
        assert engine.status().sealed_segments == (1 if entries == SEGMENT_ENTRIES else 0)
        assert not engine.status().is_current
    assert not list(folder.glob("*.damaged"))


def test_fsck_names_a_damaged_segment_without_a_traceback(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ask = [sys.executable, "-m", "ledger"]
    subprocess.run([*ask, "init", str(ledger), "--origin", "example.com/a"], check=True)
    (ledger / "index").mkdir(exist_ok=True)
    (ledger / "index" / "00000000.segment").write_bytes(bytes(9000))
    done = subprocess.run([*ask, "fsck", str(ledger)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "segment 0 of the index: its head is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run([*ask, "reindex", str(ledger)], check=True, capture_output=True)
    subprocess.run([*ask, "fsck", str(ledger)], check=True, capture_output=True)


@pytest.fixture
def full_tiles(tmp_path: Path) -> Iterator[tuple[LogStore, IndexStore]]:
    """A log and its index, whose two segments are whole tiles."""
    rng = random.Random(12)
    events = [random_event(rng, number) for number in range(2 * TILE_WIDTH)]
    make_log(tmp_path / "log", make_entries(events)).close()
    log = LogStore.open(tmp_path / "log")
    reindex(log, tmp_path / "index", segment_entries=TILE_WIDTH, processes=1)
    yield log, IndexStore(tmp_path / "index", segment_entries=TILE_WIDTH)
    log.close()


def test_a_check_finds_each_damaged_byte_without_building_a_segment_again(
    full_tiles: tuple[LogStore, IndexStore],
) -> None:
    log, index = full_tiles
    assert check_index(log, index) == check_index(log, index, is_strict=True) == 2
    file = index.path / "00000001.segment"
    whole = file.read_bytes()
    for at in range(0, len(whole), STEP_BYTES):
        file.unlink()
        file.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        again = IndexStore(index.path, segment_entries=TILE_WIDTH)
        with pytest.raises((DamagedSegmentError, OtherAnalysisError)):
            check_index(log, again)


def test_a_segment_of_other_entries_is_named_and_one_with_other_terms_only_by_the_strict_check(
    full_tiles: tuple[LogStore, IndexStore],
) -> None:
    log, index = full_tiles
    first = build_segment(LeafCache(log, bytes_max=0), 0, TILE_WIDTH, scratch=index.path)
    second = build_segment(LeafCache(log, bytes_max=0), 1, TILE_WIDTH, scratch=index.path)
    write_segment(index.path, 1, first, segment_entries=TILE_WIDTH)
    with pytest.raises(VerificationError, match="segment 1 was built from other entries"):
        check_index(log, IndexStore(index.path, segment_entries=TILE_WIDTH))
    hidden = first._replace(
        record=msgspec.structs.replace(first.record, entries_hash=second.record.entries_hash)
    )
    write_segment(index.path, 1, hidden, segment_entries=TILE_WIDTH)
    rewritten = IndexStore(index.path, segment_entries=TILE_WIDTH)
    assert check_index(log, rewritten) == 2
    with pytest.raises(VerificationError, match="segment 1: the log gives the root"):
        check_index(log, rewritten, is_strict=True)


def test_a_segment_of_an_earlier_version_has_no_hash_and_is_built_again(
    full_tiles: tuple[LogStore, IndexStore],
) -> None:
    log, index = full_tiles
    second = build_segment(LeafCache(log, bytes_max=0), 1, TILE_WIDTH, scratch=index.path)
    bare = second._replace(record=msgspec.structs.replace(second.record, entries_hash=""))
    write_segment(index.path, 1, bare, segment_entries=TILE_WIDTH)
    assert check_index(log, IndexStore(index.path, segment_entries=TILE_WIDTH)) == 2
    write_segment(index.path, 0, bare, segment_entries=TILE_WIDTH)
    with pytest.raises(VerificationError, match="segment 0: the log gives the root"):
        check_index(log, IndexStore(index.path, segment_entries=TILE_WIDTH))
