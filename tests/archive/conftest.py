"""One object server for all tests of a process, and the credentials in the environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.object_storage.object_store import Bucket
from ledger.object_storage.place import Place
from tests.archive.archiving import SMALL, ArchivedFolder, place_of
from tests.archive.seaweed import ObjectServer, environment, object_server


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A real S3 server."""
    with object_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def folder(tmp_path: Path) -> ArchivedFolder:
    """The folder of a new ledger."""
    return ArchivedFolder(tmp_path / "ledger")


@pytest.fixture
def place(folder: ArchivedFolder, store: ObjectServer) -> Place:
    """An archive of a small log."""
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place))
    return place
