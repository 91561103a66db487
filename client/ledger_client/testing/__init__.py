"""A recorder for an application's own tests: the recorded events in memory, and no ledger.

outbox            the events of all recorders of a test run (`RecordedEvents`)
MemoryRecorder    a recorder with events of its own, for a test that passes its recorder
LedgerTestMixin   for `unittest` and Django: `self.events`, empty at the start of each test
pytest_plugin     the fixture `ledger_events`; name this module in `pytest_plugins`

`ledger_client.recording.memory` says what a test run is. docs/testing.md has examples.
"""

from typing import Final, Unpack
from unittest import TestCase, TestResult

from ledger_client.recording.encoding import Mask
from ledger_client.recording.memory import MemorySink, RecordedEvents
from ledger_client.recording.memory import outbox as outbox
from ledger_client.recording.options import RecorderKeywords, RecorderOptions
from ledger_client.recording.recorder import Recorder


class MemoryRecorder(Recorder):
    """A recorder that checks, masks and fits events as any other, and keeps them in `events`."""

    def __init__(self, *, mask: Mask | None = None, **options: Unpack[RecorderKeywords]) -> None:
        """The options are those of `Recorder`. Raises: TypeError, ValueError."""
        self.events: Final = RecordedEvents()
        self._set_up(MemorySink(self.events), RecorderOptions(**options), mask, None)


class LedgerTestMixin(TestCase):
    """Stands before the test case: `class RefundTest(LedgerTestMixin, django.test.TestCase)`."""

    @property
    def events(self) -> RecordedEvents:
        """The events that this test has recorded so far."""
        return outbox

    def run(self, result: TestResult | None = None) -> TestResult | None:
        """Run one test, with no events at its start."""
        outbox.clear()
        return super().run(result)
