"""A real ledger, served by a process of its own, and recorders for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient, Recorder
from ledger_client.recording.session import RecorderSession
from ledger_client.recording.sink import SpoolSink
from ledger_core.tlog.policy import parse_policy
from tests.served import FLAGS, ORIGIN, ServedLedger
from tests.service.check_log import check_log

OpenRecorder = Callable[..., Recorder]


class Running(ServedLedger):
    """The same, with the events of its log."""

    def events(self) -> list[dict[str, Any]]:
        """All events of the log, once the whole of it has been verified."""
        log = check_log(self.url, self.token, parse_policy(self.policy.read_bytes()))
        events: list[dict[str, Any]] = [msgspec.json.decode(leaf)["event"] for leaf in log.leaves]
        return events

    def recorded(self, name: str) -> list[dict[str, Any]]:
        """The events of one test: their tenant is its name."""
        return [event for event in self.events() if event.get("tenant") == name]

    def client(self) -> LedgerClient:
        return LedgerClient(self.url, self.token, policy=self.policy)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One ledger for all tests of the recorder; a test knows its events by their tenant."""
    directory = tmp_path_factory.mktemp("ledger") / "ledger"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service:
        yield Running(service.url, token, directory)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The tenant of this test's events."""
    return str(request.node.name)[:200]


@pytest.fixture
def open_recorder(running: Running, tmp_path: Path, name: str) -> Iterator[OpenRecorder]:
    """Makes recorders on one spool folder; they are closed at the end."""
    recorders: list[Recorder] = []

    def open_(url: str = running.url, token: str = running.token, **options: Any) -> Recorder:
        settings = {
            "spool": tmp_path / "spool",
            "policy": running.policy,
            "actor": ("user", "u_1"),
            "tenant": name,
            "linger_s": 0.01,
            **options,
        }
        recorder = Recorder(url, token, **settings)
        recorders.append(recorder)
        return recorder

    yield open_
    for recorder in recorders:
        recorder.close(0.1)


def session_of(recorder: Recorder) -> RecorderSession:
    """What a recorder that has recorded something has in this process."""
    sink = recorder._sink
    assert isinstance(sink, SpoolSink)
    assert sink.session is not None
    return sink.session


def numbers(events: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The numbers of events by instance, in the order of the log."""
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(event["recorder"]["instance"], []).append(event["recorder"]["seq"])
    return found
