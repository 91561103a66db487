"""Queries of these tests have all the time that they need, however busy the machine is."""

from collections.abc import Iterator

import pytest

from ledger.query.engine import QueryEngine


@pytest.fixture(scope="module", autouse=True)
def _time_stands_still() -> Iterator[None]:
    """The clock of each engine, unless a test gives it one: no budget of time is ever used up.

    So each window is eight times as wide as the one before, also on a slow machine.
    """
    defaults = QueryEngine.__init__.__kwdefaults__
    assert defaults is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "clock", lambda: 0.0)
        yield
