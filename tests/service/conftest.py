"""Served ledgers. Each test's log is verified again, as a whole, when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.runtime.loop_turns import LoopTurns
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, make_ledger, serving_new


@pytest.fixture(scope="module", autouse=True)
def _hints_have_time() -> Iterator[None]:
    """Hints and the catalog of fields are complete, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CATALOG_TIME_S", "HINTS_TIME_S"):
            patch.setattr(f"ledger.service.queries.search.{name}", 600.0)
        yield


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The owners, with their groups, who asked for a turn at quick work; not their connections."""
    owners: list[tuple[str, str]] = []
    begin = LoopTurns.begin

    async def noted(turns: LoopTurns, owner: str, *, group: str = "") -> None:
        if (owner, group) != ("127.0.0.1", ""):
            owners.append((owner, group))
        await begin(turns, owner, group=group)

    monkeypatch.setattr(LoopTurns, "begin", noted)
    return owners


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A served ledger with the tokens of `TOKENS`."""
    with serving_new(tmp_path) as ledger:
        yield ledger
        check_ledger(ledger)


@pytest.fixture
def unserved(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The folder and the tokens of a ledger that is not served yet."""
    directory = tmp_path / "ledger"
    return directory, make_ledger(directory)


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A served ledger for tests that don't mind one another's events."""
    with serving_new(tmp_path_factory.mktemp("shared")) as ledger:
        yield ledger
        check_ledger(ledger)
