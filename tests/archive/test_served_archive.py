"""The archives of a service: processes of their own, killed and started again, and seen by it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from ledger.cli.archive import command as archive_command
from ledger.demo.child_service import Service, make_ledger
from ledger.follow.position import read_report
from ledger.object_storage.config import KIND
from ledger_client import LedgerClient
from tests.archive.archiving import SMALL, ArchivedFolder, BadStore, Reply, place_of
from tests.archive.seaweed import SECRET_KEY, ObjectServer
from tests.archive.verifying import verify
from tests.served import FLAGS, ORIGIN
from tests.waiting import until

WAIT_S = 200.0
"""Followers run at low priority, so on a machine with other work they start slowly."""


def write_config(directory: Path, url: str, endpoint: str) -> None:
    """Write the archive `copy`, with a short interval."""
    text = f'[copy]\nurl = "{url}"\nendpoint = "{endpoint}"\ninterval_s = 0.1\nretry_max_s = 0.2\n'
    (directory / "archive.toml").write_text(text, encoding="utf-8")


def run_command(*arguments: str) -> str:
    """The output of `ledger archive`."""
    done = CliRunner().invoke(archive_command, arguments)
    assert done.exception is None, done.output
    return done.output


def test_a_service_uploads_what_it_publishes_and_says_what_hinders_it(
    store: ObjectServer, tmp_path: Path
) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory, origin=ORIGIN)
    place = place_of(store.endpoint, store.make_bucket(locked_days=1))
    write_config(directory, place.url, place.endpoint)
    assert "compliance until" in run_command("test", str(directory), "copy")
    event = {"actor": {"id": "u_1"}, "action": "record.viewed", "outcome": "success"}
    with (
        Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, token, policy=directory / "policy") as client,
    ):
        client.append_many([event] * 300)
        until(lambda: client.checkpoint().checkpoint.tree_size >= 300, WAIT_S)
        size = client.checkpoint().checkpoint.tree_size
        until(lambda: read_report(directory, KIND, "copy").next_index >= size, WAIT_S)
        assert verify(place, directory / "policy")["tree_size"] >= size
        (row,) = json.loads(run_command("status", str(directory), "--json"))
        assert (row["lag"], row["locked"], row["error"]) == (0, True, "")
        # Somebody hides an object: it is uploaded again, once a person has noticed.
        store.delete(place.bucket, "log/tile/entries/000")
        verify(place, directory / "policy", faults=1)
        run_command("rewind", str(directory), "copy")
        until(lambda: "log/tile/entries/000" in store.names(place.bucket), WAIT_S)
        # Somebody forges the head: the archive stops at it, and says so.
        store.write(place.bucket, "log/checkpoint", b"forged\n")
        client.append(event)
        until(lambda: read_report(directory, KIND, "copy").state.error != "", WAIT_S)
    shown = run_command("status", str(directory))
    assert "fails since" in shown
    assert SECRET_KEY not in shown


def test_a_process_that_is_killed_goes_on_where_it_was(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    folder.grow(SMALL)
    command = [sys.executable, "-m", "ledger.archive.worker", str(folder.directory), "copy"]
    with BadStore(store.endpoint) as bad:
        place = place_of(bad.endpoint, store.make_bucket())
        write_config(folder.directory, place.url, bad.endpoint)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:

            def kill(method: str, path: str) -> Reply | None:
                if method == "PUT" and "tile/entries/001" in path:
                    process.send_signal(signal.SIGKILL)
                    return Reply(503)
                return None

            bad.fault = kill
            assert process.wait() == -signal.SIGKILL
        assert "log/checkpoint" not in store.names(place.bucket)
        bad.fault = lambda _method, _path: None
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as again:
            until(lambda: read_report(folder.directory, KIND, "copy").next_index == SMALL, WAIT_S)
            again.terminate()
    assert verify(place._replace(endpoint=store.endpoint), folder.policy)["tree_size"] == SMALL
