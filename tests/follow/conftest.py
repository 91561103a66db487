"""What the process that runs a follower logs."""

from typing import Any, TypeAlias

import pytest

Lines: TypeAlias = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The warnings and errors since the test began, with their fields."""
    logged: Lines = []

    class Log:
        def warning(self, text: str, **fields: Any) -> None:
            logged.append((text, fields))

        error = warning

    monkeypatch.setattr("ledger.follow.process._log", Log())
    return logged
