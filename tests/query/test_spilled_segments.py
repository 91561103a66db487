"""A segment whose terms don't fit into memory is sealed by way of the disk, and is the same."""

import os
import random
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.query import segment_builder, segment_terms, spilled_segment, term_sources
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_builder import SegmentBuilder, build_segment, check_index
from ledger.store.index import sorted_runs
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.index.segment_file import encode_segment_file
from ledger.store.index.term_blocks import PAGE_TERMS_MAX
from ledger.store.log import LogStore
from tests.query.events import make_entries, make_log, random_event
from tests.query.test_open_memory import changes, make_events, names, targets

SEGMENT_ENTRIES = 128


def sealed_bytes(log: LogStore, folder: Path) -> bytes:
    leaf_cache = LeafCache(log, bytes_max=0)
    sealed = build_segment(leaf_cache, 0, SEGMENT_ENTRIES, scratch=folder)
    return encode_segment_file(0, sealed, analysis="a", entries=SEGMENT_ENTRIES)


def sealed_in_memory(log: LogStore, folder: Path) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(term_sources, "DERIVED_MAX", float("inf"))
        return sealed_bytes(log, folder / "no such folder")


def make_small(patch: pytest.MonkeyPatch, *, runs_merged: int = 64) -> None:
    """Let a few entries be a piece, and a few terms a run."""
    patch.setattr(segment_builder, "PIECE_BYTES", 30_000)
    patch.setattr(segment_terms, "DECODED_BYTES_MAX", 1 << 12)
    patch.setattr(term_sources, "DERIVED_MAX", 300)
    patch.setattr(spilled_segment, "DERIVED_MAX", 300)
    patch.setattr(spilled_segment, "TERMS_AT_ONCE", PAGE_TERMS_MAX)
    patch.setattr(sorted_runs, "RUNS_MERGED", runs_merged)
    patch.setattr(sorted_runs, "BUFFER_BYTES", 1 << 10)


def random_events(rng: random.Random) -> dict[str, Any]:
    return random_event(rng, rng.randrange(10**6))


@pytest.fixture(
    scope="module", params=[random_events, targets, names, changes], ids=lambda kind: kind.__name__
)
def log(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LogStore]:
    path = tmp_path_factory.mktemp("spilled") / "log"
    kind: Callable[[random.Random], dict[str, Any]] = request.param
    make_log(path, make_entries(make_events(kind)[:SEGMENT_ENTRIES])).close()
    store = LogStore.open(path)
    yield store
    store.close()


@pytest.mark.parametrize("runs_merged", [64, 3])
def test_a_segment_by_way_of_the_disk_is_the_same_to_the_byte(
    log: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_merged: int
) -> None:
    expected = sealed_in_memory(log, tmp_path)
    make_small(monkeypatch, runs_merged=runs_merged)
    assert sealed_bytes(log, tmp_path) == expected
    assert list(tmp_path.iterdir()) == []


def test_derived_terms_alone_are_sealed_by_way_of_the_disk(
    log: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sealed_in_memory(log, tmp_path)
    monkeypatch.setattr(term_sources, "DERIVED_MAX", 10)
    assert sealed_bytes(log, tmp_path) == expected


def test_fsck_finds_the_segment_right_both_ways(
    log: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        make_small(patch)
        writer = IndexWriter.open(tmp_path / "index", segment_entries=SEGMENT_ENTRIES)
        builder = SegmentBuilder(log, writer)
        while builder.seal_next():
            pass
        writer.close()
        index = IndexStore(tmp_path / "index", segment_entries=SEGMENT_ENTRIES)
        assert check_index(log, index, is_strict=True) == 1
    assert check_index(log, index, is_strict=True) == 1
    assert check_index(log, index) == 1


def test_sealing_takes_memory_for_a_piece_and_not_for_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_log(tmp_path / "log", make_entries(make_events(targets)[:SEGMENT_ENTRIES])).close()
    log = LogStore.open(tmp_path / "log")
    whole = peak_bytes(log, tmp_path)
    make_small(monkeypatch)
    in_pieces = peak_bytes(log, tmp_path)
    log.close()
    assert in_pieces < whole / 3


def peak_bytes(log: LogStore, folder: Path) -> int:
    """The memory that sealing takes at most, without the one bundle of entries that is read."""
    leaf_cache = LeafCache(log, bytes_max=0)
    bundle = sum(
        len(leaf) for _, leaves in leaf_cache.bundles(0, SEGMENT_ENTRIES) for leaf in leaves
    )
    tracemalloc.start()
    try:
        build_segment(leaf_cache, 0, SEGMENT_ENTRIES, scratch=folder)
        return tracemalloc.get_traced_memory()[1] - 2 * bundle
    finally:
        tracemalloc.stop()


KILLED = """
import sys
from pathlib import Path
from ledger.query import segment_builder, spilled_segment
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index.index_writer import IndexWriter
from ledger.store.index.term_blocks import PAGE_TERMS_MAX
from ledger.store.log import LogStore

segment_builder.PIECE_BYTES = 30_000
seal = spilled_segment.SpilledSegment.seal
def wait(*_, **__):
    print("spilled", flush=True)
    sys.stdin.read()
spilled_segment.SpilledSegment.seal = wait
log = LogStore.open(Path(sys.argv[1]))
writer = IndexWriter.open(Path(sys.argv[2]), segment_entries=128)
SegmentBuilder(log, writer).seal_next()
"""


def test_a_process_that_is_killed_while_it_seals_leaves_nothing_behind(
    log: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(log.path), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"spilled\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not list(folder.glob("*.segment"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1000
    make_small(monkeypatch)
    writer = IndexWriter.open(folder, segment_entries=SEGMENT_ENTRIES)
    assert SegmentBuilder(log, writer).seal_next()
    writer.close()
    index = IndexStore(folder, segment_entries=SEGMENT_ENTRIES)
    assert check_index(log, index, is_strict=True) == 1
