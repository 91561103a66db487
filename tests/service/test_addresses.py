"""The address of a client that comes by IPv4 to a socket of IPv6, as systemd opens one."""

import http.client
import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from tests.service.serving import serving_new


def test_a_client_by_ipv4_has_its_ipv4_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    monkeypatch.setattr("ledger.runtime.listening.passed_sockets", lambda: [both])
    with capture_logs() as lines, serving_new(tmp_path) as ledger:
        port = urlsplit(ledger.url).port
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, port, timeout=60)
            with closing(connection):
                connection.request("GET", "/v1/events", headers={"Authorization": "Bearer no"})
                assert connection.getresponse().status == 401
    addresses = [line["address"] for line in lines if line["event"] == "request_refused"]
    assert addresses == ["127.0.0.1", "::1"], lines
