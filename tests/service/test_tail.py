"""The live stream: everything that fits, once, in order, whatever breaks in between."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.proof import check_proof, parse_proof
from tests.service.serving import (
    ANSWER_WAIT_S,
    QUICK,
    Ledger,
    event,
    ledger_command,
    make_ledger,
    new_id,
    serving,
    serving_new,
)
from tests.service.streams import lines_of
from tests.waiting import until

BRISK = msgspec.structs.replace(QUICK, stream_heartbeat_s=0.1)


def events_in(lines: Iterator[str], count: int) -> list[Any]:
    """The next so many events, without the positions between them."""
    found: list[Any] = []
    while len(found) < count:
        said = json.loads(next(lines))
        if "index" in said:
            found.append(said)
    return found


def test_what_fits_is_shown_as_it_comes_in(ledger: Ledger) -> None:
    with lines_of(ledger, "/v1/events/stream?q=action:a.b") as lines:
        first = json.loads(next(lines))
        for number in range(5):
            ledger.append(event(action="a.b", reason=f"r {number}"))
            ledger.append(event(action="a.c"))
        found = events_in(lines, 5)
    assert [each["event"]["reason"] for each in found] == [f"r {number}" for number in range(5)]
    assert found[0]["index"] >= first["next"]
    alone = ledger.ask(f"/v1/events/{found[0]['index']}").json()
    assert found[0] == alone


def test_a_stream_from_the_beginning_has_everything_and_goes_on(ledger: Ledger) -> None:
    ledger.append(*[event(action="a.b") for _ in range(700)])
    with lines_of(ledger, "/v1/events/stream?q=action:a.b&from=0") as lines:
        before = events_in(lines, 700)
        ledger.append(event(action="a.b", reason="new"))
        (after,) = events_in(lines, 1)
    indices = [each["index"] for each in [*before, after]]
    assert indices == sorted(set(indices))
    assert after["event"]["reason"] == "new"


def test_a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice(ledger: Ledger) -> None:
    stop = threading.Event()

    def arrive() -> None:
        while not stop.is_set():
            ledger.append(*[event(action="a.b" if n % 2 else "a.c") for n in range(30)])

    thread = threading.Thread(target=arrive)
    thread.start()
    found: list[int] = []
    place = 0
    try:
        for _ in range(6):
            with lines_of(ledger, f"/v1/events/stream?q=action:a.b&from={place}") as lines:
                found += [each["index"] for each in events_in(lines, 40)]
            place = found[-1] + 1
    finally:
        stop.set()
        thread.join()
    everything = ledger.ask("/v1/events?q=action:a.b&order=oldest&limit=1000").json()["events"]
    assert found == [each["index"] for each in everything][: len(found)]


def test_server_sent_events_carry_ids_that_resume(ledger: Ledger) -> None:
    ledger.append(*[event(action="a.b", reason=f"r {n}") for n in range(6)])
    sse = {"accept": "text/event-stream"}

    def read(lines: Iterator[str], count: int) -> tuple[list[Any], str]:
        found: list[Any] = []
        last = ""
        while len(found) < count:
            line = next(lines)
            if line.startswith("id: "):
                last = line.removeprefix("id: ").strip()
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                assert last == str(found[-1]["index"])
        return found, last

    target = "/v1/events/stream?q=action:a.b&from=0"
    with lines_of(ledger, target, **sse) as lines:
        first, last = read(lines, 3)
    with lines_of(ledger, target, **sse, last_event_id=last) as lines:
        rest, _ = read(lines, 3)
    reasons = [each["event"]["reason"] for each in first + rest]
    assert reasons == [f"r {n}" for n in range(6)]
    refused = ledger.ask(target, last_event_id="x")
    assert refused.slug == "bad-parameter"


def test_each_event_is_proven_when_that_is_asked(ledger: Ledger) -> None:
    with lines_of(ledger, "/v1/events/stream?proof=1&from=0") as lines:
        ledger.append(*[event() for _ in range(3)])
        for each in events_in(lines, 4):
            proof = parse_proof(each["proof"])
            assert proof.leaf_index == each["index"]
            check_proof(proof, leaf_hash=leaf_hash(each["leaf"].encode()), policy=ledger.policy)


def test_a_silent_stream_says_where_it_is(tmp_path: Path) -> None:
    tokens = make_ledger(tmp_path / "ledger")
    with serving(tmp_path / "ledger", tokens, BRISK) as ledger:
        with lines_of(ledger, "/v1/events/stream?q=action:never.seen") as lines:
            places = []
            for _ in range(4):
                places.append(json.loads(next(lines))["next"])
                ledger.append(event())
        assert places == sorted(places)
        assert places[-1] > places[0]
        with lines_of(ledger, "/v1/events/stream", accept="text/event-stream") as lines:
            assert any(next(lines).startswith("id: ") for _ in range(5))


def test_a_stop_ends_the_streams_in_order(tmp_path: Path) -> None:
    tokens = make_ledger(tmp_path / "ledger")
    ended: list[str] = []
    ready = threading.Event()

    def read(ledger: Ledger) -> None:
        with lines_of(ledger, "/v1/events/stream?from=0") as lines:
            for line in lines:
                ended.append(line)
                ready.set()

    with serving(tmp_path / "ledger", tokens) as ledger:
        thread = threading.Thread(target=read, args=(ledger,))
        thread.start()
        assert ready.wait(ANSWER_WAIT_S)
        ledger.append(event(reason="the last"))
    thread.join(ANSWER_WAIT_S)
    # The chunked body ended with its last chunk, or readline would have raised.
    assert not thread.is_alive()
    assert "next" in json.loads(ended[-1])


def test_only_so_many_streams_are_open(tmp_path: Path) -> None:
    tokens = make_ledger(tmp_path / "ledger")
    settings = msgspec.structs.replace(BRISK, streams_max=2)  # One for each token.
    with serving(tmp_path / "ledger", tokens, settings) as ledger:
        with (
            lines_of(ledger, "/v1/events/stream") as one,
            lines_of(ledger, "/v1/events/stream", token="read") as other,
        ):
            next(one)
            next(other)
            refused = ledger.ask("/v1/events/stream", token="read acme")
            assert (refused.status, refused.slug) == (503, "too-busy")
            assert refused.headers["Retry-After"]
            assert "the service has 2" in refused.json()["detail"]
        deadline_s = time.monotonic() + 20
        while True:
            # A place is free again when the service has seen that its reader is gone.
            connection = http.client.HTTPConnection(urlsplit(ledger.url).netloc, timeout=20)
            connection.request(
                "GET",
                "/v1/events/stream",
                headers={"Authorization": f"Bearer {tokens['admin']}"},
            )
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                break
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def test_no_token_and_no_tenant_has_all_streams(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(BRISK, streams_max=3)
    target = "/v1/events/stream"
    with serving_new(tmp_path, settings) as ledger, ExitStack() as opened:

        def open_stream(token: str) -> None:
            next(opened.enter_context(lines_of(ledger, target, token=token)))

        def refusal(token: str) -> tuple[str, int, str]:
            refused = ledger.ask(target, token=token)
            assert refused.headers["Retry-After"]
            problem = refused.json()
            return refused.slug, problem["limit"], problem["detail"].partition(" has ")[0]

        open_stream("read")
        assert refusal("read") == ("too-busy", 1, "the token")
        assert ledger.ask(target, token="read", method="HEAD").status == 503
        open_stream("read acme")
        assert refusal("read acme") == ("too-busy", 1, "the token")
        assert refusal("admin acme") == ("too-busy", 1, "the tenant")
        for _ in range(3):  # HEAD holds no place.
            assert ledger.ask(target, method="HEAD").status == 200
        open_stream("admin")


def test_a_reader_that_takes_nothing_is_hung_up_on(tmp_path: Path) -> None:
    tokens = make_ledger(tmp_path / "ledger")
    settings = msgspec.structs.replace(BRISK, reader_wait_s=0.3, streams_max=1)
    with serving(tmp_path / "ledger", tokens, settings) as ledger:
        for _ in range(10):
            events = [event(reason="x" * 4000) for _ in range(500)]
            assert ledger.append(*events).status == 200
        parts = urlsplit(ledger.url)
        slow = socket.create_connection((parts.hostname, parts.port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(
            b"GET /v1/events/stream?from=0 HTTP/1.1\r\nHost: x\r\n"
            b"Authorization: Bearer " + tokens["admin"].encode() + b"\r\n\r\n"
        )
        until(lambda: ledger.ask("/v1/events/stream", method="HEAD").status == 200)
        slow.close()


def test_a_stream_does_not_begin_past_the_end(ledger: Ledger) -> None:
    refused = ledger.ask("/v1/events/stream?from=1000")
    assert (refused.status, refused.slug) == (400, "past-the-end")
    mistaken = ledger.ask("/v1/events/stream?q=actr:u_1")
    assert (mistaken.status, mistaken.slug) == (422, "query")


def test_a_revoked_token_ends_its_open_streams_and_no_others(ledger: Ledger) -> None:
    with (
        lines_of(ledger, "/v1/events/stream", token="read") as revoked,
        lines_of(ledger, "/v1/events/stream", token="admin") as other,
    ):
        assert "next" in json.loads(next(revoked))
        ledger_command("token", "revoke", str(ledger.directory), "read")
        # This goes on when the stream has ended; a time-out of the socket is no ConnectionError.
        with suppress(ConnectionError, http.client.HTTPException):
            list(revoked)
        ledger.append(event(action="a.b"))
        assert events_in(other, 1)[0]["event"]["action"] == "ledger.token.revoked"
    assert ledger.ask("/v1/events/stream", token="read").slug == "token-unknown"


@pytest.mark.parametrize("has_query_process", [False, True])
def test_a_revoked_token_ends_an_export_that_nobody_reads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], *, has_query_process: bool
) -> None:
    settings = msgspec.structs.replace(QUICK, query_process=has_query_process)
    with serving_new(tmp_path, settings) as ledger:
        big = [event(context={"text": "x" * 40_000}) for _ in range(100)]
        for _ in range(5):
            assert ledger.append(*[{**each, "id": new_id()} for each in big]).status == 200
        parts = urlsplit(ledger.url)
        stalled = socket.create_connection((str(parts.hostname), int(parts.port or 0)))
        head = (
            f"GET /v1/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ledger.tokens['read']}"
        )
        stalled.sendall(f"{head}\r\n\r\n".encode())
        assert stalled.recv(1)
        ledger_command("token", "revoke", str(ledger.directory), "read")
        deadline_s = time.monotonic() + 10
        said = ""
        while "reader_unauthorized" not in said:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
            said += capfd.readouterr().out
        stalled.close()
