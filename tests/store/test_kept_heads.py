"""The store keeps the earliest checkpoint of each size, and thins out the old ones."""

from pathlib import Path

import pytest

from ledger.store import kept_heads, keyspace
from ledger.store.kept_heads import DAY_S, LEVELS, thin_heads
from ledger.store.kept_heads import kept_heads as read_heads
from ledger.store.writer import LogWriter
from ledger_core.tlog.policy import parse_policy
from tests.client.hosts import W1, W2, cosigned
from tests.store.entries import SIGNER, entries, new_log, signed


@pytest.fixture
def writer(tmp_path: Path) -> LogWriter:
    return new_log(tmp_path / "log")


def sizes(writer: LogWriter) -> list[int]:
    found = read_heads(writer.store.environment, start=0, most=10_000)
    return [head.head.tree_size for head in found]


def test_the_first_checkpoint_of_a_size_stays_and_the_latest_is_served(writer: LogWriter) -> None:
    writer.commit(entries(0, 5))
    bare = signed(5, writer.head.root_hash)
    first, added, renewed = (
        cosigned(bare, *cosigners)
        for cosigners in (((W1, 100),), ((W1, 100), (W2, 103)), ((W1, 900), (W2, 901)))
    )
    for note, kept, latest in (
        (first, first, first),
        (added, added, added),
        (renewed, added, renewed),
    ):
        writer.commit([], checkpoints=[(5, note)])
        found = writer.store.published(5)
        assert found is not None
        assert found.note == kept
        newest = writer.store.published()
        assert newest is not None
        assert newest.note == latest
    lines = [f"log {SIGNER.verifier}", f"witness w1 {W1.verifier}", "quorum w1"]
    policy = parse_policy(("\n".join(lines) + "\n").encode())
    assert policy.check(added).existed_before_unix_s == 100
    writer.commit(entries(5, 6))
    writer.commit([], checkpoints=[(6, signed(6, writer.head.root_hash))])
    newest = writer.store.published()
    assert newest is not None
    assert newest.head.tree_size == 6
    writer.close()


def test_heads_are_read_from_a_size_on(writer: LogWriter) -> None:
    for size in (0, 3, 7):
        writer.commit(entries(writer.head.tree_size, size))
        writer.commit([], checkpoints=[(size, signed(size, writer.head.root_hash))])
    environment = writer.store.environment
    assert sizes(writer) == [0, 3, 7]
    assert [head.head.tree_size for head in read_heads(environment, start=1, most=1)] == [3]
    assert read_heads(environment, start=8, most=5) == []
    writer.close()


def thinned(writer: LogWriter, times_s: list[int], *, rounds: int) -> list[int]:
    """The sizes that are kept of heads with these times, the head of size n having the nth."""
    note = signed(1, bytes(32)).encode()
    with writer.store.environment.write() as transaction:
        for size in range(1, len(times_s) + 1):
            transaction.put(keyspace.CHECKPOINTS, keyspace.encode_u64(size), note)
    for _ in range(rounds):
        with writer.store.environment.write() as transaction:
            thin_heads(transaction, lambda index: times_s[index])
    with writer.store.environment.read() as transaction:
        return [keyspace.decode_u64(key) for key, _ in transaction.rows(keyspace.CHECKPOINTS)]


def test_a_head_a_second_becomes_one_in_ten_seconds_after_a_week(writer: LogWriter) -> None:
    week_s = 7 * DAY_S
    times = [1_000_000_000 + second for second in range(40)]
    times += [times[-1] + week_s - 15]
    # What is younger than a week stays whole: here the last 15 seconds of the 40.
    kept = thinned(writer, times, rounds=20)
    assert kept == [1, 11, 21, *range(26, 42)]
    writer.close()


def test_after_a_year_one_a_minute_is_left_and_the_newest_head_always(writer: LogWriter) -> None:
    times = [1_000_000_020 + 5 * step for step in range(36)]
    times += [times[-1] + LEVELS[1][0] + 1]
    assert thinned(writer, times, rounds=40) == [1, 13, 25, 37]
    writer.close()


def test_a_commit_looks_at_few_heads(writer: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_heads, "THINNED_AT_ONCE", 2)
    times = [1_000_000_000] * 50 + [1_000_000_000 + 8 * DAY_S]
    assert len(thinned(writer, times, rounds=3)) == 51 - 5
    writer.close()
