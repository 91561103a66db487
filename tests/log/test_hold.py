"""A hold stops the log until a person decides, names the heads that show why, and is a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.log.hold import (
    HEADS_MAX,
    HeldError,
    HeldHead,
    Hold,
    HoldRecord,
    is_missing,
    read_hold,
    read_marker,
    read_own_head,
    write_marker,
)
from ledger.store.log import LogStore
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, HASH_BYTES
from ledger_core.tlog.note import Signer
from tests.store.entries import ORIGIN, SIGNER, entries, new_log, signed

SINCE, LATER = "2026-11-25T02:03:36Z", "2026-11-26T02:03:36Z"
OLD = "a witness knows a larger tree"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hold.json"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    """A log of five entries."""
    writer = new_log(tmp_path / "log")
    writer.commit(entries(0, 5))
    yield writer.store
    writer.close()


def test_only_a_placed_hold_stops_the_log_and_a_restart_does_not_end_it(path: Path) -> None:
    hold = Hold(path)
    hold.check()
    hold.place(OLD, since=SINCE, by="w1", note="n1")
    for each in (hold, Hold(path)):
        with pytest.raises(HeldError, match=OLD):
            each.check()
    assert Hold(path).record == HoldRecord(OLD, SINCE, (HeldHead("w1", "n1"),))


def test_a_hold_without_a_file_is_in_memory_alone(path: Path) -> None:
    hold = Hold()
    hold.place(OLD, since=SINCE, by="w1", note="n1")
    with pytest.raises(HeldError):
        hold.check()
    assert not path.exists()


def test_a_later_head_joins_the_hold_that_keeps_its_first_reason(path: Path) -> None:
    hold = Hold(path)
    hold.place(OLD, since=SINCE, by="w1", note="n1")
    hold.place("another reason", since=LATER, by="w2", note="n2")
    hold.place("another reason", since=LATER, by="w3", note="n2")
    want = HoldRecord(OLD, SINCE, (HeldHead("w1", "n1"), HeldHead("w2", "n2")))
    assert hold.record == read_hold(path) == want


def test_a_hold_names_so_many_heads_and_no_more(path: Path) -> None:
    hold = Hold(path)
    for number in range(HEADS_MAX + 3):
        hold.place(OLD, since=SINCE, by="w1", note=f"n{number}")
    assert hold.record is not None
    assert [each.note for each in hold.record.heads] == [f"n{n}" for n in range(HEADS_MAX)]


def test_a_hold_that_adds_nothing_writes_nothing(path: Path) -> None:
    hold = Hold(path)
    hold.place(OLD, since=SINCE, by="w1", note="n1")
    path.unlink()
    hold.place(OLD, since=LATER, by="w2", note="n1")
    assert not path.exists()


def test_a_hold_stops_the_log_even_where_it_can_not_be_written(tmp_path: Path) -> None:
    hold = Hold(tmp_path / "missing" / "hold.json")
    hold.place(OLD, since=SINCE, by="w1", note="n1")
    with pytest.raises(HeldError):
        hold.check()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"reason":1,"since":"x"}', b"\xff"])
def test_a_damaged_hold_is_no_missing_one(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(MalformedError, match=r"hold\.json"):
        Hold(path)


def test_a_marker_is_the_head_that_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "published"
    assert read_marker(path) is None
    for size in (3, 5):
        write_marker(path, signed(size, bytes(HASH_BYTES)))
    marker = read_marker(path)
    assert marker is not None
    assert marker.note == signed(5, bytes(HASH_BYTES))
    assert [each.name for each in tmp_path.iterdir()] == ["published"]
    path.write_text(marker.note[:40])
    assert read_marker(path) is None


def test_only_a_head_of_this_log_by_its_key_is_its_own() -> None:
    note = signed(5, bytes(HASH_BYTES))
    keys = [SIGNER.verifier]
    assert read_own_head(note.encode(), ORIGIN, keys).note == note
    with pytest.raises(VerificationError, match=r"not a head of example\.com/other"):
        read_own_head(note.encode(), "example.com/other", keys)
    other = Signer.generate(ORIGIN, seed=bytes(HASH_BYTES))
    with pytest.raises(VerificationError):
        read_own_head(signed(5, bytes(HASH_BYTES), signer=other).encode(), ORIGIN, keys)
    with pytest.raises(MalformedError):
        read_own_head(note.encode()[:40], ORIGIN, keys)


def test_a_store_lacks_a_head_that_is_larger_or_of_another_root(store: LogStore) -> None:
    def lacks(tree_size: int, root_hash: bytes) -> bool:
        return is_missing(store, parse_signed_checkpoint(signed(tree_size, root_hash)))

    root = store.head().root_hash
    assert not lacks(0, EMPTY_ROOT_HASH)
    assert not lacks(3, store.root_at(3))
    assert not lacks(5, root)
    assert lacks(5, store.root_at(4))
    assert lacks(4, root)
    assert lacks(6, root)
