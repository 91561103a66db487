"""Entries that left the disk move to another bucket, whatever is killed, and can be read."""

import signal
import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner

from ledger.cli.archive import command
from ledger.demo.child_service import Service
from ledger.follow.position import read_report
from ledger.object_storage.config import KIND, archives_path, read_archive, read_archives
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.open_log import open_log, open_writer
from ledger.object_storage.place import Place
from ledger.service.data_dir import DirectoryPaths
from ledger.service.releasing import next_release
from ledger.store.bundle_removal import prepare_release
from ledger_core.tlog.errors import MalformedError, VerificationError
from tests.archive.archiving import ArchivedFolder, place_of
from tests.archive.releasing import NAME, leaves_of, release
from tests.archive.seaweed import ObjectServer
from tests.served import FLAGS
from tests.waiting import until

ENTRIES, END, NEW = 1_000, 512, "new"


@pytest.fixture
def old(store: ObjectServer) -> Place:
    """The bucket that entries left the disk for."""
    return place_of(store.endpoint, store.make_bucket())


@pytest.fixture
def new(store: ObjectServer) -> Place:
    """The bucket that they move to."""
    return place_of(store.endpoint, store.make_bucket())


@pytest.fixture
def leaves(folder: ArchivedFolder, old: Place, new: Place) -> list[bytes]:
    """The leaves of a ledger with two archives, whose first two bundles are in the first alone."""
    folder.grow(ENTRIES)
    found = leaves_of(folder)
    release(folder, old, END)
    tables = "".join(
        f'# {name}\n[{name}]\nurl = "{place.url}"\nendpoint = "{place.endpoint}"\n{keys}'
        for name, place, keys in (
            (NAME, old, "# why\nretain_local_segments = 3\nallow_unlocked = true\n"),
            (NEW, new, "interval_s = 0.1"),
        )
    )
    archives_path(folder.directory).write_text(tables, encoding="utf-8")
    return found


def move(folder: ArchivedFolder, *options: str, to: str = NEW) -> str:
    """Run `ledger archive move-released`. Raises: what it raises."""
    arguments = ["move-released", str(folder.directory), NAME, to, *options]
    done = CliRunner().invoke(command, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def archive_of(folder: ArchivedFolder) -> str:
    """The archive that the log says its released entries are in."""
    with closing(open_log(folder.directory / "log")) as log:
        found = log.release()
    assert found is not None
    assert found.end == END
    return found.archive


def test_released_entries_move_and_the_old_archive_can_go(
    folder: ArchivedFolder, leaves: list[bytes], old: Place, store: ObjectServer
) -> None:
    assert "its lock is none" in move(folder)
    assert archive_of(folder) == NAME
    assert "read from the archive 'new'" in move(folder, "--allow-unlocked")
    assert archive_of(folder) == NEW
    archives = read_archives(folder.directory)
    assert (archives[NAME].retain_local_segments, archives[NAME].allow_unlocked) == (None, False)
    assert (archives[NEW].retain_local_segments, archives[NEW].allow_unlocked) == (3, True)
    text = archives_path(folder.directory).read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if "#" in line] == [f"# {NAME}", "# why", f"# {NEW}"]
    assert "read from the archive 'new'" in move(folder)
    done = CliRunner().invoke(command, ["remove", str(folder.directory), NAME])
    assert done.exit_code == 0, done.output
    for name in store.names(old.bucket):
        store.delete(old.bucket, name)
    assert leaves_of(folder) == leaves


@pytest.mark.parametrize("is_missing", [True, False])
def test_nothing_moves_to_a_bucket_that_lacks_an_entry_or_has_another(
    folder: ArchivedFolder, leaves: list[bytes], new: Place, store: ObjectServer, is_missing: bool
) -> None:
    folder.upload(Bucket(new), name=NEW)
    name, other = "log/tile/entries/001", "log/tile/entries/000"
    kept = store.read(new.bucket, name)
    store.delete(new.bucket, name)
    if not is_missing:
        store.write(new.bucket, name, store.read(new.bucket, other))
    with pytest.raises(VerificationError, match=r"tile/entries/001 is (missing|damaged)"):
        move(folder, "--allow-unlocked")
    assert archive_of(folder) == NAME
    assert leaves_of(folder) == leaves
    store.write(new.bucket, name, kept)
    move(folder)
    assert archive_of(folder) == NEW


KILLING = """
import os, signal, sys
from ledger.archive import release_check, uploader
from ledger.cli import archive_move
from ledger.cli.archive import command
from ledger.follow import tables
from ledger.store import writer

step, calls = sys.argv.pop(1), [0]

def kill_at(owner, name, *, call=1, is_before=False):
    plain = getattr(owner, name)
    def run(*arguments, **options):
        calls[0] += 1
        if calls[0] == call and is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(*arguments, **options)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, run)

if step == "before the settings":
    kill_at(tables, "write_atomically", is_before=True)
elif step == "after the settings":
    kill_at(archive_move, "change_archives")
elif step == "uploading":
    plain, left = uploader.pack, [4]
    def pack(*arguments):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)
    uploader.pack = pack
elif step == "uploaded":
    kill_at(release_check, "local_tree", is_before=True)
elif step == "read back":
    kill_at(release_check, "write_releasable", is_before=True)
elif step == "after the note":
    kill_at(release_check, "write_releasable")
elif step == "in the transaction":
    kill_at(writer, "store_release")
elif step == "after the commit":
    kill_at(writer.LogWriter, "release")
command()
"""


@pytest.mark.parametrize(
    ("step", "archive", "is_set"),
    [
        ("before the settings", NAME, False),
        ("after the settings", NAME, True),
        ("uploading", NAME, True),
        ("uploaded", NAME, True),
        ("read back", NAME, True),
        ("after the note", NAME, True),
        ("in the transaction", NAME, True),
        ("after the commit", NEW, True),
    ],
)
def test_a_move_that_is_killed_loses_nothing_and_is_done_by_the_next(
    folder: ArchivedFolder, leaves: list[bytes], step: str, archive: str, is_set: bool
) -> None:
    arguments = ["move-released", str(folder.directory), NAME, NEW, "--allow-unlocked"]
    done = subprocess.run([sys.executable, "-c", KILLING, step, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert archive_of(folder) == archive
    config = read_archive(folder.directory, NEW)
    assert config is not None
    assert (config.retain_local_segments is not None) is is_set
    assert leaves_of(folder) == leaves
    if archive == NAME:
        refused = CliRunner().invoke(command, ["remove", str(folder.directory), NAME])
        assert "move them first" in refused.output
    move(folder, "--allow-unlocked")
    assert archive_of(folder) == NEW
    assert leaves_of(folder) == leaves


def test_a_service_moves_them_while_it_runs(folder: ArchivedFolder, leaves: list[bytes]) -> None:
    with Service(folder.directory, listen="127.0.0.1:0", flags=FLAGS):
        assert "the service moves the entries below 512" in move(folder, "--allow-unlocked")
        until(lambda: archive_of(folder) == NEW)
    assert leaves_of(folder)[:ENTRIES] == leaves


def test_a_changed_address_does_not_pass_for_the_bucket_that_was_read_back(
    folder: ArchivedFolder, leaves: list[bytes], old: Place, new: Place
) -> None:
    move(folder, "--allow-unlocked")
    text = archives_path(folder.directory).read_text(encoding="utf-8")
    archives_path(folder.directory).write_text(text.replace(new.url, f"{new.url}2"))
    with closing(open_writer(folder.directory / "log")) as writer:
        # The log is as it was before the move was noted.
        writer.release(prepare_release(writer.store, end=END, archive=NAME))
        assert next_release(DirectoryPaths(folder.directory), writer.store) is None
    archives_path(folder.directory).write_text(text)
    assert archive_of(folder) == NAME
    assert leaves_of(folder) == leaves


def test_a_changed_address_whose_bucket_lacks_released_entries_is_named(
    folder: ArchivedFolder, leaves: list[bytes], old: Place, store: ObjectServer
) -> None:
    elsewhere = place_of(store.endpoint, store.make_bucket())
    with pytest.raises(MalformedError, match=r"lacks entries below 512, .*move-released"):
        folder.upload(Bucket(elsewhere), name=NAME)
    assert read_report(folder.directory, KIND, NAME).next_index == ENTRIES
    # A bucket that somebody else has copied everything to is one more place of the same archive.
    for name in store.names(old.bucket):
        store.write(elsewhere.bucket, name, store.read(old.bucket, name))
    folder.upload(Bucket(elsewhere), name=NAME)
    text = archives_path(folder.directory).read_text(encoding="utf-8")
    archives_path(folder.directory).write_text(text.replace(old.url, elsewhere.url))
    assert leaves_of(folder) == leaves


def test_what_can_not_move_is_refused(
    folder: ArchivedFolder, leaves: list[bytes], new: Place
) -> None:
    assert "the same archive" in move(folder, to=NAME)
    configured = archives_path(folder.directory).read_text(encoding="utf-8")
    archives_path(folder.directory).write_text(f'{configured}\n[third]\nurl = "s3://bucket/c"\n')
    arguments = ["move-released", str(folder.directory), NEW, "third"]
    refused = CliRunner().invoke(command, arguments)
    assert "no entry that left this disk is in the archive 'new'" in refused.output
    assert len(leaves) == ENTRIES
