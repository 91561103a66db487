"""Heads that a proxy may read in another way are refused; what is read of bad ones is forgotten."""

import gc
import socket
import threading
import tracemalloc
from contextlib import ExitStack, suppress

import pytest

from tests.service.serving import Ledger
from tests.service.test_http import connected, head, receive, slug

GARBAGE = b"x" * (1 << 20)
CONNECTIONS = 8


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET http://user@ledger/healthz HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET ftp://ledger/healthz HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET /healthz#part HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a/b@c d\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\n"
        b"authorization: Bearer b\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Encoding: identity\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/events HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz\r\n\r\n",
    ],
    ids=[
        *("another host", "a user", "another scheme", "a fragment", "no host", "two hosts"),
        *("two tokens", "two codings", "a coding that is not read"),
        *("chunks of HTTP/1.0", "HTTP/0.9"),
    ],
)
def test_a_head_with_two_meanings_is_refused_and_ends_the_connection(
    shared_ledger: Ledger, data: bytes
) -> None:
    with connected(shared_ledger) as peer:
        peer.sendall(data)
        assert slug(receive(peer)) == "malformed-request"
        assert peer.recv(1) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://ledger/healthz HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET HTTPS://[::1]:8765/healthz HTTP/1.1\r\nHost: [::1]:8765\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: ledger.example:80\r\nAccept: a\r\nAccept: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    ],
    ids=[
        "own host",
        "own address",
        "a repeated list",
        "an empty host",
        "HTTP/1.0",
        "HTTP/2 offered",
    ],
)
def test_an_unusual_head_with_one_meaning_is_answered(shared_ledger: Ledger, data: bytes) -> None:
    with connected(shared_ledger) as peer:
        peer.sendall(data)
        assert receive(peer)[0] == 200


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"CONNECT ledger:80 HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
    ids=["at once", "behind a request", "in a tunnel", "in another protocol"],
)
def test_what_is_not_http_leaves_no_memory_behind(shared_ledger: Ledger, start: bytes) -> None:
    _flood(shared_ledger, start)  # What is made once is made.
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(CONNECTIONS):
            _flood(shared_ledger, start)
        # The service hangs up before it forgets the connection; another answer comes after that.
        assert shared_ledger.ask("/healthz").status == 200
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert left < CONNECTIONS * len(GARBAGE) // 16


def _flood(ledger: Ledger, start: bytes) -> None:
    """Send a mebibyte that is not HTTP, and read until the service hangs up."""
    with connected(ledger) as peer, suppress(OSError):  # It may have hung up at any step.
        peer.sendall(start + GARBAGE)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(1 << 16):
            pass


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_nothing_is_read_behind_a_request_that_offers_another_protocol(
    shared_ledger: Ledger, protocol: str, *, is_streamed: bool
) -> None:
    """A proxy may send the end of one request and the begin of another client's in one piece."""
    offer = ("Connection: Upgrade", f"Upgrade: {protocol}", "Content-Length: 10")
    target = "/v1/export?q=action:none" if is_streamed else "/nothing"
    first = head(shared_ledger, *offer, method="GET", target=target)
    inner = head(shared_ledger, method="GET", target="/v1/log")
    second = head(shared_ledger, f"Content-Length: {len(inner)}")
    with connected(shared_ledger) as peer:
        peer.sendall(first + b"12345")
        # It is answered before its body is whole.
        status, headers, _ = receive(peer)
        assert status == (200 if is_streamed else 404)
        assert is_streamed or headers["connection"] == "close"
        got = bytearray()
        with suppress(ConnectionError):
            peer.sendall(b"67890" + second)
            peer.sendall(inner)
            while part := peer.recv(1 << 16):
                got += part
    assert b"HTTP/1.1" not in got


def test_requests_behind_one_another_are_still_answered(shared_ledger: Ledger) -> None:
    request = head(shared_ledger, method="GET", target="/healthz")
    with connected(shared_ledger) as peer:
        peer.sendall(request * 3)
        answered = b""
        while answered.count(b'{"status":"ok"}') < 3:
            part = peer.recv(1 << 16)
            assert part, answered
            answered += part


def large_head(fields: int, *, is_whole: bool) -> bytes:
    """A head with so many headers of 4 KiB."""
    lines = [b"X-%d: " % number + b"x" * 4_090 + b"\r\n" for number in range(fields)]
    return b"".join([b"GET /healthz HTTP/1.1\r\nHost: a\r\n", *lines, b"\r\n" * is_whole])


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("fields", [9, 16, 100])
def test_a_head_with_too_many_bytes_is_refused(
    shared_ledger: Ledger, fields: int, *, is_whole: bool
) -> None:
    with connected(shared_ledger) as peer:
        with suppress(ConnectionError):
            peer.sendall(large_head(fields, is_whole=is_whole))
        assert slug(receive(peer)) == "header-too-long"
        with suppress(ConnectionError):
            assert peer.recv(1) == b""


def test_large_heads_and_many_requests_within_the_limit_are_answered(
    shared_ledger: Ledger,
) -> None:
    request = large_head(7, is_whole=True)
    small = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with connected(shared_ledger) as peer:
        # Behind one another, in one piece, and cut within a head.
        data = request * 5 + small * 3_000 + request[:20_000]
        sender = threading.Thread(target=peer.sendall, args=(data,))
        sender.start()
        got = bytearray()
        for count in (3_005, 3_006):
            while got.count(b"HTTP/1.1 200 OK") < count:
                got += (part := peer.recv(1 << 16))
                assert part, got[-1_000:]
            sender.join()
            peer.sendall(request[20_000:])


def test_half_heads_leave_memory_to_the_others(shared_ledger: Ledger) -> None:
    with ExitStack() as opened:
        peers = [opened.enter_context(connected(shared_ledger)) for _ in range(CONNECTIONS)]
        gc.collect()
        tracemalloc.start()
        try:
            for peer in peers:
                with suppress(ConnectionError):
                    peer.sendall(large_head(100, is_whole=False))
            # Each is answered at once, so all that it holds is held now.
            for peer in peers:
                assert slug(receive(peer)) == "header-too-long"
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # What this test itself made is one head at a time, of 400 KiB.
    assert peak < CONNECTIONS * 400 * 1024
