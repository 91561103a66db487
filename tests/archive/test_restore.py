"""A ledger is made of an archive alone, verified before it is accepted."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ledger.archive.restore import RESTORING
from ledger.cli.backup import restore_
from ledger.demo.child_service import Service
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.place import Place
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import check_directory
from ledger.service.token_admin import make_token
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter
from ledger_client import LedgerClient
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from tests.archive.archiving import SMALL, ArchivedFolder, BadStore, Reply, place_of
from tests.archive.seaweed import ObjectServer

ENTRIES = 9_000
"""More than are read at once."""


def restore(place: Place, to: Path, folder: ArchivedFolder, *flags: str) -> Result:
    """Run `ledger restore`."""
    arguments = [place.url, str(to), "--policy", str(folder.policy), "--json", *flags]
    return CliRunner().invoke(restore_, [*arguments, "--endpoint", place.endpoint])


def leaves(directory: Path) -> list[bytes]:
    """All entries of a ledger."""
    with closing(LogStore.open(directory / "log")) as log:
        return [log.leaf(index) or b"" for index in range(log.head().tree_size)]


def test_a_restored_ledger_has_every_entry_and_is_served(
    folder: ArchivedFolder, place: Place, tmp_path: Path
) -> None:
    to = tmp_path / "restored"
    key = folder.directory / "key"
    done = restore(place, to, folder, "--key", str(key), "--complete")
    assert done.exception is None, done.output
    assert json.loads(done.stdout)["tree_size"] == SMALL
    assert leaves(to) == leaves(folder.directory)
    assert not check_directory(DirectoryPaths(to), is_strict=True).problems
    token = make_token(to, name="app", scopes=("append", "read"), tenant=None)
    flags = ("--log-level", "error", "--publish-interval-s", "0.05")
    with (
        Service(to, listen="127.0.0.1:0", flags=flags) as service,
        LedgerClient(service.url, token, policy=folder.policy) as client,
    ):
        event = {"actor": {"id": "u_9"}, "action": "record.viewed", "outcome": "success"}
        assert client.append(event).index >= SMALL
        assert client.event(5).leaf == leaves(folder.directory)[5]


def test_a_restored_ledger_takes_no_event_before_a_person_decides(
    folder: ArchivedFolder, place: Place, tmp_path: Path
) -> None:
    to = tmp_path / "restored"
    done = restore(place, to, folder)
    assert done.exception is None, done.output
    assert "ledger recover" in done.stderr
    assert "acknowledged after its last upload is missing" in (to / "hold.json").read_text()
    again = restore(place, to, folder)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


@pytest.mark.parametrize("name", ["tile/entries/001", "tile/0/001", "tile/1/000.p/2", "checkpoint"])
def test_nothing_is_accepted_of_an_archive_that_is_not_whole(
    folder: ArchivedFolder, place: Place, store: ObjectServer, tmp_path: Path, name: str
) -> None:
    to = tmp_path / "restored"
    data = store.read(place.bucket, f"log/{name}")
    for bad in (b"", data[:-40] + data[-20:]):
        store.write(place.bucket, f"log/{name}", bad)
        done = restore(place, to, folder)
        if name == "tile/0/001":
            # The entries prove themselves by the tile above; verify-archive names this one.
            assert done.exception is None
            shutil.rmtree(to)
            continue
        assert isinstance(done.exception, VerificationError | ValueError), done.output
        assert not (to / "log").exists()
    store.write(place.bucket, f"log/{name}", data)
    assert restore(place, to, folder).exception is None


def test_a_restoration_goes_on_where_it_was_interrupted(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(ENTRIES)
    folder.upload(Bucket(place))
    to = tmp_path / "restored"
    with BadStore(store.endpoint) as bad:
        bad.fault = lambda _method, path: Reply(503) if "entries/034" in path else None
        broken = place._replace(endpoint=bad.endpoint)
        done = restore(broken, to, folder)
    assert isinstance(done.exception, UnavailableError)
    with closing(LogWriter.open(to / RESTORING)) as begun:
        assert begun.head.tree_size == 32 * 256
    assert not (to / "log").exists()
    # The archive has grown meanwhile.
    folder.grow(300)
    folder.upload(Bucket(place))
    done = restore(place, to, folder)
    assert done.exception is None, done.output
    assert json.loads(done.stdout)["entries_copied"] == ENTRIES + 300 - 32 * 256
    assert leaves(to) == leaves(folder.directory)


def test_an_interrupted_restoration_is_not_continued_with_another_log(
    folder: ArchivedFolder, place: Place, store: ObjectServer, tmp_path: Path
) -> None:
    other = ArchivedFolder(tmp_path / "other")
    other.append(*({"actor": {"id": "somebody_else"}} for _ in range(300)))
    to = tmp_path / "restored"
    to.mkdir()
    shutil.copytree(other.directory / "log", to / RESTORING)
    done = restore(place, to, folder)
    assert isinstance(done.exception, VerificationError)
    assert "was begun from another archive" in str(done.exception)


def test_a_key_that_is_not_the_logs_is_refused_before_anything_is_read(
    folder: ArchivedFolder, place: Place, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"no key\n")
    other = ArchivedFolder(tmp_path / "other", seed=b"o" * 32).directory / "key"
    for key, reason in ((wrong, "is not a signer key"), (other, "none of the keys")):
        done = restore(place, tmp_path / "restored", folder, "--key", str(key))
        assert isinstance(done.exception, MalformedError)
        assert reason in str(done.exception)
        assert not (tmp_path / "restored").exists()


def test_an_archive_needs_a_policy_and_has_no_private_values(place: Place, tmp_path: Path) -> None:
    arguments = [place.url, str(tmp_path / "to"), "--endpoint", place.endpoint]
    done = CliRunner().invoke(restore_, arguments)
    assert done.exit_code == 2
    assert "an archive needs --policy" in done.stderr
