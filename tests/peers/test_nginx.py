"""Debian's nginx in front of the service, with its defaults: it asks by HTTP/1.0."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_client import LedgerClient, RejectedError
from ledger_client.results import Rejected
from tests.nginx import nginx_command
from tests.service.serving import QUICK, Ledger, event, serving_new

pytestmark = pytest.mark.peers

WAIT_S = 120.0
SERVER = """server {{
    listen 127.0.0.1:{port}; {limits}
    location / {{ proxy_pass {target}; }}
  }}"""


@contextmanager
def _nginx(folder: Path, target: str, limits: str = "") -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = SERVER.format(port=port, target=target, limits=limits)
    nginx = subprocess.Popen(nginx_command(folder, server))
    try:
        deadline_s = time.monotonic() + WAIT_S
        while not _accepts(port):
            assert nginx.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        nginx.send_signal(signal.SIGTERM)
        nginx.wait(WAIT_S)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Ledger]:
    with serving_new(tmp_path, QUICK) as ledger, _nginx(tmp_path, ledger.url) as url:
        yield replace(ledger, url=url)


def test_an_export_and_a_stream_go_through(proxied: Ledger) -> None:
    events = [event(reason="x" * 1_000) for _ in range(300)]
    assert proxied.append(*events).status == 200
    for media in ("jsonl", "csv"):
        export = proxied.ask(f"/v1/export?q=action:record.*&format={media}")
        assert export.status == 200
        assert len(export.body) > 300_000
        assert str(events[-1]["id"]) in export.text
    with LedgerClient(proxied.url, proxied.tokens["admin"], policy=proxied.policy) as client:
        # nginx passes each event on at once, or this would wait for an end that doesn't come.
        found = iter(client.tail("action:record.late", start=0))
        appended = client.append(event(action="record.late"))
        assert next(found).index == appended.index


def test_a_batch_that_nginx_refuses_is_sent_in_halves(proxied: Ledger) -> None:
    events = [event(reason="x" * 4_000) for _ in range(700)]
    with LedgerClient(proxied.url, proxied.tokens["admin"], policy=proxied.policy) as client:
        receipts = client.append_many(events)
    assert [getattr(each, "id", None) for each in receipts] == [each["id"] for each in events]
    assert not any(isinstance(each, Rejected) for each in receipts)


def test_an_event_that_nginx_refuses_is_explained_and_others_are_logged(tmp_path: Path) -> None:
    with (
        serving_new(tmp_path, QUICK) as ledger,
        _nginx(tmp_path, ledger.url, limits="client_max_body_size 8k;") as url,
        LedgerClient(url, ledger.tokens["admin"], policy=ledger.policy) as client,
    ):
        large = event(reason="x" * 4_090, context={"a": "y" * 5_000})
        outcomes = client.append_many([event(), large, event(), event()])
        refused = [each for each in outcomes if isinstance(each, Rejected)]
        assert [each.id for each in refused] == [large["id"]]
        assert "client_max_body_size" in refused[0].problem.detail
        with pytest.raises(RejectedError, match="client_max_body_size"):
            client.append(large)
