"""The pytest fixture `ledger_events`.

# conftest.py
pytest_plugins = ["ledger_client.testing.pytest_plugin"]
"""

from collections.abc import Iterator

import pytest

from ledger_client.recording.memory import RecordedEvents, outbox


@pytest.fixture
def ledger_events() -> Iterator[RecordedEvents]:
    """The events that this test has recorded so far, by any recorder."""
    outbox.clear()
    yield outbox
    outbox.clear()
