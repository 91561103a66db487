"""HTTP itself, byte for byte: what is malformed, too large, too slow, or asked with HEAD."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from ledger.service.routes import ROUTES
from tests.service.check_log import check_ledger
from tests.service.serving import (
    ANSWER_WAIT_S,
    JSON,
    QUICK,
    Ledger,
    event,
    serving_new,
)

BODY = json.dumps(event()).encode()


@contextmanager
def connected(ledger: Ledger) -> Iterator[socket.socket]:
    """A connection to the service, to say anything on."""
    parts = urlsplit(ledger.url)
    address = (str(parts.hostname), int(parts.port or 0))
    with closing(socket.create_connection(address, timeout=ANSWER_WAIT_S)) as peer:
        yield peer


def head(ledger: Ledger, *lines: str, method: str = "POST", target: str = "/v1/events") -> bytes:
    """The head of a request with a token."""
    fixed = (
        f"{method} {target} HTTP/1.1",
        "Host: ledger",
        f"Authorization: Bearer {ledger.tokens['admin']}",
        f"Content-Type: {JSON}",
    )
    return "\r\n".join((*fixed, *lines, "", "")).encode()


def receive(peer: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One whole answer: status, headers in lower case, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = peer.recv(1 << 16)
        assert part, data
        data += part
    top, _, body = data.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += peer.recv(1 << 16)
    return int(first.split(" ")[1]), headers, body


def slug(answer: tuple[int, dict[str, str], bytes]) -> str:
    """The kind of problem of a raw answer."""
    status, headers, body = answer
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == status
    return str(problem["type"].partition("#")[2])


@pytest.mark.parametrize(
    "data",
    [
        b"who goes there\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["no request", "no header", "a negative length", "two lengths", "TLS"],
)
def test_what_is_not_http_gets_a_problem_document(shared_ledger: Ledger, data: bytes) -> None:
    with connected(shared_ledger) as peer:
        peer.sendall(data)
        assert slug(receive(peer)) == "malformed-request"
        assert peer.recv(1) == b""


@pytest.mark.parametrize(
    ("data", "status", "problem", "limit"),
    [
        (b"GET /" + b"x" * 8190 + b" HTTP/1.1", 414, "target-too-long", 8190),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 8192, 431, "header-too-long", 8192),
        (b"GET / HTTP/1.1\r\nX: /" + b"x" * 20_000, 431, "header-too-long", 8192),
        (b"GET / HTTP/1.1" + b"\r\nX: x" * 200, 431, "header-too-long", 128),
    ],
    ids=["the path", "a header", "a header that looks like a path", "many headers"],
)
def test_a_head_that_is_too_long_is_told_the_limit(
    shared_ledger: Ledger, data: bytes, status: int, problem: str, limit: int
) -> None:
    with connected(shared_ledger) as peer:
        peer.sendall(data + b"\r\nHost: a\r\n\r\n")
        answer = receive(peer)
    assert (answer[0], slug(answer), json.loads(answer[2])["limit"]) == (status, problem, limit)


def test_half_a_head_is_cut_and_an_idle_connection_stays(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = msgspec.structs.replace(QUICK, head_wait_s=0.2)
    with serving_new(tmp_path, settings) as ledger, connected(ledger) as idle:
        request = head(ledger, f"Content-Length: {len(BODY)}") + BODY
        for part in (request[:40], request[40:-20], request[-20:]):
            idle.sendall(part)
        assert receive(idle)[0] == 200
        with connected(ledger) as slow:
            # After a whole request too, and however often a byte more is sent.
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert receive(slow)[0] == 200
            slow.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            slow.settimeout(0.05)
            deadline_s = time.monotonic() + ANSWER_WAIT_S
            while True:
                assert time.monotonic() < deadline_s
                try:
                    slow.sendall(b"x")
                    if slow.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert receive(idle)[0] == 200
    assert "head_too_slow" in capfd.readouterr().out


def test_a_method_that_a_path_does_not_take_is_told_which_it_does(shared_ledger: Ledger) -> None:
    answer = shared_ledger.ask("/v1/events", method="DELETE")
    assert (answer.status, answer.slug) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    answer = shared_ledger.ask("/checkpoint", method="POST", body=b"")
    assert answer.headers["Allow"] == "GET, HEAD"


STREAMED = ("/v1/events/stream", "/v1/export")
"""One has no end, and the other no length before it."""


def test_head_answers_like_get_without_a_body(shared_ledger: Ledger) -> None:
    shared_ledger.append(event())
    query = {"/v1/proofs/inclusion": "?index=0", "/v1/proofs/consistency": "?from=1"}
    targets = [
        route.path + query.get(route.path, "")
        for route in ROUTES
        if route.method == "GET" and "{" not in route.path and route.path not in STREAMED
    ]
    for target in [*targets, "/v1/events/0", "/tile/0/000.p/1", "/tile/entries/000.p/1", "/none"]:
        got, asked, again = (
            shared_ledger.ask(target, method=method) for method in ("GET", "HEAD", "GET")
        )
        assert asked.status == got.status
        assert asked.body == b""
        for name in ("Content-Type", "Content-Length", "Cache-Control"):
            # A search says how long it took, counters count, and the head moves on by itself.
            if name == "Content-Length" and target in ("/v1/events", "/metrics"):
                continue
            if got.headers[name] == again.headers[name]:
                assert asked.headers[name] == got.headers[name], (target, name)


def test_head_of_a_stream_is_its_headers_alone(shared_ledger: Ledger) -> None:
    for target in STREAMED:
        asked = shared_ledger.ask(target, method="HEAD")
        assert (asked.status, asked.body) == (200, b"")


def test_several_requests_share_a_connection(shared_ledger: Ledger) -> None:
    with connected(shared_ledger) as peer:
        for _ in range(3):
            body = json.dumps(event()).encode()
            peer.sendall(head(shared_ledger, f"Content-Length: {len(body)}") + body)
            assert receive(peer)[0] == 200
        peer.sendall(head(shared_ledger, "Content-Length: 1") + b"{")
        assert slug(receive(peer)) == "not-json"
        peer.sendall(head(shared_ledger, method="GET", target="/healthz"))
        assert receive(peer)[0] == 200


def test_a_body_in_chunks_is_read(shared_ledger: Ledger) -> None:
    body = json.dumps(event()).encode()
    with connected(shared_ledger) as peer:
        peer.sendall(head(shared_ledger, "Transfer-Encoding: chunked"))
        for byte in body:
            peer.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
        peer.sendall(b"0\r\n\r\n")
        assert receive(peer)[0] == 200


def test_an_expected_continue_is_sent_before_the_body_is_read(shared_ledger: Ledger) -> None:
    body = json.dumps(event()).encode()
    with connected(shared_ledger) as peer:
        lines = ("Expect: 100-continue", f"Content-Length: {len(body)}")
        peer.sendall(head(shared_ledger, *lines))
        assert receive(peer) == (100, {}, b"")
        peer.sendall(body)
        assert receive(peer)[0] == 200


def test_a_client_of_http_1_0_gets_one_answer_whatever_it_expects(shared_ledger: Ledger) -> None:
    body = json.dumps(event()).encode()
    with connected(shared_ledger) as peer:
        lines = ("Expect: 100-continue", f"Content-Length: {len(body)}")
        sent = head(shared_ledger, *lines).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")
        peer.sendall(sent + body[:1])
        peer.sendall(body[1:])
        assert receive(peer)[0] == 200


def test_a_body_that_will_be_refused_is_not_asked_for(shared_ledger: Ledger) -> None:
    for lines, expected in (
        (("Expect: 100-continue", "Content-Length: 999999999"), "body-too-large"),
        (("Expect: 200-ok", "Content-Length: 5"), "expectation-failed"),
    ):
        with connected(shared_ledger) as peer:
            peer.sendall(head(shared_ledger, *lines))
            assert slug(receive(peer)) == expected


def test_an_identity_encoding_is_none(shared_ledger: Ledger) -> None:
    answer = shared_ledger.ask(
        "/v1/events",
        method="POST",
        body=json.dumps(event()).encode(),
        content_type="Application/JSON; Charset=UTF-8",
        content_encoding="identity",
    )
    assert answer.status == 200


@pytest.fixture
def strict_ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with small limits."""
    settings = msgspec.structs.replace(QUICK, request_bytes_max=2000, body_wait_s=0.3)
    with serving_new(tmp_path, settings) as ledger:
        yield ledger
        checked = check_ledger(ledger)
        assert checked.size == len(ledger.tokens)


def test_a_body_is_too_large_by_its_length_or_by_its_bytes(strict_ledger: Ledger) -> None:
    by_length = strict_ledger.ask("/v1/events", method="POST", body=b"x" * 2001, content_type=JSON)
    assert (by_length.status, by_length.slug) == (413, "body-too-large")
    assert (by_length.json()["limit"], by_length.json()["got"]) == (2000, 2001)
    with connected(strict_ledger) as peer:
        peer.sendall(head(strict_ledger, "Transfer-Encoding: chunked"))
        for _ in range(3):
            peer.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert slug(receive(peer)) == "body-too-large"
    with connected(strict_ledger) as peer:
        chunk = b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n"
        peer.sendall(head(strict_ledger, "Transfer-Encoding: chunked") + chunk)
        assert slug(receive(peer)) == "body-too-large"


def test_a_body_that_does_not_come_is_given_up(strict_ledger: Ledger) -> None:
    with connected(strict_ledger) as peer:
        peer.sendall(head(strict_ledger, "Content-Length: 100") + b'{"action":')
        answer = receive(peer)
        assert slug(answer) == "body-too-slow"
        assert answer[1]["connection"] == "close"


def test_a_body_with_a_broken_chunk_is_refused(strict_ledger: Ledger) -> None:
    with connected(strict_ledger) as peer:
        peer.sendall(head(strict_ledger, "Transfer-Encoding: chunked") + b"5\r\n{}\r\nzz\r\n")
        assert slug(receive(peer)) in ("body-cut-short", "malformed-request")


def test_a_peer_that_leaves_in_the_middle_of_a_body_leaves_nothing(strict_ledger: Ledger) -> None:
    for _ in range(5):
        with connected(strict_ledger) as peer:
            peer.sendall(head(strict_ledger, "Content-Length: 1500") + BODY)
    time.sleep(0.05)
    assert strict_ledger.ask("/readyz").status == 200
