"""Bodies and answers in flight are counted in bytes, in all and by token."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from ledger.service.http.in_flight import InFlight
from ledger.service.http.problems import ProblemError
from tests.service.serving import QUICK, Ledger, event, serving_new
from tests.waiting import until

LIMITED = replace(
    QUICK,
    in_flight_bytes_max=40_000_000,
    in_flight_bytes_per_token_max=3_000_000,
    requests_per_token_max=50,
)
WAIT_S = 120.0


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("limited"), LIMITED) as ledger:
        yield ledger


def _connect(ledger: Ledger, head: str, *, token: str, sent: bytes = b"") -> socket.socket:
    parts = urlsplit(ledger.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(WAIT_S)
    connection.connect((parts.hostname, parts.port))
    fields = f"Host: a\r\nAuthorization: Bearer {ledger.tokens[token]}\r\n"
    connection.sendall(f"{head} HTTP/1.1\r\n{fields}".encode() + sent)
    return connection


def test_limits_hold_in_all_and_by_owner_and_are_given_back() -> None:
    counted = InFlight("bytes", most=100, most_per_owner=60)
    with counted.lease("a") as take, counted.lease("a") as more, counted.lease("b") as others:
        take(500)  # Alone, whatever its size.
        for refused in (more, others):
            with pytest.raises(ProblemError) as caught:
                refused(1)
            assert caught.value.problem.slug == "too-busy"
            assert caught.value.headers["Retry-After"] == "1"
    assert counted.used == 0
    with counted.lease("a") as take, counted.lease("a") as more, counted.lease("b") as others:
        take(40)
        more(20)
        others(40)
        for refused in (take, more, others):
            with pytest.raises(ProblemError):
                refused(1)


def test_callers_without_a_token_leave_most_to_the_others() -> None:
    counted = InFlight("bytes", most=100, most_per_owner=60)
    with ExitStack() as opened:
        strangers = [
            opened.enter_context(counted.lease(f"address {each}", is_stranger=True))
            for each in range(6)
        ]
        for take in strangers[:5]:
            take(5)
        for take in strangers:
            with pytest.raises(ProblemError):
                take(1)
        token = opened.enter_context(counted.lease("a"))
        token(60)
        assert counted.used == 85
    assert counted.used == 0
    with counted.lease("address 1", is_stranger=True) as take:
        take(500)  # Alone, whatever its size.


def test_half_bodies_of_strangers_leave_room_for_appends(tmp_path: Path) -> None:
    settings = replace(QUICK, in_flight_bytes_max=400_000, in_flight_bytes_per_token_max=100_000)
    with serving_new(tmp_path, settings) as ledger, ExitStack() as opened:
        parts = urlsplit(ledger.url)
        port = int(parts.port or 0)
        for host in range(2, 8):
            peer = opened.enter_context(socket.socket())
            peer.bind((f"127.0.0.{host}", 0))
            peer.connect((parts.hostname, port))
            peer.settimeout(WAIT_S)
            peer.sendall(
                b"POST /v1/checkpoints HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n"
                b"Content-Type: text/plain\r\n\r\n" + b"x" * 80_000
            )
        until(lambda: not ("ledger_bytes_in_flight 80000" not in ledger.ask("/metrics").text))
        for _ in range(5):
            assert ledger.append(*[event(reason="x" * 1_000) for _ in range(80)]).status == 200


def test_unfinished_bodies_take_bounded_memory(limited: Ledger) -> None:
    part = b"Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n" + b" " * 1_000_000
    with ExitStack() as opened:
        readers = [
            opened.enter_context(_connect(limited, "POST /v1/events", token="append", sent=part))
            for _ in range(5)
        ]
        # Two or three fit; the others are refused before they are complete.
        refused = 0
        deadline_s = time.monotonic() + WAIT_S
        while refused < 2 and time.monotonic() < deadline_s:
            for reader in readers:
                reader.settimeout(0.05)
                try:
                    refused += reader.recv(4096).startswith(b"HTTP/1.1 503")
                except TimeoutError:
                    continue
        assert refused >= 2
        # Another token is not affected.
        assert limited.append(event()).status == 200
    assert limited.append(event(), token="append").status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("has_query_process", [False, True])
def test_unread_answers_take_bounded_memory(
    tmp_path: Path, method: str, *, has_query_process: bool
) -> None:
    with serving_new(tmp_path, replace(LIMITED, query_process=has_query_process)) as ledger:
        _check_unread(ledger, method)


def _check_unread(limited: Ledger, method: str) -> None:
    big = "x" * 50_000
    events = [event(context={"text": big}) for _ in range(100)]
    assert limited.append(*events).status == 200
    target = "/v1/events?q=action:record.viewed&limit=100"
    whole = limited.ask(target, token="read")
    assert len(json.loads(whole.body)["events"]) == 100
    head, sent = f"GET {target}", b"\r\n"
    if method == "POST":
        head, body = "POST /v1/search", b'{"query":"action:record.viewed","limit":100}'
        sent = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(_connect(limited, head, token="read", sent=sent))
        deadline_s = time.monotonic() + WAIT_S
        while (answer := limited.ask(target, token="read")).status == 200:
            assert time.monotonic() < deadline_s
        assert (answer.status, answer.slug) == (503, "too-busy")
        assert limited.ask(target).status == 200, "another token has its own share"
    deadline_s = time.monotonic() + WAIT_S
    while limited.ask(target, token="read").status != 200:
        assert time.monotonic() < deadline_s


def test_a_token_has_so_many_requests_at_once(tmp_path: Path) -> None:
    settings = replace(LIMITED, requests_per_token_max=2)
    with serving_new(tmp_path, settings) as ledger, ExitStack() as opened:
        for _ in range(2):
            stream = opened.enter_context(
                _connect(ledger, "GET /v1/events/stream", token="read", sent=b"\r\n")
            )
            assert stream.recv(12) == b"HTTP/1.1 200"
        assert ledger.ask("/v1/events", token="read").slug == "too-busy"
        assert ledger.ask("/v1/events").status == 200
