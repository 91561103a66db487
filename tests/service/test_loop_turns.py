"""Small requests that cost much: one of a token at a time, and counted while they are in work.

Before, 200 requests of kilobytes that hold 32 MiB of zstd, or thousands of empty events, kept all
other clients waiting for ten seconds.
"""

import asyncio
import gzip
import json
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from ledger.runtime.connections import LimitedConnection
from ledger.runtime.loop_turns import PLACES, LoopTurns
from ledger.service import query_pool
from ledger.service.app import open_service, serve
from ledger.service.http import body_reader
from ledger.service.http.content_encoding import decode_body
from ledger.service.http.in_flight import STRANGERS
from ledger.service.ingest import IngestPipeline
from tests.service.serving import (
    JSON,
    QUICK,
    Answer,
    event,
    ledger_command,
    make_ledger,
    serving,
    serving_new,
)
from tests.waiting import until

GREEDY = 6
ALL = GREEDY + 1
WAIT_S = 60.0

OTLP_LOGS = {
    "resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "a"}}] * 3}]}]
}


class _AtWork:
    """Counts the requests whose bodies are there, and those at work at the same time by owner."""

    def __init__(self, patch: pytest.MonkeyPatch, *, owners: int) -> None:
        self.most: Counter[str] = Counter()
        self.most_in_all = 0
        self._owners = owners
        self._are_all_there = asyncio.Event()
        self._arrived = 0
        self._now: Counter[str] = Counter()
        self._begun: set[str] = set()
        read_encoded = body_reader._read_encoded

        async def arrive(*arguments: Any, **named: Any) -> bytes:
            body = await read_encoded(*arguments, **named)
            self._arrived += 1
            self._look()
            return body

        patch.setattr(body_reader, "_read_encoded", arrive)

    def _look(self) -> None:
        if self._arrived == ALL and len(self._begun) == self._owners:
            self._are_all_there.set()

    async def run(self, owner: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do the work once all requests are there, and each owner has begun."""
        self._begun.add(owner)
        self._now[owner] += 1
        self._look()
        async with asyncio.timeout(WAIT_S):
            await self._are_all_there.wait()
        for _ in range(10):  # Others that may begin have begun then.
            await asyncio.sleep(0)
        self.most |= self._now
        self.most_in_all = max(self.most_in_all, self._now.total())
        try:
            return await work()
        finally:
            self._now[owner] -= 1


def _send_all(folder: Path, path: str, body: bytes, **headers: str) -> list[int]:
    """All requests at once, `GREEDY` of one token and one of another; their status."""
    with serving_new(folder) as ledger, ThreadPoolExecutor(ALL) as pool:

        def send(token: str) -> int:
            return ledger.ask(
                path, method="POST", body=body, token=token, content_type=JSON, **headers
            ).status

        return [*pool.map(send, ("append",) * GREEDY + ("admin",))]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/events", [event() for _ in range(9)]),
        ("/v1/events", event(context={"a": "b" * 2_000})),
        ("/v1/otlp/v1/logs", OTLP_LOGS),
    ],
    ids=["a batch", "a long event", "records"],
)
def test_small_appends_of_a_token_are_read_one_after_another_beside_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sent: Any
) -> None:
    at_work = _AtWork(monkeypatch, owners=2)
    read = IngestPipeline._read

    async def noted(ingest: IngestPipeline, *arguments: Any, by: str) -> Any:
        if by not in ("append", "admin"):
            return await read(ingest, *arguments, by=by)
        return await at_work.run(by, lambda: read(ingest, *arguments, by=by))

    monkeypatch.setattr(IngestPipeline, "_read", noted)
    assert _send_all(tmp_path, path, json.dumps(sent).encode()) == [200] * ALL
    assert at_work.most == {"append": 1, "admin": 1}
    assert at_work.most_in_all == 2


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/events", [event()]),
        ("/v1/otlp/v1/logs", OTLP_LOGS),
    ],
)
def test_compressed_bodies_of_a_token_are_decoded_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sent: Any
) -> None:
    at_work = _AtWork(monkeypatch, owners=1)
    decode = decode_body

    async def noted(*arguments: Any, **named: Any) -> Any:
        return await at_work.run("all", lambda: decode(*arguments, **named))

    monkeypatch.setattr(body_reader, "decode_body", noted)
    body = gzip.compress(json.dumps(sent).encode())
    statuses = _send_all(tmp_path, path, body, content_encoding="gzip")
    assert statuses == [200] * ALL
    assert 1 <= at_work.most_in_all <= 2


@pytest.mark.anyio
async def test_a_turn_that_is_not_waited_for_any_more_is_given_back() -> None:
    turns = LoopTurns()
    order: list[str] = []

    async def work(owner: str) -> None:
        async with turns.turn(owner):
            order.append(owner)
            await asyncio.sleep(0)

    async with turns.turn("a"):
        waiting = [asyncio.create_task(work("a")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        others = [asyncio.create_task(work(f"o{number}")) for number in range(PLACES)]
        await asyncio.gather(*others)
        assert order == [f"o{number}" for number in range(PLACES)]
    await asyncio.gather(*waiting[1:])
    assert order[PLACES:] == ["a", "a"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/search", {"limit": 0}),
        ("/v1/values", {"field": "actor"}),
        ("/v1/queries", {"name": "a"}),
    ],
)
def test_a_query_in_a_body_counts_until_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any]
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    ask_process = query_pool.QueryClient._ask

    async def held(*arguments: Any) -> Any:
        begun.release()
        await asyncio.to_thread(go_on.wait, WAIT_S)
        return await ask_process(*arguments)

    monkeypatch.setattr(query_pool.QueryClient, "_ask", held)
    query = " ".join(["a", "\U0001f600"] * 20_000)
    settings = msgspec.structs.replace(QUICK, in_flight_bytes_per_token_max=len(query) * 10)
    with serving_new(tmp_path, settings) as ledger, ThreadPoolExecutor(3) as pool:

        def ask(text: str, token: str = "read") -> Answer:
            body = json.dumps({"query": text, **fields}).encode()
            return ledger.ask(path, method="POST", body=body, token=token, content_type=JSON)

        first = pool.submit(ask, query)
        assert begun.acquire(timeout=WAIT_S)
        refused = ask(query)
        assert (refused.status, refused.slug) == (503, "too-busy")
        others = [pool.submit(ask, "actor:u_1"), pool.submit(ask, query, "admin")]
        for _ in others:
            assert begun.acquire(timeout=WAIT_S)
        go_on.set()
        assert first.result().status in (200, 422)
        assert others[0].result().status == 200
        assert ask("actor:u_1").status == 200


@pytest.mark.anyio
@pytest.mark.parametrize("group", ["", STRANGERS])
async def test_of_quick_work_one_of_an_owner_begins_in_a_turn_of_the_loop(group: str) -> None:
    loop, turns, turn = asyncio.get_running_loop(), LoopTurns(), 0
    begun: list[tuple[str, int]] = []

    def count_turn() -> None:
        nonlocal turn
        turn += 1
        if len(begun) < GREEDY * 2 + 1:
            loop.call_soon(count_turn)

    async def work(owner: str) -> None:
        await turns.begin(owner, group=group if owner != "token" else "")
        begun.append((owner, turn))

    count_turn()
    greedy = [asyncio.create_task(work("a")) for _ in range(GREEDY * 2)]
    waiting = asyncio.create_task(work("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(*greedy, asyncio.create_task(work("token")))
    by_owner = [at for owner, at in begun if owner == "a"]
    assert len(set(by_owner)) == len(by_owner) == GREEDY * 2
    assert dict(begun[:3])["token"], "it waits for none of the others"


STRANGER = ("127.0.0.1", STRANGERS)
READER = ("read", "")


@pytest.mark.parametrize(
    ("path", "token", "status", "turns"),
    [
        # What waited, for a head or for the report of all processes, has a turn of its own then.
        ("/v1/proofs/inclusion?index=0&size=1", None, 200, [STRANGER] * 2),
        ("/v1/proofs/consistency?from=1&to=1", None, 200, [STRANGER] * 2),
        ("/v1/proofs/consistency?from=1&to=1", "read", 200, [READER] * 2),
        ("/tile/0/000.p/1", None, 200, [STRANGER]),
        ("/tile/0/000.p/1", "read", 200, [READER]),
        ("/healthz", None, 200, [STRANGER]),
        ("/no-such-path", None, 404, [STRANGER]),
        ("/v1/events", None, 401, [STRANGER]),
        ("/v1/events", "no-such-token", 401, [STRANGER]),
        ("/v1/events", "gone", 401, [STRANGER]),
        ("/v1/events/0", "read", 200, [READER]),
        ("/v1/events", "read", 200, [READER]),
        ("/v1/log", "read", 200, [READER] * 2),
        ("/readyz", None, 200, [STRANGER] * 2),
    ],
)
def test_each_request_that_appends_nothing_begins_at_the_turn_of_its_caller(
    tmp_path: Path,
    asked: list[tuple[str, str]],
    path: str,
    token: str | None,
    status: int,
    turns: list[tuple[str, str]],
) -> None:
    with serving_new(tmp_path) as ledger:
        made = ("token", "create", str(ledger.directory), "--name", "gone", "--scope", "read")
        gone = ledger_command(*made)
        ledger_command("token", "revoke", str(ledger.directory), "gone")
        ledger.append(event())
        until(lambda: ledger.ask("/v1/log").json()["published_size"] > 0)
        asked.clear()
        answer = ledger.ask(path, token=gone if token == "gone" else token, accept=JSON)
        assert answer.status == status
        assert asked == turns
        asked.clear()
        assert ledger.append(event()).status == 200
        assert asked == []


@pytest.mark.anyio
async def test_strangers_wait_for_no_work_of_tokens(tmp_path: Path) -> None:
    """As a load balancer that asks for `/healthz`."""
    make_ledger(tmp_path / "ledger")
    async with open_service(tmp_path / "ledger", QUICK) as context, AsyncExitStack() as held:
        for number in range(PLACES):
            await held.enter_async_context(context.loop_turns.turn(f"token {number}"))
        async with asyncio.timeout(WAIT_S):
            await context.begin_strange(make_mocked_request("GET", "/healthz"))


def test_a_body_that_nobody_waits_for_is_read_at_the_turns_of_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: Counter[tuple[str, str]] = Counter()
    begin = LoopTurns.begin

    async def noted(own: LoopTurns, owner: str, *, group: str = "") -> None:
        turns[owner, group] += 1
        await begin(own, owner, group=group)

    monkeypatch.setattr(LoopTurns, "begin", noted)
    body = b"x" * (4 << 20)
    with serving_new(tmp_path) as ledger:
        answer = ledger.ask("/v1/events", method="POST", body=body, token=None, content_type=JSON)
        assert answer.status == 401
    # One of the connection, and one for each piece; uvloop reads a quarter of a megabyte at once.
    assert turns["127.0.0.1", ""] >= 1 + 4


WAITING = 60


def test_all_connections_that_wait_in_the_kernel_are_taken_within_a_few_turns_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it was one in each turn, and whoever came last waited behind all of them."""
    turn, taken_in = 0, list[int]()
    take_place = LimitedConnection.take_place

    def noted(connection: LimitedConnection, address: str) -> bool:
        taken_in.append(turn)
        return take_place(connection, address)

    monkeypatch.setattr(LimitedConnection, "take_place", noted)

    def count_turn(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal turn
        turn += 1
        if len(taken_in) < WAITING:
            loop.call_soon(count_turn, loop)

    loops: list[asyncio.AbstractEventLoop] = []

    async def serve_noted(*arguments: Any, **named: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await serve(*arguments, **named)

    tokens = make_ledger(tmp_path / "ledger")
    with serving(tmp_path / "ledger", tokens, QUICK, serve_noted) as ledger, ExitStack() as opened:
        parts = urlsplit(ledger.url)
        stands_still, goes_on = threading.Event(), threading.Event()

        def stand_still() -> None:
            stands_still.set()
            goes_on.wait(WAIT_S)
            count_turn(loops[0])

        loops[0].call_soon_threadsafe(stand_still)
        assert stands_still.wait(WAIT_S)
        for _ in range(WAITING):
            opened.enter_context(socket.create_connection((parts.hostname, parts.port)))
        goes_on.set()
        until(lambda: len(taken_in) == WAITING)
    assert max(Counter(taken_in).values()) > 1
    assert taken_in[-1] - taken_in[0] < WAITING // 2
