"""The units of deploy/systemd, held by systemd's own programs, and what a service tells systemd."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ledger.demo.child_service import Service
from tests.service.serving import make_ledger, send
from tests.tlog_mirror.sending import make_tlog_mirror
from tests.witness.witnesses import make_witness

pytestmark = pytest.mark.operating

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
LEDGER = str(Path(sys.executable).with_name("ledger"))
EXPOSURE_MAX = 2.0
"""Of 10, as `systemd-analyze security` counts."""

WAIT_S = 120.0


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/ledger/bin/ledger", LEDGER)
        (tmp_path / unit.name).write_text(text)
    copies = [str(path) for path in tmp_path.iterdir()]
    verified = subprocess.run(
        ["systemd-analyze", "verify", *copies], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    for path in tmp_path.glob("*.service"):
        found = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        exposure = re.search(r"exposure level for \S+: ([0-9.]+)", found.stdout)
        assert exposure is not None
        assert float(exposure[1]) <= EXPOSURE_MAX, found.stdout


def test_the_commands_of_the_units_are_the_program_s(tmp_path: Path) -> None:
    for unit in UNITS.glob("*.service"):
        (line,) = re.findall("^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        program, *words = line.split()
        assert program == "/opt/ledger/bin/ledger"
        helped = subprocess.run(
            [LEDGER, *words[:-1], "--help"], capture_output=True, text=True, check=True
        )
        assert "DIRECTORY" in helped.stdout


@contextmanager
def manager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd listens on for a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(WAIT_S)
        listening.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        yield listening


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (("serve",), ()),
        (("serve",), ("--workers", "1")),
        (("witness", "serve"), ()),
        (("tlog-mirror", "serve"), ()),
    ],
)
def test_a_service_says_when_it_is_ready_reloads_and_stops(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    flags: tuple[str, ...],
) -> None:
    directory = tmp_path / "served"
    if command == ("serve",):
        make_ledger(directory)
    elif command == ("witness", "serve"):
        make_witness(directory, [])
    else:
        make_tlog_mirror(directory)
    flags = (*flags, "--log-level", "error")
    with manager(tmp_path, monkeypatch) as listening:
        with Service(directory, listen="127.0.0.1:0", command=command, flags=flags) as service:
            assert listening.recv(4096) == f"READY=1\nSTATUS=serving on {service.url}".encode()
            os.kill(service.process_id, signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]+", listening.recv(4096))
            assert listening.recv(4096) == b"READY=1"
        assert listening.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_service_takes_the_sockets_that_systemd_opened(tmp_path: Path, workers: int) -> None:
    make_ledger(tmp_path / "ledger")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = ["systemd-socket-activate", "-l", address, LEDGER, "serve", str(tmp_path / "ledger")]
    flags = ["--listen", "192.0.2.1:1", "--workers", str(workers), "--log-level", "error"]
    child = subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        end_s = time.monotonic() + WAIT_S
        status = 0
        while not status:  # It is started by the first connection, which then waits for it.
            assert time.monotonic() < end_s
            with suppress(ConnectionRefusedError):
                url = f"http://{address}"
                status = send(url, "/healthz", method="GET", body=None, headers={}).status
        assert status == 200
        assert child.stdout is not None
        assert child.stdout.readline() == f"serving on http://{address}\n"
        child.terminate()
        assert child.wait(WAIT_S) == 0
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
