"""`archive.toml`: each key is checked, and a fault names archive and key."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.archive.worker import lock_path
from ledger.cli.archive import command as archive
from ledger.cli.fsck import command as fsck
from ledger.follow.position import FollowerPaths
from ledger.object_storage.config import KIND, ArchiveConfig, read_archive, read_archives
from ledger.object_storage.place import Place
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger_core.tlog.errors import MalformedError
from tests.archive.archiving import ArchivedFolder


def write(directory: Path, text: str) -> Path:
    (directory / "archive.toml").write_text(text, encoding="utf-8")
    return directory


def test_a_fault_of_one_archive_does_not_stop_another(tmp_path: Path) -> None:
    write(tmp_path, '[one]\nurl = "s3://bucket/one"\n[two]\nurl = "ftp://bucket"\n')
    found = read_archive(tmp_path, "one")
    assert found == ArchiveConfig(url="s3://bucket/one")
    assert read_archive(tmp_path, "three") is None
    for read in (lambda: read_archive(tmp_path, "two"), lambda: read_archives(tmp_path)):
        with pytest.raises(MalformedError, match="archive 'two': url: want"):
            read()


def test_a_rewinding_is_an_event(folder: ArchivedFolder) -> None:
    folder.grow(1)
    write(folder.directory, '[copy]\nurl = "s3://bucket/one"\n')
    done = CliRunner().invoke(archive, ["rewind", str(folder.directory), "copy", "--to", "1"])
    assert done.exit_code == 0, done.output
    with closing(open_tokens(DirectoryPaths(folder.directory))) as access:
        act = json.loads([event for _, event in access.outbox()][-1])
    assert (act["action"], act["context"]) == ("ledger.archive.rewound", {"to": 1})
    assert act["targets"] == [{"type": "ledger.archive", "id": "copy"}]


def test_fsck_names_a_fault_of_the_file_and_of_what_is_kept(tmp_path: Path) -> None:
    folder = ArchivedFolder(tmp_path / "ledger")
    folder.grow(1)

    def problems() -> list[str]:
        done = CliRunner().invoke(fsck, [str(folder.directory), "--json"])
        return [each["part"] for each in json.loads(done.stdout)["problems"]]

    write(folder.directory, '[copy]\nurl = "s3://bucket/one"\n')
    paths = FollowerPaths(folder.directory, KIND, "copy")
    paths.make()
    assert problems() == []
    lock_path(paths).write_bytes(b"{")
    paths.position.write_bytes(b'{"next_index":7}')
    assert problems() == ["archive/copy/position.json", "archive/copy/lock.json"]
    write(folder.directory, '[copy]\nurl = "bucket"\n')
    assert "archive.toml" in problems()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('url = "https://bucket.example/log"', "url: want s3://"),
        ('url = "s3://bucket"\nendpoint = "http://10.0.0.1:9000"', "endpoint: over http://"),
        ('url = "s3://bucket"\nendpoint = "https://key:secret@host"', "endpoint: credentials"),
        ('url = "s3://key:secret@bucket/log"', "url: credentials"),
        ('url = "s3://bucket"\nca_file = "/no/such/file"', "ca_file: there is no file"),
        ('url = "s3://bucket"\ninterval_s = 0', "interval_s"),
        ('url = "s3://bucket"\naccess_key = "x"', "access_key"),
        ('region = "x"', "url"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, fault: str) -> None:
    write(tmp_path, f"[copy]\n{line}\n")
    with pytest.raises(MalformedError, match=fault) as error:
        read_archives(tmp_path)
    assert "archive 'copy'" in str(error.value)
    assert "secret@" not in str(error.value)


def test_plain_http_goes_to_this_machine_or_with_insecure() -> None:
    Place("s3://bucket/a/b-c_d.e", endpoint="http://127.0.0.1:9000").check()
    Place("s3://bucket", endpoint="http://10.0.0.1:9000", insecure=True).check()
    place = Place("s3://bucket/a/b")
    assert (place.bucket, place.prefix) == ("bucket", "a/b")
