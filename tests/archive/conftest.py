"""One object server for all tests of a process, and the credentials in the environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.archiving import ArchivedFolder
from tests.archive.seaweed import ACCESS_KEY, REGION, SECRET_KEY, ObjectServer, object_server


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A real S3 server."""
    with object_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def folder(tmp_path: Path) -> ArchivedFolder:
    """The folder of a new ledger."""
    return ArchivedFolder(tmp_path / "ledger")
