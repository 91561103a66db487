"""Front ends are replaced while a service runs: by others of its version, or of a later one."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.service.check_log import check_log
from tests.service.serving import Ledger, event, make_ledger
from tests.waiting import until
from tests.workers.test_front_ends import WORKERS, Running, front_ends, running

THREADS = 4
UPGRADE = """
import sys

if "ledger.workers.front_end" in sys.orig_argv:
    from ledger.workers import messages

    messages.VERSIONS = messages.Versions({oldest}, {newest})
"""
"""A `sitecustomize` that makes processes which start from now on those of another version."""


class Senders:
    """Threads that append on kept connections, and send nothing twice."""

    def __init__(self, ledger: Ledger) -> None:
        self.acknowledged: dict[str, int] = {}
        self.failures: list[str] = []
        self._ledger = ledger
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(THREADS)]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        headers = {
            "Authorization": f"Bearer {self._ledger.tokens['append']}",
            "Content-Type": "application/json",
        }
        address = urlsplit(self._ledger.url).netloc
        with closing(http.client.HTTPConnection(address, timeout=120)) as connection:
            self._send_over(connection, headers)

    def _send_over(self, connection: http.client.HTTPConnection, headers: dict[str, str]) -> None:
        while not self._stop.is_set() and not self.failures:
            sent = event()
            try:
                connection.request("POST", "/v1/events", json.dumps(sent), headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                return
            if answer.status != 200:
                self.failures.append(body.decode())
                return
            self.acknowledged[sent["id"]] = json.loads(body)["results"][0]["index"]


@contextmanager
def sending(ledger: Ledger) -> Iterator[Senders]:
    """Append until the block ends; then every request was answered, and its event is there."""
    senders = Senders(ledger)
    senders.begin()
    try:
        yield senders
    finally:
        senders.end()
    assert not senders.failures
    for event_id, index in senders.acknowledged.items():
        assert ledger.ask(f"/v1/events/{event_id}").json()["index"] == index


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose processes are upgraded by a `sitecustomize`."""
    folder = tmp_path_factory.mktemp("replacing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        with running(folder / "ledger", make_ledger(folder / "ledger")) as served:
            yield served


def upgrade(served: Running, oldest: int, newest: int) -> None:
    """Install another version, and have the front ends replaced."""
    text = UPGRADE.format(oldest=oldest, newest=newest)
    (served.lines.parent / "sitecustomize.py").write_text(text)
    os.kill(served.process.pid, signal.SIGUSR1)


def until_more(senders: Senders, count: int = 20) -> None:
    wanted = len(senders.acknowledged) + count
    until(lambda: len(senders.acknowledged) >= wanted or bool(senders.failures))


def query_processes(served: Running) -> set[int]:
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    return {
        int(each)
        for each in children.read_text().split()
        if b"queries.process" in Path(f"/proc/{each}/cmdline").read_bytes()
    }


def test_front_ends_of_a_later_version_take_over_and_no_request_is_dropped(
    served: Running,
) -> None:
    """They speak the version of the sequencer too, which goes on."""
    before, queries = set(front_ends(served.process.pid)), query_processes(served)
    with sending(served.ledger) as senders:
        until_more(senders)
        upgrade(served, oldest=1, newest=2)
        until(lambda: len(served.said("worker_replaced")) == WORKERS or bool(senders.failures))
        until_more(senders)
    after = set(front_ends(served.process.pid))
    assert len(after) == WORKERS
    assert not after & before
    until(lambda: len(query_processes(served)) == 1)
    assert not query_processes(served) & queries
    ledger = served.ledger
    assert ledger.ask("/v1/events?q=action:record.viewed&limit=1").json()["events"]
    check_log(ledger.url, ledger.tokens["admin"], ledger.policy)


def test_a_front_end_without_a_version_in_common_is_refused_and_the_others_go_on(
    served: Running,
) -> None:
    before, queries = set(front_ends(served.process.pid)), query_processes(served)
    with sending(served.ledger) as senders:
        until_more(senders)
        upgrade(served, oldest=2, newest=3)
        until(lambda: bool(served.said("worker_not_replaced")))
        until_more(senders)
    assert set(front_ends(served.process.pid)) == before
    assert query_processes(served) == queries
    reasons = {line["reason"] for line in served.said("worker_refused")}
    assert reasons == {
        "the worker speaks the messages of version 2 to 3, the sequencer those of version 1: "
        "restart the service, so that both are of one installation"
    }
    (line, *_) = served.said("worker_not_replaced")
    assert line["worker"] == 0
