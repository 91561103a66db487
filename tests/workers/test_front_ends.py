"""Front ends around a sequencer, as real processes: what one was told, every other knows."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger_core.tlog.policy import parse_policy
from tests.service.check_log import check_log
from tests.service.serving import Answer, Ledger, event, ledger_command, make_ledger, serving
from tests.service.test_identity_providers import Provider, token
from tests.waiting import until

WORKERS = 2
WAIT_S = 120.0


class Running(NamedTuple):
    """A served ledger, its process, and the file of its log lines."""

    ledger: Ledger
    process: "subprocess.Popen[str]"
    lines: Path

    def said(self, name: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        lines = [
            json.loads(line) for line in self.lines.read_text().splitlines() if line[:1] == "{"
        ]
        return [line for line in lines if line["event"] == name]


def front_ends(process_id: int) -> list[int]:
    """The numbers of the front ends' processes, by that of the sequencer's."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "status").read_text()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        is_child = re.search(rf"^PPid:\t{process_id}$", status, re.MULTILINE)
        if is_child and b"front_end" in command and "State:\tZ" not in status:
            found.append(int(folder.name))
    return found


@contextmanager
def running(
    directory: Path, tokens: dict[str, str], *, ends_well: bool = True, workers: int = WORKERS
) -> Iterator[Running]:
    """Serve a ledger with front ends, until the block ends."""
    lines = directory.parent / "lines"
    command = [
        *(sys.executable, "-m", "ledger", "serve", str(directory), "--listen", "127.0.0.1:0"),
        *("--workers", str(workers), "--publish-interval-s", "0.05"),
    ]
    with lines.open("w") as stderr:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert child.stdout is not None
    try:
        said = child.stdout.readline()
        assert said.startswith("serving on "), lines.read_text()
        policy = parse_policy(DirectoryPaths(directory).policy.read_bytes())
        yield Running(Ledger(said.split()[-1], directory, tokens, policy), child, lines)
        child.terminate()
        assert (child.wait(WAIT_S) == 0) == ends_well, lines.read_text()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("front-ends") / "ledger"
    with running(directory, make_ledger(directory)) as served:
        yield served


def worker_counts(served: Running) -> Counter[int]:
    return Counter(line["worker"] for line in served.said("read"))


def test_what_one_front_end_acknowledged_every_other_shows_at_once(served: Running) -> None:
    """Each request has a connection of its own, so the kernel spreads them."""
    ledger = served.ledger
    before = worker_counts(served)
    for number in range(24):
        answer = ledger.append(event(reason=f"number {number}"), query="?proof=1")
        assert answer.status == 200, answer.body
        (result,) = answer.json()["results"]
        read = ledger.ask(f"/v1/events/{result['index']}")
        assert read.json()["leaf_hash"] == result["leaf_hash"]
        assert ledger.ask("/v1/log").json()["tree_size"] > result["index"]
        again = ledger.ask(f"/v1/events/{result['id']}?proof=1")
        assert again.json()["index"] == result["index"]
    until(lambda: len(worker_counts(served) - before) == WORKERS)
    check_log(ledger.url, ledger.tokens["admin"], ledger.policy)


def test_a_revoked_token_is_refused_by_every_front_end(served: Running) -> None:
    ledger = served.ledger
    made = ledger_command(
        "token", "create", str(ledger.directory), "--name", "short", "--scope", "read"
    )
    until(lambda: ledger.ask("/v1/events?q=action:ledger.token.created", token=made).status == 200)
    ledger_command("token", "revoke", str(ledger.directory), "short")
    assert {ledger.ask("/v1/events", token=made).status for _ in range(12)} == {401}


def test_counters_and_readiness_are_those_of_all_processes(served: Running) -> None:
    def counted() -> tuple[float, float]:
        answer = served.ledger.ask("/metrics")
        found = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")
        return (
            float(found.get('ledger_events_logged_total{token="append"}', 0)),
            float(found["ledger_ready"]),
        )

    before, ready = counted()
    assert ready == 1
    for _ in range(10):
        assert served.ledger.append(event(), token="append").status == 200
    # A busy one may have no time to report; then what it reported last is shown.
    until(lambda: {counted()[0] for _ in range(6)} == {before + 10})
    answers = {served.ledger.ask("/readyz", token=None).status for _ in range(6)}
    assert answers == {200}


def test_an_export_s_trailer_is_found_by_every_front_end(served: Running) -> None:
    export_id = "a-name-of-this-export"
    export = served.ledger.ask(f"/v1/export?id={export_id}&format=csv")
    assert export.status == 200
    rows = {
        served.ledger.ask(f"/v1/export/trailer?id={export_id}").json()["rows"] for _ in range(8)
    }
    assert rows == {export.text.count("\n") - 1}


def test_a_limit_of_a_token_is_one_limit_for_all_front_ends(served: Running) -> None:
    limited = ledger_command(
        *("token", "create", str(served.ledger.directory), "--name", "limited"),
        *("--scope", "read", "--requests-per-minute", "8"),
    )
    statuses = Counter(served.ledger.ask("/v1/fields", token=limited).status for _ in range(40))
    assert set(statuses) == {200, 429}
    # Two limits of 8 would be 16. It refills by one each 7.5 s.
    assert 8 <= statuses[200] < 14


def until_ended(served: Running, count: int) -> None:
    until(lambda: len(served.said("worker_ended")) >= count)


def test_a_front_end_that_is_killed_loses_nothing_and_is_started_again(served: Running) -> None:
    """While events are sent; the other one goes on, and whoever is cut off sends again."""
    ledger = served.ledger
    acknowledged: dict[str, int] = {}
    stop = threading.Event()
    failures: list[str] = []

    def send() -> None:
        while not stop.is_set():
            sent = event()
            try:
                answer: Answer = ledger.append(sent)
            except (OSError, HTTPException):
                continue  # The front end was killed; the event may be in the log.
            if answer.status != 200:
                failures.append(answer.text)
                return
            acknowledged[sent["id"]] = answer.json()["results"][0]["index"]

    def more(count: int) -> None:
        wanted = len(acknowledged) + count
        until(lambda: len(acknowledged) >= wanted or bool(failures))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            more(10)
            victim = front_ends(served.process.pid)[0]
            ended = len(served.said("worker_ended"))
            os.kill(victim, signal.SIGKILL)
            until_ended(served, ended + 1)
            more(10)
            until(lambda: len(front_ends(served.process.pid)) == WORKERS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    for event_id, index in acknowledged.items():
        assert ledger.ask(f"/v1/events/{event_id}").json()["index"] == index
    check_log(ledger.url, ledger.tokens["admin"], ledger.policy)


OFTEN = """\
from ledger.follow import heartbeat
from ledger.workers import pool
heartbeat.BEAT_S, pool.SILENT_S = 0.1, 8.0
"""
"""Front ends that give more signs of life, in each process of the service."""


def test_a_worker_that_hangs_is_killed_and_the_next_takes_what_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(OFTEN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    directory = tmp_path / "ledger"
    with running(directory, make_ledger(directory), workers=1) as served:
        sent = event()
        first = served.ledger.append(sent).json()["results"][0]
        (hanging,) = front_ends(served.process.pid)
        os.kill(hanging, signal.SIGSTOP)
        # It waits in the kernel, and would for ever.
        again = served.ledger.append(sent).json()["results"][0]
        assert again["duplicate"]
        assert again["index"] == first["index"]
        (line,) = served.said("worker_hangs")
        assert (line["worker"], line["silent_s"]) == ("0", 8)
        assert hanging not in front_ends(served.process.pid)
        assert served.ledger.ask("/readyz").status == 200


def test_an_address_that_another_ledger_has_is_refused(served: Running, tmp_path: Path) -> None:
    make_ledger(tmp_path / "other")
    address = served.ledger.url.removeprefix("http://")
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "ledger", "serve", str(tmp_path / "other")),
            *("--listen", address, "--workers", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert refused.returncode != 0
    assert f"cannot listen on {address}" in refused.stderr


def test_a_fault_in_principals_is_named_alone(tmp_path: Path) -> None:
    make_ledger(tmp_path / "ledger")
    (tmp_path / "ledger" / "principals.toml").write_text("[issuer.corp]\n")
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "ledger", "serve", str(tmp_path / "ledger")),
            *("--listen", "127.0.0.1:0", "--workers", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert refused.returncode == 2
    assert "principals.toml: Object contains unknown field `issuer`" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_when_the_sequencer_is_killed_its_front_ends_end_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    sent = event()
    with running(directory, tokens, ends_well=False) as served:
        first = served.ledger.append(sent)
        running_now = front_ends(served.process.pid)
        assert len(running_now) == WORKERS
        served.process.kill()
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in running_now))
    with serving(directory, tokens) as ledger:
        again = ledger.append(sent).json()["results"][0]
        assert again["duplicate"]
        assert again["index"] == first.json()["results"][0]["index"]


def test_a_front_end_that_hangs_at_its_start_holds_up_no_stop(tmp_path: Path) -> None:
    make_ledger(tmp_path / "ledger")
    command = [
        *(sys.executable, "-m", "ledger", "serve", str(tmp_path / "ledger")),
        *("--listen", "127.0.0.1:0", "--workers", "1", "--stop-wait-s", "0.1"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as served:
        until(lambda: bool(front_ends(served.pid)))
        (started,) = front_ends(served.pid)
        os.kill(started, signal.SIGSTOP)
        served.terminate()
        assert served.wait(WAIT_S) == 0
        assert served.stdout is not None
        assert served.stdout.read() == ""
        assert not Path(f"/proc/{started}").exists()


def test_each_read_of_every_front_end_is_an_event_once(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with DirectoryPaths(directory).settings.open("a") as file:
        file.write("audit_reads = 1\n")
    with running(directory, tokens) as served:
        served.ledger.append(event())
        asked: set[str] = set()
        while len(worker_counts(served)) < WORKERS:  # Until each front end has answered one.
            asked.add(f"actor:u_{len(asked)}")
            served.ledger.ask(f"/v1/events?q=actor:u_{len(asked) - 1}", token="read")

        def logged() -> list[str]:
            found = served.ledger.ask("/v1/events?q=action:ledger.read.search&limit=1000").json()
            events = [row["event"] for row in found["events"]]
            return [e["context"]["query"] for e in events if e["actor"]["id"] == "read"]

        until(lambda: asked <= set(logged()))
        assert len(logged()) == len(asked)


PRINCIPALS = """
[issuers.corp]
issuer = "https://login.example.com"
audience = "ledger"
jwks_url = "{url}"
algorithms = ["RS256"]

[[issuers.corp.rules]]
scopes = ["{scope}"]
"""


def test_principals_hold_for_every_front_end_and_are_read_again_at_sighup(tmp_path: Path) -> None:
    directory, provider = tmp_path / "ledger", Provider()
    tokens, secret = make_ledger(directory), token()
    path = directory / "principals.toml"
    with provider.serving() as url:
        path.write_text(PRINCIPALS.format(url=url, scope="read"))
        with running(directory, tokens) as served:

            def statuses() -> set[int]:
                """Of requests that the kernel spreads over the front ends."""
                return {served.ledger.ask("/v1/events", token=secret).status for _ in range(12)}

            until(lambda: len(served.said("issuer_keys_fetched")) == WORKERS)
            assert statuses() == {200}
            path.write_text("[issuers.corp]\n")
            served.process.send_signal(signal.SIGHUP)
            until(lambda: bool(served.said("principals_not_reloaded")))
            assert str(path) in served.said("principals_not_reloaded")[0]["reason"]
            assert statuses() == {200}
            # A front end that starts again has what the service has loaded, not what is on disk.
            os.kill(front_ends(served.process.pid)[0], signal.SIGKILL)
            until(lambda: len(served.said("issuer_keys_fetched")) == WORKERS + 1)
            assert statuses() == {200}
            path.write_text(PRINCIPALS.format(url=url, scope="append"))
            assert statuses() == {200}
            served.process.send_signal(signal.SIGHUP)
            until(lambda: statuses() == {403})
            os.kill(front_ends(served.process.pid)[0], signal.SIGKILL)
            until(lambda: len(served.said("worker_ended")) == WORKERS)
            until(lambda: len(front_ends(served.process.pid)) == WORKERS)
            assert statuses() == {403}
            assert len(served.said("principals_not_reloaded")) == 1


def test_a_front_end_that_starts_again_masks_and_commits_as_the_others_do(tmp_path: Path) -> None:
    """Rules and private fields hold until the service is started again, in all its processes."""
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    fields, rules = directory / "private.toml", directory / "secrets.toml"
    with running(directory, tokens) as served:
        fields.write_text("not even TOML")
        rules.write_text("neither")
        (directory / "policy").rename(directory / "policy.away")
        for process_id in front_ends(served.process.pid):
            os.kill(process_id, signal.SIGKILL)
        until(lambda: len(served.said("worker_ended")) == WORKERS)
        answer = served.ledger.append(event(reason="as before"))
        assert answer.status == 200, answer.body
        (result,) = answer.json()["results"]
        kept = served.ledger.ask(f"/v1/events/{result['index']}").json()["event"]
        assert kept["reason"] == "as before"
        assert b"quorum" in served.ledger.ask("/v1/log").body
        assert not served.said("worker_failed")
