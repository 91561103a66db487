"""A service starts beside what an interrupted first start left, or says how to mend it."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

import ledger.cli  # noqa: F401 - its commands
from ledger.runtime.keys import read_secret_key, write_secret_key
from ledger.service.data_dir import DirectoryPaths, create_directory
from ledger.service.secret_stores import open_private
from ledger.store.environment import ENGINE_MAJOR
from ledger.store.log import LogStore
from ledger_client.cli.app import run
from ledger_core.tlog.errors import MalformedError
from tests.service.serving import event, make_ledger, serving


def make_half(folder: Path) -> None:
    """An environment as version 0.1.0 left it when it was killed while it made one."""
    folder.mkdir(exist_ok=True)
    lmdb.open(str(folder), lib_version=ENGINE_MAJOR).close()


def test_a_half_made_index_is_made_anew_and_a_damaged_one_is_warned_of(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    index = directory / "index"
    make_half(index)
    (index / "00000007.damaged").write_bytes(b"")
    with serving(directory, tokens) as ledger:
        assert ledger.append(event(reason="needle")).status == 200
        assert ledger.ask("/v1/events?q=reason:needle").json()["total"] == 1
        (warning,) = [w for w in ledger.ask("/readyz").json()["warnings"] if "index" in w]
        assert warning.startswith("1 of the index's segments were damaged")
        assert "(7)" in warning


def test_an_empty_store_of_erasable_values_is_made_anew(tmp_path: Path) -> None:
    paths = DirectoryPaths(tmp_path)
    paths.private.mkdir()
    open_private(paths, make_key=lambda: bytes(32)).close()
    assert paths.private_key.exists()


def test_a_half_made_environment_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    paths = create_directory(tmp_path / "ledger", origin="example.com/audit", seed=bytes(32))
    open_private(paths, make_key=lambda: bytes(32)).close()
    parts: tuple[tuple[Path, Callable[[], object], str], ...] = (
        (
            paths.private,
            lambda: open_private(paths, make_key=lambda: bytes(32)),
            f"remove {paths.private} and start again",
        ),
        (
            paths.log,
            lambda: LogStore.open(paths.log),
            f"policy, ledger.toml and key in {paths.root} and run ledger init again",
        ),
    )
    for folder, open_part, remedy in parts:
        (folder / "data.mdb").unlink()
        make_half(folder)
        with pytest.raises(MalformedError, match=remedy):
            open_part()


@pytest.mark.parametrize(
    ("command", "last"),
    [
        (["init", "{}", "--origin", "example.com/audit"], "key"),
        (["witness", "init", "{}", "--name", "example.com/witness"], "key"),
        (
            ["mirror", "init", "{}", "--log", "http://127.0.0.1:1", "--policy", "policy"],
            "mirror.toml",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each[:2]),
)
def test_a_folder_whose_making_was_interrupted_is_explained(
    command: list[str],
    last: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made = create_directory(tmp_path / "log", origin="example.com/audit", seed=bytes(32))
    (tmp_path / "policy").write_bytes(made.policy.read_bytes())
    folder = tmp_path / "new"
    command = [part.format(folder) for part in command]
    assert run(command) == 0
    assert run(command) == 2
    assert "exists already" in capsys.readouterr().err
    made_parts = [each.name for each in folder.iterdir() if each.name != last]
    (folder / last).unlink()
    assert run(command) == 2
    assert f"remove {folder} and run ledger" in " ".join(capsys.readouterr().err.split())
    (folder / "notes.txt").write_text("mine")
    (folder / f".{last}.x1").write_text("a draft")
    assert run(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f" in {folder}, and nothing else, and run ledger" in said
    removed = said.partition(": remove ")[2].partition(f" in {folder}")[0].split(", ")
    assert sorted(removed) == sorted(made_parts)
    for name in removed:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(command) == 0
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_ledger_with_entries_whose_key_is_elsewhere_is_not_called_half_made(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        assert ledger.append(event()).status == 200
    (directory / "key").unlink()
    with pytest.raises(FileExistsError, match="exists already"):
        create_directory(directory, origin="example.com/audit", seed=bytes(32))


def test_a_key_that_could_not_be_written_is_not_there_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            write_secret_key(tmp_path / "private.key", bytes(32))
    assert not list(tmp_path.iterdir())
    write_secret_key(tmp_path / "private.key", bytes(32))
    assert read_secret_key(tmp_path / "private.key", key_bytes=32) == bytes(32)
    with pytest.raises(FileExistsError):
        write_secret_key(tmp_path / "private.key", bytes(32))
    assert [each.name for each in tmp_path.iterdir()] == ["private.key"]
