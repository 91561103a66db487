"""SIGHUP, as a service manager and a terminal send it to `ledger serve`, with workers, and witness.

Each is the real command in a process of its own.
"""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.demo.child_service import Service
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import changed_files, missing_files
from tests.service.serving import make_ledger
from tests.tls.asking import WAIT_S, Pair, ask, connected, fingerprint, shown
from tests.waiting import until
from tests.witness.witnesses import make_witness


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    folder = tmp_path / "pair"
    folder.mkdir()
    return Pair(folder)


def flags(pair: Pair) -> tuple[str, ...]:
    return ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))


@contextmanager
def running(
    tmp_path: Path, directory: Path, *command: str, flags: tuple[str, ...]
) -> Iterator[tuple[Service, Callable[[str], list[dict[str, Any]]]]]:
    """A service with its log lines by their event; it is to end well."""
    lines = tmp_path / "lines"

    def said(name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in lines.read_text().splitlines() if line[:1] == "{"]
        return [line for line in found if line["event"] == name]

    with lines.open("w") as stderr:
        service = Service(
            directory, listen="127.0.0.1:0", command=command, flags=flags, stderr=stderr
        )
        with service:
            yield service, said
        assert service.exit_code == 0, lines.read_text()


def test_sighup_gives_all_workers_new_settings_and_a_new_certificate(
    tmp_path: Path, pair: Pair
) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["read"]
    workers = 2
    toml = directory / "ledger.toml"
    with running(tmp_path, directory, "serve", flags=(*flags(pair), "--workers", str(workers))) as (
        service,
        said,
    ):

        def statuses(target: str) -> set[int]:
            found = set()
            for _ in range(12):  # The kernel spreads them over the workers.
                with connected(service.url, pair) as connection:
                    found.add(ask(connection, target, token)[0])
            return found

        assert statuses("/v1/events") == {200}
        pair.renew()
        toml.write_text("token_requests_per_minute_max = 1\nquery_threads = 2\n")
        (directory / "alarms.toml").write_text("# none yet\n")
        with (directory / "policy").open("a") as policy:
            policy.write("# for the next start\n")
        paths = DirectoryPaths(directory)
        assert changed_files(paths) == ["ledger.toml", "policy"]
        os.kill(service.process_id, signal.SIGHUP)
        until(lambda: len(said("tls_reloaded")) == workers)
        # What holds from now on is no change; what waits for a restart is one.
        until(lambda: changed_files(paths) == ["policy"])
        (directory / "alarms.toml").unlink()
        assert missing_files(paths) == ["alarms.toml"]
        assert {shown(service.url, pair) for _ in range(12)} == {pair.fingerprint}
        assert statuses("/v1/events") <= {200, 429}
        assert statuses("/v1/events") == {429}
        (later,) = [line for line in said("settings_need_a_restart") if "worker" not in line]
        assert later["settings"] == ["query_threads"]
        taken = [line["changed"] for line in said("settings_reloaded")]
        assert taken == [["token_requests_per_minute_max"]] * (workers + 1)

        toml.write_text("no_such_setting = 1\n")
        os.kill(service.process_id, signal.SIGHUP)
        until(lambda: bool(said("settings_not_reloaded")))
        assert "no_such_setting" in said("settings_not_reloaded")[0]["reason"]
        assert statuses("/v1/events") == {429}


def test_sighup_gives_a_witness_a_new_certificate(tmp_path: Path, pair: Pair) -> None:
    make_witness(tmp_path / "w", [])
    with (
        running(tmp_path, tmp_path / "w", "witness", "serve", flags=flags(pair)) as (
            service,
            said,
        ),
        connected(service.url, pair) as before,
    ):
        assert fingerprint(before) == pair.fingerprint
        pair.renew()
        os.kill(service.process_id, signal.SIGHUP)
        until(lambda: bool(said("tls_reloaded")))
        assert shown(service.url, pair) == pair.fingerprint
        assert ask(before, "/healthz")[0] == 200


def test_what_is_wrong_with_the_files_ends_the_start_and_is_said_once(
    tmp_path: Path, pair: Pair
) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory)
    command = (sys.executable, "-m", "ledger", "serve", str(directory), *flags(pair))

    def check_said(exit_code: int, text: str, *more: str) -> None:
        ended = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert ended.returncode == exit_code, ended.stderr
        assert ended.stderr.count(text) == 1
        assert "Traceback" not in ended.stderr
        assert "never awaited" not in ended.stderr

    (directory / "principals.toml").write_text("[certificates.x]\n")
    check_said(2, "principals.toml: ", "--workers", "0")
    pair.key.chmod(0o644)
    for more in ((), ("--workers", "1")):
        check_said(4, "chmod o= ", *more)


def test_a_service_ends_with_its_terminal(tmp_path: Path) -> None:
    """`ledger serve` in a terminal leaves no process behind when the terminal is closed."""
    directory = tmp_path / "ledger"
    make_ledger(directory)
    process_id, terminal = pty.fork()
    if process_id == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may run these tests.
        command = ("-m", "ledger", "serve", str(directory), "--listen", "127.0.0.1:0")
        os.execv(sys.executable, (sys.executable, *command))
    said = b""
    while b"serving on " not in said:
        said += os.read(terminal, 4096)
    os.kill(process_id, signal.SIGHUP)  # The terminal is still there: files are read again.
    while b"settings_reloaded" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process_id, 0)
    assert os.waitstatus_to_exitcode(status) == 0
