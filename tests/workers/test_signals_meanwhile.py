"""Signals that come while front ends are replaced."""

import json
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ledger.service.data_dir import DirectoryPaths
from tests.service.serving import event, make_ledger
from tests.tls.asking import Pair
from tests.waiting import until
from tests.workers.test_front_ends import WORKERS, Running, front_ends, running


def begin_replacing(served: Running) -> int:
    """Have the front ends replaced; the process of the first new one."""
    before = set(front_ends(served.process.pid))
    served.process.send_signal(signal.SIGUSR1)
    until(lambda: bool(set(front_ends(served.process.pid)) - before))
    (new,) = set(front_ends(served.process.pid)) - before
    return new


def test_settings_that_are_read_again_while_a_front_end_starts_reach_it(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    with running(directory, make_ledger(directory)) as served:
        new = begin_replacing(served)
        os.kill(new, signal.SIGSTOP)
        with DirectoryPaths(directory).settings.open("a") as file:
            file.write("request_events_max = 1\n")
        served.process.send_signal(signal.SIGHUP)
        until(lambda: len(served.said("settings_reloaded")) >= 1 + WORKERS)
        os.kill(new, signal.SIGCONT)
        until(lambda: len(served.said("worker_replaced")) == WORKERS)
        refused = [served.ledger.append(event(), event()).status for _ in range(20)]
        assert set(refused) == {413}


def test_a_service_without_front_ends_says_so_and_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    with running(directory, make_ledger(directory), workers=0) as served:
        served.process.send_signal(signal.SIGUSR1)
        until(lambda: bool(served.said("workers_not_replaced")))
        assert "no workers" in served.said("workers_not_replaced")[0]["reason"]
        assert served.ledger.append(event()).status == 200


def counted(served: Running) -> float:
    """The events that `/metrics` says were logged for the token `append`."""
    text = served.ledger.ask("/metrics").text
    (found,) = re.findall(
        r'^ledger_events_logged_total\{token="append"\} (\S+)', text, re.MULTILINE
    )
    return float(found)


def test_counters_never_go_back_when_front_ends_are_replaced_or_killed(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    with running(directory, make_ledger(directory)) as served:
        for _ in range(8):  # The kernel spreads them.
            assert served.ledger.append(event(), token="append").status == 200
        begin_replacing(served)
        until(lambda: len(served.said("worker_replaced")) == WORKERS)
        assert counted(served) == 8
        for _ in range(4):
            assert served.ledger.append(event(), token="append").status == 200
        until(lambda: counted(served) == 12)
        for process_id in front_ends(served.process.pid):
            os.kill(process_id, signal.SIGKILL)
        until(lambda: len(served.said("worker_ended")) == WORKERS)
        assert counted(served) == 12


def sockets_of(process_id: int) -> int:
    count = 0
    for each in Path(f"/proc/{process_id}/fd").iterdir():
        with suppress(FileNotFoundError):  # It was closed meanwhile.
            count += str(each.readlink()).startswith("socket:")
    return count


def test_a_stop_waits_for_the_requests_of_a_front_end_that_is_being_replaced(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    # A slow machine may take longer than the default to end the new front end.
    with DirectoryPaths(directory).settings.open("a") as file:
        file.write("stop_wait_s = 110.0\n")
    with running(directory, tokens, workers=1) as served:
        (old,) = front_ends(served.process.pid)
        address = urlsplit(served.ledger.url)
        body = json.dumps(event()).encode()
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: {address.netloc}\r\nExpect: 100-continue\r\n"
            f"Authorization: Bearer {tokens['append']}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((address.hostname, address.port), timeout=120) as held:
            held.sendall(head.encode())
            assert b" 100 " in held.recv(1000)
            sockets = sockets_of(old)
            new = begin_replacing(served)
            until(lambda: sockets_of(old) < sockets)  # It takes no more connections.
            served.process.terminate()
            until(lambda: not Path(f"/proc/{new}").exists())
            with suppress(subprocess.TimeoutExpired):  # It must not end.
                served.process.wait(1)
            held.sendall(body)
            assert held.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_worker_that_is_replaced_ends_the_handshakes_that_it_began(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (tmp_path / "pair").mkdir()
    pair = Pair(tmp_path / "pair")
    with DirectoryPaths(directory).settings.open("a") as file:
        file.write(f'tls_cert = "{pair.cert}"\ntls_key = "{pair.key}"\n')
    with running(directory, tokens, workers=1) as served:
        (front_end,) = front_ends(served.process.pid)
        address = urlsplit(served.ledger.url)
        before = sockets_of(front_end)
        with socket.create_connection((address.hostname, address.port), timeout=120) as plain:
            until(lambda: sockets_of(front_end) > before)  # It has taken the connection.
            os.kill(front_end, signal.SIGUSR1)
            until(lambda: sockets_of(front_end) <= before)  # It listens no more.
            with pair.trusting().wrap_socket(plain, server_hostname=address.hostname) as held:
                held.sendall(f"GET /checkpoint HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
                assert held.recv(1000).startswith(b"HTTP/1.1 200 ")
