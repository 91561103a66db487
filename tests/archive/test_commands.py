"""`ledger archive add|list|test|remove`, and the commands of docs/archive.md, for a real S3."""

import json
import os
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.archive import command
from ledger.demo.child_service import make_ledger
from ledger.follow.position import Cursor, FollowerPaths
from ledger.object_storage.config import KIND, ArchiveConfig, archives_path, read_archives
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.open_log import open_writer
from ledger.object_storage.place import ENDPOINT_VARIABLES, Place
from ledger.object_storage.releasable import lock_releases
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.token_admin import make_token
from ledger.store.bundle_removal import prepare_release
from ledger_client.cli.app import EXIT_MALFORMED
from ledger_core.tlog.errors import MalformedError, VerificationError
from tests.archive.archiving import SMALL, ArchivedFolder, BadStore, place_of
from tests.archive.releasing import NAME, configure, release
from tests.archive.seaweed import ObjectServer
from tests.archive.verifying import verify
from tests.docs.blocks import DOCS, blocks_of
from tests.docs.test_commands import PRELUDE
from tests.served import ORIGIN

NOTES = '# of the auditors\n[other]\nurl = "s3://bucket/other" # old\n\n# keep this\n'


def run(folder: ArchivedFolder, act: str, *arguments: str) -> str:
    """Run a command on the folder. Raises: what it raises."""
    done = CliRunner().invoke(command, [act, str(folder.directory), *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def add(folder: ArchivedFolder, place: Place, *options: str, name: str = "copy") -> str:
    where = ("--url", place.url, "--endpoint", place.endpoint)
    return run(folder, "add", name, *where, *options)


def last_act(folder: ArchivedFolder) -> tuple[str, object]:
    with closing(open_tokens(DirectoryPaths(folder.directory))) as access:
        act = json.loads([event for _, event in access.outbox()][-1])
    return act["action"], act["targets"]


def test_an_archive_is_added_listed_tried_and_removed_beside_what_a_person_wrote(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    folder.grow(SMALL)
    archives_path(folder.directory).write_text(NOTES, encoding="utf-8")
    place = place_of(store.endpoint, store.make_bucket(locked_days=1))
    said = add(folder, place, "--interval-s", "5", "--retain-local-segments", "7")
    for part in ("compliance until", "versioning  on:", "nothing of this log yet", "none"):
        assert part in said, said
    targets = [{"type": "ledger.archive", "id": "copy"}]
    assert last_act(folder) == ("ledger.archive.added", targets)
    assert read_archives(folder.directory)["copy"] == ArchiveConfig(
        url=place.url, endpoint=place.endpoint, interval_s=5.0, retain_local_segments=7
    )
    folder.upload(Bucket(place))
    store.write(place.bucket, "log/notes/x", b"")
    found = json.loads(run(folder, "test", "copy", "--json"))
    assert found["locked"]
    del found["lock"]
    assert found == {
        "name": "copy",
        "url": place.url,
        "locked": True,
        "versioning": "enabled",
        "archived_size": SMALL,
        "other_objects": ["notes/"],
    }
    assert f"copy  {place.url}  at the end  in order" in run(folder, "list")
    assert "other  s3://bucket/other  600 entries behind" in run(folder, "list")
    run(folder, "remove", "copy")
    assert last_act(folder) == ("ledger.archive.removed", targets)
    assert archives_path(folder.directory).read_text(encoding="utf-8").strip() == NOTES.strip()
    assert "log/checkpoint" in store.names(place.bucket)
    run(folder, "remove", "other")
    left = archives_path(folder.directory).read_text(encoding="utf-8")
    assert left.splitlines()[0] == "# of the auditors"
    assert left.rstrip().endswith("# keep this")
    assert "no archive yet; add one" in run(folder, "list")


def test_an_archive_that_is_added_again_goes_on_where_its_bucket_is(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    folder.grow(SMALL)
    places = [place_of(store.endpoint, store.make_bucket()) for _ in range(2)]
    assert "whoever has the credentials of the bucket can delete" in add(folder, places[0])
    folder.upload(Bucket(places[0]))
    paths = FollowerPaths(folder.directory, KIND, "copy")
    paths.paused.touch()
    run(folder, "remove", "copy")
    assert "the first 600 entries of this log" in add(folder, places[0])
    assert not paths.paused.exists()
    assert Cursor(paths).position.next_index == SMALL
    run(folder, "remove", "copy")
    add(folder, places[1])
    folder.upload(Bucket(places[1]))
    assert store.names(places[0].bucket) == store.names(places[1].bucket)


def test_nothing_is_written_where_another_log_is(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    other = ArchivedFolder(tmp_path / "other")
    make_ledger(tmp_path / "third", origin="example.com/third")
    third = ArchivedFolder.__new__(ArchivedFolder)
    third.directory = tmp_path / "third"
    place = place_of(store.endpoint, store.make_bucket())
    other.grow(SMALL)
    other.upload(Bucket(place))
    folder.grow(1)
    folder.grow(1)
    with pytest.raises(
        VerificationError, match=r"has another log, or another history .*: the arch"
    ):
        add(folder, place)  # The same key, and a head that is larger.
    with pytest.raises(VerificationError, match=r"log has another log, .*: not a head of"):
        add(third, place)
    store.delete(place.bucket, "log/checkpoint")
    store.delete(place.bucket, "log/probe")
    with pytest.raises(MalformedError, match=f"is the archive of {ORIGIN}, not of example.com/th"):
        add(third, place)
    assert not {"log/checkpoint", "log/probe"} & set(store.names(place.bucket))
    for each in (folder, third):
        assert read_archives(each.directory) == {}


def test_what_does_not_go_together_is_refused_before_the_bucket_is_asked(
    folder: ArchivedFolder,
) -> None:
    folder.grow(1)
    place = Place("s3://gone/log", endpoint="http://127.0.0.1:9")
    assert "try it with ledger archive test" in add(
        folder, place, "--no-check", "--retain-local-segments", "1"
    )
    with pytest.raises(MalformedError, match="an archive named copy already"):
        add(folder, place)
    with pytest.raises(MalformedError, match="the archive 'copy' is there already"):
        add(folder, place._replace(url=f"{place.url}/"), name="twin")
    elsewhere = place._replace(url="s3://gone/else")
    with pytest.raises(MalformedError, match="one archive may have it, and 'copy' has it"):
        add(folder, elsewhere, "--retain-local-segments", "1", name="twin")
    assert "retain_local_segments" in add(folder, elsewhere, "--retain-local-segments", "-1")
    assert "url" in run(folder, "add", "twin", "--no-check")
    assert list(read_archives(folder.directory)) == ["copy"]


def test_an_archive_that_alone_has_entries_is_not_removed(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    release(folder, place, 256)
    assert f"entries below 256 left this disk for {NAME!r}" in run(folder, "remove", NAME)
    assert list(read_archives(folder.directory)) == [NAME]


def test_an_archive_whose_entries_are_just_leaving_for_it_is_not_removed(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place), name=NAME)
    configure(folder.directory, place)
    command = [sys.executable, "-m", "ledger", "archive", "remove", str(folder.directory), NAME]
    with closing(open_writer(folder.directory / "log")) as writer:
        with lock_releases(folder.directory):  # As the service, up to its commit.
            prepared = prepare_release(writer.store, end=256, archive=NAME)
            removing = subprocess.Popen(command, stderr=subprocess.PIPE)
            with suppress(subprocess.TimeoutExpired):
                removing.wait(4)
            assert list(read_archives(folder.directory)) == [NAME]
            writer.release(prepared)
        _, said = removing.communicate(timeout=120)
    assert f"entries below 256 left this disk for {NAME!r}" in said.decode()
    assert removing.returncode == EXIT_MALFORMED
    assert list(read_archives(folder.directory)) == [NAME]


def test_the_server_of_the_environment_is_noted_and_its_lock_is_read(
    folder: ArchivedFolder, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.grow(SMALL)
    bucket = store.make_bucket(locked_days=1)
    # boto3, which asks for the lock, does not know this variable.
    monkeypatch.setenv("AWS_ENDPOINT", store.endpoint)
    said = run(folder, "add", "copy", "--url", f"s3://{bucket}/log")
    assert f"{store.endpoint} (of AWS_ENDPOINT)" in said
    assert "compliance until" in said
    monkeypatch.delenv("AWS_ENDPOINT")
    assert read_archives(folder.directory)["copy"].endpoint == store.endpoint
    assert "compliance until" in run(folder, "test", "copy")


def test_the_endpoint_that_is_given_is_asked_whatever_the_environment_names(
    folder: ArchivedFolder, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.grow(SMALL)
    place = place_of(store.endpoint, store.make_bucket(locked_days=1))
    with BadStore(store.endpoint) as other:
        asked: list[str] = []
        other.fault = lambda _method, path: asked.append(path)
        for name in ENDPOINT_VARIABLES:
            monkeypatch.setenv(name, other.endpoint)
        assert "compliance until" in add(folder, place)
        folder.upload(Bucket(place))
        assert verify(place, folder.policy)["verified"]
        assert asked == []


def test_the_commands_of_the_page_run_one_after_another(
    store: ObjectServer, tmp_path: Path
) -> None:
    """As a newcomer runs them. The bucket is made as the page makes it, by another program."""
    folder = tmp_path / "audit"
    make_ledger(folder, origin=ORIGIN)
    token = make_token(folder, name="app", scopes=("append",), tenant=None)
    (tmp_path / "policy").write_bytes((folder / "policy").read_bytes())
    (tmp_path / "key.copy").write_bytes((folder / "key").read_bytes())
    bucket = store.make_bucket(locked_days=1)
    page = [each for each in blocks_of(DOCS / "archive.md") if each.language == "sh"]
    made = [
        _fitted(each.text, store, bucket)
        for each in page
        if not {"aws", "move-released"} & set(each.text.split())
    ]
    assert len(made) == 4, [each.first_line for each in page]
    script = [
        PRELUDE,
        "ledger serve audit",
        "LEDGER_URL=$(sed -n 's/^serving on //p' serving.0) ledger append --actor user:u_1 "
        "--action user.login --outcome denied",
        made[0],
        "until ledger archive status audit | grep 'at the end'; do sleep 0.2; done",
        *made[1:],
    ]
    programs = f"{Path(sys.executable).parent}:/usr/sbin:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": programs,
            "LEDGER_LISTEN": "127.0.0.1:0",
            "LEDGER_WORKERS": "0",
            "LEDGER_TOKEN": token,
            "LEDGER_POLICY": "policy",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    assert done.stdout.count("verified") >= 3, done.stdout


def _fitted(text: str, store: ObjectServer, bucket: str) -> str:
    """Commands of the page for the server of the tests."""
    url = f"s3://{bucket}/billing"
    for old, new in {
        "pip install": "true pip install",
        " --region eu-central-1": f" --endpoint {store.endpoint}",
        "https://public.example.com/billing": f"{store.endpoint}/{bucket}/billing",
        "file:///mnt/copy/billing": "s3://audit-archive/billing",
        "s3://audit-archive/billing --policy": f"{url} --endpoint {store.endpoint} --policy",
        "s3://audit-archive/billing restored": f"{url} restored --endpoint {store.endpoint}",
        "s3://audit-archive/billing": url,
        "ledger recover restored": "ledger recover restored --offline --accept",
    }.items():
        text = text.replace(old, new)
    return text
