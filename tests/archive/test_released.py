"""Entries that left the disk are read from the bucket, verified, and nothing else needs it."""

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.backup import backup as backup_command
from ledger.demo.child_service import Service
from ledger.follow.entries import check_position, position_at
from ledger.object_storage.archived_bundles import ArchivedBundles
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.open_log import open_log, open_writer
from ledger.object_storage.place import Place
from ledger.service.backup import back_up, restore
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import check_directory
from ledger.service.token_admin import make_token
from ledger.store import keyspace
from ledger.store.bundle_removal import prepare_release
from ledger.store.damage import DamagedBundleError
from ledger.store.fsck import check_store
from ledger.store.log import LogStore
from ledger.store.minimum_index import PrunedError, Pruning
from ledger.store.pruning import Removed, prune_log
from ledger.store.stored_log import FetchFailedError, NotFetchedError, reading
from ledger.store.token_events import CREATED, REVOKED, logged_token_events
from ledger.store.writer import Placement, entry_of
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import parse_policy
from tests.archive.archiving import ArchivedFolder, BadStore, Reply, place_of
from tests.archive.releasing import NAME, configure, leaves_of, release
from tests.archive.seaweed import ObjectServer
from tests.served import FLAGS
from tests.service.serving import Answer, send
from tests.sinks.sinking import HttpPeer, deliver

ENTRIES, END = 1_000, 512


@pytest.fixture
def place(store: ObjectServer) -> Place:
    return place_of(store.endpoint, store.make_bucket())


@pytest.fixture
def leaves(folder: ArchivedFolder, place: Place) -> list[bytes]:
    """The leaves of a ledger, two bundles of which then left the disk."""
    folder.grow(ENTRIES)
    found = leaves_of(folder)
    release(folder, place, END)
    return found


def test_released_entries_are_gone_from_the_disk_and_read_as_before(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    assert leaves_of(folder) == leaves
    with closing(open_log(folder.directory / "log")) as log:
        assert (log.release(), log.local_start()) == ((END, NAME), END)
        with log.environment.read() as transaction:
            assert transaction.count(keyspace.ENTRIES) == 1 + ENTRIES % 256
            parts = list(log.leaves_between(transaction, 0, ENTRIES))
        assert [leaf for part in parts for leaf in part] == leaves
        id_bytes = entry_of(leaves[300]).id_bytes
        assert list(log.indices_of(id_bytes, None)) == [300, None]
        assert log.index_for(id_bytes, None) == 300
        bundle = log.bundle(index=1, width=256)
        assert bundle is not None
        assert leaves[256] in bundle
        assert log.bundle(index=0, width=3) is not None


def test_a_program_that_reads_no_archive_says_so_and_reads_the_rest(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    with closing(LogStore.open(folder.directory / "log")) as log:
        assert log.leaf(END) == leaves[END]
        assert log.prove_consistency(100, log.head())
        with pytest.raises(FetchFailedError, match=f"below {END} left this disk for .*'{NAME}'"):
            log.leaf(END - 1)


def test_without_the_bucket_everything_but_released_entries_goes_on(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    configure(folder.directory, Place("s3://gone/log", endpoint="http://127.0.0.1:9"))
    with closing(open_writer(folder.directory / "log")) as writer:
        log = writer.store
        assert log.leaf(ENTRIES - 1) == leaves[ENTRIES - 1]
        assert log.tile(level=0, index=0, width=256) is not None
        assert log.head_at(300) != log.head_at(301)
        with pytest.raises(FetchFailedError, match="'cold' can't be read now: tile/entries/000"):
            log.leaf(0)
        again, other = entry_of(leaves[0]), entry_of(leaves[700])
        placed = writer.commit([again, other])
        # Whether the first is the same event can't be told, and no commit waits to know.
        assert [each.placement for each in placed] == [Placement.RELEASED, Placement.DUPLICATE]
    configure(folder.directory, Place("s3://gone/log"), name="renamed")
    with (
        closing(open_log(folder.directory / "log")) as log,
        pytest.raises(FetchFailedError, match=r"archive\.toml has none of this name"),
    ):
        log.leaf(0)


def test_an_id_that_comes_again_is_told_once_its_entry_is_fetched(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    entry = entry_of(leaves[0])
    changed = entry_of(leaves[0].replace(b'"outcome":"success"', b'"outcome":"denied"'))
    with closing(open_writer(folder.directory / "log")) as writer:
        assert writer.commit([entry])[0].placement is Placement.RELEASED
        asyncio.run(writer.store.fetch([0]))
        places = [each.placement for each in writer.commit([entry, changed])]
        assert places == [Placement.DUPLICATE, Placement.CONFLICT]
        assert writer.head.tree_size == ENTRIES


def test_a_damaged_or_missing_object_is_a_damaged_bundle_until_it_is_put_right(
    folder: ArchivedFolder, leaves: list[bytes], place: Place, store: ObjectServer
) -> None:
    name = "log/tile/entries/001"
    kept, other = store.read(place.bucket, name), store.read(place.bucket, "log/tile/entries/000")
    with closing(open_log(folder.directory / "log")) as log:
        for bad in (other, kept[:-9], b"", b"\x00\x01x"):
            store.write(place.bucket, name, bad)
            with pytest.raises(DamagedBundleError, match=r"entries 256 to 511.*archive cold"):
                log.leaf(300)
        store.delete(place.bucket, name)
        with pytest.raises(DamagedBundleError, match="tile/entries/001 is missing"):
            log.leaf(300)
        assert [each.bundle for each in log.damaged_bundles()] == [1]
        store.write(place.bucket, name, kept)
        assert log.leaf(300) == leaves[300]
        assert log.damaged_bundles() == []


def test_an_event_loop_that_serves_waits_for_no_bucket(
    folder: ArchivedFolder, leaves: list[bytes], place: Place
) -> None:
    may_answer = threading.Event()

    def fault(_method: str, path: str) -> Reply | None:
        assert "tile/entries" in path
        may_answer.wait()
        return None

    async def read() -> None:
        log = open_log(folder.directory / "log", waits_on_loop=False)
        with closing(log), pytest.raises(NotFetchedError):
            log.leaf(5)
        log = open_log(folder.directory / "log", waits_on_loop=False)
        with closing(log):
            waiting = asyncio.create_task(reading(lambda: log.leaf(5)))
            waits = asyncio.create_task(asyncio.to_thread(log.leaf, 6))
            await asyncio.sleep(0.1)
            assert log.leaf(600) == leaves[600]
            assert not waiting.done()
            assert not waits.done()
            may_answer.set()
            assert (await waiting, await waits) == (leaves[5], leaves[6])

    with BadStore(place.endpoint) as proxy:
        proxy.fault = fault
        configure(folder.directory, place._replace(endpoint=proxy.endpoint))
        asyncio.run(read())


def test_fsck_checks_the_tree_over_released_entries_and_reads_them_if_asked(
    folder: ArchivedFolder, leaves: list[bytes], place: Place, store: ObjectServer
) -> None:
    keys = [log.verifier for log in parse_policy(folder.policy.read_bytes()).logs]
    name = "log/tile/entries/000"
    store.write(place.bucket, name, store.read(place.bucket, "log/tile/entries/001"))
    seen: list[int] = []
    with closing(open_log(folder.directory / "log")) as log:
        checked = check_store(log, log_keys=keys, visit=lambda at, _leaves: seen.append(at))
        assert (checked.head.tree_size, seen) == (ENTRIES, [512, 768])
        with pytest.raises(DamagedBundleError, match="entries 0 to 255"):
            check_store(log, log_keys=keys, reads_archive=True)
        store.write(place.bucket, name, store.read(place.bucket, "log/tile/entries/000"))
    assert leaves


def test_a_release_takes_the_next_entries_alone_and_never_the_last(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    assert leaves
    with closing(open_writer(folder.directory / "log")) as writer:
        for end in (END - 256, END + 1, ENTRIES + 24):
            with pytest.raises(ValueError, match="can't be released"):
                prepare_release(writer.store, end=end, archive=NAME)
        early = prepare_release(writer.store, end=768, archive=NAME)
        writer.release(early)
        with pytest.raises(ValueError, match="not the next to release"):
            writer.release(early)
        assert writer.store.local_start() == 768
        head = writer.head
    with closing(open_writer(folder.directory / "log")) as writer:
        assert writer.head == head


def test_a_second_archive_that_has_everything_takes_over(
    folder: ArchivedFolder, leaves: list[bytes], store: ObjectServer
) -> None:
    other = place_of(store.endpoint, store.make_bucket())
    folder.upload(Bucket(other), name="second")  # It reads released entries from the first.
    configure(folder.directory, other, name="second")
    with closing(open_writer(folder.directory / "log")) as writer:
        writer.release(prepare_release(writer.store, end=END, archive="second"))
        assert writer.store.release() == (END, "second")
    assert leaves_of(folder) == leaves


def test_heads_of_released_entries_keep_their_times(folder: ArchivedFolder, place: Place) -> None:
    folder.append(count=600, step_s=0.001)
    folder.publish()
    folder.append(count=100, step_s=60 * 86_400)
    sizes = {600, 700}
    folder.publish()
    release(folder, place, 512)
    # Thinning reads the time of the head of 256 entries, whose newest one is gone.
    with closing(open_writer(folder.directory / "log")) as writer:
        assert {each.head.tree_size for each in writer.store.kept_heads(start=0, most=9)} == sizes


@pytest.mark.parametrize("minimum", [256, 768])
def test_a_log_with_released_entries_is_pruned_as_any_other(
    folder: ArchivedFolder, leaves: list[bytes], minimum: int
) -> None:
    path = folder.directory / "log"
    seen: list[Removed] = []
    elsewhere = ArchivedBundles(folder.directory)
    with closing(elsewhere):
        assert prune_log(
            path, Pruning(minimum, ENTRIES - 1), before=seen.append, elsewhere=elsewhere
        )
    assert len(seen[0].marks) == minimum
    keys = [log.verifier for log in parse_policy(folder.policy.read_bytes()).logs]
    with closing(open_log(path)) as log:
        assert log.local_start() == max(END, minimum)
        with pytest.raises(PrunedError):
            log.leaf(minimum - 1)
        assert log.leaf(minimum) == leaves[minimum]
        for reads_archive in (False, True):
            check_store(log, log_keys=keys, reads_archive=reads_archive)


def test_a_backup_lacks_released_entries_and_its_restoration_reads_them(
    folder: ArchivedFolder, leaves: list[bytes], tmp_path: Path
) -> None:
    to, made = tmp_path / "backup", "2026-11-28T00:00:00Z"
    back_up(folder.directory, to, made=made)
    folder.grow(300)
    back_up(folder.directory, to, made=made)
    restored = ArchivedFolder.__new__(ArchivedFolder)
    restored.directory = tmp_path / "restored"
    restore(to, restored.directory, key=folder.directory / "key", is_complete=True)
    assert leaves_of(restored)[:ENTRIES] == leaves
    shown = CliRunner().invoke(backup_command, [str(folder.directory), str(to)])
    assert f"not in it: the entries below {END}, which are in the archive '{NAME}'" in shown.output
    findings = check_directory(DirectoryPaths(restored.directory), reads_archive=True)
    assert (findings.problems, findings.release) == ([], (END, NAME))


def test_a_backup_from_before_keeps_what_left_the_disk_since(
    folder: ArchivedFolder, place: Place, tmp_path: Path
) -> None:
    to, made = tmp_path / "backup", "2026-11-28T00:00:00Z"
    folder.grow(ENTRIES)
    back_up(folder.directory, to, made=made)
    release(folder, place, END)
    folder.grow(10)
    back_up(folder.directory, to, made=made)
    with closing(LogStore.open(to / "log")) as log:
        assert log.leaf(0) is not None
        assert (log.release(), log.head().tree_size) == (None, ENTRIES + 10)


def test_a_revoked_token_that_is_back_is_noticed_without_the_bucket(
    folder: ArchivedFolder, place: Place
) -> None:
    token = {"targets": [{"type": "token", "id": "billing"}], "actor": {"id": "operator"}}
    folder.append({"action": CREATED, **token}, by="ledger")
    folder.append({"action": REVOKED, **token}, by="ledger")
    folder.grow(ENTRIES)
    with closing(open_log(folder.directory / "log")) as log:
        before = logged_token_events(log)
    assert [event.action for event in before] == [CREATED, REVOKED]
    release(folder, place, END)
    with closing(LogStore.open(folder.directory / "log")) as log:
        assert logged_token_events(log) == before


def test_no_append_waits_for_the_archive_to_tell_whose_an_id_is(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    # Nobody answers there, and whoever waits is told after seconds.
    configure(folder.directory, Place("s3://gone/log", endpoint="http://127.0.0.1:9"))
    with closing(open_log(folder.directory / "log")) as log:
        assert log.index_for(entry_of(leaves[3]).id_bytes, "acme") == 3
        assert log.index_for(entry_of(leaves[800]).id_bytes, "acme") is None


def test_a_sink_that_begins_anew_gets_released_entries(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    with HttpPeer() as peer:
        folder.add("siem", type="http", url=peer.url, retry_max_s=0.02)
        deliver(folder, "siem")
    assert peer.indices() == list(range(len(leaves)))


def test_a_position_among_released_entries_is_checked_without_the_bucket(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    with closing(LogStore.open(folder.directory / "log")) as log:
        position = position_at(log, 100)
        assert position.last_leaf_hash == leaf_hash(leaves[99]).hex()
        check_position(log, position)


def test_workers_and_the_query_process_read_released_entries(
    folder: ArchivedFolder, leaves: list[bytes]
) -> None:
    token = make_token(folder.directory, name="reader", scopes=("read",), tenant=None)
    flags = (*FLAGS, "--workers", "1")
    with Service(folder.directory, listen="127.0.0.1:0", flags=flags) as service:

        def ask(target: str) -> Answer:
            headers = {"Authorization": f"Bearer {token}"}
            return send(service.url, target, method="GET", body=None, headers=headers)

        found = ask("/v1/events/7")
        assert found.status == 200, found.text
        assert found.json()["leaf"].encode() == leaves[7]
        assert ask("/tile/entries/001").status == 200
        search = "/v1/events?q=actor:u_1&order=oldest&limit=2"
        found = ask(search)
        assert found.status == 200, found.text
        answer = found.json()
        assert ([each["index"] for each in answer["events"]], answer["complete"]) == ([0, 1], True)
        id_ = answer["events"][1]["event"]["id"]
        assert ask(f"/v1/events/{id_}").json()["index"] == 1
