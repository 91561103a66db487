"""No command prints a character that a terminal obeys, wherever an event or a server puts it."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient
from ledger_client.cli.render import local_time
from tests.cli.conftest import Command
from tests.served import ORIGIN, ServedLedger

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202etxt\u2028evil"
EVENT = {
    "time": "2026-11-25T10:00:00Z",
    "actor": {
        **dict.fromkeys(("id", "type", "name", "session", "credential"), HOSTILE),
        "on_behalf_of": {"id": HOSTILE, "type": HOSTILE, "name": HOSTILE},
    },
    "action": "terminal.attacked",
    "outcome": "denied",
    "reason": f"{HOSTILE}\r1,0192,false\n2,0192,false",
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
        yield ServedLedger(service.url, token, directory)


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
        ("fields",),
        ("fields", "--json"),
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


def test_csv_is_exact_in_a_file_and_harmless_on_a_terminal(ledger: ServedLedger) -> None:
    environ = {**os.environ, **ledger.variables}
    arguments = [sys.executable, "-m", "ledger", "query", "--csv", "action:terminal.attacked"]
    exact = subprocess.run(arguments, env=environ, capture_output=True, check=True).stdout
    assert HOSTILE.encode() in exact
    terminal, end = pty.openpty()
    subprocess.run(arguments, env=environ, stdout=end, check=True)
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    lines = shown.replace("\r\r\n", "\n")  # The terminal itself makes a line break two.
    assert_harmless(lines)
    assert len(lines.splitlines()) == 2, "a header and a row"


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_an_export_to_a_terminal_is_harmless(ledger: ServedLedger, output: str) -> None:
    lines = on_terminal(ledger, 80, "export", "action:terminal.attacked", "-o", output)
    assert any("terminal.attacked" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def on_terminal(ledger: ServedLedger, columns: int, *arguments: str, **variables: str) -> list[str]:
    """The lines of a command that writes to a terminal of this width."""
    terminal, end = pty.openpty()
    environ = {
        **os.environ,
        **ledger.variables,
        "COLUMNS": str(columns),
        "NO_COLOR": "1",
        **variables,
    }
    subprocess.run(
        [sys.executable, "-m", "ledger", *arguments],
        env=environ,
        stdout=end,
        stderr=end,
        check=True,
    )
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    return shown.replace("\r", "").splitlines()


def test_a_table_fits_a_narrow_terminal_and_is_whole_in_a_pipe(
    ledger: ServedLedger, command: Command
) -> None:
    narrow = on_terminal(ledger, 80, "query", "action:terminal.attacked")
    noted = narrow.pop(0)
    assert noted.startswith("too narrow for session, credential, target, source:")
    assert max(map(len, narrow)) <= 80
    assert narrow[0].split() == ["index", "time", "actor", "on_behalf_of", "action", "outcome"]
    piped = command("query", "action:terminal.attacked").stdout
    assert "session" in piped.splitlines()[0]
    assert "…" not in piped


def test_columns_are_chosen_and_times_are_in_a_zone_too(
    ledger: ServedLedger, command: Command
) -> None:
    words = ("query", "action:terminal.attacked")
    chosen = command(*words, "--columns", "time,action").stdout.splitlines()
    assert [line.split() for line in chosen] == [
        ["time", "action"],
        ["2026-11-25T10:00:00Z", "terminal.attacked"],
    ]
    both = command(*words, "--columns", "time,local", "--tz", "Asia/Tokyo").stdout
    assert "2026-11-25T10:00:00Z  2026-11-25 19:00:00+09:00" in both
    by_default = command(*words, TZ="Asia/Tokyo").stdout
    assert "10:00:00Z  2026-11-25 19:00:00+09:00" in by_default
    assert "+09:00" not in command(*words, "--tz", "UTC", TZ="Asia/Tokyo").stdout
    wrong = command(*words, "--columns", "tme")
    assert (wrong.returncode, "Did you mean time?" in wrong.stderr) == (2, True)
    assert command(*words, "--tz", "Mars").returncode == 2
    assert command(*words, "--columns", "time", "--json").returncode == 2


def test_a_time_in_summer_has_the_offset_of_summer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/London")
    time.tzset()
    try:
        assert local_time("2026-07-01T10:00:00.000000Z", "machine") == "2026-07-01 11:00:00+01:00"
        assert local_time("2026-12-01T10:00:00.000000Z", "machine") == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_query_is_saved_by_a_name(command: Command) -> None:
    saved = command("query", "action:terminal.attacked", "--save", "attacks")
    assert saved.returncode == 0, saved.stderr
    assert "terminal.attacked" in command("query", "@attacks").stdout
    assert command("query", "--saved").stdout.startswith("@attacks  action:terminal.attacked")
    wrong = command("query", "action:x", "--save", "two words")
    assert (wrong.returncode, "lower-case letters" in wrong.stderr) == (2, True)
    assert command("query", "action:x", "--delete", "attacks").returncode == 2
    deleted = command("query", "--delete", "attacks")
    assert (deleted.returncode, "@attacks is deleted" in deleted.stderr) == (0, True)
    assert command("query", "--delete", "attacks").returncode == 6
    assert "attacks" not in command("query", "--saved").stdout
