"""Fixtures of more than one module."""

import pytest

from tests.tlog.logs import LARGE, Log, make_log


@pytest.fixture(scope="session")
def log() -> Log:
    """A log of `LARGE` entries; making it takes a second."""
    return make_log(LARGE)
