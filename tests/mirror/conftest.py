"""A served ledger for each test of a mirror."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.serving import Ledger, serving_new


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A served ledger with the tokens of `TOKENS`."""
    with serving_new(tmp_path) as ledger:
        yield ledger
