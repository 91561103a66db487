"""Chunked bodies: many small chunks, or little data in them, take no time from others."""

import json
import socket
from contextlib import suppress

import pytest

from ledger.runtime.chunk_limits import CHUNK_BYTES_MIN, CHUNKS_FREE, OVERHEAD_MAX
from tests.service.serving import NDJSON, Ledger, event
from tests.service.test_http import connected, head, receive, slug

END = b"0\r\n\r\n"
BYTE = b"1\r\n \r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: ledger\r\n"
CHUNKED = "Transfer-Encoding: chunked"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def is_closed(peer: socket.socket) -> bool:
    """Whether the service has ended the connection, with an answer before that or without one."""
    with suppress(ConnectionError):
        while peer.recv(1 << 16):
            pass
    return True


@pytest.mark.parametrize(
    "body",
    [
        BYTE * (CHUNKS_FREE * 2),
        b"1;extension=1\r\n \r\n" * (CHUNKS_FREE * 2),
        (b"1;" + b"e" * 60_000 + b"\r\n \r\n") * (OVERHEAD_MAX // 60_000 + 8),
    ],
    ids=["small", "small with extensions", "long extensions"],
)
def test_a_body_of_too_little_data_is_refused_before_its_end(
    shared_ledger: Ledger, body: bytes
) -> None:
    with connected(shared_ledger) as peer:
        # Its end never comes.
        peer.sendall(head(shared_ledger, CHUNKED) + body)
        answer = receive(peer)
        assert slug(answer) == "malformed-request"
        assert b"send larger chunks" in answer[2]
        assert is_closed(peer)


def test_small_chunks_of_somebody_without_a_token_end_the_connection(
    shared_ledger: Ledger,
) -> None:
    before = shared_ledger.ask("/healthz", token=None)
    assert before.status == 200
    with connected(shared_ledger) as peer:
        peer.sendall(HEALTH + f"{CHUNKED}\r\n\r\n".encode() + BYTE)
        assert receive(peer)[0] == 200  # It does not wait for the body.
        with suppress(ConnectionError):
            peer.sendall(BYTE * (CHUNKS_FREE * 2))
        assert is_closed(peer)


def test_small_chunks_of_many_requests_are_counted_together(shared_ledger: Ledger) -> None:
    request = HEALTH + f"{CHUNKED}\r\n\r\n".encode() + BYTE * 50 + END
    with connected(shared_ledger) as peer:
        answered = 0
        with suppress(ConnectionError, AssertionError):
            for _ in range(CHUNKS_FREE):
                peer.sendall(request)
                answered += receive(peer)[0] == 200
        assert CHUNKS_FREE // 60 < answered < CHUNKS_FREE // 25
        assert is_closed(peer)


def test_chunks_of_one_event_each_are_read(shared_ledger: Ledger) -> None:
    events = [json.dumps(event()).encode() + b"\r\n" for _ in range(CHUNKS_FREE * 4)]
    assert len(chunk(events[0])) > CHUNK_BYTES_MIN
    with connected(shared_ledger) as peer:
        for _ in range(2):
            top = head(shared_ledger, CHUNKED).replace(b"application/json", NDJSON.encode())
            peer.sendall(top + b"".join(map(chunk, events)) + END)
            status, _, body = receive(peer)
            assert status == 200
            assert len(json.loads(body)["results"]) == len(events)


def test_lines_in_a_chunk_are_no_chunks(shared_ledger: Ledger) -> None:
    text = json.dumps([event() for _ in range(300)], indent=1).replace("\n", "\r\n").encode()
    text = b"\r\n" * (CHUNKS_FREE * 2) + text
    with connected(shared_ledger) as peer:
        peer.sendall(head(shared_ledger, CHUNKED) + chunk(text) + END)
        assert receive(peer)[0] == 200
