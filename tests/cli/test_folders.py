"""Every command that takes a folder, given each kind of folder: its message, and what it writes."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from ledger.cli.folders import (
    BACKUP,
    LEDGER,
    MIRROR,
    READER,
    TLOG_MIRROR,
    WITNESS,
    FolderKind,
    kind_of,
)
from ledger.demo.child_service import make_ledger
from ledger.mirror.data_dir import MirrorConfig, create_mirror
from ledger.reader.data_dir import ReaderConfig, create_reader
from ledger.service.data_dir import DirectoryPaths
from ledger_client.cli.app import cli
from tests.cli.conftest import Output, run_here
from tests.mirror.mirroring import SIGNER
from tests.served import ORIGIN
from tests.tlog_mirror.sending import make_tlog_mirror
from tests.witness.witnesses import make_witness

DOWN = "http://127.0.0.1:9"


class Command(NamedTuple):
    """A command: its arguments behind the folder, the kinds that it takes, and what it may do.

    `serves`: it would serve until a signal. `is_reading`: it changes nothing.
    """

    arguments: tuple[str, ...]
    kinds: tuple[FolderKind, ...]
    serves: bool = False
    is_reading: bool = False


LOCAL = (LEDGER, MIRROR)
KEYS = (LEDGER, MIRROR, WITNESS, TLOG_MIRROR)
SERVED = (LEDGER, MIRROR, READER)
PASSPHRASE = ("--passphrase-file", "{0}/../passphrase")
VKEY = ("--vkey", "example.com/l+1c2d3e4f+AYKW")
REASON = ("--reason", "a test")

COMMANDS: Mapping[str, Command] = {
    "alarm init": Command((), LOCAL),
    "alarm list": Command((), LOCAL, is_reading=True),
    "alarm replay": Command((), LOCAL, is_reading=True),
    "alarm test": Command(("a",), LOCAL),
    "archive add": Command(("a", "--url", "s3://bucket/log", "--no-check"), LOCAL),
    "archive list": Command((), LOCAL, is_reading=True),
    "archive move-released": Command(("a", "b"), LOCAL),
    "archive release": Command(("a",), LOCAL),
    "archive remove": Command(("a",), LOCAL),
    "archive rewind": Command(("a", "--to", "0"), LOCAL),
    "archive status": Command((), LOCAL, is_reading=True),
    "archive test": Command(("a",), LOCAL, is_reading=True),
    "backup": Command(("{0}/../to",), LOCAL),
    "doctor": Command(("--url", DOWN), SERVED, is_reading=True),
    "fsck": Command((), (*SERVED, BACKUP), is_reading=True),
    "key decrypt": Command((), KEYS),
    "key encrypt": Command(PASSPHRASE, KEYS),
    "key retire": Command((), (LEDGER,)),
    "key rotate": Command((), (LEDGER,)),
    "key show": Command((), KEYS, is_reading=True),
    "mirror promote": Command((), (MIRROR,)),
    "mirror serve": Command((), (MIRROR,), serves=True),
    "mirror status": Command((), (MIRROR,), is_reading=True),
    "parquet": Command((), LOCAL),
    "recover": Command(("--offline",), (LEDGER,), is_reading=True),
    "reindex": Command((), LOCAL),
    "restore": Command(("{0}/../to",), (BACKUP,)),
    "retention apply": Command((*REASON, "--yes"), (LEDGER,)),
    "retention cancel": Command(REASON, (LEDGER,)),
    "retention hold add": Command(("h", "--query", "actor:u_1", *REASON), (LEDGER,)),
    "retention hold list": Command((), (LEDGER,), is_reading=True),
    "retention hold release": Command(("h", *REASON), (LEDGER,)),
    "retention plan": Command((), (LEDGER,), is_reading=True),
    "retention remove": Command((), (LEDGER,)),
    "retention status": Command((), (LEDGER,), is_reading=True),
    "serve": Command((), (LEDGER, READER), serves=True),
    "sink add": Command(("s", "--type", "file", "--path", "{0}/../out.jsonl"), LOCAL),
    "sink dead-letters": Command(("s",), LOCAL, is_reading=True),
    "sink list": Command((), LOCAL, is_reading=True),
    "sink pause": Command(("s",), LOCAL),
    "sink remove": Command(("s",), LOCAL),
    "sink resume": Command(("s",), LOCAL),
    "sink rewind": Command(("s", "--to", "0"), LOCAL),
    "sink test": Command(("s",), LOCAL),
    "status": Command(("--url", DOWN), SERVED, is_reading=True),
    "tlog-mirror add-log": Command(VKEY, (TLOG_MIRROR,)),
    "tlog-mirror fsck": Command((), (TLOG_MIRROR,), is_reading=True),
    "tlog-mirror push add": Command(("m", "--url", "https://m.example", *VKEY), LOCAL),
    "tlog-mirror push list": Command((), LOCAL, is_reading=True),
    "tlog-mirror push pause": Command(("m",), LOCAL),
    "tlog-mirror push remove": Command(("m",), LOCAL),
    "tlog-mirror push resume": Command(("m",), LOCAL),
    "tlog-mirror push test": Command(("m",), LOCAL, is_reading=True),
    "tlog-mirror serve": Command((), (TLOG_MIRROR,), serves=True),
    "tlog-mirror status": Command((), (TLOG_MIRROR,), is_reading=True),
    "token create": Command(("--name", "n", "--scope", "read"), SERVED),
    "token list": Command((), SERVED, is_reading=True),
    "token revoke": Command(("n",), SERVED),
    "token rotate": Command(("n",), SERVED),
    "witness add-log": Command(VKEY, (WITNESS,)),
    "witness add-logs": Command(("{0}/../list",), (WITNESS,)),
    "witness bastion-key": Command((), (WITNESS,)),
    "witness fsck": Command((), (WITNESS,), is_reading=True),
    "witness remove-key": Command(VKEY, (WITNESS,)),
    "witness serve": Command((), (WITNESS,), serves=True),
    "witness status": Command((), (WITNESS,), is_reading=True),
}
NEW_FOLDER = {"init", "demo", "mirror init", "tlog-mirror init", "witness init"}
"""Those whose folder is made."""

KINDS = tuple(FolderKind)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[FolderKind | None, Path]:
    """A folder of each kind, and one of none, each alone in another one."""
    root = tmp_path_factory.mktemp("folders")
    made: dict[FolderKind | None, Path] = {
        kind: root / kind.name.lower() / "folder" for kind in KINDS
    }
    made[None] = root / "empty" / "folder"
    made[None].mkdir(parents=True)
    for folder in made.values():
        folder.parent.mkdir(exist_ok=True)
        (folder.parent / "passphrase").write_text("correct horse\n")
        (folder.parent / "list").write_text("logs/v0\n")
    make_ledger(made[LEDGER], origin=ORIGIN)
    policy = (made[LEDGER] / "policy").read_bytes()
    token = root / "token"
    token.write_text("t")
    mirror = MirrorConfig(log_url="https://log.example", token_file=str(token))
    create_mirror(made[MIRROR], mirror, policy, [SIGNER])
    create_reader(made[READER], ReaderConfig(url=f"file://{root}/bucket"), policy)
    make_witness(made[WITNESS], [])
    make_tlog_mirror(made[TLOG_MIRROR], [])
    done = run_here("backup", made[LEDGER], made[BACKUP])
    assert done.code == 0, done.err
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Each file beside and below a folder. A reader of a store writes its name into `lock.mdb`."""
    return {
        str(path.relative_to(folder.parent)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.parent.rglob("*"))
        if path.name != "lock.mdb"
    }


def run_on(command: str, folder: Path) -> Output:
    arguments = [each.format(folder) for each in COMMANDS[command].arguments]
    return run_here(*command.split(), folder, *arguments)


@pytest.fixture
def copy(folders: dict[FolderKind | None, Path], tmp_path: Path) -> Callable[[FolderKind], Path]:
    """Copies a folder, with what else commands need beside it."""

    def make(kind: FolderKind) -> Path:
        folder = tmp_path / kind.name.lower() / "folder"
        shutil.copytree(folders[kind], folder, symlinks=True)
        (folder.parent / "passphrase").write_text("correct horse\n")
        (folder.parent / "passphrase").chmod(0o600)
        (folder.parent / "list").write_text("logs/v0\n")
        return folder

    return make


def with_folder(command: click.Command, path: str = "") -> Iterator[str]:
    """The commands that take a folder, by what one types."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from with_folder(found, f"{path} {name}".strip())
    elif any(each.name in {"directory", "source"} for each in command.params):
        yield path


def test_each_command_that_takes_a_folder_is_in_the_table() -> None:
    # Those of the client read files of other kinds.
    others = {"verify-archive", "seen"}
    found = set(with_folder(cli)) - NEW_FOLDER - others
    assert {each for each in found if not each.startswith(("import", "evidence"))} == set(COMMANDS)


def test_each_kind_of_folder_is_recognised(folders: dict[FolderKind | None, Path]) -> None:
    assert {kind: kind_of(folder) for kind, folder in folders.items()} == {
        kind: kind for kind in (*KINDS, None)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_another_kind_is_named_and_left_alone(
    command: str, folders: dict[FolderKind | None, Path]
) -> None:
    takes = COMMANDS[command].kinds
    for kind in (each for each in KINDS if each not in takes):
        folder = folders[kind]
        before = contents(folder)
        done = run_on(command, folder)
        assert done.code == 2, (kind, done.err)
        assert f"{folder} is {kind.value}, not {takes[0].value}: " in " ".join(done.err.split())
        assert "Traceback" not in done.err
        assert contents(folder) == before, kind
    before = contents(folders[None])
    done = run_on(command, folders[None])
    assert done.code == 4, done.err
    assert f"{folders[None]}" in done.err
    assert contents(folders[None]) == before


@pytest.mark.parametrize("command", [each for each, to in COMMANDS.items() if not to.serves])
def test_a_folder_of_its_kind_is_taken(command: str, copy: Callable[[FolderKind], Path]) -> None:
    for kind in COMMANDS[command].kinds:
        folder = copy(kind)
        before = contents(folder)
        done = run_on(command, folder)
        # There may be no sink of this name, no key that is encrypted, no service, no head.
        assert done.code in {0, 1, 2, 4, 6}, (kind, done.err)
        assert "Traceback" not in done.err, (kind, done.err)
        assert f"{folder} is {kind.value}, not" not in done.err
        if COMMANDS[command].is_reading:
            assert contents(folder) == before, kind


def test_what_the_client_does_with_a_folder_knows_its_kind(
    copy: Callable[[FolderKind], Path],
) -> None:
    for kind in (MIRROR, READER, WITNESS, TLOG_MIRROR, BACKUP):
        folder = copy(kind)
        before = contents(folder)
        erased = run_here("erase", folder, "--subject", "u_1", "--reason", "a test", "--yes")
        assert erased.code == 2, erased.err
        assert f"is {kind.value}, not a ledger" in erased.err
        assert contents(folder) == before
        if kind in {MIRROR, READER}:
            continue
        asked = run_here("sql", "SELECT 1", folder)
        assert asked.code == 2, asked.err
        assert f"is {kind.value}, not a ledger" in asked.err


def test_a_reader_is_checked_shown_and_examined(copy: Callable[[FolderKind], Path]) -> None:
    folder = copy(READER)
    checked = run_here("fsck", folder)
    assert checked.code == 0, checked.err
    assert "the files of the reader and 0 tokens are in order" in checked.out
    assert "ledger verify-archive URL" in checked.err
    shown = run_here("status", folder, "--url", DOWN)
    assert shown.code == 0, shown.err
    assert f"file://{folder.parent.parent}" not in shown.out
    assert "0 in the head that was served last" in shown.out
    said = json.loads(run_here("status", folder, "--url", DOWN, "--json").out)
    assert said["origin"] == ORIGIN
    assert said["cache_bytes_max"] == 4 << 30
    found = json.loads(run_here("doctor", folder, "--url", DOWN, "--json").out)
    checks = {each["check"]: each["verdict"] for each in found}
    assert checks["archive"] == "ok"
    assert checks["service"] == "failed"
    assert "key" not in checks
    assert "log" not in checks
    (folder / "policy").write_text("no policy\n")
    (folder / "reader.toml").write_text("url = 1\n")
    broken = run_here("fsck", folder, "--json")
    assert broken.code == 1
    assert {each["part"] for each in json.loads(broken.out)["problems"]} == {
        "policy",
        "reader.toml",
    }
    found = json.loads(run_here("doctor", folder, "--url", DOWN, "--json").out)
    assert {each["check"]: each["verdict"] for each in found}["archive"] == "failed"


def test_a_ledger_that_lost_parts_is_still_one(copy: Callable[[FolderKind], Path]) -> None:
    folder = copy(LEDGER)
    paths = DirectoryPaths(folder)
    paths.settings.unlink()
    shutil.rmtree(paths.log)
    assert kind_of(folder) is LEDGER
    assert "holds no data" in run_here("fsck", folder).err
