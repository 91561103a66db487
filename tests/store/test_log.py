"""The log on disk: what a commit keeps, what a reader finds, what a restart recovers."""

import multiprocessing
import os
import random
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import lmdb
import pytest
import zstandard

from ledger.store import earlier_entries, keyspace
from ledger.store.bundles import BundleReader
from ledger.store.commit_errors import CommitFailedError, StorageFullError
from ledger.store.environment import Environment
from ledger.store.fsck import check_store
from ledger.store.log import DamagedBundleError, DamagedTreeError, LogStore, create_log
from ledger.store.transaction import Transaction
from ledger.store.writer import LogWriter, Placement
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash, node_hash
from ledger_core.tlog.prove import plan_inclusion, plan_multi, plan_range
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle, encode_bundle
from ledger_core.tlog.tree import Frontier, Node, TreeHead, decompose
from ledger_core.tlog.verify import check_consistency, check_inclusion, check_range
from tests.store.entries import MAP_BYTES, ORIGIN, SIGNER, entries, entry, new_log


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    log = new_log(tmp_path / "log")
    yield log
    log.close()


def check_log(store: LogStore, leaves: list[bytes]) -> None:
    """Hold everything that a reader can ask against the leaves that were acknowledged."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf_hash(leaf))
    head = store.head()
    assert (head.tree_size, head.root_hash) == (len(leaves), frontier.root())
    assert [store.leaf(index) for index in range(len(leaves))] == leaves
    assert store.leaf(len(leaves)) is None
    for index in range(0, len(leaves), 97):
        proof = store.prove(
            plan_inclusion(leaf_index=index, tree_size=len(leaves)), [Node(0, index)], store.head()
        )
        check_inclusion(
            leaf_hash=leaf_hash(leaves[index]),
            leaf_index=index,
            tree_size=len(leaves),
            proof=proof,
            root_hash=head.root_hash,
        )
    with store.environment.read() as transaction:
        start = len(leaves) // 3
        parts = list(store.leaves_between(transaction, start, len(leaves)))
    assert [leaf for part in parts for leaf in part] == leaves[start:]
    assert all(len(part) <= TILE_WIDTH for part in parts)
    for bundle_index in range(-(-len(leaves) // TILE_WIDTH)):
        start = bundle_index * TILE_WIDTH
        want = leaves[start : start + TILE_WIDTH]
        bundle = store.bundle(index=bundle_index, width=len(want))
        assert bundle is not None
        assert decode_bundle(bundle) == want
        tile = store.tile(level=0, index=bundle_index, width=len(want))
        assert tile == b"".join(leaf_hash(leaf) for leaf in want)


@pytest.mark.parametrize("batch", [1, 3, 255, 256, 257, 700])
def test_what_was_committed_in_any_batches_is_read_back(tmp_path: Path, batch: int) -> None:
    total = 800 if batch > 1 else 300
    log = new_log(tmp_path / "log")
    for start in range(0, total, batch):
        end = min(start + batch, total)
        placed = log.commit(entries(start, end))
        assert [p.leaf_index for p in placed] == list(range(start, end))
        assert {p.placement for p in placed} == {Placement.APPENDED}
    leaves = [e.leaf for e in entries(0, total)]
    check_log(log.store, leaves)
    assert [log.store.index_of(e.id_bytes) for e in entries(0, total)] == list(range(total))
    log.close()
    reopened = LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)
    reopened.commit(entries(total, total + 300))
    check_log(reopened.store, leaves + [e.leaf for e in entries(total, total + 300)])
    reopened.close()


def test_a_repeated_event_keeps_its_first_index_and_another_under_its_id_is_a_conflict(
    writer: LogWriter,
) -> None:
    writer.commit(entries(0, 300))
    repeated = [entry(5), entry(299), entry(5, reason="another"), entry(300), entry(300)]
    placed = writer.commit(repeated)
    assert [(p.placement, p.leaf_index) for p in placed] == [
        (Placement.DUPLICATE, 5),
        (Placement.DUPLICATE, 299),
        (Placement.CONFLICT, 5),
        (Placement.APPENDED, 300),
        (Placement.DUPLICATE, 300),
    ]
    assert placed[0].leaf == entry(5).leaf
    assert writer.head.tree_size == 301
    again = writer.commit([entry(7, time_filled=True)])
    assert again[0].placement is Placement.DUPLICATE


def test_the_events_of_tenants_with_one_id_are_told_apart_in_the_commit_that_stores_them(
    writer: LogWriter,
) -> None:
    tenants = [entry(5, tenant=tenant) for tenant in ("acme", "", "other")]
    for appended in (3, 0):
        placed = writer.commit([*tenants, *tenants])
        assert [each.leaf_index for each in placed] == [0, 1, 2, 0, 1, 2]
        assert [each.leaf for each in placed] == [each.leaf for each in tenants] * 2
        assert [each.placement for each in placed] == (
            [Placement.APPENDED] * appended + [Placement.DUPLICATE] * (6 - appended)
        )
    (other,) = writer.commit([entry(5, tenant="other", reason="another")])
    assert (other.placement, other.leaf_index) == (Placement.CONFLICT, 2)
    found = [writer.store.index_for(tenants[0].id_bytes, t) for t in ("acme", None, "other", "x")]
    assert found == [0, 1, 2, None]
    check_log(writer.store, [each.leaf for each in tenants])


def test_new_events_around_repeated_ones_have_consecutive_indices(writer: LogWriter) -> None:
    writer.commit(entries(0, 3))
    some = [entry(3), entry(1), entry(4), entry(4), entry(4, reason="another"), entry(5)]
    placed = writer.commit(some)
    assert [(each.placement, each.leaf_index) for each in placed] == [
        (Placement.APPENDED, 3),
        (Placement.DUPLICATE, 1),
        (Placement.APPENDED, 4),
        (Placement.DUPLICATE, 4),
        (Placement.CONFLICT, 4),
        (Placement.APPENDED, 5),
    ]
    indices = [writer.store.index_of(entry(number).id_bytes) for number in range(7)]
    assert indices == [0, 1, 2, 3, 4, 5, None]


def test_nothing_to_append_leaves_the_head_as_it_was(writer: LogWriter) -> None:
    writer.commit(entries(0, 10))
    head = writer.head
    assert writer.commit([]) == []
    assert writer.commit([entry(3)])[0].placement is Placement.DUPLICATE
    assert writer.head == head


def test_proofs_between_any_sizes_are_read_from_the_grown_tree(writer: LogWriter) -> None:
    rng = random.Random(1)
    roots = {0: writer.head.root_hash}
    while writer.head.tree_size < 1200:
        size = writer.head.tree_size
        writer.commit(entries(size, size + rng.randrange(1, 90)))
        roots[writer.head.tree_size] = writer.head.root_hash
    for size, root in roots.items():
        assert writer.store.root_at(size) == root
    for _ in range(60):
        old, new = sorted(rng.sample(sorted(roots), 2))
        head = writer.store.head_at(new)
        proof = writer.store.prove_consistency(old, head)
        check_consistency(
            old_size=old, new_size=new, proof=proof, old_root=roots[old], new_root=roots[new]
        )
        if new - old > 0:
            ranged = writer.store.prove(
                plan_range(start=old, end=new, tree_size=new), decompose(old, new), head
            )
            check_range(
                leaf_hashes=[e.leaf_hash for e in entries(old, new)],
                start=old,
                tree_size=new,
                proof=ranged,
                root_hash=roots[new],
            )


def test_a_second_writer_is_refused_and_told_who_writes(writer: LogWriter) -> None:
    at = r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    holder = f"written by process {os.getpid()} on {re.escape(socket.gethostname())} {at}"
    with pytest.raises(UnavailableError, match=holder):
        LogWriter.open(writer.store.path, map_bytes=MAP_BYTES)


def test_two_writers_without_a_lock_do_not_overwrite_each_other(writer: LogWriter) -> None:
    writer.commit(entries(0, 10))
    (writer.store.path / "writer.lock").unlink()
    program = (
        "import sys; from pathlib import Path; from ledger.store.writer import LogWriter\n"
        "from tests.store.entries import MAP_BYTES, entries\n"
        "LogWriter.open(Path(sys.argv[1]), map_bytes=MAP_BYTES).commit(entries(10, 20))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(writer.store.path)],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    for _ in range(2):
        with pytest.raises(CommitFailedError):
            writer.commit(entries(20, 30))
    check_log(writer.store, [e.leaf for e in entries(0, 20)])


def test_a_writer_that_closed_or_died_is_followed_by_another(tmp_path: Path) -> None:
    new_log(tmp_path / "log").close()
    dying = multiprocessing.get_context("spawn").Process(target=_open_and_die, args=(tmp_path,))
    dying.start()
    dying.join()
    assert dying.exitcode == 9
    LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES).close()


def _open_and_die(folder: Path) -> None:
    log = LogWriter.open(folder / "log", map_bytes=MAP_BYTES)
    log.commit(entries(0, 3))
    os._exit(9)


def test_a_log_that_was_opened_before_a_fork_is_refused_after_it(writer: LogWriter) -> None:
    writer.commit(entries(0, 3))
    child = os.fork()
    if child == 0:
        try:
            writer.store.head()
        except RuntimeError:
            os._exit(7)
        os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_full_map_keeps_nothing_of_the_batch_and_the_log_goes_on_being_read(
    tmp_path: Path,
) -> None:
    log = new_log(tmp_path / "log", map_bytes=1 << 20)
    kept = 0
    while _fits(log, kept):
        kept += 200
    assert 0 < kept < 100_000
    check_log(log.store, [e.leaf for e in entries(0, kept)])
    assert log.store.environment.fill_ratio() > 0.5
    with pytest.raises(StorageFullError, match=r"the map of .* is full"):
        log.commit(entries(kept, kept + 5000))
    assert log.store.head() == log.head
    log.close()
    # A larger map is all it takes to go on.
    grown = LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)
    grown.commit(entries(kept, kept + 200))
    check_log(grown.store, [e.leaf for e in entries(0, kept + 200)])
    grown.close()


def _fits(log: LogWriter, kept: int) -> bool:
    try:
        log.commit(entries(kept, kept + 200))
    except StorageFullError:
        return False
    return True


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from ledger.store.commit_errors import StorageFullError
from ledger.store.writer import LogWriter
from tests.store.entries import MAP_BYTES, entries
log = LogWriter.open(Path(sys.argv[1]), map_bytes=MAP_BYTES)
log.commit(entries(0, 300))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = (Path(sys.argv[1]) / "data.mdb").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for attempt in range(2):
    try:
        log.commit(entries(300, 4000))
    except StorageFullError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.commit(entries(300, 301))
"""


def test_after_a_commit_with_an_unknown_outcome_nothing_is_accepted_until_a_restart(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise lmdb.DiskError("an injected EIO")

    writer.commit(entries(0, 300))
    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "_append", failing)
        patched.setattr(Environment, "_undone", lambda *_: None)
        with pytest.raises(CommitFailedError, match="an injected EIO"):
            writer.commit(entries(300, 301))
    with pytest.raises(CommitFailedError, match="failed before; restart to go on"):
        writer.commit(entries(300, 301))
    writer.close()
    with closing(LogWriter.open(writer.store.path, map_bytes=MAP_BYTES)) as log:
        log.commit(entries(300, 301))
        check_log(log.store, [e.leaf for e in entries(0, 301)])


def test_a_full_disk_keeps_nothing_and_the_log_goes_on_when_there_is_room(tmp_path: Path) -> None:
    new_log(tmp_path / "log").close()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("the disk")]
    assert said == [f"the disk of {tmp_path / 'log'} is full"] * 2
    with closing(LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)) as log:
        check_log(log.store, [e.leaf for e in entries(0, 301)])


def test_no_log_or_another_folder_is_a_clear_error(tmp_path: Path) -> None:
    for opened in (LogStore.open, LogWriter.open):
        with pytest.raises(UnavailableError, match=r"no ledger data in .*ledger init"):
            opened(tmp_path / "nowhere")
    create_log(tmp_path / "log", origin=ORIGIN, map_bytes=MAP_BYTES)
    with pytest.raises(FileExistsError):
        create_log(tmp_path / "log", origin=ORIGIN, map_bytes=MAP_BYTES)


def test_partial_tiles_and_bundles_are_served_at_every_width_up_to_what_is_there(
    writer: LogWriter,
) -> None:
    writer.commit(entries(0, 300))
    whole = writer.store.tile(level=0, index=1, width=44)
    assert whole is not None
    for width in (1, 43, 44):
        assert writer.store.tile(level=0, index=1, width=width) == whole[: width * HASH_BYTES]
        bundle = writer.store.bundle(index=1, width=width)
        assert bundle is not None
        assert decode_bundle(bundle) == [e.leaf for e in entries(256, 256 + width)]
    assert writer.store.tile(level=0, index=1, width=45) is None
    assert writer.store.bundle(index=1, width=45) is None
    assert writer.store.bundle(index=2, width=1) is None
    assert writer.store.bundle(index=1, width=TILE_WIDTH) is None
    bundle = writer.store.bundle(index=0, width=17)
    assert bundle is not None
    assert decode_bundle(bundle) == [e.leaf for e in entries(0, 17)]


def test_a_format_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    log = new_log(tmp_path / "log")
    with log.store.environment.write() as transaction:
        transaction.put(b"meta", b"format", b"2")
    log.close()
    with pytest.raises(MalformedError, match="has format 2, this version reads 1"):
        LogStore.open(tmp_path / "log")


@pytest.mark.parametrize("size", [5, 300])
def test_a_store_that_disagrees_with_its_own_head_is_not_opened_for_writing(
    tmp_path: Path, size: int
) -> None:
    log = new_log(tmp_path / "log")
    log.commit(entries(0, size))
    with log.store.environment.write() as transaction:
        key = b"\0" + (size // TILE_WIDTH).to_bytes(8, "big")
        tile = bytearray(transaction.require(b"tiles", key))
        tile[-1] ^= 1
        transaction.put(b"tiles", key, bytes(tile))
    log.close()
    with pytest.raises(VerificationError, match=f"another root than its head of size {size}"):
        LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)


def proofs_and_tiles(store: LogStore, head: TreeHead) -> dict[str, Callable[[], object]]:
    """Each way to read hashes of the tree, by a name."""
    size = head.tree_size
    ranges = ((0, 256), (256, 512), (255, 300), (512, size), (size - 1, size))

    def ranged(start: int, end: int) -> object:
        plan = plan_range(start=start, end=end, tree_size=size)
        return store.prove(plan, decompose(start, end), head)

    def multi(indices: Sequence[int]) -> object:
        plan = plan_multi(indices=indices, tree_size=size)
        return store.prove(plan, [Node(0, index) for index in indices], head)

    return {
        **{f"range {each}": partial(ranged, *each) for each in ranges},
        **{f"multi {each}": partial(multi, each) for each in ((0,), (263, 530), (3, 532, 599))},
        **{f"from {old}": partial(store.prove_consistency, old, head) for old in (256, 300, 512)},
        **{f"head {old}": partial(store.head_at, old) for old in (0, 256, 300, 512, 520, size)},
        **{
            f"tile {level}/{index}": partial(store.tile, level=level, index=index, width=width)
            for level, index, width in ((0, 0, 256), (0, 1, 256), (0, 2, 44), (1, 0, 2))
        },
    }


@pytest.mark.parametrize(
    ("level", "index", "at", "kinds"),
    [
        (0, 1, 7, {"multi", "tile"}),
        (0, 1, 258, {"multi"}),
        (0, 1, 510, {"tile"}),
        (0, 1, None, {"range", "multi", "from", "head", "tile"}),
        (0, 2, 20, {"range", "multi", "from", "head", "tile"}),
        (1, 0, 1, {"range", "multi", "from", "head", "tile"}),
    ],
    ids=["a leaf", "an inner hash", "a root", "zeros", "a growing tile", "level 1"],
)
def test_no_reader_gets_a_hash_of_a_damaged_tile(
    writer: LogWriter, level: int, index: int, at: int | None, kinds: set[str]
) -> None:
    writer.commit(entries(0, 600))
    key = keyspace.tile_key(level=level, index=index)
    want = {name: read() for name, read in proofs_and_tiles(writer.store, writer.head).items()}
    with writer.store.environment.write() as transaction:
        tile = bytearray(transaction.require(keyspace.TILES, key))
        if at is None:
            tile = bytearray(len(tile))
        else:
            tile[at * HASH_BYTES] ^= 1
        transaction.put(keyspace.TILES, key, bytes(tile))
    refused = []
    # Another store, which remembers no hash.
    for name, read in proofs_and_tiles(LogStore(writer.store.environment), writer.head).items():
        try:
            assert read() == want[name], name
        except DamagedTreeError:
            refused.append(name)
    assert {name.split()[0] for name in refused} == kinds


def test_a_damaged_tile_is_named(writer: LogWriter) -> None:
    writer.commit(entries(0, 600))
    key = keyspace.tile_key(level=0, index=1)
    with writer.store.environment.write() as transaction:
        transaction.put(keyspace.TILES, key, bytes(16_352 - HASH_BYTES) + b"x" * HASH_BYTES)
    with pytest.raises(DamagedTreeError, match=r"size 600 .* damaged are the tiles 0/1$"):
        writer.store.prove(
            plan_inclusion(leaf_index=300, tree_size=600), [Node(0, 300)], writer.head
        )


@pytest.mark.parametrize("size", [5, 256, 300])
@pytest.mark.parametrize("past", ["entry", "bundle", "hash", "tile"])
def test_rows_past_the_head_are_refused_at_start(tmp_path: Path, size: int, past: str) -> None:
    log = new_log(tmp_path / "log")
    log.commit(entries(0, size))
    index, width = divmod(size, TILE_WIDTH)
    next_leaves = [e.leaf for e in entries(index * TILE_WIDTH, (index + 1) * TILE_WIDTH)]
    hashes = b"".join(map(leaf_hash, next_leaves))
    rows = {
        "entry": (b"entries", b"\0" + size.to_bytes(8, "big"), entry(size).leaf),
        "bundle": (
            b"entries",
            b"\1" + index.to_bytes(8, "big"),
            zstandard.compress(encode_bundle(next_leaves)),
        ),
        "hash": (b"tiles", b"\0" + index.to_bytes(8, "big"), hashes[: (width + 1) * HASH_BYTES]),
        "tile": (b"tiles", b"\0" + index.to_bytes(8, "big"), b"".join(_rows(hashes))),
    }
    with log.store.environment.write() as transaction:
        transaction.put(*rows[past])
    log.close()
    with pytest.raises(VerificationError, match="holds entries past its head"):
        LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)


def _rows(row: bytes) -> Iterator[bytes]:
    """The rows of a tile from its leaves up."""
    while row:
        yield row
        pairs = range(0, len(row) - HASH_BYTES, 2 * HASH_BYTES)
        row = b"".join(
            node_hash(row[at : at + HASH_BYTES], row[at + HASH_BYTES : at + 2 * HASH_BYTES])
            for at in pairs
        )


@pytest.mark.parametrize("undone", [1, 7, 44, 211, 212, 213, 256, 300, 513])
def test_a_transaction_that_was_undone_leaves_nothing_in_memory_either(
    writer: LogWriter, undone: int
) -> None:
    writer.commit(entries(0, 300))
    head = writer.head
    with pytest.raises(UnicodeEncodeError):
        # The entries are placed already when this note turns out not to be text.
        writer.commit(entries(300, 300 + undone), checkpoints=[(300, "\ud800")])
    assert (writer.head, writer.store.head()) == (head, head)
    check_log(writer.store, [e.leaf for e in entries(0, 300)])
    for start, end in ((300, 301), (301, 520), (520, 800)):
        placed = writer.commit(entries(start, end))
        assert [p.leaf_index for p in placed] == list(range(start, end))
    check_log(writer.store, [e.leaf for e in entries(0, 800)])
    check_store(writer.store, log_keys=[SIGNER.verifier])


SECOND_WRITER = """
import sys
from pathlib import Path
from ledger.store.writer import LogWriter
from tests.store.entries import MAP_BYTES, entries
log = LogWriter.open(Path(sys.argv[1]), map_bytes=MAP_BYTES)
print(log.commit(entries(1000, 1010))[0].leaf_index)
log.close()
"""


def test_without_its_lock_file_a_second_writer_overwrites_no_acknowledged_entry(
    tmp_path: Path,
) -> None:
    first = new_log(tmp_path / "log")
    first.commit(entries(0, 300))
    (tmp_path / "log" / "writer.lock").unlink()
    done = subprocess.run(
        [sys.executable, "-c", SECOND_WRITER, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "300\n"
    for _ in range(2):
        with pytest.raises(CommitFailedError, match=r"another process writes|failed before"):
            first.commit(entries(2000, 2010))
    first.close()
    log = LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)
    check_log(log.store, [e.leaf for e in (*entries(0, 300), *entries(1000, 1010))])
    log.close()


def test_an_open_entry_with_a_flipped_bit_is_neither_given_out_nor_sealed(tmp_path: Path) -> None:
    log = new_log(tmp_path / "log")
    log.commit(entries(0, 300))
    log.close()
    store = LogStore.open(tmp_path / "log", readonly=False)
    with store.environment.write() as transaction:
        key = keyspace.open_entry_key(290)
        leaf = bytearray(transaction.require(keyspace.ENTRIES, key))
        leaf[leaf.index(b"because 290")] ^= 1
        transaction.put(keyspace.ENTRIES, key, bytes(leaf))
    assert store.leaf(100) == entry(100).leaf
    assert store.leaf(289) == entry(289).leaf
    with pytest.raises(DamagedBundleError, match="entry 290 is not the one of its hash"):
        store.leaf(290)
    with store.environment.read() as snapshot:
        leaves = store.leaves_between(snapshot, 0, 300)
        assert len(next(leaves)) == TILE_WIDTH
        with pytest.raises(DamagedBundleError):
            next(leaves)
    store.close()
    with pytest.raises(DamagedBundleError):
        LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES)


def count_bundles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bundles that are read from now on."""
    found: list[int] = []
    read = BundleReader.bundle

    def note(reader: BundleReader, transaction: Transaction[bytes], index: int) -> bytes | None:
        found.append(index)
        return read(reader, transaction, index)

    monkeypatch.setattr(BundleReader, "bundle", note)
    return found


def test_a_commit_reads_a_bundle_once_however_often_its_ids_come_again(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request can name one entry of a bundle of 16 MiB 10,000 times, and all appends wait."""
    writer.commit(entries(0, 600))
    read = count_bundles(monkeypatch)
    again = [entry(number % 600, reason=number % 2 * "another") for number in range(2_000)]
    placed = writer.commit([*again, entry(7_000)])
    assert Counter(each.placement for each in placed) == {
        Placement.DUPLICATE: 1_000, Placement.CONFLICT: 1_000, Placement.APPENDED: 1
    }  # fmt: skip
    assert sorted(read) == [0, 1]


def test_a_limited_commit_leaves_what_is_too_much_to_a_later_one(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.commit(entries(0, 1024))
    monkeypatch.setattr(earlier_entries, "COMPARED_BYTES_MAX", 1)
    read = count_bundles(monkeypatch)
    batch = [entry(number * 256) for number in range(4)]
    placed = writer.commit([*batch, entry(7_000), entry(7_000)], is_limited=True)
    assert [each.placement.name for each in placed] == [
        "DUPLICATE", "LATER", "LATER", "LATER", "APPENDED", "LATER"
    ]  # fmt: skip
    assert [each.leaf_index for each in placed] == [0, 256, 512, 768, 1024, 1024]
    assert read == [0]
    assert {each.placement for each in writer.commit(batch)} == {Placement.DUPLICATE}


def test_the_tenants_of_a_bundle_are_read_once(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each private value of a request asks whether its event is in the log already."""
    writer.commit([entry(number, tenant=number % 2 * "acme") for number in range(300)])
    read = count_bundles(monkeypatch)
    for number in range(256):
        id_bytes = number.to_bytes(16, "big")
        own = writer.store.index_for(id_bytes, "acme" if number % 2 else None)
        other = writer.store.index_for(id_bytes, "other")
        assert (own, other) == (number, None)
    assert read == [0]
    assert writer.store.index_for((299).to_bytes(16, "big"), "acme") == 299
