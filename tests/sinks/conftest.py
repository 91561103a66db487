"""A ledger's folder for each test of a sink."""

from pathlib import Path

import pytest

from tests.sinks.sinking import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The folder of a new ledger."""
    return Folder(tmp_path / "ledger")
