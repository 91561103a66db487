"""A log is uploaded as tlog-tiles, whatever ends the uploader, and by one history alone."""

import asyncio
import gzip
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ledger.archive.object_lock import read_lock
from ledger.demo.tampering import alter_entry
from ledger.follow.position import FollowerPaths
from ledger.object_storage.config import KIND
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import CHECKPOINT
from ledger.object_storage.place import Place
from ledger.store.log import LogStore
from ledger_core.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    format_checkpoint,
    parse_signed_checkpoint,
)
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.note import Signer
from tests.archive.archiving import SEED, SMALL, ArchivedFolder, BadStore, Reply, place_of
from tests.archive.seaweed import ACCESS_KEY, SECRET_KEY, ObjectServer
from tests.archive.verifying import verify
from tests.sinks.sinking import ORIGIN

NAMES = {
    "log/archive.json",
    "log/checkpoint",
    "log/probe",
    *(f"log/tile/entries/{name}" for name in ("000", "001", "002.p/88")),
    *(f"log/tile/0/{name}" for name in ("000", "001", "002.p/88")),
    "log/tile/1/000.p/2",
}


class KilledError(BaseException):
    """Ends an uploader where a kill would."""


class KilledBucket(Bucket):
    """A bucket whose uploader is killed at one of its writes."""

    def __init__(self, place: Place, *, at: int, is_before: bool) -> None:
        super().__init__(place)
        self._at, self._is_before, self._writes = at, is_before, 0

    async def _put(self, name: str, data: bytes, headers: dict[str, str]) -> bool:
        self._writes += 1
        if self._writes == self._at and self._is_before:
            raise KilledError
        done = await super()._put(name, data, headers)
        if self._writes >= self._at:
            raise KilledError
        return done


def size_there(store: ObjectServer, bucket: str, prefix: str = "log") -> int:
    """The size of the checkpoint in a bucket."""
    note = store.read(bucket, f"{prefix}/{CHECKPOINT}")
    return parse_signed_checkpoint(note).head.tree_size


def copied(folder: ArchivedFolder, to: Path) -> ArchivedFolder:
    """A copy of a ledger's folder, as a backup that is put back."""
    copy = object.__new__(ArchivedFolder)
    copy.directory = Path(shutil.copytree(folder.directory, to))
    copy._count = folder.size()
    return copy


def test_a_log_has_the_names_and_the_bytes_of_tlog_tiles(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    bucket = store.make_bucket()
    folder.grow(SMALL)
    folder.upload(Bucket(place_of(store.endpoint, bucket)))
    assert set(store.names(bucket)) == NAMES
    with closing(LogStore.open(folder.directory / "log")) as log:
        found = store.admin.get_object(Bucket=bucket, Key="log/tile/entries/001")
        assert found["ContentEncoding"] == "gzip"
        assert gzip.decompress(found["Body"].read()) == log.bundle(index=1, width=256)
        assert store.read(bucket, "log/tile/0/001") == log.tile(level=0, index=1, width=256)
        assert store.read(bucket, "log/tile/1/000.p/2") == log.tile(level=1, index=0, width=2)
        published = log.published()
        assert published is not None
        assert store.read(bucket, "log/checkpoint") == published.note.encode()


def test_a_log_that_grows_adds_objects_and_replaces_the_checkpoint_alone(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    before: dict[str, bytes] = {}
    for entries in (1, 200, 55, 1, 700):
        folder.grow(entries)
        folder.upload(Bucket(place))
        now = {name: store.read(place.bucket, name) for name in store.names(place.bucket)}
        changed = {name for name, data in before.items() if now[name] != data}
        assert changed <= {"log/checkpoint"}
        before = now
    report = verify(place, folder.policy)
    assert (report["verified"], report["tree_size"], report["bundles"]) == (True, 957, 4)
    again = Bucket(place)
    folder.upload(again)
    # The probe, the record of the archive, and the partial tiles and bundle, which are there.
    assert again.requests["put"] <= 3 + 1 + 3


def test_an_uploader_that_is_killed_at_any_write_leaves_an_archive_that_another_completes(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    bucket = store.make_bucket()
    folder.grow(300)
    writes = 12
    for number in range(1, writes + 1):
        for is_before in (True, False):
            prefix = f"killed-{number}-{is_before}"
            place = place_of(store.endpoint, bucket, prefix)
            name = f"copy-{number}-{is_before}"
            killed = KilledBucket(place, at=number, is_before=is_before)
            try:
                folder.upload(killed, name=name)
            except KilledError:
                there = {each.removeprefix(f"{prefix}/") for each in store.names(bucket, prefix)}
                # The checkpoint comes last, so there is none without its tree.
                if CHECKPOINT in there:
                    assert verify(place, folder.policy)["verified"]
                folder.upload(Bucket(place), name=name)
            assert verify(place, folder.policy)["tree_size"] == 300
    assert killed._writes < writes, "not every write was tried"


def test_an_archive_whose_address_is_changed_gets_the_whole_log_there(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    first, second = (place_of(store.endpoint, store.make_bucket()) for _ in range(2))
    folder.grow(SMALL)
    folder.upload(Bucket(first))
    folder.upload(Bucket(second))
    assert verify(second, folder.policy)["tree_size"] == SMALL
    # Back again, where the first entries are: the rest follows.
    folder.grow(SMALL)
    folder.upload(Bucket(second))
    folder.upload(Bucket(first))
    assert verify(first, folder.policy)["tree_size"] == 2 * SMALL


@pytest.mark.parametrize("is_tried_first", [False, True])
def test_a_bucket_that_was_emptied_gets_the_whole_log(
    folder: ArchivedFolder, store: ObjectServer, *, is_tried_first: bool
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place))
    for name in store.names(place.bucket):
        store.delete(place.bucket, name)
    if is_tried_first:  # As `ledger archive test` does; it creates the record of the archive.
        folder.prepare(Bucket(place))
    folder.upload(Bucket(place))
    assert verify(place, folder.policy)["tree_size"] == SMALL


def test_a_damaged_note_of_the_bucket_is_as_none(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    first, second = (place_of(store.endpoint, store.make_bucket()) for _ in range(2))
    folder.grow(SMALL)
    folder.upload(Bucket(first))
    FollowerPaths(folder.directory, KIND, "copy").place.write_bytes(b"{}")
    folder.upload(Bucket(second))
    assert verify(second, folder.policy)["tree_size"] == SMALL


def test_two_uploaders_at_once_leave_the_larger_head(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(300)
    older = [copied(folder, tmp_path / f"older-{number}") for number in range(3)]
    folder.grow(500)
    newer = [copied(folder, tmp_path / f"newer-{number}") for number in range(3)]

    async def together() -> list[BaseException | None]:
        works = [each.upload_async(Bucket(place)) for each in (*older, *newer)]
        return await asyncio.gather(*works, return_exceptions=True)

    outcomes = asyncio.run(together())
    # An older one may find a head that it can't check, and changes nothing then.
    assert all(isinstance(each, VerificationError | None) for each in outcomes[:3])
    assert outcomes[3:] == [None] * 3
    assert verify(place, folder.policy)["tree_size"] == 800


def test_another_log_and_another_history_are_refused(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(300)
    other = copied(folder, tmp_path / "other")
    folder.grow(10)
    folder.upload(Bucket(place))
    other.append({"actor": {"id": "somebody_else"}}, count=0)
    other.publish()
    with pytest.raises(VerificationError, match="or an older copy of the log was put back"):
        other.upload(Bucket(place), name="a")
    other.append(*({"actor": {"id": "somebody_else"}} for _ in range(20)))
    other.publish()
    with pytest.raises(VerificationError, match="two histories"):
        other.upload(Bucket(place), name="b")
    other.append(*({"actor": {"id": "somebody_else"}} for _ in range(300)))
    other.publish()
    with pytest.raises(VerificationError, match="two histories"):
        other.upload(Bucket(place), name="c")
    assert "log/tile/entries/001" not in store.names(place.bucket)
    assert size_there(store, place.bucket) == 310
    assert verify(place, folder.policy)["verified"]


def test_the_prefix_of_another_origin_is_refused(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    store.write(place.bucket, "log/archive.json", b'{"v":1,"origin":"other.example/log"}')
    folder.grow(1)
    with pytest.raises(MalformedError, match="is the archive of other"):
        folder.upload(Bucket(place))


def test_a_store_that_overwrites_despite_a_condition_is_refused(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    folder.grow(1)
    with BadStore(store.endpoint) as bad:
        place = place_of(bad.endpoint, store.make_bucket())
        bad.fault = lambda method, _path: Reply(200) if method == "PUT" else None
        with pytest.raises(MalformedError, match="overwrites"):
            folder.upload(Bucket(place))


def test_a_head_by_a_retired_key_is_replaced_once_it_is_of_the_same_tree(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place))
    # The policy distrusts the old key, and lists a new one: `ledger key retire --distrust`.
    old, new = (Signer.generate(ORIGIN, seed=seed) for seed in (SEED, b"n" * 32))
    text = folder.policy.read_text(encoding="utf-8")
    folder.policy.write_text(text.replace(str(old.verifier), str(new.verifier)), encoding="utf-8")
    folder.publish(seed=b"n" * 32)
    folder.upload(Bucket(place))
    (signature,) = parse_signed_checkpoint(store.read(place.bucket, "log/checkpoint")).signatures
    assert signature.key_id == new.verifier.key_id
    assert verify(place, folder.policy)["tree_size"] == SMALL
    # A head of another tree by a key that nobody lists stays what it is: a reason to stop.
    other = Checkpoint(ORIGIN, SMALL, b"\1" * 32)
    forged = SignedCheckpoint(other, (old.sign(format_checkpoint(other)),))
    store.write(place.bucket, "log/checkpoint", forged.note.encode())
    folder.grow(1)
    with pytest.raises(VerificationError):
        folder.upload(Bucket(place))


def test_a_damaged_entry_is_never_uploaded(folder: ArchivedFolder, store: ObjectServer) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    alter_entry(folder.directory / "log", 300, before=b'"u_1"', after=b'"u_2"')
    with pytest.raises(VerificationError, match="the entries from 256 on"):
        folder.upload(Bucket(place))
    assert "log/tile/entries/001" not in store.names(place.bucket)
    assert "log/checkpoint" not in store.names(place.bucket)


def test_errors_of_the_store_are_waited_out(folder: ArchivedFolder, store: ObjectServer) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    with BadStore(store.endpoint) as bad:
        seen: dict[tuple[str, str], int] = {}

        def fail_first(method: str, path: str) -> Reply | None:
            """Every request fails twice: 503, and 500."""
            seen[method, path] = seen.get((method, path), 0) + 1
            return Reply({1: 503, 2: 500}[seen[method, path]]) if seen[method, path] < 3 else None

        bad.fault = fail_first
        folder.upload(Bucket(place._replace(endpoint=bad.endpoint)))
    assert verify(place, folder.policy)["tree_size"] == SMALL


def test_a_store_that_fails_for_long_is_named_without_the_credentials(
    folder: ArchivedFolder, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(1)
    with BadStore(store.endpoint) as bad:
        bad.fault = lambda _method, _path: Reply(503, f"{ACCESS_KEY} {SECRET_KEY}".encode())
        with pytest.raises(UnavailableError) as failed:
            folder.upload(Bucket(place._replace(endpoint=bad.endpoint, timeout_s=2.0)))
    assert "503" in str(failed.value)
    assert ACCESS_KEY not in str(failed.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UnavailableError, match="credentials are refused") as refused:
        folder.upload(Bucket(place))
    assert ACCESS_KEY not in str(refused.value)
    assert SECRET_KEY not in str(refused.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UnavailableError, match="there are no credentials"):
        folder.upload(Bucket(place))


def test_a_store_that_never_answers_is_named(folder: ArchivedFolder, store: ObjectServer) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(1)
    ended = threading.Event()
    with BadStore(store.endpoint) as bad:

        def hang(_method: str, _path: str) -> Reply | None:
            ended.wait()
            return Reply(500)

        bad.fault = hang
        try:
            with pytest.raises(UnavailableError, match="it does not answer in time"):
                folder.upload(Bucket(place._replace(endpoint=bad.endpoint, timeout_s=0.5)))
        finally:
            ended.set()
    folder.upload(Bucket(place))
    assert verify(place, folder.policy)["tree_size"] == 1


def test_locked_objects_can_be_neither_deleted_nor_overwritten_nor_unlocked(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    place = place_of(store.endpoint, store.make_bucket(locked_days=2))
    folder.grow(300)
    folder.upload(Bucket(place))
    folder.grow(300)
    folder.upload(Bucket(place))
    lock = read_lock(place, CHECKPOINT)
    assert lock.is_safe
    assert str(lock).startswith("compliance until 20")
    assert lock.until_unix_s > time.time() + 86_400

    name = "log/tile/entries/000"
    before = store.admin.get_object(Bucket=place.bucket, Key=name)
    version: dict[str, Any] = {
        "Bucket": place.bucket,
        "Key": name,
        "VersionId": before["VersionId"],
    }
    refusals: list[Callable[[], Any]] = [
        lambda: store.admin.delete_object(**version),
        lambda: store.admin.delete_object(**version, BypassGovernanceRetention=True),
        lambda: store.admin.put_object_retention(
            **version,
            Retention={"Mode": "COMPLIANCE", "RetainUntilDate": int(time.time()) + 60},
        ),
        lambda: store.admin.put_object_retention(
            **version,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": int(time.time()) + 60},
            BypassGovernanceRetention=True,
        ),
        lambda: store.admin.put_bucket_versioning(
            Bucket=place.bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
    ]
    for refused in refusals:
        with pytest.raises(ClientError):
            refused()
    # Overwritten: the bytes before are another version, which is still there.
    store.write(place.bucket, name, b"overwritten")
    assert verify(place, folder.policy, faults=1)["faults"][0].startswith("tile/entries/000 is")
    assert store.admin.get_object(**version)["Body"].read() == before["Body"].read()


def test_a_bucket_without_a_lock_is_warned_of(folder: ArchivedFolder, store: ObjectServer) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(1)
    folder.upload(Bucket(place))
    lock = read_lock(place, CHECKPOINT)
    assert not lock.is_safe
    assert str(lock) == "none: whoever has the credentials of the bucket can delete objects"
