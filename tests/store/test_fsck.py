"""fsck: a whole log recomputed, and the first wrong thing named."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard

from ledger.store.fsck import Checked, check_store
from ledger.store.writer import LogWriter
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.note import Signer
from ledger_core.tlog.tile import decode_bundle, encode_bundle
from tests.store.entries import ORIGIN, SIGNER, entries, new_log, signed

STRANGER = Signer.generate(ORIGIN, seed=bytes(32))
SIZE = 700
PUBLISHED = (300, 512, 700)

Row = tuple[bytes, bytes]
Change = Callable[[bytearray], bytes]


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    writer = new_log(tmp_path / "log")
    start = 0
    for size in PUBLISHED:
        writer.commit(entries(start, size))
        head = writer.head
        writer.commit([], checkpoints=[(head.tree_size, signed(head.tree_size, head.root_hash))])
        start = size
    return writer


def check(log: LogWriter) -> Checked:
    return check_store(log.store, log_keys=[SIGNER.verifier])


def alter(log: LogWriter, database: bytes, key: bytes, change: Change | None) -> None:
    """Change one stored row, or delete it, as somebody with the disk would."""
    with log.store.environment.write() as transaction:
        if change is None:
            assert transaction.delete(database, key)
            return
        value = bytearray(transaction.get(database, key) or b"")
        transaction.put(database, key, change(value))


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def flip(offset: int) -> Change:
    def change(value: bytearray) -> bytes:
        value[offset] ^= 1
        return bytes(value)

    return change


def rewrite_entry(offset: int, before: bytes, after: bytes) -> Change:
    """Change an entry inside its compressed bundle, as a careful intruder would."""

    def change(value: bytearray) -> bytes:
        leaves = decode_bundle(zstandard.ZstdDecompressor().decompress(bytes(value)))
        assert before in leaves[offset]
        leaves[offset] = leaves[offset].replace(before, after)
        return zstandard.ZstdCompressor().compress(encode_bundle(leaves))

    return change


def test_a_sound_log_passes_and_says_what_it_holds(log: LogWriter) -> None:
    seen: list[tuple[int, int]] = []
    checked = check_store(
        log.store,
        log_keys=[SIGNER.verifier],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert checked == Checked(log.head, tiles=4, checkpoints=3)
    assert seen == [(256, SIZE), (512, SIZE), (SIZE, SIZE)]


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    def peak(size: int) -> int:
        writer = new_log(tmp_path / f"{size}")
        writer.commit(entries(0, size))
        tracemalloc.start()
        try:
            check_store(writer.store, log_keys=[SIGNER.verifier])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(4096) < 1.2 * peak(1024)


def test_ids_that_are_ids_only_behind_each_other_are_refused(tmp_path: Path) -> None:
    writer = new_log(tmp_path / "log")
    first, second = entries(0, 2)
    longer = first.leaf.replace(b'-000000000000"', b'-0000000000000"')
    shorter = second.leaf.replace(b'"00000000-', b'"0000000-')
    assert (longer, shorter) != (first.leaf, second.leaf)
    for each, leaf in ((first, longer), (second, shorter)):
        writer.commit([msgspec.structs.replace(each, leaf=leaf, leaf_hash=leaf_hash(leaf))])
    with pytest.raises(MalformedError, match="is not the id of an event"):
        check(writer)


def test_an_empty_log_passes(tmp_path: Path) -> None:
    empty = new_log(tmp_path / "log")
    assert check(empty).head.tree_size == 0


@pytest.mark.parametrize(
    ("database", "key", "change", "said"),
    [
        (b"entries", b"\1" + u64(0), flip(-1), "bundle 0 is damaged .*checksum"),
        (b"entries", b"\1" + u64(1), None, "bundle 1 is missing"),
        (
            b"entries",
            b"\1" + u64(1),
            rewrite_entry(44, b"because 300", b"because 301"),
            "the checkpoint of size 512 was signed with the root|tile 0/1, row 0, hash 44",
        ),
        (b"entries", b"\0" + u64(699), None, "entry 699 is missing"),
        (b"entries", b"\0" + u64(699), flip(3), "entry 699: "),
        (b"entries", b"\0" + u64(700), lambda _: b"{}", "the database entries has 191 rows"),
        (b"tiles", b"\0" + u64(0), flip(0), "tile 0/0, row 0, hash 0: the entries give another"),
        (b"tiles", b"\0" + u64(1), flip(256 * 32 + 5 * 32), "tile 0/1, row 1, hash 5: "),
        (b"tiles", b"\0" + u64(1), flip(-1), "tile 0/1, row 8, hash 0: "),
        (b"tiles", b"\0" + u64(2), flip(40), "tile 0/2, row 0, hash 1: "),
        (b"tiles", b"\0" + u64(2), lambda v: bytes(v[:-32]), "tile 0/2 has 5984 bytes, want 6016"),
        (b"tiles", b"\1" + u64(0), flip(33), "tile 1/0, row 0, hash 1: "),
        (b"tiles", b"\1" + u64(0), None, "tile 1/0 is missing"),
        (b"tiles", b"\1" + u64(9), lambda _: b"x", "the database tiles has 5 rows"),
        (b"ids", (5).to_bytes(16, "big"), None, "entry 5: its id leads nowhere"),
        (b"ids", (5).to_bytes(16, "big"), flip(-1), "entry 5: its id leads to entry 4"),
        (b"ids", (1 << 90).to_bytes(16, "big"), lambda _: u64(1), "the database ids has 701 rows"),
        (b"meta", b"tree", flip(-1), "the entries give the root"),
        (b"checkpoints", u64(512), flip(20), "checkpoint 512: "),
        (
            b"checkpoints",
            u64(300),
            lambda _: signed(300, bytes(32)).encode(),
            "the checkpoint of size 300 was signed with the root 0000",
        ),
        (
            b"checkpoints",
            u64(300),
            lambda _: signed(300, bytes(32), signer=STRANGER).encode(),
            "checkpoint 300: ",
        ),
        (
            b"checkpoints",
            u64(900),
            lambda _: signed(900, bytes(32)).encode(),
            "a head of size 900 was signed, the log ends at 700",
        ),
        (
            b"checkpoints",
            u64(400),
            lambda _: signed(300, bytes(32)).encode(),
            "checkpoint 400 is one of example.com/audit, size 300",
        ),
    ],
)
def test_one_change_to_what_is_stored_is_named(
    log: LogWriter, database: bytes, key: bytes, change: Change | None, said: str
) -> None:
    alter(log, database, key, change)
    with pytest.raises((VerificationError, MalformedError), match=said):
        check(log)


def test_entries_in_another_order_of_receipt_are_named(log: LogWriter) -> None:
    later = rewrite_entry(10, b"T14:13:20.000010Z", b"T14:13:29.000010Z")
    alter(log, b"entries", b"\1" + u64(0), later)
    with pytest.raises(
        VerificationError, match=r"entry 11 was received at .*, before the entry in"
    ):
        check(log)
