"""The example configurations of nginx and Caddy, in the real programs, in front of a ledger."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger_client import LedgerClient
from tests.nginx import nginx_command
from tests.service.serving import Ledger, event, serving_new
from tests.tls.asking import WAIT_S, Pair, ask, connected

pytestmark = pytest.mark.operating

DEPLOY = Path(__file__).parents[2] / "deploy"
CADDY = """{{
	admin off
	auto_https disable_redirects
	storage file_system {folder}/storage
}}
{site}
"""


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with another address; each is there exactly once."""
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, target: str, pair: Pair) -> list[str]:
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        ("127.0.0.1:8765", target),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/ledger/server.crt", str(pair.cert)),
        ("/etc/ssl/ledger/server.key", str(pair.key)),
    )
    return nginx_command(folder, site)


def caddy(folder: Path, port: int, target: str, pair: Pair) -> list[str]:
    site = replaced(
        (DEPLOY / "Caddyfile").read_text(),
        ("127.0.0.1:8765", target),
        (
            "ledger.example.com {\n",
            f"https://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n\ttls {pair.cert} {pair.key}\n",
        ),
    )
    (folder / "Caddyfile").write_text(CADDY.format(folder=folder, site=site))
    return ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


@contextmanager
def proxy(command: list[str], port: int, folder: Path) -> Iterator[str]:
    with (folder / "said").open("w") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        end_s = time.monotonic() + WAIT_S
        while True:
            assert child.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < end_s
            try:
                socket.create_connection(("127.0.0.1", port), WAIT_S).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield f"https://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(WAIT_S)


@pytest.fixture(params=[nginx, caddy])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Ledger, str, Pair]]:
    """A ledger, its address behind the proxy, and the files of the proxy's certificate."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    pair = Pair(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair.authority.certificate))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving_new(tmp_path) as ledger:
        command = request.param(folder, port, urlsplit(ledger.url).netloc, pair)
        with proxy(command, port, folder) as url:
            yield ledger, url, pair


def test_a_client_works_through_the_proxy_as_without_it(
    proxied: tuple[Ledger, str, Pair],
) -> None:
    """Appends with proofs, a large batch, a search, an export, and a stream that is live."""
    ledger, url, pair = proxied
    with LedgerClient(url, ledger.tokens["admin"], policy=ledger.directory / "policy") as client:
        first = client.append(event()).index
        large = [event(reason="x" * 1_000) for _ in range(3_000)]
        assert len(client.append_many(large)) == len(large)
        assert client.search("action:record.viewed", limit=5).total == len(large) + 1
        assert client.event(first).index == first

        seen: list[int] = []

        def follow() -> None:
            for entry in client.tail("reason:live"):
                seen.append(entry.index)
                return

        tail = threading.Thread(target=follow, daemon=True)
        tail.start()
        end_s = time.monotonic() + WAIT_S
        while not seen:  # The stream may begin behind an append; each round has one of its own.
            assert time.monotonic() < end_s
            client.append(event(reason="live"))
            time.sleep(0.05)
        tail.join(WAIT_S)
    with connected(url, pair) as connection:
        assert ask(connection, "/v1/export?q=action:record.viewed", ledger.tokens["read"])[1].count(
            b"\n"
        ) > len(large)
    with connected(url, pair) as connection:
        assert ask(connection, "/metrics", ledger.tokens["admin"])[0] == 403
