"""The store of erasable values: what is kept, what an erasure leaves, and crashes in between."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledger.service.background import enqueue_erasures
from ledger.store import keyspace
from ledger.store.commit_errors import CommitUndoneError
from ledger.store.erasable_values import (
    DamagedValueError,
    PrivateStore,
    create_private,
    event_key,
)
from ledger.store.key_slots import SLOT_BYTES
from ledger_core.event.commitments import Commitment, Opening, encode_salt
from ledger_core.tlog.errors import MalformedError, UnavailableError

KEY = bytes(range(32))
EVENT_KEY = event_key("0199f3a1-0000-7000-8000-000000000001", None)
EVENT = b'{"action":"ledger.private.erased"}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_private(tmp_path / "private")
    return tmp_path / "private"


def _opening(subject: str, value: str, path: str = "/context/a") -> Opening:
    return Opening(path, subject, encode_salt(os.urandom(32)), value)


def _commitment(opening: Opening) -> Commitment:
    return Commitment(opening.path, opening.commitment)


def test_what_is_kept_is_found_by_its_commitment_and_path(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    openings = [_opening("u_1", "one"), _opening("u_1", "two"), _opening("u_2", "three")]
    store.put([(EVENT_KEY, opening) for opening in openings])
    store.put([(EVENT_KEY, opening) for opening in openings])
    for opening in openings:
        assert store.find(_commitment(opening), EVENT_KEY) == opening
        assert store.find(Commitment("/context/b", opening.commitment), EVENT_KEY) is None
    assert [store.count(subject) for subject in ("u_1", "u_2", "u_3")] == [2, 1, 0]
    store.close()
    again = PrivateStore.open(path, KEY)
    assert again.find(_commitment(openings[0]), EVENT_KEY) == openings[0]
    again.close()


def test_an_erased_subject_is_gone_and_others_stay(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    gone, stays = _opening("u_1", "gone"), _opening("u_2", "stays")
    store.put([(EVENT_KEY, gone), (EVENT_KEY, stays)])
    wrapped = (path / "keys").read_bytes()[:SLOT_BYTES]
    erasure = store.erase("u_1", event_json=EVENT)
    assert store.find(_commitment(gone), EVENT_KEY) is None
    assert store.find(_commitment(stays), EVENT_KEY) == stays
    assert store.count("u_1") == 0
    assert wrapped not in (path / "keys").read_bytes()
    assert wrapped not in (path / "data.mdb").read_bytes()
    assert store.unlogged() == [erasure]
    store.finish(erasure)
    assert store.unlogged() == []
    # The subject may come back, with another key.
    later = _opening("u_1", "later")
    store.put([(EVENT_KEY, later)])
    assert store.find(_commitment(later), EVENT_KEY) == later
    assert store.find(_commitment(gone), EVENT_KEY) is None
    store.close()


def test_an_erasure_that_a_crash_broke_off_is_ended_when_the_store_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PrivateStore.open(path, KEY)
    gone, stays = _opening("u_1", "gone"), _opening("u_2", "stays")
    store.put([(EVENT_KEY, gone), (EVENT_KEY, stays)])
    wrapped = (path / "keys").read_bytes()[:SLOT_BYTES]

    class PowerCutError(Exception):
        pass

    def cut(_fd: int, _data: bytes, _at: int) -> int:
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr("ledger.store.key_slots.os.pwrite", cut)
        with pytest.raises(PowerCutError):
            store.erase("u_1", event_json=EVENT)
    assert wrapped in (path / "keys").read_bytes()
    store.close()
    again = PrivateStore.open(path, KEY)
    assert wrapped not in (path / "keys").read_bytes()
    assert [erasure.event_json for erasure in again.unlogged()] == [EVENT]
    assert again.find(_commitment(gone), EVENT_KEY) is None
    assert again.find(_commitment(stays), EVENT_KEY) == stays
    again.close()


def test_a_subject_of_which_nothing_is_kept_is_erased_as_well(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    store.finish(store.erase("nobody", event_json=EVENT))
    kept = _opening("u_1", "x")
    store.put([(EVENT_KEY, kept)])
    assert store.find(_commitment(kept), EVENT_KEY) == kept
    store.close()


def test_another_wrapping_key_opens_nothing(path: Path, tmp_path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    kept = _opening("u_1", "x")
    store.put([(EVENT_KEY, kept)])
    store.close()
    copied = shutil.copytree(path, tmp_path / "copy")
    other = PrivateStore.open(copied, bytes(32))
    with pytest.raises(MalformedError, match="unwrapped"):
        other.find(_commitment(kept), EVENT_KEY)
    other.close()


def test_without_its_files_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        PrivateStore.open(tmp_path / "nothing", KEY)
    create_private(tmp_path / "private")
    (tmp_path / "private" / "keys").unlink()
    with pytest.raises(UnavailableError, match="keys"):
        PrivateStore.open(tmp_path / "private", KEY)


def test_a_value_opens_its_commitment_in_its_own_event_alone(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    opening = _opening("u_1", "one")
    store.put([(EVENT_KEY, opening)])
    for others in (event_key("0199f3a1-0000-7000-8000-000000000002", None), event_key("x", "acme")):
        assert store.find(_commitment(opening), others) is None
    store.close()


def test_an_erased_value_is_not_stored_again_and_a_value_keeps_its_subject(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    opening = _opening("u_1", "one")
    renamed = Opening(opening.path, "u_2", opening.salt, opening.value)
    other = event_key("0199f3a1-0000-7000-8000-000000000002", None)
    store.put([(EVENT_KEY, opening)])
    store.put([(EVENT_KEY, renamed), (other, renamed)])
    assert [store.count(subject) for subject in ("u_1", "u_2")] == [1, 1]
    store.erase("u_1", event_json=EVENT)
    assert store.find(_commitment(opening), EVENT_KEY) is None
    store.put([(EVENT_KEY, opening), (EVENT_KEY, renamed)])
    assert store.find(_commitment(opening), EVENT_KEY) is None
    assert store.find(_commitment(opening), other) == renamed
    assert [store.count(subject) for subject in ("u_1", "u_2")] == [0, 1]
    store.close()


def _zero(path: Path, slot: int) -> None:
    with (path / "keys").open("r+b") as keys:
        keys.seek(slot * SLOT_BYTES)
        keys.write(bytes(SLOT_BYTES))


def test_a_key_of_zeros_is_damage_and_no_erasure(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    openings = [_opening("u_1", "one"), _opening("u_2", "two")]
    store.put([(EVENT_KEY, opening) for opening in openings])
    _zero(path, 0)
    damaged, whole = map(_commitment, openings)
    later = _opening("u_1", "later")
    for refused in (
        lambda: store.find(damaged, EVENT_KEY),
        lambda: store.check_key("u_1"),
        lambda: store.subject_key("u_1"),
        lambda: store.put([(EVENT_KEY, later)]),
        lambda: store.put([(EVENT_KEY, openings[0])]),
    ):
        with pytest.raises(DamagedValueError, match="zeros, but its subject was not erased"):
            refused()
    assert store.find(whole, EVENT_KEY) == openings[1]
    # Erasing the subject is the way back where no backup has the key.
    store.finish(store.erase("u_1", event_json=EVENT))
    assert store.find(damaged, EVENT_KEY) is None
    store.put([(EVENT_KEY, later)])
    assert store.find(_commitment(later), EVENT_KEY) == later
    store.close()


def test_a_value_that_is_erased_while_it_is_read_is_erased(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PrivateStore.open(path, KEY)
    opening = _opening("u_1", "one")
    store.put([(EVENT_KEY, opening)])
    pread = os.pread

    def erase_first(descriptor: int, size: int, at: int) -> bytes:
        with monkeypatch.context() as patched:
            patched.setattr("ledger.store.key_slots.os.pread", pread)
            store.erase("u_1", event_json=EVENT)
        return pread(descriptor, size, at)

    with monkeypatch.context() as patched:
        patched.setattr("ledger.store.key_slots.os.pread", erase_first)
        assert store.find(_commitment(opening), EVENT_KEY) is None
    store.close()


def _change(store: PrivateStore, database: bytes, key: bytes, value: bytes) -> None:
    with store.environment.write() as transaction:
        transaction.put(database, key, value)


def test_no_damaged_row_has_the_key_of_another_subject_destroyed(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    openings = [_opening("u_1", "one"), _opening("u_2", "two")]
    store.put([(EVENT_KEY, opening) for opening in openings])
    with store.environment.read() as transaction:
        (other,) = [
            subject
            for subject, row in transaction.rows(keyspace.SUBJECTS)
            if row == keyspace.encode_u64(0)
        ]
    # The subject's row names the slot of another one.
    _change(store, keyspace.SUBJECTS, other, keyspace.encode_u64(1))
    with pytest.raises(DamagedValueError, match="nothing was erased"):
        store.erase("u_1", event_json=EVENT)
    _change(store, keyspace.SUBJECTS, other, keyspace.encode_u64(0))
    # So does an erasure that was interrupted.
    _change(store, keyspace.ERASING, bytes(32), keyspace.encode_u64(1) + EVENT)
    # The number of slots is too small.
    _change(store, keyspace.META, keyspace.META_SLOTS, keyspace.encode_u64(1))
    store.close()
    again = PrivateStore.open(path, KEY)
    with pytest.raises(DamagedValueError, match="the next slot"):
        again.put([(EVENT_KEY, _opening("u_3", "three"))])
    for opening in openings:
        assert again.find(_commitment(opening), EVENT_KEY) == opening
    again.close()


def test_a_subject_whose_row_is_lost_has_its_key_destroyed(path: Path) -> None:
    store = PrivateStore.open(path, KEY)
    lost, other = _opening("u_1", "one"), _opening("u_2", "two")
    store.put([(EVENT_KEY, lost), (EVENT_KEY, other)])
    with store.environment.write() as transaction:
        (subject,) = [
            key for key, row in transaction.rows(keyspace.SUBJECTS) if row == keyspace.encode_u64(0)
        ]
        transaction.delete(keyspace.SUBJECTS, subject)
    store.finish(store.erase("u_1", event_json=EVENT))
    assert (path / "keys").read_bytes()[:SLOT_BYTES] == bytes(SLOT_BYTES)
    assert store.find(_commitment(lost), EVENT_KEY) is None
    assert store.find(_commitment(other), EVENT_KEY) == other
    store.close()


def test_many_new_subjects_take_one_sync_of_the_keys(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, syncs, sync = PrivateStore.open(path, KEY), [], os.fsync

    def count(file: int) -> None:
        syncs.append(file)
        sync(file)

    monkeypatch.setattr(os, "fsync", count)
    openings = [_opening(f"u_{number}", "x") for number in range(50)]
    store.put([(EVENT_KEY, opening) for opening in openings])
    assert len(syncs) == 1
    store.put([(EVENT_KEY, _opening("u_0", "y"))])
    assert len(syncs) == 1
    assert all(store.find(_commitment(each), EVENT_KEY) == each for each in openings)
    store.close()


def test_keys_that_the_disk_refuses_leave_nothing_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PrivateStore.open(path, KEY)
    opening = _opening("u_1", "x")

    def refuse(_file: int) -> None:
        raise OSError(errno.EIO, "refused")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(CommitUndoneError):
            store.put([(EVENT_KEY, opening)])
    assert store.find(_commitment(opening), EVENT_KEY) is None
    store.put([(EVENT_KEY, opening)])
    assert store.find(_commitment(opening), EVENT_KEY) == opening
    store.close()


def _break_off_erasure(
    monkeypatch: pytest.MonkeyPatch, store: PrivateStore, *, event_json: bytes
) -> None:
    """Erase `u_1` on a disk that takes no zeros."""
    pwrite = os.pwrite

    def write(file: int, data: bytes, at: int) -> int:
        if not data.strip(b"\0"):
            raise OSError(errno.EIO, "refused")
        return pwrite(file, data, at)

    with monkeypatch.context() as patched:
        patched.setattr("ledger.store.key_slots.os.pwrite", write)
        with pytest.raises(CommitUndoneError):
            store.erase("u_1", event_json=event_json)


def _wrapped(path: Path) -> bytes:
    """The first key, as it is wrapped."""
    return (path / "keys").read_bytes()[:SLOT_BYTES]


def test_a_second_erasure_completes_the_first_whose_zeros_the_disk_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PrivateStore.open(path, KEY)
    store.put([(EVENT_KEY, _opening("u_1", "gone"))])
    wrapped = _wrapped(path)
    _break_off_erasure(monkeypatch, store, event_json=EVENT)
    assert _wrapped(path) == wrapped
    again = store.erase("u_1", event_json=b'{"action":"again"}')
    assert _wrapped(path) == bytes(SLOT_BYTES)
    # The event of the first is not lost: it has the number of the values.
    assert {each.event_json for each in store.unlogged()} == {EVENT, again.event_json}
    store.finish(again)
    assert [each.event_json for each in store.unlogged()] == [EVENT]
    store.close()


def test_an_erasure_that_is_logged_first_does_not_end_one_that_is_not_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request erases, a value comes, and another request's process ends before its zeros."""
    one = PrivateStore.open(path, KEY)
    one.put([(EVENT_KEY, _opening("u_1", "first"))])
    first = one.erase("u_1", event_json=EVENT)
    one.put([(EVENT_KEY, _opening("u_1", "second"))])
    wrapped = (path / "keys").read_bytes()[SLOT_BYTES : 2 * SLOT_BYTES]
    _break_off_erasure(monkeypatch, one, event_json=b'{"action":"second"}')
    one.finish(first)
    assert wrapped in (path / "keys").read_bytes()
    one.close()
    two = PrivateStore.open(path, KEY)
    assert wrapped not in (path / "keys").read_bytes()
    assert [each.event_json for each in two.unlogged()] == [b'{"action":"second"}']
    two.close()


def test_the_process_that_logs_the_erasure_of_one_that_ended_writes_its_zeros(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PrivateStore.open(path, KEY)
    store.put([(EVENT_KEY, _opening("u_1", "gone"))])
    wrapped = _wrapped(path)
    _break_off_erasure(monkeypatch, store, event_json=EVENT)
    logged: list[bytes] = []
    parts = SimpleNamespace(store=store)
    access = SimpleNamespace(enqueue=logged.append)
    enqueue_erasures(SimpleNamespace(private_fields=parts, access=access))  # type: ignore[arg-type]
    assert logged == [EVENT]
    assert store.unlogged() == []
    assert wrapped not in (path / "keys").read_bytes()
    store.close()
