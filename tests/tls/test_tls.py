"""TLS of the ledger, a mirror and a witness: in this process, on real sockets."""

import http.client
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import structlog.testing
from cryptography.hazmat.primitives import serialization

from ledger.runtime.loop_turns import LoopTurns
from ledger.runtime.tls import open_tls
from ledger.service.settings import Settings
from ledger_client import LedgerClient
from ledger_client.errors import RejectedError
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from tests.mirror.mirroring import make_mirror, mirroring
from tests.service.check_log import check_ledger
from tests.service.serving import QUICK, Ledger, event, make_ledger, send, serving_new
from tests.tls.asking import WAIT_S, Pair, ask, connected, fingerprint, serving_live, shown
from tests.waiting import until, until_listening


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    folder = tmp_path / "pair"
    folder.mkdir()
    return Pair(folder)


def with_tls(pair: Pair, **others: float) -> Settings:
    changed = {"tls_cert": str(pair.cert), "tls_key": str(pair.key), **others}
    return msgspec.structs.replace(QUICK, **changed)


@pytest.fixture
def ledger(tmp_path: Path, pair: Pair) -> Iterator[Ledger]:
    with serving_new(tmp_path, with_tls(pair)) as ledger:
        yield ledger


def test_the_client_appends_and_verifies_over_tls(
    ledger: Ledger, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, policy = ledger.tokens["admin"], ledger.directory / "policy"
    monkeypatch.setenv("SSL_CERT_FILE", str(pair.authority.certificate))
    with LedgerClient(ledger.url, token, policy=policy) as client:
        index = client.append(event()).index
        assert client.event(index).event.action == "record.viewed"
        (found,) = client.search("action:record.viewed").entries
        assert found.index == index
    monkeypatch.delenv("SSL_CERT_FILE")
    with (
        LedgerClient(ledger.url, token, policy=policy) as client,
        pytest.raises(VerificationError, match=r"is not trusted: .*SSL_CERT_FILE"),
    ):
        client.event(index)


def test_answers_over_tls_have_strict_headers(ledger: Ledger, pair: Pair) -> None:
    strict = {
        "Strict-Transport-Security": "max-age=31536000",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    }
    with connected(ledger.url, pair) as connection:
        for target in ("/v1/log", "/v1/events", "/nothing", "/v1/export", "/checkpoint"):
            headers = {"Authorization": f"Bearer {ledger.tokens['admin']}"}
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            answer.read()
            assert {name: answer.headers[name] for name in strict} == strict, target


def test_pages_of_other_sites_can_read_public_answers_alone(tmp_path: Path) -> None:
    with serving_new(tmp_path) as ledger:
        ledger.append(event())
        assert ledger.ask("/v1/proofs/inclusion?index=0").status == 200
        readable = {
            target
            for target in (
                *("/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1", "/v1/checkpoints"),
                *("/v1/log", "/v1/events", "/v1/events/0", "/metrics", "/healthz"),
            )
            if ledger.ask(target, Origin="https://example.org").headers[
                "Access-Control-Allow-Origin"
            ]
        }
        assert readable == {"/checkpoint", "/tile/0/000.p/1", "/v1/checkpoints"}
        asked = ledger.ask("/v1/events", method="OPTIONS", Origin="https://example.org")
        assert asked.status == 405
        assert not asked.headers["Access-Control-Allow-Origin"]


def test_handshakes_begin_at_the_turns_of_their_addresses(
    ledger: Ledger, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    begin = LoopTurns.begin

    async def noted(turns: LoopTurns, owner: str, *, group: str = "") -> None:
        asked.append(owner)
        await begin(turns, owner, group=group)

    monkeypatch.setattr(LoopTurns, "begin", noted)
    with connected(ledger.url, pair):
        assert asked == ["127.0.0.1"]


def test_what_is_not_tls_is_told_so_and_is_counted(ledger: Ledger, pair: Pair) -> None:
    parts = urlsplit(ledger.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), WAIT_S) as peer:
        peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = peer.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in answer
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((str(parts.hostname), int(parts.port or 0)), WAIT_S) as peer,
        pytest.raises(OSError),  # noqa: PT011 - ssl.SSLError, or the connection is reset
    ):
        old.wrap_socket(peer)

    def counted() -> bool:
        with connected(ledger.url, pair) as connection:
            _, text = ask(connection, "/metrics", ledger.tokens["admin"])
        return b"\nledger_handshakes_failed_total 2\n" in text

    until(counted)


def test_connections_are_counted_before_their_handshake_and_half_handshakes_cut(
    tmp_path: Path, pair: Pair
) -> None:
    settings = with_tls(pair, connections_per_address_max=2, head_wait_s=2.0)
    with serving_new(tmp_path, settings) as ledger, ExitStack() as opened:

        def is_served() -> bool:
            with suppress(OSError):  # The service may still count a connection that it has cut.
                return shown(ledger.url, pair) == pair.fingerprint
            return False

        parts = urlsplit(ledger.url)
        address = (str(parts.hostname), int(parts.port or 0))
        peers = [
            opened.enter_context(closing(socket.create_connection(address, WAIT_S)))
            for _ in range(3)
        ]
        assert peers[2].recv(1) == b""  # One too many for its address: nothing was read from it.
        for peer in peers[:2]:
            assert peer.recv(1) == b""  # Cut, since no handshake came.
        until(is_served)  # Their places are free again.


@pytest.mark.parametrize("target", ["/v1/events?limit=1", "/v1/log"])
def test_a_request_that_comes_in_one_flight_with_the_handshake_is_answered(
    ledger: Ledger, pair: Pair, target: str
) -> None:
    """TLS 1.3 lets a client send its request with the last message of the handshake."""
    assert ledger.url.startswith("https://")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = pair.trusting().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    parts = urlsplit(ledger.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), WAIT_S) as peer:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                peer.sendall(outgoing.read())
                incoming.write(peer.recv(1 << 16))
        token = ledger.tokens["read"]
        client.write(
            f"GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        peer.sendall(outgoing.read())
        said = b""
        while not said:
            incoming.write(peer.recv(1 << 16))
            try:
                said = client.read(1 << 16)
            except ssl.SSLWantReadError:
                continue
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")


def test_new_files_hold_for_new_connections_and_bad_ones_change_nothing(
    tmp_path: Path, pair: Pair
) -> None:
    directory = tmp_path / "ledger"
    settings = with_tls(pair)
    with serving_live(directory, make_ledger(directory), settings) as (ledger, reload):
        first = pair.fingerprint
        with connected(ledger.url, pair) as before:
            assert fingerprint(before) == first
            pair.renew()
            assert shown(ledger.url, pair) == first  # Not before it is told.
            reload()
            assert shown(ledger.url, pair) == pair.fingerprint != first
            assert ask(before, "/healthz")[0] == 200  # Open connections go on.
        second, good = pair.fingerprint, pair.key.read_bytes()
        pair.renew()
        pair.key.write_bytes(good)
        with structlog.testing.capture_logs() as lines:
            reload()
        (line,) = [each for each in lines if each["event"] == "tls_not_reloaded"]
        assert str(pair.key) in line["reason"]
        assert shown(ledger.url, pair) == second


def test_a_mirror_serves_over_tls(tmp_path: Path, pair: Pair) -> None:
    with serving_new(tmp_path) as ledger:
        assert ledger.append(event()).status == 200
        check_ledger(ledger)
        tokens = make_mirror(tmp_path / "mirror", ledger)
        with mirroring(tmp_path / "mirror", tokens, with_tls(pair)) as mirror:
            assert shown(mirror.url, pair) == pair.fingerprint


def _mismatched(pair: Pair) -> None:
    key = pair.key.read_bytes()
    pair.renew()
    pair.key.write_bytes(key)


def _encrypted(pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pair: pair.cert.unlink(), r"certificate .*server.crt can't be read: No such file"),
        (lambda pair: pair.key.unlink(), r"key .*server.key can't be read: No such file"),
        (lambda pair: pair.cert.write_text("hello"), r"server.crt holds no certificate"),
        (lambda pair: pair.key.write_text("hello"), r"do not hold a certificate and its key"),
        (lambda pair: pair.key.chmod(0o644), r"can read the TLS key .*chmod o= "),
        (_mismatched, r"is not that of the certificate"),
        (_encrypted, r"is encrypted, .*openssl pkey "),
    ],
)
def test_files_that_can_not_be_used_are_named_with_what_to_do(
    pair: Pair, damage: object, message: str
) -> None:
    assert callable(damage)
    damage(pair)
    with pytest.raises((MalformedError, UnavailableError), match=message):
        open_tls(with_tls(pair))


def test_a_certificate_needs_its_key_and_neither_is_no_tls(pair: Pair) -> None:
    assert open_tls(QUICK) is None
    with pytest.raises(MalformedError, match="--tls-cert needs --tls-key"):
        open_tls(msgspec.structs.replace(QUICK, tls_cert=str(pair.cert)))
    with pytest.raises(MalformedError, match="--tls-key needs --tls-cert"):
        open_tls(msgspec.structs.replace(QUICK, tls_key=str(pair.key)))
    with pytest.raises(MalformedError, match="--tls-client-ca needs --tls-cert"):
        open_tls(msgspec.structs.replace(QUICK, tls_client_ca="ca.pem"))


def test_the_end_of_a_certificate_is_a_warning_of_readiness(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = open_tls(with_tls(pair))
    assert tls is not None
    assert tls.warnings() == []
    later = partial(lambda now: now, tls.expires_unix_s - 3600)
    assert tls.expires_unix_s > unix_s()
    monkeypatch.setattr("ledger.runtime.tls.unix_s", later)
    (warning,) = tls.warnings()
    assert "expires at 21" in warning
    with serving_new(tmp_path, with_tls(pair)) as ledger, connected(ledger.url, pair) as peer:
        status, body = ask(peer, "/readyz")
    assert status == 200
    assert b"expires at 21" in body


def test_http_without_tls_is_told_to_use_https(ledger: Ledger) -> None:
    url = ledger.url.replace("https://", "http://")
    answer = send(url, "/healthz", method="GET", body=None, headers={})
    assert (answer.status, answer.slug) == (400, "malformed-request")
    with pytest.raises(RejectedError, match="ask https://"), LedgerClient(url) as client:
        client.fields()
    # A client that says nothing, and one that goes away, free their places.
    parts = urlsplit(ledger.url)
    for _ in range(3):
        socket.create_connection((str(parts.hostname), int(parts.port or 0)), WAIT_S).close()
    assert send(url, "/healthz", method="GET", body=None, headers={}).status == 400


@pytest.mark.operating
@pytest.mark.parametrize("workers", [0, 2])
def test_a_unix_socket_of_systemd_speaks_tls(tmp_path: Path, pair: Pair, workers: int) -> None:
    make_ledger(tmp_path / "ledger")
    path = tmp_path / "ledger.sock"
    serve_flags = f"--tls-cert {pair.cert} --tls-key {pair.key} --workers {workers}"
    command = ["systemd-socket-activate", "-l", str(path), sys.executable, "-m", "ledger", "serve"]
    child = subprocess.Popen(
        [*command, str(tmp_path / "ledger"), *serve_flags.split(), "--log-level", "error"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        until_listening(path)
        assert _ask_unix(path, pair) == 200  # It waits until the service has started.
        assert child.stdout is not None
        assert child.stdout.readline() == f"serving on unix:{path}\n"
        assert _ask_unix(path, pair) == 200
        child.terminate()
        assert child.wait(WAIT_S) == 0
    finally:
        child.kill()
        child.communicate()


def _ask_unix(path: Path, pair: Pair) -> int:
    """The status of an answer over TLS on a Unix socket."""
    connection = http.client.HTTPConnection("127.0.0.1")
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(WAIT_S)
        plain.connect(str(path))
        connection.sock = pair.trusting().wrap_socket(plain, server_hostname="127.0.0.1")
        with closing(connection):
            connection.request("GET", "/healthz")
            return connection.getresponse().status
