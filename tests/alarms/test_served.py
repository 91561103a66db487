"""Alarms of a served ledger: a firing is an event, a sink delivers it, a kill repeats nothing."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from ledger.cli.alarm import command
from ledger.cli.sink import command as sink_command
from ledger.demo.child_service import Service
from ledger_core.tlog.policy import parse_policy
from tests.served import FLAGS
from tests.service.serving import Ledger, event, make_ledger
from tests.sinks.sinking import HttpPeer
from tests.waiting import until

ALARMS = """
[guessing]
query = "action:login.failed"
by = "actor"
count = 3
window_s = 3600
severity = "high"
summary = "three failed logins"
"""


def run(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def failed(actor: str) -> dict[str, Any]:
    return event(action="login.failed", outcome="failure", actor={"type": "user", "id": actor})


def test_a_firing_is_an_event_that_a_sink_delivers(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    policy = parse_policy((directory / "policy").read_bytes())
    with HttpPeer() as peer:
        done = CliRunner().invoke(
            sink_command,
            [
                *("add", str(directory), "pager", "--type", "webhook", "--url", peer.url),
                *("--query", "action:ledger.alarm.fired"),
            ],
            catch_exceptions=False,
        )
        assert done.exit_code == 0
        (directory / "alarms.toml").write_text(ALARMS)
        flags = (*FLAGS, "--outbox-interval-s", "0.1")
        with Service(directory, listen="127.0.0.1:0", flags=flags) as service:
            ledger = Ledger(service.url, directory, tokens, policy)
            position = directory / "alarms" / "position.json"
            until(position.exists)
            ledger.append(failed("jo"), failed("eve"), failed("jo"))
            size = ledger.ask("/v1/log").json()["tree_size"]
            until(lambda: json.loads(position.read_text())["next_index"] >= size)
        assert fired_in(peer) == []
        # The window goes on after a restart.
        with Service(directory, listen="127.0.0.1:0", flags=flags) as service:
            ledger = Ledger(service.url, directory, tokens, policy)
            ledger.append(failed("jo"), failed("eve"))
            until(lambda: len(fired_in(peer)) > 0)
            (firing,) = fired_in(peer)
            assert firing["reason"] == "guessing: three failed logins (actor jo)"
            assert firing["context"]["severity"] == "high"
            for index in firing["context"]["indices"]:
                stored = ledger.ask(f"/v1/events/{index}").json()["event"]
                assert (stored["action"], stored["actor"]["id"]) == ("login.failed", "jo")
            run("test", str(directory), "guessing")
            until(lambda: any("test" in each["context"] for each in fired_in(peer)))
        replayed = json.loads(run("replay", str(directory), "--json"))
        assert [each["group"] for each in replayed] == ["jo"]
        assert run("replay", str(directory), "--since", "2999-01-01T00:00:00Z") == ""


def fired_in(peer: HttpPeer) -> list[dict[str, Any]]:
    """The events of the records that came, each once."""
    records = [r for request in peer.requests for r in json.loads(request.body)["records"]]
    return [each["event"] for each in {record["index"]: record for record in records}.values()]
