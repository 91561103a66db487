"""Small records: no flipped bit in one is read as another record."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.archive.object_lock import LockState
from ledger.follow.position import FollowerPaths
from ledger.log.hold import HeldHead, HoldRecord, read_hold, write_hold
from ledger.mirror.replica import StopRecord
from ledger.mirror.state import MirrorStatus
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.service.data_dir import PromotionRecord
from ledger.service.recovery_journal import Unfinished
from ledger.service.start_record import StartRecord
from ledger.sinks.dead_letters import DeadLetters, read_letters
from ledger_core.tlog.errors import MalformedError

SINCE = "2026-11-25T02:03:36.000000Z"
RECORDS = (
    LockState(mode="compliance", days=30, until_unix_s=1_795_841_016),
    StopRecord("the log forked", SINCE, "evidence/1"),
    MirrorStatus(log_size=17, contact_at_unix_s=1_795_841_016, untrue={"head": "of size 3"}),
    PromotionRecord(log_url="https://log.example", tree_size=17, verifier_key="log.example+1+A"),
    StartRecord({"policy": "9f", "access": None}),
    Unfinished(17, "/newer/ledger"),
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_flipped_bit_of_a_record_is_named(tmp_path: Path, record: CheckedRecord) -> None:
    path = tmp_path / "record.json"
    write_record(path, record)
    assert read_record(path, type(record)) == record
    _check_flips(path, lambda: read_record(path, type(record)))


def test_a_flipped_bit_of_a_hold_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hold.json"
    write_hold(path, HoldRecord("a larger head", SINCE, (HeldHead("w1", "note"),)))
    _check_flips(path, lambda: read_hold(path))


def test_a_flipped_bit_of_a_dead_letter_is_named(tmp_path: Path) -> None:
    paths = FollowerPaths(tmp_path, "sinks", "siem")
    paths.make()
    letters = DeadLetters(paths)
    letters.add(17, "9f" * 32, "HTTP 400: a field is too long")
    letters.add(18, "a0" * 32, "HTTP 400: a field is too long")
    assert [letter.index for letter in read_letters(paths.dead)] == [17, 18]
    # Without the last line end the last line is one that a kill cut; the state counts the letters.
    _check_flips(paths.dead, lambda: read_letters(paths.dead), but_last=1)


def test_a_record_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "recovering.json"
    path.write_bytes(b'{"start":17,"source":"/newer/ledger"}')
    assert read_record(path, Unfinished) == Unfinished(17, "/newer/ledger")


def _check_flips(path: Path, read: Callable[[], object], but_last: int = 0) -> None:
    data = path.read_bytes()
    want = read()
    for position in range(len(data) - but_last):
        for bit in (0, 5):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found = read()
            except MalformedError:
                continue
            # White space around the JSON may change, and nothing else.
            assert found == want, (position, bit)
