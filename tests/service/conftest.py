"""Served ledgers. Each test's log is verified again, as a whole, when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.check_log import check_log
from tests.service.serving import Ledger, make_ledger, serving


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A served ledger with the tokens of `TOKENS`."""
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        yield ledger
        check_log(ledger.url, tokens["admin"], ledger.policy)


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A served ledger for tests that don't mind one another's events."""
    directory = tmp_path_factory.mktemp("shared") / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        yield ledger
        check_log(ledger.url, tokens["admin"], ledger.policy)
