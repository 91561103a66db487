"""A filter never leaves out a segment that has a term, whatever becomes of its file."""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import SegmentBuilder, check_index, reindex
from ledger.store.index.group_filter import (
    GROUP_SEGMENTS,
    GroupFilter,
    blocks_for,
    encode_filter,
    filter_path,
    hash_of,
    hashes_of,
)
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter, make_filter
from ledger.store.index.segment_check import check_filters
from ledger.store.log import LogStore
from ledger_core.query.ast import Expression, Is, Not, Words
from ledger_core.query.fields import DIMENSIONS
from ledger_core.tlog.errors import MalformedError, VerificationError
from tests.query.events import make_entries, make_log, random_event
from tests.query.oracle import matching_indices
from tests.query.queries import NOW_UNIX_US

SEGMENT_ENTRIES = 16
SEGMENTS = 2 * GROUP_SEGMENTS + 3
RARE = 20
"""The segment that has a value of its own."""

NOTHING = dict.fromkeys(range(GROUP_SEGMENTS), hashes_of(()))

QUERIES: tuple[Expression, ...] = (
    Is("target", "only-here"),
    Is("actor", "u_1"),
    Not(Is("outcome", "failure")),
    Words("", "review"),
    Is("session", "nowhere"),
)


class Filtered:
    """A log, its index with two filters, and the bytes of the second one."""

    def __init__(self, path: Path) -> None:
        rng = random.Random(3)
        events = [random_event(rng, number) for number in range(SEGMENTS * SEGMENT_ENTRIES + 5)]
        events[RARE * SEGMENT_ENTRIES + 2]["targets"] = [{"type": "vault", "id": "only-here"}]
        entries = make_entries(events)
        make_log(path / "log", entries).close()
        self.events = [json.loads(entry.leaf) for entry in entries]
        self.log = LogStore.open(path / "log")
        self.folder = path / "index"
        reindex(self.log, self.folder, segment_entries=SEGMENT_ENTRIES, processes=1)
        self.file = filter_path(self.folder, 1)
        self.whole = self.file.read_bytes()

    def index(self, *, sets_aside: bool = True) -> IndexStore:
        return IndexStore(self.folder, segment_entries=SEGMENT_ENTRIES, sets_aside=sets_aside)

    def damage(self, data: bytes) -> None:
        self.file.unlink(missing_ok=True)
        self.file.write_bytes(data)

    def asked(self, value: str, index: IndexStore) -> list[int]:
        """The segments in which a target is looked up."""
        with index.snapshot() as snapshot:
            return list(snapshot.segments_with("target", value, list(range(SEGMENTS))))

    def make_filters(self) -> None:
        """What the indexer does: just one filter is lacking."""
        with closing(IndexWriter.open(self.folder, segment_entries=SEGMENT_ENTRIES)) as writer:
            builder = SegmentBuilder(self.log, writer)
            assert builder.seal_next()
            assert not builder.seal_next()

    def check_answers(self, index: IndexStore) -> None:
        engine = QueryEngine(self.log, index, segment_entries=SEGMENT_ENTRIES)
        for query in QUERIES:
            answer = engine.search(
                query, tenant=None, now_unix_us=NOW_UNIX_US, limit=1000, order="oldest"
            )
            expected = matching_indices(query, self.events, now_unix_us=NOW_UNIX_US)
            assert [row.index for row in answer.rows] == expected
            assert answer.total_exact


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filtered]:
    made = Filtered(tmp_path_factory.mktemp("filtered"))
    yield made
    made.log.close()


@pytest.mark.parametrize("terms", [0, 1, 40, 1000])
def test_a_filter_names_each_segment_that_has_a_term(tmp_path: Path, terms: int) -> None:
    rng = random.Random(terms)
    names = rng.sample(sorted(DIMENSIONS), 3)
    segments = [
        {name: [b"%s-%d" % (name.encode(), rng.randrange(10**9)) for _ in range(terms)]
         for name in names}
        for _ in range(GROUP_SEGMENTS - 1)
    ]  # fmt: skip
    hashes = [hashes_of(segment.items()) for segment in segments]
    path = filter_path(tmp_path, 7)
    by_place = dict(enumerate([hashes_of(()), *hashes]))
    path.write_bytes(encode_filter(7, ["r"] * GROUP_SEGMENTS, by_place))
    found = GroupFilter.open(path, 7)
    for place, segment in enumerate(segments, start=1):
        for name, values in segment.items():
            for value in values:
                assert found.may_have(hash_of(name, value)) >> 8 * place & 1
    others = [found.may_have(hash_of(names[0], b"other %d" % n)).bit_count() for n in range(500)]
    assert sum(others) < 0.05 * 500 * GROUP_SEGMENTS
    with pytest.raises(MalformedError, match="another group"):
        GroupFilter.open(path, 8)


def test_a_rare_value_is_looked_up_in_few_segments(filtered: Filtered) -> None:
    index = filtered.index()
    found = filtered.asked("only-here", index)
    assert RARE in found
    assert len(found) < 5
    assert filtered.asked("only-here", index) == found
    filtered.check_answers(index)


def test_no_damaged_bit_of_a_filter_changes_an_answer(filtered: Filtered) -> None:
    rng = random.Random(1)
    for at in range(0, len(filtered.whole), 211):
        data = bytearray(filtered.whole)
        data[at] ^= 1 << rng.randrange(8)
        filtered.damage(bytes(data))
        index = filtered.index(sets_aside=False)
        assert RARE in filtered.asked("only-here", index)
    filtered.damage(filtered.whole)


@pytest.mark.parametrize("data", [b"", b"ledger filter 3\n later", bytes(5000), None])
def test_a_damaged_filter_is_removed_and_made_again(filtered: Filtered, data: bytes | None) -> None:
    if data is None:  # Each block is wrong, the head is right.
        head = filtered.whole.index(b"}") + 1
        data = filtered.whole[:head] + bytes(len(filtered.whole) - head)
    filtered.damage(data)
    index = filtered.index()
    filtered.check_answers(index)
    assert not filtered.file.exists()

    filtered.make_filters()
    assert filtered.file.read_bytes() == filtered.whole
    assert len(filtered.asked("only-here", index)) < 5


def test_a_filter_of_the_version_before_is_made_again_and_no_damage(filtered: Filtered) -> None:
    filtered.damage(filtered.whole.replace(b"ledger filter 2\n", b"ledger filter 1\n"))
    index = filtered.index()
    group = [each for each in filtered.asked("only-here", index) if each // GROUP_SEGMENTS == 1]
    assert group == list(range(GROUP_SEGMENTS, 2 * GROUP_SEGMENTS))
    filtered.check_answers(index)
    assert filtered.file.exists()
    check_index(filtered.log, filtered.index(sets_aside=False), is_strict=True)
    filtered.make_filters()
    assert filtered.file.read_bytes() == filtered.whole
    assert len(filtered.asked("only-here", index)) < 5


def test_the_last_filter_grows_with_each_segment(filtered: Filtered, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    index = IndexStore(folder, segment_entries=SEGMENT_ENTRIES)
    engine = QueryEngine(filtered.log, index, segment_entries=SEGMENT_ENTRIES)
    query = Is("target", "only-here")
    expected = matching_indices(query, filtered.events, now_unix_us=NOW_UNIX_US)
    # From the middle of a group on, as after entries were pruned.
    for segment in range(RARE, SEGMENTS):
        name = f"{segment:08d}.segment"
        (folder / name).write_bytes((filtered.folder / name).read_bytes())
        with closing(IndexWriter.open(folder, segment_entries=SEGMENT_ENTRIES)) as writer:
            assert writer.put_filter()
            assert not writer.put_filter()
        group = segment // GROUP_SEGMENTS
        with index.snapshot() as snapshot:
            made = make_filter(group, snapshot, is_anew=True)
            assert filter_path(folder, group).read_bytes() == made
            sealed = list(snapshot.records)
            assert RARE in snapshot.segments_with("target", "only-here", sealed)
            nowhere = snapshot.segments_with("session", "nowhere", sealed)
            assert len(nowhere) < max(2, len(sealed) / 4)
        answer = engine.search(query, tenant=None, now_unix_us=NOW_UNIX_US, order="oldest")
        assert [row.index for row in answer.rows] == expected
        assert answer.total_exact
    with index.snapshot() as snapshot:
        check_filters(snapshot, is_strict=True)
    with index.snapshot() as snapshot:
        # While it is checked, the indexer of a service may replace it by one with more segments.
        path = filter_path(folder, group)
        present = path.read_bytes()
        path.unlink()
        path.write_bytes(present.replace(b"ledger", b"larger"))
        check_filters(snapshot, is_strict=True)
        path.unlink()
        path.write_bytes(present)
    # Without one of its segments it holds for the others; as a new one it does not know it.
    (folder / name).unlink()
    with index.snapshot() as snapshot:
        check_filters(snapshot, is_strict=True)
        assert snapshot.filters.incomplete(snapshot.records) == []


def test_a_segment_with_many_more_terms_makes_the_filter_larger(tmp_path: Path) -> None:
    few, many = (
        hashes_of([("actor", [b"a"])]),
        hashes_of([("actor", [b"%d" % n for n in range(999)])]),
    )
    path = filter_path(tmp_path, 0)
    roots = ["r", *[""] * (GROUP_SEGMENTS - 1)]
    path.write_bytes(encode_filter(0, roots, {0: few}))
    small = GroupFilter.open(path, 0)
    assert blocks_for(len(many)) > small.head.blocks == blocks_for(1)
    assert small.may_have(hash_of("actor", b"other")) >> 8 == small.unknown >> 8 != 0


def test_a_filter_of_other_segments_is_not_used(filtered: Filtered) -> None:
    with filtered.index().snapshot() as snapshot:
        roots = [snapshot.records[each].root for each in range(GROUP_SEGMENTS)]
    filtered.damage(encode_filter(1, roots, NOTHING))
    index = filtered.index()
    assert RARE in filtered.asked("only-here", index)
    filtered.check_answers(index)
    writer = IndexWriter.open(filtered.folder, segment_entries=SEGMENT_ENTRIES)
    assert writer.put_filter()
    writer.close()
    assert filtered.file.read_bytes() == filtered.whole


def test_fsck_names_a_filter_that_is_wrong(filtered: Filtered) -> None:
    def check(*, is_strict: bool = False) -> None:
        with filtered.index(sets_aside=False).snapshot() as snapshot:
            check_filters(snapshot, is_strict=is_strict)

    check_index(filtered.log, filtered.index(sets_aside=False))
    check(is_strict=True)
    with filtered.index().snapshot() as snapshot:
        roots = [snapshot.records[GROUP_SEGMENTS + n].root for n in range(GROUP_SEGMENTS)]
    filtered.damage(encode_filter(1, roots, NOTHING))
    check()
    with pytest.raises(VerificationError, match="filter 1"):
        check(is_strict=True)
    filtered.damage(filtered.whole[:-1] + b"\0")
    with pytest.raises(MalformedError, match="filter 1"):
        check()
    filtered.damage(b"ledger filter 2\n")
    with pytest.raises(MalformedError, match="filter 1"):
        check_index(filtered.log, filtered.index(sets_aside=False))
    filtered.damage(filtered.whole)
