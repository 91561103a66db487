"""No command prints a character that a terminal obeys, wherever an event or a server puts it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient
from tests.cli.conftest import ORIGIN, Command, Ledger

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202etxt\u2028evil"
EVENT = {
    "time": "2026-11-25T10:00:00Z",
    "actor": {
        **dict.fromkeys(("id", "type", "name", "session", "credential"), HOSTILE),
        "on_behalf_of": {"id": HOSTILE, "type": HOSTILE, "name": HOSTILE},
    },
    "action": "terminal.attacked",
    "outcome": "denied",
    "reason": HOSTILE,
    "targets": [{"id": HOSTILE, "type": HOSTILE}],
    "source": {"service": HOSTILE, "user_agent": HOSTILE},
    "context": {HOSTILE: HOSTILE},
    "recorder": {"instance": HOSTILE, "seq": 3},
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A ledger whose event of index 1 attacks the terminal; 0 made the token."""
    directory = tmp_path_factory.mktemp("terminal") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        with LedgerClient(service.url, token, policy=directory / "policy") as client:
            client.append(EVENT)
        yield Ledger(directory, service.url, token)


def assert_harmless(output: str) -> None:
    assert "evil" in output
    assert [char for char in output if not char.isprintable() and char != "\n"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "1"),
        ("show", "1", "--json"),
        ("query", "action:terminal.attacked"),
        ("query", "--json", "action:terminal.attacked"),
        ("around", "1"),
        ("gaps", "--all"),
        ("gaps", "--json"),
    ],
)
def test_an_event_of_the_ledger_is_printed_harmless(
    command: Command, arguments: tuple[str, ...]
) -> None:
    done = command(*arguments)
    assert_harmless(done.stdout + done.stderr)


def test_an_event_of_a_file_is_printed_harmless(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps(EVENT, ensure_ascii=False), encoding="utf-8")
    assert command("prove", "1", "-o", tmp_path / "event").returncode == 0
    secret = {HOSTILE: {"password": "correct horse battery"}}
    (tmp_path / "secret.jsonl").write_text(json.dumps(secret), encoding="utf-8")
    for arguments in (
        ("import", "--format", "jsonl", "--dry-run", file),
        ("import", "--format", "jsonl", "--dry-run", "--json", file),
        ("verify", tmp_path / "event.leaf.json", tmp_path / "event.tlog-proof"),
        ("verify", tmp_path / "event.leaf.json", tmp_path / "event.tlog-proof", "--json"),
        ("scan", tmp_path / "secret.jsonl"),
    ):
        done = command(*arguments)
        assert_harmless(done.stdout + done.stderr)


def test_csv_is_exact_in_a_file_and_harmless_on_a_terminal(ledger: Ledger) -> None:
    environ = {
        **os.environ,
        "LEDGER_URL": ledger.url,
        "LEDGER_TOKEN": ledger.token,
        "LEDGER_POLICY": str(ledger.policy),
    }
    arguments = [sys.executable, "-m", "ledger", "query", "--csv", "action:terminal.attacked"]
    exact = subprocess.run(arguments, env=environ, capture_output=True, check=True).stdout
    assert HOSTILE.encode() in exact
    terminal, end = pty.openpty()
    subprocess.run(arguments, env=environ, stdout=end, check=True)
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert_harmless(shown.replace("\r", ""))
