"""The store of a witness: heads only go where an update takes them, and stay there."""

import multiprocessing
from pathlib import Path

import pytest

from ledger.store import keyspace
from ledger.store.commit_errors import CommitFailedError, StorageFullError
from ledger.witness.known_log import LOG_KEYS_MAX, KnownLog
from ledger.witness.store import HeadStore, HeadWriter, Update, create_heads
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE
from ledger_core.tlog.witness import Refused, cosign
from tests.witness.logs import Log
from tests.witness.witnesses import SIGNERS

NOW = 1_790_000_000
LOG = Log("example.com/log")
REFUSED = Refused(409, "another size", 7)
VKEY, OTHER_VKEY = LOG.vkey, str(LOG.stranger.verifier)
VKEYS = [str(signer.verifier) for signer in SIGNERS]
MAP_BYTES = 1 << 20


def head(tree_size: int, *, log: Log = LOG, time_unix_s: int = NOW) -> SignedCheckpoint:
    signed = parse_signed_checkpoint(log.note(tree_size))
    return cosign(signed, SIGNERS[:1], time_unix_s=time_unix_s)


def put(made: SignedCheckpoint) -> Update:
    return Update(made.checkpoint.origin, lambda _: made)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    create_heads(tmp_path / "heads", vkeys=VKEYS, map_bytes=MAP_BYTES)
    return tmp_path / "heads"


@pytest.fixture
def path(empty: Path) -> Path:
    store = HeadStore.open(empty, readonly=False, map_bytes=MAP_BYTES)
    store.add_log(LOG.origin, [VKEY])
    store.close()
    return empty


def known(path: Path, log: Log = LOG) -> SignedCheckpoint | None:
    store = HeadStore.open(path)
    try:
        return store.head(log.origin_hash)
    finally:
        store.close()


def test_a_head_is_read_back_as_it_was_committed(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    assert writer.store.head(LOG.origin_hash) is None
    made = head(7)
    assert writer.commit([put(made)]) == [made]
    assert writer.store.head(LOG.origin_hash) == made
    writer.close()
    assert known(path) == made


def test_each_update_of_a_batch_is_given_what_the_one_before_left(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    seen: list[int | None] = []

    def grow(before: SignedCheckpoint | None) -> SignedCheckpoint | Refused:
        seen.append(before.checkpoint.tree_size if before else None)
        return head((before.checkpoint.tree_size if before else 0) + 1)

    other = Log("example.com/other")
    writer.store.add_log(other.origin, [other.vkey])
    writer.commit(
        [*[Update(LOG.origin, grow)] * 3, put(head(9, log=other)), Update(LOG.origin, grow)]
    )
    assert seen == [None, 1, 2, 3]
    writer.close()
    assert known(path) == head(4)
    assert known(path, other) == head(9, log=other)


def test_a_refusal_or_the_same_head_changes_nothing(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    writer.commit([put(head(7))])
    same, refused = writer.commit(
        [
            Update(LOG.origin, lambda before: before or REFUSED),
            Update(LOG.origin, lambda _: REFUSED),
        ]
    )
    assert (same, refused) == (head(7), REFUSED)
    writer.close()
    assert known(path) == head(7)


def test_a_batch_is_undone_as_a_whole(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    writer.commit([put(head(7))])

    def fail(_: SignedCheckpoint | None) -> Refused:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        writer.commit([put(head(8)), Update(LOG.origin, fail)])
    assert writer.store.head(LOG.origin_hash) == head(7)
    writer.commit([put(head(9))])
    writer.close()
    assert known(path) == head(9)


def test_a_full_map_keeps_nothing_of_the_batch_and_takes_the_next(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    writer.commit([put(head(7))])
    signer = CosignatureSigner.generate("w", algorithm=MLDSA44_COSIGNATURE, seed=bytes(32))

    def large(log: Log) -> Update:
        small = head(8, log=log)
        text = small.as_note().text
        signatures = tuple(signer.sign(text, time_unix_s=NOW) for _ in range(40))
        return put(SignedCheckpoint(small.checkpoint, signatures))

    others = [Log(f"example.com/{number}") for number in range(10)]
    for log in others:
        writer.store.add_log(log.origin, [log.vkey])
    many = [large(log) for log in others]
    with pytest.raises(StorageFullError):
        writer.commit([put(head(8)), *many])
    assert writer.store.head(LOG.origin_hash) == head(7)
    assert writer.commit([put(head(9))]) == [head(9)]
    writer.close()


def test_after_a_failed_commit_nothing_is_written(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)

    def fail(_: SignedCheckpoint | None) -> Refused:
        raise CommitFailedError("the disk")

    with pytest.raises(CommitFailedError):
        writer.commit([Update(LOG.origin, fail)])
    with pytest.raises(CommitFailedError, match="restart"):
        writer.commit([put(head(7))])
    writer.close()
    assert known(path) is None


def _try_to_write(path: Path) -> str:
    try:
        HeadWriter.open(path, map_bytes=MAP_BYTES).close()
    except UnavailableError as error:
        return str(error)
    return ""


def test_a_second_writer_is_refused(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "one writer" in pool.apply(_try_to_write, (path,))
        writer.close()
        assert pool.apply(_try_to_write, (path,)) == ""


def test_a_store_that_is_gone_is_never_made_anew(tmp_path: Path) -> None:
    gone = tmp_path / "heads"
    for readonly in (True, False):
        with pytest.raises(UnavailableError):
            HeadStore.open(gone, readonly=readonly)
    with pytest.raises(UnavailableError):
        HeadWriter.open(gone)
    assert not gone.exists()


def test_another_format_is_refused(path: Path) -> None:
    store = HeadStore.open(path, readonly=False, map_bytes=MAP_BYTES)
    with store.environment.write() as transaction:
        transaction.put(keyspace.META, keyspace.META_FORMAT, b"2")
    store.close()
    with pytest.raises(MalformedError, match="format 2"):
        HeadStore.open(path)


def test_a_log_is_known_with_all_its_keys_and_keeps_its_head(empty: Path) -> None:
    writer = HeadWriter.open(empty, map_bytes=MAP_BYTES)
    store = writer.store
    assert store.log(LOG.origin) is None
    store.add_log(LOG.origin, [VKEY])
    writer.commit([put(head(7))])
    assert store.add_log(LOG.origin, [OTHER_VKEY, VKEY]).vkeys == (VKEY, OTHER_VKEY)
    known_log = KnownLog(LOG.origin, (VKEY, OTHER_VKEY), has_head=True)
    assert store.log(LOG.origin) == known_log
    assert store.logs() == [(known_log, head(7))]
    assert store.vkeys() == tuple(VKEYS)
    writer.close()


def test_a_log_has_so_many_keys_at_most(empty: Path) -> None:
    store = HeadStore.open(empty, readonly=False, map_bytes=MAP_BYTES)
    for vkeys in ([], [str(number) for number in range(LOG_KEYS_MAX + 1)]):
        with pytest.raises(ValueError, match="keys"):
            store.add_log(LOG.origin, vkeys)
    assert store.logs() == []
    store.close()


def test_an_origin_may_have_what_python_takes_for_the_end_of_a_line(path: Path) -> None:
    origin = "example.com/\u2028\x85log"
    store = HeadStore.open(path, readonly=False, map_bytes=MAP_BYTES)
    store.add_log(origin, [VKEY])
    assert store.log(origin) == KnownLog(origin, (VKEY,))
    store.close()


def test_so_many_logs_are_read_and_all_are_counted(empty: Path) -> None:
    store = HeadStore.open(empty, readonly=False, map_bytes=MAP_BYTES)
    for number in range(5):
        store.add_log(f"example.com/{number}", [VKEY])
    assert len(store.logs(logs_max=3)) == 3
    assert store.count_logs() == len(store.logs()) == 5
    store.close()


def _rewrite(store: HeadStore, database: bytes, key: bytes, value: bytes | None) -> None:
    """Replace the one row of a database by another one, or by none."""
    with store.environment.write() as transaction:
        ((old, _),) = list(transaction.rows(database))
        transaction.delete(database, old)
        if value is not None:
            transaction.put(database, key, value)


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@pytest.mark.parametrize("database", [keyspace.HEADS, keyspace.LOGS])
def test_no_flipped_bit_of_a_row_makes_another_head_the_first_one(
    path: Path, database: bytes
) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    writer.commit([put(head(7))])
    with writer.store.environment.read() as transaction:
        ((key, value),) = list(transaction.rows(database))
    seen: list[SignedCheckpoint | None] = []

    def look(known: SignedCheckpoint | None) -> Refused:
        seen.append(known)
        return REFUSED

    keys, values = range(0, 256, 3), range(0, 8 * len(value), 7)
    bits = [*((bit, 0) for bit in keys), *((256, bit) for bit in values)]
    for key_bit, value_bit in bits:
        other_key = _flipped(key, key_bit) if key_bit < 256 else key
        other_value = value if key_bit < 256 else _flipped(value, value_bit)
        _rewrite(writer.store, database, other_key, other_value)
        with pytest.raises(MalformedError, match=r"must not sign|is not known"):
            writer.commit([Update(LOG.origin, look)])
        assert writer.store.check() != []
    assert seen == []
    writer.close()
    with pytest.raises(MalformedError, match="must not sign"):
        HeadWriter.open(path, map_bytes=MAP_BYTES)


def test_a_missing_head_does_not_make_its_log_a_new_one(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    writer.commit([put(head(7))])
    _rewrite(writer.store, keyspace.HEADS, b"", None)
    with pytest.raises(MalformedError, match="is missing"):
        writer.commit([put(head(5))])
    assert "is missing" in writer.store.check()[0]
    writer.close()


def test_logs_of_version_0_1_are_marked_at_start(path: Path) -> None:
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    writer.commit([put(head(7))])
    row = f"{LOG.origin}\n{VKEY}\n".encode()
    _rewrite(writer.store, keyspace.LOGS, LOG.origin_hash, row)
    writer.close()
    writer = HeadWriter.open(path, map_bytes=MAP_BYTES)
    assert writer.store.log(LOG.origin) == KnownLog(LOG.origin, (VKEY,), has_head=True)
    assert writer.store.head(LOG.origin_hash) == head(7)
    writer.close()
