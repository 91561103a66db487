"""`ledger listen syslog`: what was read outlives the listener, and is verified in the ledger."""

import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ledger_client import LedgerClient
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.model import Event
from tests.cli.conftest import Command
from tests.client.syslog.certificates import Authority
from tests.served import ServedLedger

WAIT_S = 120.0
HOST = "127.0.0.1"


class Listening:
    """`ledger listen syslog` as a process of its own."""

    def __init__(self, url: str, ledger: ServedLedger, spool: Path, *options: str | Path) -> None:
        environ = {**ledger.variables, "LEDGER_URL": url}
        addresses = ("--listen", f"{HOST}:0", "--udp", f"{HOST}:0")
        command = ("listen", "syslog", "--spool", spool, *addresses, *options)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ledger", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environ,
        )
        self.tcp_port, self.udp_port = self._port(), self._port()

    def _port(self) -> int:
        assert self.process.stdout is not None
        match = re.fullmatch(r"listening on .*:([0-9]+) \(.*\)\n", self.process.stdout.readline())
        assert match is not None
        return int(match[1])

    def send(self, *texts: str) -> None:
        """Send messages over TCP, and wait until the listener has closed the connection."""
        with socket.create_connection((HOST, self.tcp_port), timeout=WAIT_S) as sender:
            frames = [f"<13>1 2026-11-25T02:03:36Z web-1 app - - - {text}" for text in texts]
            sender.sendall("".join(f"{len(frame)} {frame}" for frame in frames).encode())
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(1) == b""

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def started() -> Iterator[list[Listening]]:
    """Listeners of a test; those that still run at its end are ended."""
    listeners: list[Listening] = []
    yield listeners
    for listener in listeners:
        if listener.process.poll() is None:
            listener.end(signal.SIGKILL)


def events_with(ledger: ServedLedger, mark: str, count: int) -> list[Event]:
    """The events of the ledger in whose reason a mark stands, when there are so many."""
    deadline_s = time.monotonic() + WAIT_S
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        while True:
            events = [parse_leaf(entry.leaf).event for entry in client.events()]
            found = [event for event in events if mark in str(event.reason)]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline_s, f"{len(found)} of {count} events"
            time.sleep(0.1)


def texts(events: Sequence[Event]) -> list[str]:
    return [str(event.reason) for event in events]


def test_messages_over_tcp_and_udp_are_in_the_ledger(
    ledger: ServedLedger, tmp_path: Path, started: list[Listening]
) -> None:
    mark = secrets.token_hex(8)
    listener = Listening(ledger.url, ledger, tmp_path / "spool")
    started.append(listener)
    listener.send(f"{mark} one", f"{mark} two")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(f"<13>1 - web-1 - - - - {mark} three".encode(), (HOST, listener.udp_port))
    events = events_with(ledger, mark, 3)
    assert sorted(texts(events)) == [f"{mark} one", f"{mark} three", f"{mark} two"]
    assert {event.action for event in events} == {"syslog.user"}
    assert listener.end() == 0


def test_what_was_read_survives_a_kill_while_the_ledger_is_away(
    ledger: ServedLedger, tmp_path: Path, started: list[Listening]
) -> None:
    mark = secrets.token_hex(8)
    sent = [f"{mark} {number}" for number in range(500)]
    with socket.create_server((HOST, 0)) as nobody:
        away = f"http://{HOST}:{nobody.getsockname()[1]}"
    listener = Listening(away, ledger, tmp_path / "spool")
    started.append(listener)
    listener.send(*sent)
    assert listener.end(signal.SIGKILL) == -signal.SIGKILL
    # Another one on the same spool sends it, without having read anything itself.
    again = Listening(ledger.url, ledger, tmp_path / "spool")
    started.append(again)
    assert texts(events_with(ledger, mark, len(sent))) == sent
    assert again.end() == 0


def test_over_tls_a_sender_is_known_by_its_certificate(
    ledger: ServedLedger, tmp_path: Path, started: list[Listening]
) -> None:
    mark = secrets.token_hex(8)
    authority = Authority(tmp_path)
    certificate, key, _ = authority.issue("listener")
    sender_certificate, sender_key, fingerprint = authority.issue("sender")
    listener = Listening(
        ledger.url,
        ledger,
        tmp_path / "spool",
        *("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority.certificate),
    )
    started.append(listener)
    tls = ssl.create_default_context(cafile=authority.certificate)
    tls.load_cert_chain(sender_certificate, sender_key)
    frame = f"<13>1 - web-1 - - - - {mark} over TLS"
    with (
        socket.create_connection((HOST, listener.tcp_port), timeout=WAIT_S) as plain,
        tls.wrap_socket(plain, server_hostname=HOST) as sender,
    ):
        sender.sendall(f"{len(frame)} {frame}".encode())
    (event,) = events_with(ledger, mark, 1)
    assert event.actor.credential == f"sha256:{fingerprint}"
    assert listener.end() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tls-cert", "policy"), "TLS needs both"),
        (("--tls-client-ca", "policy"), "TLS needs both"),
        (("--tls-cert", "policy", "--tls-key", "policy"), "the certificate, its key or the CAs"),
        (("--listen", "nowhere"), "not an address and a port"),
        (("--balancer", "10.0.0.1/8"), "--balancer: 10.0.0.1/8 has host bits set"),
        (("--balancer", "lb-1"), "--balancer: 'lb-1' does not appear to be"),
        (("--message-max", "1000"), "is not in the range"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_taken(
    command: Command, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "policy").write_text("nothing")
    done = command("listen", "syslog", "--spool", "spool", *options)
    assert done.returncode == 2
    assert message in done.stderr
