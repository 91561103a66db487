"""A log without the entries below a minimum index: nothing of them is left, and all else holds."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ledger.store import keyspace
from ledger.store.environment import Environment
from ledger.store.fsck import check_store
from ledger.store.log import LogStore, PrunedError
from ledger.store.minimum_index import Pruning
from ledger.store.pruning import Removed, prune_log
from ledger.store.writer import LogWriter, Placement
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.prove import plan_inclusion
from ledger_core.tlog.tree import Node
from ledger_core.tlog.verify import check_inclusion
from tests.store.entries import MAP_BYTES, SIGNER, entries, entry, new_log, signed

SIZE = 1000
MINIMUM = 512
PRUNING = Pruning(MINIMUM, 700)
MARKER = "a reason that must be gone"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    with closing(new_log(path)) as writer:
        writer.commit(entries(0, 300))
        writer.commit([entry(number, reason=f"{MARKER} {number}") for number in range(300, 310)])
        writer.commit([entry(310, tenant="acme"), *entries(311, 600)])
        head = writer.head
        writer.commit([], checkpoints=[(head.tree_size, signed(head.tree_size, head.root_hash))])
        writer.commit(entries(600, SIZE))
        head = writer.head
        writer.commit([], checkpoints=[(head.tree_size, signed(head.tree_size, head.root_hash))])
    return path


def check(path: Path) -> None:
    with closing(LogStore.open(path, map_bytes=MAP_BYTES)) as log:
        check_store(log, log_keys=[SIGNER.verifier])


def files_with(folder: Path, text: bytes) -> list[str]:
    return [file.name for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


def test_no_byte_of_the_entries_is_left_and_every_proof_holds(path: Path) -> None:
    hash_of_pruned = entry(305, reason=f"{MARKER} 305").leaf_hash
    with closing(LogStore.open(path)) as log:
        head, kept = log.head(), log.leaf(MINIMUM)
        frame = log.environment.get(keyspace.ENTRIES, keyspace.bundle_key(1))
    assert frame is not None
    assert files_with(path, frame) == ["data.mdb"]
    assert prune_log(path, PRUNING)
    assert files_with(path, frame) == []
    check(path)
    with closing(LogStore.open(path)) as log:
        assert (log.head(), log.minimum_index, log.pruning) == (head, MINIMUM, PRUNING)
        assert log.leaf(MINIMUM) == kept
        for index in (0, 305, MINIMUM - 1):
            with pytest.raises(PrunedError, match=r"below index 512 were pruned .* index 700"):
                log.leaf(index)
        with pytest.raises(PrunedError):
            log.bundle(index=1, width=256)
        assert not log.damaged_bundles()
        # Whoever kept a leaf can still have it proved, and old heads still extend to this one.
        plan = plan_inclusion(leaf_index=305, tree_size=SIZE)
        proof = log.prove(plan, (Node(0, 305),), head)
        check_inclusion(
            leaf_hash=hash_of_pruned,
            leaf_index=305,
            tree_size=SIZE,
            proof=proof,
            root_hash=head.root_hash,
        )
        for size in (1, 255, 256, 300, 512, 600, 999):
            assert log.prove_consistency(size, head)


def test_the_log_grows_after_it_was_pruned(path: Path) -> None:
    prune_log(path, PRUNING)
    with closing(LogWriter.open(path, map_bytes=MAP_BYTES)) as writer:
        placed = writer.commit(entries(SIZE, 1400))
        assert {each.placement for each in placed} == {Placement.APPENDED}
        head = writer.head
        note = signed(head.tree_size, head.root_hash)
        writer.commit([], checkpoints=[(head.tree_size, note)])
        with closing(new_log(path.with_name("whole"))) as whole:
            whole.commit(entries(0, 300))
            whole.commit([entry(number, reason=f"{MARKER} {number}") for number in range(300, 310)])
            whole.commit([entry(310, tenant="acme"), *entries(311, 1400)])
            assert writer.head == whole.head
    check(path)


def test_an_id_that_was_pruned_never_names_another_event(path: Path) -> None:
    prune_log(path, PRUNING)
    with closing(LogWriter.open(path, map_bytes=MAP_BYTES)) as writer:
        placed = writer.commit([entry(5), entry(6, reason="another"), entry(600), entry(5000)])
        assert [each.placement for each in placed] == [
            *(Placement.PRUNED, Placement.PRUNED, Placement.DUPLICATE, Placement.APPENDED)
        ]
        # Another tenant's event may have the id, as before; the tenant's own may not.
        placed = writer.commit([entry(310, tenant="other"), entry(310), entry(310, tenant="acme")])
        assert [each.placement for each in placed] == [
            *(Placement.APPENDED, Placement.APPENDED, Placement.PRUNED)
        ]
        assert writer.store.index_for(entry(310).id_bytes, "acme") == 310
        assert writer.store.index_for(entry(310).id_bytes, "other") == SIZE + 1


def test_pruning_again_goes_on_from_the_first(path: Path) -> None:
    prune_log(path, Pruning(256, 700))
    check(path)
    assert prune_log(path, PRUNING)
    assert not prune_log(path, PRUNING)
    assert not prune_log(path, Pruning(256, 800))
    check(path)


def test_a_log_that_is_open_elsewhere_is_not_pruned(path: Path) -> None:
    with (
        closing(LogWriter.open(path, map_bytes=MAP_BYTES)),
        pytest.raises(UnavailableError, match="is being written by process"),
    ):
        prune_log(path, PRUNING)
    check(path)


@pytest.mark.parametrize("event_index", [511, SIZE])
def test_the_event_of_a_pruning_stays(path: Path, event_index: int) -> None:
    with pytest.raises(VerificationError, match="must be an entry that stays"):
        prune_log(path, Pruning(MINIMUM, event_index))
    check(path)


def test_what_fails_before_the_copy_leaves_the_log_whole(path: Path) -> None:
    def fail(_removed: Removed) -> None:
        raise UnavailableError("no")

    with pytest.raises(UnavailableError, match="no"):
        prune_log(path, PRUNING, before=fail)
    with closing(LogStore.open(path)) as log:
        assert log.minimum_index == 0
        assert log.leaf(0) == entry(0).leaf


def corrupt_tile(environment: Environment) -> None:
    with environment.write() as transaction:
        key = keyspace.tile_key(level=0, index=0)
        tile = bytearray(transaction.get(keyspace.TILES, key) or b"")
        tile[7] ^= 1
        transaction.put(keyspace.TILES, key, bytes(tile))


def put_bundle_back(environment: Environment) -> None:
    with environment.write() as transaction:
        transaction.put(keyspace.ENTRIES, keyspace.bundle_key(0), b"frame")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (corrupt_tile, "tile 0/0|the entries give the root"),
        (put_bundle_back, "bundle 0 was pruned"),
    ],
)
def test_fsck_finds_what_is_wrong_below_the_minimum_index(
    path: Path, change: Callable[[Environment], None], said: str
) -> None:
    prune_log(path, PRUNING)
    with closing(LogStore.open(path, readonly=False, map_bytes=MAP_BYTES)) as log:
        change(log.environment)
    with pytest.raises((VerificationError, MalformedError), match=said):
        check(path)
