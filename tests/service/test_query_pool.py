"""The threads of searches: every token gets its share, and nobody's search outlives its client."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from ledger.query.budget import QueryCancelledError, QueryLimits
from ledger.query.engine import QueryEngine
from ledger.service.admission import AppendsInWork
from ledger.service.http.problems import ProblemError
from ledger.service.query_pool import QueryClient, QueryPool
from ledger.store.log import LogStore, create_log
from tests.service.serving import ORIGIN, event, serving_new

WAIT_S = 120.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[QueryEngine]:
    create_log(tmp_path, origin=ORIGIN)
    store = LogStore.open(tmp_path)
    yield QueryEngine(store, None)
    store.close()


@asynccontextmanager
async def open_pool(
    engine: QueryEngine,
    *,
    threads: int = 2,
    waiting_max: int = 64,
    appends: AppendsInWork | None = None,
) -> AsyncIterator[QueryPool]:
    pool = QueryPool(
        engine,
        limits=QueryLimits(),
        threads=threads,
        waiting_max=waiting_max,
        streams_max=2,
        appends=appends or AppendsInWork(),
    )
    try:
        yield pool
    finally:
        await asyncio.to_thread(pool.close)


def request() -> web.Request:
    return make_mocked_request("GET", "/")


def hold(client: QueryClient, started: threading.Event | None = None) -> Callable[[], None]:
    """Work without an end, which asks between its pieces whether anybody waits for it."""

    def work() -> None:
        if started is not None:
            started.set()
        while not client.is_cancelled():
            time.sleep(0.001)
        raise QueryCancelledError

    return work


async def refused(task: "asyncio.Task[None]") -> str:
    with pytest.raises(ProblemError) as problem:
        await asyncio.wait_for(task, WAIT_S)
    return problem.value.problem.type.rpartition("#")[2]


@pytest.mark.anyio
async def test_a_token_that_asks_a_lot_keeps_no_other_from_its_answer(engine: QueryEngine) -> None:
    async with open_pool(engine, threads=3) as pool:
        tasks = []
        for _ in range(12):
            client = pool.client("heavy", request())
            tasks.append(asyncio.create_task(client.run(hold(client))))
        await asyncio.sleep(0)
        light = pool.client("light", request())
        for _ in range(5):
            assert await asyncio.wait_for(light.run(lambda: 7), WAIT_S) == 7
        assert not any(task.done() for task in tasks)
        pool.cancel()
        assert {await refused(task) for task in tasks} == {"too-busy"}


@pytest.mark.anyio
async def test_free_threads_go_round_the_tokens(engine: QueryEngine) -> None:
    async with open_pool(engine, threads=1) as pool:
        order: list[str] = []
        gate = threading.Event()
        first = asyncio.create_task(pool.client("z", request()).run(gate.wait))
        await asyncio.sleep(0)
        rest = []
        for name in "aaaabbc":
            work = partial(order.append, name)
            rest.append(asyncio.create_task(pool.client(name, request()).run(work)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *rest)
        assert "".join(order) == "abcabaa"


@pytest.mark.anyio
async def test_no_token_has_all_the_places_to_wait(engine: QueryEngine) -> None:
    async with open_pool(engine, threads=1, waiting_max=4) as pool:
        tasks = []
        for _ in range(4):
            client = pool.client("heavy", request())
            tasks.append(asyncio.create_task(client.run(hold(client))))
        await asyncio.sleep(0)
        assert await refused(tasks.pop()) == "too-busy"
        waiting = asyncio.create_task(pool.client("light", request()).run(lambda: None))
        await asyncio.sleep(0)
        tasks[1].cancel()  # It waited, and its place is free again.
        await asyncio.sleep(0)
        client = pool.client("heavy", request())
        tasks.append(asyncio.create_task(client.run(hold(client))))
        await asyncio.sleep(0)
        assert [task.done() for task in tasks] == [False, True, False, False]
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.wait_for(waiting, WAIT_S)
        pool.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.anyio
async def test_a_client_that_hangs_up_cancels_its_search(engine: QueryEngine) -> None:
    async with open_pool(engine, threads=1) as pool:
        gone = mock.Mock(transport=mock.Mock())
        client = pool.client("heavy", gone)
        task = asyncio.create_task(client.run(hold(client)))
        after = asyncio.create_task(pool.client("heavy", request()).run(lambda: 7))
        await asyncio.sleep(0)
        gone.transport = None
        assert await refused(task) == "too-busy"
        assert await asyncio.wait_for(after, WAIT_S) == 7


@pytest.mark.anyio
async def test_the_pool_closes_while_searches_without_an_end_run(engine: QueryEngine) -> None:
    async with open_pool(engine) as pool:
        client, started = pool.client("heavy", request()), threading.Event()
        task = asyncio.create_task(client.run(hold(client, started)))
        await asyncio.to_thread(started.wait)
    assert await refused(task) == "too-busy"


def search_without_end(started: threading.Event, ended: threading.Event) -> Callable[..., Any]:
    def search(*_: Any, is_cancelled: Callable[[], bool], **__: Any) -> None:
        started.set()
        while not is_cancelled():
            time.sleep(0.001)
        ended.set()
        raise QueryCancelledError

    return search


def test_a_closed_connection_ends_the_search_of_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = threading.Event(), threading.Event()
    with serving_new(tmp_path) as ledger:
        ledger.append(event())
        monkeypatch.setattr(QueryEngine, "search", search_without_end(started, ended))
        host, _, port = urlsplit(ledger.url).netloc.rpartition(":")
        asyncio.run(hang_up(host, int(port), ledger.tokens["admin"], started))
        assert ended.wait(WAIT_S)


async def hang_up(host: str, port: int, token: str, started: threading.Event) -> None:
    _, writer = await asyncio.open_connection(host, port)
    head = f"GET /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
    writer.write(head.encode())
    assert await asyncio.to_thread(started.wait, WAIT_S)
    writer.close()


def test_a_service_stops_while_searches_without_an_end_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = threading.Event(), threading.Event()
    statuses: list[int] = []
    with serving_new(tmp_path) as ledger:
        monkeypatch.setattr(QueryEngine, "search", search_without_end(started, ended))
        ask = threading.Thread(target=lambda: statuses.append(ledger.ask("/v1/events").status))
        ask.start()
        assert started.wait(WAIT_S)
    ask.join(WAIT_S)
    assert ended.is_set()
    assert statuses == [503]


@pytest.mark.anyio
async def test_a_search_gives_way_to_appends_in_work_and_goes_on_beside_them(
    engine: QueryEngine,
) -> None:
    appends = AppendsInWork()
    pauses = 0

    def count(_frame: FrameType, kind: str, called: object) -> None:
        nonlocal pauses
        pauses += kind == "c_call" and called is time.sleep

    async with open_pool(engine, appends=appends) as pool:
        client = pool.client("a", request())

        def work(pieces: int) -> None:
            sys.setprofile(count)
            for _ in range(pieces):
                assert not client.is_cancelled()
            sys.setprofile(None)

        await client.run(partial(work, 1_000))
        assert pauses == 0
        with appends, appends:
            # It gave way a moment ago, so the first pieces need not.
            deadline_s = time.monotonic() + WAIT_S
            while not pauses:
                assert time.monotonic() < deadline_s
                await client.run(partial(work, 1))
            await client.run(partial(work, 1_000))
            assert pauses < 1_000  # Not one for each piece, for pieces may be small.
        paused = pauses
        await client.run(partial(work, 1_000))
        assert pauses == paused
