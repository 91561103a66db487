"""Events in memory, for tests: a sink that sends nothing, and when it takes the place of the spool.

While tests run, no recorder reaches a ledger: its events go to `outbox`. A test run is a process of
pytest 8.2 or later, of `python -m unittest` or of Django's test runner, and the programs that it
starts. The environment variable `LEDGER_RECORDER` decides otherwise: `real` has recorders work as
ever, `memory` puts their events into `outbox` in any process.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

from ledger_client.event_values import new_event_id
from ledger_client.recording.options import RecorderStatus
from ledger_core.event.model import EventError

if TYPE_CHECKING:
    from ledger_client.recording.encoding import EncodedEvent

MODE_VARIABLE: Final = "LEDGER_RECORDER"
_OURS: Final = "ledger_client."

_log = logging.getLogger("ledger_client.recorder")


def is_test_run() -> bool:
    """Whether recorders of this process keep their events in memory.

    Raises: ValueError for a value of `LEDGER_RECORDER` that there is not.
    """
    mode = os.environ.get(MODE_VARIABLE)
    if mode not in (None, "real", "memory"):
        raise ValueError(f"{MODE_VARIABLE} is real or memory, got {mode!r}")
    return mode == "memory" or (mode is None and _runs_tests())


def _runs_tests() -> bool:
    if "PYTEST_VERSION" in os.environ or "PYTEST_CURRENT_TEST" in os.environ:
        return True
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is not None and main.name == "unittest.__main__":
        return True
    # `manage.py test` loads the applications before it prepares anything for tests.
    is_django_test = "django" in sys.modules and sys.argv[1:2] == ["test"]
    # Not `mail.outbox`: any process whose mails stay in memory has that too.
    state = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    return is_django_test or hasattr(state, "saved_data")


class RecordedEvents(Sequence[dict[str, Any]]):
    """The events that were recorded, in their order, as the ledger would get them.

    Private values are their commitments. Inside a Django `TestCase`, whose transaction never
    commits, reading runs those functions of `transaction.on_commit` that record something.
    """

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self.refused: list[EventError] = []
        """The mistakes in events that became dead letters."""

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._read()))

    def __eq__(self, other: object) -> bool:
        return self._read() == other

    __hash__ = None  # type: ignore[assignment] # a list of events has none either

    def __repr__(self) -> str:
        return f"{self._read()!r}" + (f" refused: {self.refused!r}" if self.refused else "")

    @property
    def actions(self) -> list[str]:
        """The action of each event."""
        return [event["action"] for event in self._read()]

    def of(self, action: str) -> list[dict[str, Any]]:
        """The events of one action."""
        return [event for event in self._read() if event["action"] == action]

    def clear(self) -> None:
        """Forget all events and mistakes."""
        self._events.clear()
        self.refused.clear()

    def add(self, event: dict[str, Any]) -> None:
        """Add an event. `MemorySink` calls this."""
        self._events.append(event)

    def _read(self) -> list[dict[str, Any]]:
        _run_commit_hooks()
        return self._events


class MemorySink:
    """Puts events into `events`, and sends nothing."""

    def __init__(self, events: RecordedEvents) -> None:
        self._events: Final = events
        self._instance: Final = new_event_id()
        self._recorded = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return "in memory"

    def append(self, event: "EncodedEvent") -> bool:
        """Keep one event. Raises: ValueError after `close`."""
        if self._is_closed:
            raise ValueError("the recorder is closed")
        self._recorded += 1
        self._events.add(event.as_event())
        return True

    def dead_letter(self, letter: dict[str, Any], error: EventError) -> None:  # noqa: ARG002 - as Sink
        """Keep the mistake."""
        self._events.refused.append(error)

    def flush(self, timeout_s: float) -> bool:  # noqa: ARG002 - as Sink
        """Nothing waits."""
        return True

    def close(self, timeout_s: float) -> bool:  # noqa: ARG002 - as Sink
        """Take no more."""
        self._is_closed = True
        return True

    @property
    def may_wait(self) -> bool:
        """It never waits."""
        return False

    @property
    def status(self) -> RecorderStatus:
        """The count of the events."""
        return RecorderStatus(instance=self._instance, recorded=self._recorded)


outbox: Final = RecordedEvents()
"""The events of all recorders of a test run."""


def _run_commit_hooks() -> None:
    """Run what would record something at the commit of the transaction of a Django `TestCase`.

    The application's own functions stay. Each function that ran becomes an empty one, so that
    others keep their places, which `captureOnCommitCallbacks` counts.
    """
    database, conf = sys.modules.get("django.db"), sys.modules.get("django.conf")
    if database is None or conf is None or not conf.settings.configured:
        return  # Something may import Django in tests that don't use it.
    for connection in database.connections.all(initialized_only=True):
        blocks = getattr(connection, "atomic_blocks", ())
        if not blocks or not all(getattr(block, "_from_testcase", False) for block in blocks):
            continue
        for at, (savepoints, function, *rest) in enumerate(connection.run_on_commit):
            if (getattr(function, "__module__", None) or "").startswith(_OURS):
                connection.run_on_commit[at] = (savepoints, _nothing, *rest)
                function()


def _nothing() -> None:
    pass
