"""What a newer version wrote is refused with the place, and never read as something else."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.serve import command as serve
from ledger.store import keyspace
from ledger.store.environment import Environment
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import parse_policy
from tests.service.serving import make_ledger, serving

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "ledger"
    with serving(directory, make_ledger(directory)):
        pass  # The first start makes the private values and the records.
    return directory


def newer_environment(path: Path) -> None:
    names = (keyspace.META,)
    environment = Environment.open(path, names, readonly=False, map_bytes=1 << 24)
    with environment.write() as transaction:
        transaction.put(keyspace.META, keyspace.META_FORMAT, b"2")
    environment.close()


def newer_record(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "thing": 1}))


def newer_settings(path: Path) -> None:
    with path.open("a") as file:
        file.write("thing = 1\n")


@pytest.mark.parametrize(
    ("part", "write", "said"),
    [
        ("log", newer_environment, "/log has format 2, this version reads 1: install the version"),
        ("access", newer_environment, "/access has format 2, this version reads 1"),
        ("private", newer_environment, "/private has format 2, this version reads 1"),
        ("ledger.toml", newer_settings, "ledger.toml: there is no key 'thing'"),
        ("started.json", newer_record, "unknown field `thing`; a newer version may have written"),
    ],
)
def test_the_service_does_not_start(
    made: Path, tmp_path: Path, part: str, write: Callable[[Path], None], said: str
) -> None:
    directory = tmp_path / "ledger"
    shutil.copytree(made, directory)
    write(directory / part)
    ended = CliRunner().invoke(serve, [str(directory), "--listen", "127.0.0.1:0"])
    assert ended.exit_code != 0
    assert said in f"{ended.output}{ended.exception}"


def test_evidence_of_a_later_edition_is_not_verified(tmp_path: Path) -> None:
    later = tmp_path / "later.zip"
    with zipfile.ZipFile(DATA / "evidence-2.zip") as old, zipfile.ZipFile(later, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "manifest.json":
                data = json.dumps({**json.loads(data), "v": 3}).encode()
            new.writestr(info.filename, data)
    policy = parse_policy((DATA / "evidence-2.policy").read_bytes())
    with pytest.raises(MalformedError, match="edition 3, this version reads 1 to 2"):
        check_evidence(later, policy)
