"""Sinks of a ledger that is served, by the commands: added, killed, paused, behind, removed."""

import json
import os
import signal
from itertools import pairwise
from pathlib import Path

from click.testing import CliRunner

from ledger.cli.sink import command
from ledger.demo.child_service import Service
from ledger_core.tlog.policy import parse_policy
from tests.served import FLAGS
from tests.service.serving import Ledger, event, make_ledger
from tests.sinks.sinking import HttpPeer, Reply, Request
from tests.waiting import until


def sink(ledger: Ledger, name: str, *arguments: str) -> str:
    """Run `ledger sink name DIR …`; its output."""
    done = CliRunner().invoke(
        command, [name, str(ledger.directory), *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def worker_pid(directory: Path, name: str) -> int:
    """The process of a sink."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[-3:-1] == [str(directory).encode(), name.encode()]:
            return int(folder.name)
    return 0


def test_a_sink_of_a_served_ledger(tmp_path: Path) -> None:
    failing = False

    def answer(_request: Request) -> Reply:
        return Reply(503, b"busy") if failing else Reply()

    def metric(name: str) -> float:
        text = ledger.ask("/metrics").text
        (line,) = [each for each in text.splitlines() if each.startswith(f"{name}{{")]
        assert line.startswith(f'{name}{{follower="sinks/siem"}} ')
        return float(line.rpartition(" ")[2])

    def warnings() -> str:
        return str(ledger.ask("/readyz").json()["warnings"])

    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    policy = parse_policy((directory / "policy").read_bytes())
    with (
        HttpPeer(answer) as peer,
        Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service,
    ):
        ledger = Ledger(service.url, directory, tokens, policy)
        ledger.append(*(event() for _ in range(5)))
        tree_size = ledger.ask("/v1/log").json()["tree_size"]
        more = ("--type", "http", "--url", peer.url, "--retry-max-s", "0.1")
        sink(ledger, "add", "siem", *more)
        tree_size += 1  # That the sink was added is an event itself.
        until(lambda: len(peer.indices()) == tree_size)
        assert peer.indices() == list(range(tree_size))
        until(lambda: metric("ledger_follower_lag_entries") == 0)

        # Killed at any moment: it comes back, and nothing is lost.
        os.kill(worker_pid(ledger.directory, "siem"), signal.SIGKILL)
        ledger.append(*(event() for _ in range(5)))
        until(lambda: set(peer.indices()) == set(range(tree_size + 5)))

        failing = True
        ledger.append(event())
        until(lambda: "sinks/siem fails: HTTP 503 (1 entries wait" in warnings())
        until(lambda: metric("ledger_follower_failing") == 1)
        assert metric("ledger_follower_lag_entries") == 1
        assert metric("ledger_follower_lag_seconds") > 0
        assert ledger.ask("/readyz").status == 200
        (row,) = json.loads(sink(ledger, "list", "--json"))
        assert (row["lag"], row["error"]) == (1, "HTTP 503; the answer: busy")

        failing = False
        until(lambda: metric("ledger_follower_lag_entries") == 0)
        until(lambda: "siem" not in warnings())
        count = len(peer.indices())
        sink(ledger, "rewind", "siem", "--to", "3")
        # The event about it may be sent before it is done.
        until(lambda: [3, 4] in map(list, pairwise(peer.indices()[count:])))
        sink(ledger, "pause", "siem")
        until(lambda: worker_pid(ledger.directory, "siem") == 0)
        assert "paused" in sink(ledger, "list")
        sink(ledger, "remove", "siem")
        until(lambda: "follower=" not in ledger.ask("/metrics").text)
        (ledger.directory / "sinks.toml").write_text("[half")
        until(lambda: "sinks.toml can't be read" in warnings())
