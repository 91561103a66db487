"""The application goes on whatever the ledger does; while the spool has room, nothing is lost.

Each test records while something is wrong with the ledger, sees that `record` returned and that
nothing was freed, and then puts a good ledger at the same address.
"""

import datetime as dt
import json
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ledger_client import Recorder
from tests.client.peer import Peer, Script, Talk
from tests.files import files_below
from tests.recording.conftest import OpenRecorder, Running, numbers
from tests.recording.relay import relay
from tests.service.serving import make_ledger, serving
from tests.waiting import until

EVENTS = 20


def answering(status: int, body: bytes = b"", *headers: str) -> Script:
    def script(talk: Talk) -> None:
        while True:
            talk.read_request()
            talk.answer(status, body, *headers)

    return script


def busy_once(talk: Talk) -> None:
    talk.read_request()
    talk.answer(503, b"", "Connection: close")


def silent(talk: Talk) -> None:
    talk.wait_until_client_leaves()


def resetting(talk: Talk) -> None:
    talk.read_request()
    talk.reset()


def not_http(talk: Talk) -> None:
    talk.read_request()
    talk.say(b"SSH-2.0-OpenSSH_9.6\r\n")


PROBLEM = b'{"type":"/v1/problems#%b","title":"no","status":%d,"detail":"no"}'
BAD: dict[str, Script] = {
    "it is silent": silent,
    "it resets": resetting,
    "it speaks another protocol": not_http,
    "its proxy answers with a page": answering(200, b"<html>Welcome</html>"),
    "it answers with an empty object": answering(200, b"{}"),
    "it answers with fewer results": answering(200, b'{"results":[]}'),
    "it says 503": answering(503, PROBLEM % (b"queue-full", 503), "Retry-After: 0"),
    "it is full": answering(507, PROBLEM % (b"storage-full", 507)),
    "it has a fault": answering(500, b"Internal Server Error"),
    "its proxy has no route": answering(404, b"not found"),
    "its proxy refuses each request": answering(403, b"forbidden"),
    "the token was revoked": answering(401, PROBLEM % (b"token-unknown", 401)),
    "it wants a payment": answering(402, b""),
    "it redirects": answering(302, b"", "Location: http://127.0.0.1:1/"),
}


@pytest.fixture
def recorded_later(running: Running, name: str, tmp_path: Path) -> Iterator[list[int]]:
    """At the end a new recorder on the folder brings what is there to the good ledger."""
    expected: list[int] = []
    yield expected
    recorder = Recorder(
        running.url, running.token, spool=tmp_path / "spool", policy=running.policy, linger_s=0.01
    )
    until(lambda: not any(files_below(tmp_path / "spool", ".segment")))
    recorder.close()
    (found,) = numbers(running.recorded(name)).values()
    assert found == expected


@pytest.mark.parametrize("script", BAD.values(), ids=BAD.keys())
def test_nothing_is_lost_while(
    open_recorder: OpenRecorder,
    recorded_later: list[int],
    script: Script,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Peer(script) as peer, caplog.at_level(logging.WARNING):
        recorder = open_recorder(url=peer.url, timeout_s=0.3)
        for _ in range(EVENTS):
            assert recorder.record("a.b") is not None
        until(lambda: recorder.status.failures >= 3)
        assert not recorder.flush(0.5)
        status = recorder.status
        assert (status.recorded, status.sent, status.rejected) == (EVENTS, 0, 0)
        assert status.spooled_bytes > EVENTS * 100
        assert status.last_failure is not None
        assert not recorder.close(0.1)
    assert caplog.text.count("recorder_cannot_send") == 1
    recorded_later[:] = range(1, EVENTS + 1)


def test_nothing_is_lost_while_it_is_down(
    open_recorder: OpenRecorder, recorded_later: list[int]
) -> None:
    recorder = open_recorder(url="http://127.0.0.1:1")
    for _ in range(EVENTS):
        assert recorder.record("a.b") is not None
    until(lambda: recorder.status.failures >= 2)
    assert not recorder.close(0.1)
    recorded_later[:] = range(1, EVENTS + 1)


def test_nothing_is_lost_while_its_certificate_has_expired(
    open_recorder: OpenRecorder, recorded_later: list[int], tmp_path: Path
) -> None:
    server, trusting = expired_certificate(tmp_path)
    with Peer(answering(200, b"{}"), tls=server) as peer:
        recorder = open_recorder(url=peer.url, tls=trusting)
        for _ in range(EVENTS):
            assert recorder.record("a.b") is not None
        until(lambda: recorder.status.failures >= 2)
        assert "certificate" in str(recorder.status.last_failure)
        assert peer.requests == []
        assert not recorder.close(0.1)
    recorded_later[:] = range(1, EVENTS + 1)


def test_nothing_is_lost_while_it_answers_slowly(
    open_recorder: OpenRecorder, recorded_later: list[int]
) -> None:
    def dripping(talk: Talk) -> None:
        talk.read_request()
        while True:
            talk.say(b"H")
            talk.sock.settimeout(0.05)
            try:
                if not talk.sock.recv(1):
                    return
            except TimeoutError:
                continue

    with Peer(dripping) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=0.3)
        for _ in range(EVENTS):
            assert recorder.record("a.b") is not None
        until(lambda: recorder.status.failures >= 2)
        assert not recorder.close(0.1)
    recorded_later[:] = range(1, EVENTS + 1)


def test_the_ledger_of_another_key_is_not_believed(
    open_recorder: OpenRecorder,
    recorded_later: list[int],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("other") / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as other:
        recorder = open_recorder(url=other.url, token=tokens["append"])
        for _ in range(EVENTS):
            recorder.record("a.b")
        until(lambda: recorder.status.failures >= 2)
        assert recorder.status.sent == 0
        assert recorder.status.spooled_bytes > EVENTS * 100
        assert not recorder.close(0.1)
    recorded_later[:] = range(1, EVENTS + 1)


def test_when_it_is_back_the_recorder_sends_again_by_itself(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    good = relay(running.url, lambda _: None)
    with Peer(not_http, resetting, busy_once, good) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5)
        recorder.record("a.b")
        until(lambda: recorder.status.failures >= 1)
        recorder.record("a.b")
        assert recorder.flush(30)
        assert recorder.status.failures == 0
        assert recorder.status.last_failure is None
    assert numbers(running.recorded(name)) == {recorder.status.instance: [1, 2]}


def test_an_event_that_something_on_the_way_refuses_does_not_hold_up_the_others(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    def block(request: bytes) -> tuple[int, bytes] | None:
        return (403, b"blocked") if b"<script>" in request else None

    with Peer(relay(running.url, block)) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5)
        for number in range(10):
            recorder.record("a.b", reason="<script>" if number == 4 else "fine")
        assert recorder.flush(30)
        until(lambda: len(running.recorded(name)) == 10)
    *events, notice = running.recorded(name)
    assert sorted(event["recorder"]["seq"] for event in events) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert notice["context"]["rejected"]["recorder"]["seq"] == 5
    assert "<script>" not in (tmp_path / "spool" / "dead-letter.jsonl").read_text()


def firewall(request: bytes) -> tuple[int, bytes] | None:
    return (403, b"blocked") if b"<script>" in request else None


def page(request: bytes) -> tuple[int, bytes] | None:
    """Some firewalls answer 200, with a page."""
    return (200, b"<html>rejected</html>") if b"<script>" in request else None


@pytest.mark.parametrize("block", [firewall, page])
def test_the_last_event_of_a_recorder_that_is_gone_may_be_the_refused_one(
    block: Callable[[bytes], tuple[int, bytes] | None],
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
) -> None:
    gone = tmp_path / "gone"
    with Recorder(
        "http://127.0.0.1:1", "t", spool=gone, policy=running.policy, actor="u", tenant=name
    ) as first:
        for number in range(20):
            first.record("a.b", reason="<script>" if number in (7, 18, 19) else "fine")
        first.close(0)
    with Peer(relay(running.url, block)) as peer:
        # The number of events in a request must shrink though those of others go through.
        recorder = open_recorder(url=peer.url, spool=gone, timeout_s=5, linger_s=0.0)
        count = 0
        while recorder.status.rejected < 3 and count < 400:
            count += 1
            recorder.record("c.d", reason="fine")
            assert recorder.flush(30)
        assert recorder.flush(30)
    found = running.recorded(name)
    assert len([each for each in found if each["action"] == "c.d"]) == count
    assert len([each for each in found if each["action"] == "a.b"]) == 17
    refused = [
        each["context"]["rejected"]["recorder"]["seq"]
        for each in found
        if "rejected" in str(each.get("context"))
    ]
    assert sorted(refused) == [8, 19, 20]


def test_a_proxy_that_takes_every_request_for_too_large_has_no_event_given_up(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    bytes_max = [0]

    def block(request: bytes) -> tuple[int, bytes] | None:
        body = request.partition(b"\r\n\r\n")[2]
        return (413, b"<html>") if len(body) > bytes_max[0] else None

    with Peer(relay(running.url, block)) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5, linger_s=0.0)
        for number in range(4):
            recorder.record("a.b", reason="x" * 3_000 if number in (1, 2) else "fine")
        assert not recorder.flush(2)
        until(lambda: recorder.status.failures >= 4)
        assert recorder.status.rejected == 0
        # It has a limit after all, and two events in a row exceed it.
        bytes_max[0] = 2_000
        assert recorder.flush(60)
        until(lambda: recorder.status.rejected == 2)
        assert recorder.flush(60)
    letters = (tmp_path / "spool" / "dead-letter.jsonl").read_text().splitlines()
    assert [json.loads(each)["event"]["recorder"]["seq"] for each in letters] == [2, 3]
    assert {1, 4} <= {event["recorder"]["seq"] for event in running.recorded(name)}


def expired_certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of last year, and a client's that trusts its issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=400))
        .not_valid_after(now - dt.timedelta(days=35))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    trusting = ssl.create_default_context(cafile=str(folder / "server.pem"))
    return server, trusting
