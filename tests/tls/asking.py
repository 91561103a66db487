"""Asks a server over TLS, as a client that trusts one authority alone."""

import asyncio
import hashlib
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ledger.service.app import serve
from ledger.service.live_settings import LiveSettings
from ledger.service.settings import Settings
from tests.client.syslog.certificates import Authority
from tests.service.serving import Ledger, serving

WAIT_S = 120.0


class Pair:
    """The files of a server's certificate and key, whose content can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.cert, self.key = folder / "server.crt", folder / "server.key"
        self._count = 0
        self.fingerprint = ""
        self.renew()

    def renew(self) -> None:
        """Put another certificate in place."""
        self._count += 1
        cert, key, self.fingerprint = self.authority.issue(f"server-{self._count}")
        self.key.unlink(missing_ok=True)
        self.key.touch(0o600)
        self.key.write_bytes(key.read_bytes())
        self.cert.write_bytes(cert.read_bytes())

    def trusting(self) -> ssl.SSLContext:
        """The context of a client."""
        return ssl.create_default_context(cafile=self.authority.certificate)


@contextmanager
def connected(url: str, pair: Pair) -> Iterator[http.client.HTTPSConnection]:
    """A connection over TLS, after the handshake."""
    parts = urlsplit(url)
    assert parts.scheme == "https"
    connection = http.client.HTTPSConnection(parts.netloc, context=pair.trusting(), timeout=WAIT_S)
    with closing(connection):
        connection.connect()
        yield connection


def fingerprint(connection: http.client.HTTPSConnection) -> str:
    """The SHA-256 of the certificate that the server showed, in hex."""
    assert isinstance(connection.sock, ssl.SSLSocket)
    shown = connection.sock.getpeercert(binary_form=True)
    return hashlib.sha256(shown or b"").hexdigest()


def ask(connection: http.client.HTTPSConnection, target: str, token: str = "") -> tuple[int, bytes]:
    """One request; the status and the body of its answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def shown(url: str, pair: Pair) -> str:
    """The fingerprint of the certificate that a new connection gets."""
    with connected(url, pair) as connection:
        assert ask(connection, "/healthz")[0] == 200
        return fingerprint(connection)


@contextmanager
def serving_live(
    directory: Path, tokens: dict[str, str], settings: Settings
) -> Iterator[tuple[Ledger, Callable[[], None]]]:
    """A served ledger, and what reads its files again."""
    live, loops = LiveSettings(settings), list[asyncio.AbstractEventLoop]()

    async def serve_live(*args: object, **named: object) -> None:
        loops.append(asyncio.get_running_loop())
        await serve(*args, **named, live=live)  # type: ignore[arg-type]  # as it was called

    def reload() -> None:
        done = threading.Event()
        loops[0].call_soon_threadsafe(live.reload)
        loops[0].call_soon_threadsafe(done.set)
        assert done.wait(WAIT_S)

    with serving(directory, tokens, settings, serve_live) as ledger:
        yield ledger, reload
