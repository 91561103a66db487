"""A disk that refuses writes, is full or breaks: said once, and no event is lost or half stored."""

import json
import resource
import secrets
import socket
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ledger.service.token_admin import make_token
from tests.faults.disks import Served, served
from tests.service.serving import JSON, Answer, event, make_ledger, send
from tests.waiting import until

WAIT_S = 120.0
PRIVATE = '[[fields]]\npath = "/targets/*/name"\nsubject = "/targets/*/id"\n'
FLAGS = ("--publish-interval-s", "0.05", "--outbox-interval-s", "0.05", "--log-format", "json")


class Asking:
    """Asks a served ledger."""

    def __init__(self, running: Served, token: str) -> None:
        self.running, self.token = running, token

    def append(self, *events: dict[str, Any]) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": JSON}
        body = json.dumps({"events": events}).encode()
        return send(self.running.url, "/v1/events", method="POST", body=body, headers=headers)

    def ready(self) -> Answer:
        return send(self.running.url, "/readyz", method="GET", body=None, headers={})

    def warnings(self) -> list[str]:
        found: list[str] = self.ready().json().get("warnings", [])
        return found

    def lines(self, name: str, part: str) -> list[dict[str, Any]]:
        """The log lines of a name about the environment of a part."""
        lines = [json.loads(line) for line in self.running.log.splitlines() if line[:1] == "{"]
        return [
            line for line in lines if line["event"] == name and line["path"].endswith(f"/{part}")
        ]


def large() -> dict[str, Any]:
    return event(context={"random": secrets.token_hex(20_000)})


def test_each_environment_whose_writes_fail_is_named_and_recovers(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    (directory / "private.toml").write_text(PRIVATE)
    with served(directory, tmp_path, flags=FLAGS) as running:
        asking = Asking(running, token)
        assert asking.append(event()).status == 200
        # The log: appends are refused, and it is ready again without another append.
        sent = event()
        with running.failing(directory / "log" / "data.mdb"):
            refused = asking.append(sent)
            assert (refused.status, refused.slug) == (503, "unavailable"), refused.text
            assert asking.append(sent).status == 503
            (reason,) = asking.ready().json()["reasons"]
            assert "no event is taken: a commit to" in reason
            assert "/log failed" in reason
        until(lambda: asking.ready().status == 200)
        assert asking.append(sent).json()["results"][0]["duplicate"] is False
        # Private values: only events that have some are refused.
        named = event(targets=[{"type": "user", "id": "u_9", "name": "N. N."}])
        private = directory / "private"
        with running.failing(private / "data.mdb", private / "keys"):
            refused = asking.append(named)
            assert (refused.status, refused.slug) == (503, "unavailable")
            assert asking.append(event()).status == 200
            assert any("to private fail" in each for each in asking.warnings())
        until(lambda: not asking.warnings())
        assert asking.append(named).status == 200
        # Tokens: the outbox can't be cleared.
        make_token(directory, name="quiet", scopes=("read",), tenant=None)
        until(lambda: "outbox_taken" in running.log)
        with running.failing(directory / "access" / "data.mdb"):
            make_token(directory, name="late", scopes=("read",), tenant=None)
            until(lambda: any("to access fail" in each for each in asking.warnings()))
        until(lambda: not asking.warnings())
        for part in ("log", "private", "access"):
            assert len(asking.lines("commit_failed", part)) == 1, running.log
            assert len(asking.lines("commits_go_on", part)) == 1, running.log
    assert running.process.returncode == 0


def test_a_full_disk_is_said_as_one_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    flags = (*FLAGS, "--free-bytes-min", str(4 << 20))
    with served(directory, tmp_path, tmpfs_bytes=16 << 20, flags=flags) as running:
        asking = Asking(running, token)
        assert asking.append(event()).status == 200
        assert asking.warnings() == []
        running.fill()
        assert any("less than free_bytes_min, 4,194,304" in each for each in asking.warnings())
        batch = [large() for _ in range(20)]
        for _ in range(3):
            refused = asking.append(*batch)
            assert (refused.status, refused.slug) == (507, "storage-full"), refused.text
        (reason,) = asking.ready().json()["reasons"]
        assert reason.endswith("/log is full")
        running.free()
        until(lambda: asking.ready().status == 200)
        assert asking.append(*batch).status == 200
        assert asking.warnings() == []
        (line,) = asking.lines("commit_failed", "log")
        assert line["reason"].endswith("/log is full")
        assert len(asking.lines("commits_go_on", "log")) == 1
    assert running.process.returncode == 0


def test_used_up_descriptors_are_said_once_and_the_service_recovers(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    limits = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (48, 48))
    with served(directory, tmp_path, flags=FLAGS, limits=limits) as running:
        asking = Asking(running, token)
        assert asking.append(event()).status == 200
        with ExitStack() as opened:
            for _ in range(100):
                client = opened.enter_context(socket.socket())
                client.settimeout(WAIT_S)
                client.connect(("127.0.0.1", urlsplit(running.url).port))
            until(lambda: "descriptors_used_up" in running.log)
        until(lambda: "descriptors_free" in running.log)
        assert asking.append(event()).status == 200
        assert asking.warnings() == []
        assert running.log.count("descriptors_used_up") == 1
        assert running.log.count("connections_limited") == 1
        assert "Traceback" not in running.log
    assert running.process.returncode == 0


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("part", ["", "log", "access"])
def test_a_service_whose_folder_goes_acknowledges_no_event_and_ends(
    tmp_path: Path, part: str, workers: str
) -> None:
    """It went on with files without a name: what it acknowledged was gone at its end."""
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    with served(directory, tmp_path, flags=(*FLAGS, "--workers", workers)) as running:
        asking = Asking(running, token)
        assert asking.append(event()).status == 200
        (directory / part).rename(tmp_path / "old")
        if part != "access":
            with suppress(OSError):  # It may have ended already.
                assert asking.append(event()).status == 503
        until(lambda: running.process.poll() is not None, WAIT_S)
        assert "was deleted, moved or replaced while it was open" in running.log
