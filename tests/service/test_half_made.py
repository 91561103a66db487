"""A service starts beside what an interrupted first start left, or says how to mend it."""

from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from ledger.service.data_dir import DirectoryPaths, create_directory, open_private
from ledger.store.environment import ENGINE_MAJOR
from ledger.store.log import LogStore
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
            f"remove {paths.root} and run ledger init again",
        ),
    )
    for folder, open_part, remedy in parts:
        (folder / "data.mdb").unlink()
        make_half(folder)
        with pytest.raises(MalformedError, match=remedy):
            open_part()
