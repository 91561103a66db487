"""Both transports against peers that misbehave: each ends in an answer or in one of our errors."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ledger_client import AsyncLedgerClient, LedgerClient, Recorder
from ledger_client.async_transport import AsyncTransport
from ledger_client.messages import Endpoint, Request, Response, parse_endpoint
from ledger_client.transport import Transport
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from tests.client.peer import Peer, Talk
from tests.client.trees import SmallLog

TOKEN = "wl_secret"
GET = Request(target="/checkpoint?a=1", answer_bytes_max=1000)
POST = Request(
    method="POST", target="/v1/events", content_type="application/json", body=b"{}" * 100
)


class Sender(Protocol):
    def send(self, request: Request) -> Response: ...
    def close(self) -> None: ...


class AsyncSender:
    """An `AsyncTransport` in a loop of its own, so that one test serves both."""

    def __init__(
        self, endpoint: Endpoint, tls: ssl.SSLContext | None, runner: asyncio.Runner
    ) -> None:
        self._runner = runner
        self._transport = AsyncTransport(endpoint, tls=tls)

    def send(self, request: Request) -> Response:
        return self._runner.run(self._transport.send(request))

    def close(self) -> None:
        self._runner.run(self._transport.close())


Open = Callable[..., Sender]


@pytest.fixture(params=["sync", "async"])
def open_sender(request: pytest.FixtureRequest) -> Iterator[Open]:
    senders: list[Sender] = []

    def open_(url: str, *, timeout_s: float = 10.0, tls: ssl.SSLContext | None = None) -> Sender:
        endpoint = parse_endpoint(url, token=TOKEN, timeout_s=timeout_s)
        sender: Sender = (
            Transport(endpoint, tls=tls)
            if request.param == "sync"
            else AsyncSender(endpoint, tls, runner)
        )
        senders.append(sender)
        return sender

    with asyncio.Runner() as runner:
        yield open_
        for sender in senders:
            sender.close()


def answer_all(talk: Talk) -> None:
    while True:
        talk.read_request()
        talk.answer(200, b"fine")


def test_requests_share_a_connection(open_sender: Open) -> None:
    with Peer(answer_all) as peer:
        sender = open_sender(peer.url)
        for _ in range(5):
            assert sender.send(GET).body == b"fine"
        assert peer.connections == 1


def test_a_request_is_sent_as_it_was_planned(open_sender: Open) -> None:
    with Peer(answer_all) as peer:
        sender = open_sender(peer.url + "/audit/")
        sender.send(POST)
        head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /audit/v1/events http/1.1"
    assert "authorization: bearer wl_secret" in lines
    assert "content-type: application/json" in lines
    assert "accept-encoding: identity" in lines
    assert "content-length: 200" in lines
    assert body == POST.body


def test_status_and_retry_after_are_handed_on(open_sender: Open) -> None:
    def refuse(talk: Talk) -> None:
        talk.read_request()
        talk.answer(503, b"busy", "Retry-After: 7")

    with Peer(refuse) as peer:
        response = open_sender(peer.url).send(GET)
    assert (response.status, response.body, response.retry_after) == (503, b"busy", "7")


def test_a_connection_closed_between_requests_is_opened_again(open_sender: Open) -> None:
    def answer_one(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200, b"fine")

    with Peer(answer_one) as peer:
        sender = open_sender(peer.url)
        for request in (GET, POST, GET):
            assert sender.send(request).body == b"fine"
        assert peer.connections == 3


def test_a_connection_reset_after_a_request_is_tried_once_more(open_sender: Open) -> None:
    def answer_one_then_reset(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200, b"fine")
        talk.read_request()
        talk.reset()

    with Peer(answer_one_then_reset, answer_all) as peer:
        sender = open_sender(peer.url)
        assert sender.send(POST).body == b"fine"
        assert sender.send(POST).body == b"fine"
        assert peer.connections == 2


def test_a_peer_that_says_close_is_not_asked_again_on_that_connection(open_sender: Open) -> None:
    def answer_and_close(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200, b"fine", "Connection: close")
        talk.wait_until_client_leaves()

    with Peer(answer_and_close) as peer:
        sender = open_sender(peer.url)
        assert sender.send(GET).body == b"fine"
        assert sender.send(GET).body == b"fine"
        assert peer.connections == 2


def refuse_to_talk(talk: Talk) -> None:
    talk.reset()


def leave_at_once(talk: Talk) -> None:
    talk.read_request()


def say_garbage(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"SSH-2.0-OpenSSH_9.9\r\n" + bytes(range(256)))


def cut_the_body_short(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")


def cut_a_chunk_short(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this")


def say_a_bad_chunk(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nonly this\r\n")


def say_a_bare_line_end(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\r\n\r\nonly this"[:-4])


def say_an_endless_length(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n")


def say_a_bad_status(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 twohundred OK\r\n\r\n")


@pytest.mark.parametrize(
    "script",
    [
        refuse_to_talk,
        leave_at_once,
        say_garbage,
        cut_the_body_short,
        cut_a_chunk_short,
        say_a_bad_chunk,
        say_a_bare_line_end,
        say_an_endless_length,
        say_a_bad_status,
    ],
)
@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
def test_a_peer_that_breaks_off_or_talks_nonsense_is_unavailable(
    open_sender: Open, script: Callable[[Talk], None], request_: Request
) -> None:
    with Peer(script) as peer, pytest.raises(UnavailableError) as caught:
        open_sender(peer.url).send(request_)
    assert TOKEN not in str(caught.value)


def test_a_port_where_nobody_listens_is_unavailable(open_sender: Open) -> None:
    with Peer(answer_all) as peer:
        url = peer.url
    with pytest.raises(UnavailableError, match=r"no connection to http://127\.0\.0\.1:"):
        open_sender(url).send(GET)


def stay_silent(talk: Talk) -> None:
    talk.read_request()
    talk.wait_until_client_leaves()


def drip_a_head(talk: Talk) -> None:
    talk.read_request()
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000:
        talk.say(bytes([byte]))
        talk.sock.settimeout(0.05)
        try:
            if not talk.sock.recv(1):
                return
        except TimeoutError:
            continue


def drip_a_body(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    drip_a_head(talk)


@pytest.mark.parametrize("script", [stay_silent, drip_a_head, drip_a_body])
def test_a_peer_that_is_silent_or_slow_is_left_after_the_time_out(
    open_sender: Open, script: Callable[[Talk], None]
) -> None:
    with Peer(script) as peer, pytest.raises(UnavailableError, match=r"no answer .* in 0\.5 s"):
        open_sender(peer.url, timeout_s=0.5).send(GET)


def announce_too_much(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)


def never_end(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        talk.say(b"x" * 1000)


def never_end_in_chunks(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        talk.say(b"3e8\r\n" + b"x" * 1000 + b"\r\n")


@pytest.mark.parametrize("script", [announce_too_much, never_end, never_end_in_chunks])
def test_a_body_over_the_limit_is_not_read(
    open_sender: Open, script: Callable[[Talk], None]
) -> None:
    with Peer(script) as peer, pytest.raises(MalformedError, match="answer too long"):
        open_sender(peer.url).send(GET)


def test_a_chunk_of_a_negative_size_is_not_read_to_its_end() -> None:
    def say_chunk_minus_one(talk: Talk) -> None:
        talk.read_request()
        talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
        while True:
            talk.say(b"x" * 100_000)

    with Peer(say_chunk_minus_one) as peer:
        transport = Transport(parse_endpoint(peer.url, token=None, timeout_s=10))
        with pytest.raises(UnavailableError, match="a chunk has no size"):
            transport.send(GET)
        transport.close()


def test_a_body_exactly_at_the_limit_is_read(open_sender: Open) -> None:
    def say_all(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200, b"x" * GET.answer_bytes_max)

    with Peer(say_all) as peer:
        assert len(open_sender(peer.url).send(GET).body) == GET.answer_bytes_max


def test_what_follows_a_body_is_not_taken_for_the_next_answer(open_sender: Open) -> None:
    def say_more_than_announced(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200, b"fine")
        talk.say(b"and more, which is no answer at all\r\n\r\n")
        answer_all(talk)

    with Peer(say_more_than_announced, answer_all) as peer:
        sender = open_sender(peer.url)
        assert sender.send(GET).body == b"fine"
        assert sender.send(GET).body == b"fine"


def test_a_redirect_is_an_answer_and_the_token_goes_nowhere_else(open_sender: Open) -> None:
    with Peer(answer_all) as other:

        def redirect(talk: Talk) -> None:
            talk.read_request()
            talk.answer(302, b"", f"Location: {other.url}/checkpoint")

        with Peer(redirect) as peer:
            assert open_sender(peer.url).send(GET).status == 302
        assert other.connections == 0


def test_cookies_are_not_kept(open_sender: Open) -> None:
    def set_cookie(talk: Talk) -> None:
        while True:
            talk.read_request()
            talk.answer(200, b"fine", "Set-Cookie: a=b")

    with Peer(set_cookie) as peer:
        sender = open_sender(peer.url)
        sender.send(GET)
        sender.send(GET)
        assert b"cookie" not in peer.requests[1].lower()


def test_a_long_body_arrives_whole(open_sender: Open) -> None:
    body = bytes(range(256)) * (1 << 15)
    request = Request(method="POST", target="/", content_type="application/json", body=body)
    with Peer(answer_all) as peer:
        assert open_sender(peer.url).send(request).status == 200
        assert peer.requests[0].endswith(body)


def test_a_refusal_before_the_body_was_read_is_heard() -> None:
    def refuse_early(talk: Talk) -> None:
        talk.sock.recv(1000)
        talk.answer(413, b"too large", "Connection: close")
        talk.wait_until_client_leaves()

    request = Request(method="POST", target="/", body=b"x" * (1 << 20))
    with Peer(refuse_early) as peer:
        transport = Transport(parse_endpoint(peer.url, token=None, timeout_s=10))
        assert transport.send(request).status == 413
        transport.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signed itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
    now = datetime.now(UTC)
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "peer.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def serving_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_nobody_trusts_ends_the_talk_before_it_began(
    open_sender: Open, certificate: Path
) -> None:
    with (
        Peer(answer_all, tls=serving_context(certificate)) as peer,
        pytest.raises(VerificationError, match=r"certificate of https://127\.0\.0\.1:"),
    ):
        open_sender(peer.url).send(GET)
    assert peer.requests == []


def test_a_file_of_authorities_that_is_missing_is_named(
    open_sender: Open, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("missing.pem")))
    with (
        Peer(answer_all, tls=serving_context(certificate)) as peer,
        pytest.raises(VerificationError, match=r"SSL_CERT_FILE names .*missing\.pem, which is no"),
    ):
        open_sender(peer.url).send(GET)


def test_a_certificate_that_the_user_trusts_is_enough(open_sender: Open, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with Peer(answer_all, tls=serving_context(certificate)) as peer:
        sender = open_sender(peer.url, tls=trusting)
        for _ in range(3):
            assert sender.send(GET).body == b"fine"
        assert peer.connections == 1


def test_threads_share_connections_and_none_is_left_behind() -> None:
    with Peer(answer_all) as peer:
        transport = Transport(parse_endpoint(peer.url, token=None, timeout_s=10))

        def work() -> None:
            for _ in range(10):
                assert transport.send(GET).body == b"fine"

        for _ in range(5):
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert peer.connections <= 4
        transport.close()


def test_a_closed_transport_says_so(open_sender: Open) -> None:
    with Peer(answer_all) as peer:
        sender = open_sender(peer.url)
        sender.send(GET)
        sender.close()
        with pytest.raises(ValueError, match="closed"):
            sender.send(GET)


@pytest.mark.parametrize(
    "url",
    [
        "ledger.example.com",
        "ftp://ledger.example.com",
        "http://",
        "http://user:pass@ledger.example.com",
        "http://ledger.example.com/?a=1",
        "http://ledger.example.com/#a",
        "http://ledger.example.com:99999",
        "http://ledger.example.com/a b",
        "http://ledger.example.com/ä",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|Port"):
        parse_endpoint(url, token=None, timeout_s=1)


@pytest.mark.parametrize("token", ["", "wl_\r\nX-Evil: 1", "wl_ü"])
def test_a_token_that_is_no_header_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="the token must be printable") as caught:
        parse_endpoint("https://h", token=token, timeout_s=1)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://h", "http://192.0.2.1:8765", "HTTP://localhost.example.com"]
)
def test_no_client_sends_its_token_unencrypted_to_another_host(url: str, tmp_path: Path) -> None:
    for make in (
        LedgerClient,
        AsyncLedgerClient,
        partial(Recorder, spool=tmp_path, policy=SmallLog([]).policy),
    ):
        with pytest.raises(ValueError, match=r"can read the token: use https://, or insecure=True"):
            make(url, TOKEN)
    LedgerClient(url, TOKEN, insecure=True).close()
    LedgerClient(url).close()
    LedgerClient("http://127.0.0.9:1", TOKEN).close()
    LedgerClient("http://[::1]", TOKEN).close()


def test_the_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(parse_endpoint("https://h", token=TOKEN, timeout_s=1))


@pytest.mark.parametrize(
    ("url", "address", "path"),
    [
        ("http://h", "http://h:80", ""),
        ("https://h/", "https://h:443", ""),
        ("http://[::1]:8765/audit/", "http://[::1]:8765", "/audit"),
    ],
)
def test_an_address_has_a_port_and_no_slash_at_its_end(url: str, address: str, path: str) -> None:
    endpoint = parse_endpoint(url, token=None, timeout_s=1)
    assert (endpoint.address, endpoint.path) == (address, path)
