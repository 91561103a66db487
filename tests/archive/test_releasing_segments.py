"""Full segments leave the disk when the bucket was shown to have them, whatever is killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.archive import command as archive_command
from ledger.cli.fsck import command as fsck_command
from ledger.cli.reindex import command as reindex_command
from ledger.follow.position import FollowerReport, read_report
from ledger.object_storage.config import KIND
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.open_log import open_log, open_writer
from ledger.object_storage.place import Place
from ledger.object_storage.releasable import lock_releases, releasable_path
from ledger.query.segment_builder import SegmentBuilder
from ledger.service.releasing import POLL_S
from ledger.service.token_admin import make_token
from ledger.store import keyspace
from ledger.store.index.index_writer import IndexWriter
from ledger_core.tlog.errors import MalformedError, VerificationError
from tests.archive.archiving import ArchivedFolder, BadStore, Reply, place_of
from tests.archive.releasing import NAME, configure
from tests.archive.seaweed import ObjectServer
from tests.service.serving import QUICK, serving
from tests.waiting import until

SEGMENT = 65_536
ENTRIES = SEGMENT + 300
RETAIN = "retain_local_segments = 0\n"
UNLOCKED = f"{RETAIN}allow_unlocked = true\n"
WAIT_S = 200.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ArchivedFolder:
    """A ledger with a full segment whose index is sealed."""
    folder = ArchivedFolder(tmp_path_factory.mktemp("releasing") / "ledger")
    folder.grow(ENTRIES)
    with (
        closing(open_log(folder.directory / "log")) as log,
        closing(IndexWriter.open(folder.directory / "index")) as writer,
    ):
        assert SegmentBuilder(log, writer).seal_next()
    return folder


@pytest.fixture
def place(made: ArchivedFolder, store: ObjectServer, request: pytest.FixtureRequest) -> Place:
    """A locked archive of that ledger, uploaded once."""
    kept: list[Place] = request.config.stash.setdefault(_PLACES, [])
    if not kept:
        kept.append(place_of(store.endpoint, store.make_bucket(locked_days=1)))
        made.upload(Bucket(kept[0]), name=NAME)
    return kept[0]


_PLACES = pytest.StashKey[list[Place]]()


@pytest.fixture
def directory(made: ArchivedFolder, tmp_path: Path) -> Path:
    """A copy of the ledger's folder."""
    return Path(shutil.copytree(made.directory, tmp_path / "copy"))


def release(directory: Path, *options: str) -> str:
    """Run `ledger archive release`. Raises: what it raises."""
    done = CliRunner().invoke(archive_command, ["release", str(directory), NAME, *options])
    if done.exception is not None:
        raise done.exception
    return done.output


def bundles_here(directory: Path) -> int:
    """The full bundles on the disk."""
    with closing(open_log(directory / "log")) as log, log.environment.read() as transaction:
        rows = transaction.rows_from(keyspace.ENTRIES, keyspace.bundle_key(0))
        return sum(1 for _ in rows)


def released_end(directory: Path) -> int:
    """The end of what left the disk of a ledger that is served in this process."""
    command = [sys.executable, "-m", "ledger", "archive", "status", str(directory), "--json"]
    done = subprocess.run(command, capture_output=True, check=True)
    (row,) = json.loads(done.stdout)
    return int(row["released_end"])


def test_nothing_leaves_for_a_bucket_whose_objects_can_be_deleted_unless_that_is_said(
    directory: Path, place: Place, store: ObjectServer
) -> None:
    bare = place_of(store.endpoint, store.make_bucket())
    store.write(bare.bucket, "log/checkpoint", store.read(place.bucket, "log/checkpoint"))
    configure(directory, bare, keys=RETAIN)
    with pytest.raises(MalformedError, match=r"checkpoint in the bucket can be deleted .*unlocked"):
        release(directory)
    configure(directory, bare, keys=UNLOCKED)
    with pytest.raises(VerificationError, match=r"tile/entries/\d+ is missing"):
        release(directory)
    assert bundles_here(directory) == 257
    configure(directory, place, keys=RETAIN)
    size_before = (directory / "log" / "data.mdb").stat().st_size
    assert "65,536 entries left this disk" in release(directory, "--compact")
    assert bundles_here(directory) == 1
    assert (directory / "log" / "data.mdb").stat().st_size < size_before
    assert "0 entries left this disk" in release(directory)
    shown = CliRunner().invoke(archive_command, ["status", str(directory)]).output
    assert "entries below 65,536 are in this archive alone" in shown
    for options in ((), ("--archive",)):
        done = CliRunner().invoke(fsck_command, [str(directory), *options])
        assert done.exit_code == 0, done.output
        assert ("only their hashes are checked" in done.output) is not bool(options)


@pytest.mark.parametrize("is_missing", [True, False])
def test_nothing_leaves_that_the_bucket_lacks_or_has_otherwise(
    directory: Path, place: Place, store: ObjectServer, is_missing: bool
) -> None:
    configure(directory, place, keys=UNLOCKED)
    name = "log/tile/entries/200"
    kept = store.read(place.bucket, name)
    if is_missing:
        store.delete(place.bucket, name)
    else:
        other = store.read(place.bucket, "log/tile/entries/201")
        store.write(place.bucket, name, other)
    try:
        with pytest.raises(VerificationError, match=r"tile/entries/200 is (missing|damaged)"):
            release(directory)
    finally:
        store.write(place.bucket, name, kept)
    assert bundles_here(directory) == 257


def test_a_segment_stays_while_the_settings_keep_it_or_its_index_is_not_built(
    directory: Path, place: Place
) -> None:
    configure(directory, place, keys="retain_local_segments = 1\nallow_unlocked = true\n")
    assert "0 entries left" in release(directory)
    configure(directory, place, keys=UNLOCKED)
    (directory / "index" / "00000000.segment").unlink()
    assert "0 entries left" in release(directory)
    assert bundles_here(directory) == 257


def test_an_index_is_built_again_of_entries_that_left(directory: Path, place: Place) -> None:
    configure(directory, place, keys=UNLOCKED)
    release(directory)
    segment = directory / "index" / "00000000.segment"
    before = segment.read_bytes()
    segment.unlink()
    done = CliRunner().invoke(reindex_command, [str(directory)])
    assert "1 segments sealed" in done.output, done.output
    assert segment.read_bytes() == before


KILLING = """
import os, signal, sys
from ledger.archive import release_check
from ledger.cli.archive import command
from ledger.store import writer

step, left = sys.argv.pop(1), [100]

def killed(function):
    def run(*arguments, **options):
        function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return run

if step == "reading back":
    plain = release_check.unpack
    def unpack(*arguments):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)
    release_check.unpack = unpack
elif step == "after the note":
    release_check.write_releasable = killed(release_check.write_releasable)
elif step == "in the transaction":
    writer.store_release = killed(writer.store_release)
elif step == "after the commit":
    writer.LogWriter.release = killed(writer.LogWriter.release)
command()
"""


@pytest.mark.parametrize(
    ("step", "bundles_left"),
    [
        ("reading back", 257),
        ("after the note", 257),
        ("in the transaction", 257),
        ("after the commit", 1),
    ],
)
def test_a_release_that_is_killed_loses_nothing_and_is_done_by_the_next(
    made: ArchivedFolder, directory: Path, place: Place, step: str, bundles_left: int
) -> None:
    configure(directory, place, keys=UNLOCKED)
    command = [sys.executable, "-c", KILLING, step, "release", str(directory), NAME]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert bundles_here(directory) == bundles_left
    with closing(open_writer(directory / "log")) as writer:
        check_entries(made, writer.store.leaf)
    release(directory)
    assert bundles_here(directory) == 1
    with closing(open_log(directory / "log")) as log:
        check_entries(made, log.leaf)


def check_entries(made: ArchivedFolder, leaf: object) -> None:
    """Check that entries of a copy are those of the ledger."""
    assert callable(leaf)
    with closing(open_log(made.directory / "log")) as log:
        for index in (0, 40_000, SEGMENT - 1, SEGMENT, ENTRIES - 1):
            assert leaf(index) == log.leaf(index)


def test_a_service_lets_segments_go_and_reads_them_from_the_bucket(
    directory: Path, place: Place
) -> None:
    tokens = {
        "admin": make_token(directory, name="admin", scopes=("admin", "metrics"), tenant=None)
    }
    event = {"actor": {"id": "u_2"}, "action": "record.deleted", "outcome": "success"}
    with BadStore(place.endpoint) as proxy, serving(directory, tokens, QUICK) as ledger:
        before = [ledger.ask(f"/v1/events/{index}").json() for index in (5, 30_000)]
        old = {key: before[0]["event"][key] for key in ("id", "time", "actor", "action", "outcome")}
        with lock_releases(directory):  # As a command that removes an archive.
            configure(directory, place, keys=RETAIN)
            until(releasable_path(directory, NAME).exists, WAIT_S)
            time.sleep(2 * POLL_S)
            assert released_end(directory) == 0
        until(lambda: released_end(directory) == SEGMENT, WAIT_S)
        assert f"\nledger_released_end {SEGMENT}\n" in ledger.ask("/metrics").text
        # Everything is answered as before, proven, and counted.
        found = ledger.ask("/v1/events/5?proof=1")
        assert {**before[0], "proof": found.json()["proof"]} == found.json()
        assert ledger.ask("/tile/entries/100").status == 200
        search = ledger.ask("/v1/events?q=action:record.viewed&order=oldest&limit=3").json()
        assert (search["total"], search["complete"]) == (ENTRIES, True)
        assert [each["index"] for each in search["events"]] == [0, 1, 2]
        # An event that is sent once more is found to be the same, after its entry was fetched.
        again = ledger.append(old)
        if again.status == 503:
            until(lambda: ledger.append(old).status == 200)
            again = ledger.append(old)
        (result,) = again.json()["results"]
        assert (result["index"], result["duplicate"]) == (5, True)
        configure(directory, place._replace(endpoint=proxy.endpoint), keys=RETAIN)
        # The bucket is gone: what needs it says so, and nothing else stops.
        proxy.fault = lambda _method, _path: Reply(503)
        lost = ledger.ask("/v1/events/30000")
        assert (lost.status, lost.slug) == (503, "archive-unavailable")
        assert f"the archive '{NAME}' can't be read now: tile/entries/117" in lost.json()["detail"]
        assert ledger.append(event).status == 200
        newest = ledger.ask("/v1/events?q=action:record.deleted").json()
        assert newest["total"] == 1
        assert ledger.ask("/v1/proofs/inclusion?index=30000").status == 200
        proxy.fault = lambda _method, _path: None
        assert ledger.ask("/v1/events/30000").json() == before[1]


def test_an_archive_that_lets_nothing_go_says_why_and_uploads_all_the_same(
    directory: Path, store: ObjectServer
) -> None:
    folder = ArchivedFolder.__new__(ArchivedFolder)
    folder.directory, folder._count = directory, ENTRIES
    bare = place_of(store.endpoint, store.make_bucket())
    configure(directory, bare, keys=f"{RETAIN}interval_s = 0.1\n", name="bare")
    command = [sys.executable, "-m", "ledger.archive.worker", str(directory), "bare"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:

        def report() -> FollowerReport:
            return read_report(directory, KIND, "bare")

        until(lambda: "nothing leaves this disk" in report().state.error, WAIT_S)
        folder.grow(20)
        until(lambda: report().next_index == ENTRIES + 20, WAIT_S)
        assert "nothing leaves this disk" in report().state.error
        process.terminate()
    assert bundles_here(directory) == 257
