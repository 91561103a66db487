"""The threads of searches: every token gets its share, and nobody's search outlives its client."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from ledger.query.budget import QueryCancelledError
from ledger.query.engine import QueryEngine
from ledger.service import query_pool
from ledger.service.http.problems import ProblemError
from ledger.service.queries.frames import Frame
from ledger.service.queries.job import QueryJob, QueryOptions, QueryParts
from ledger.service.queries.server import QueryServer, _ServedConnection
from ledger.service.queries.supervisor import connect_within
from ledger.service.query_pool import QueryPool
from ledger.store.log import LogStore, create_log
from tests.service.serving import ORIGIN, event, serving_new
from tests.waiting import until_async

WAIT_S = 120.0


class Gate:
    """What a test holds work with: it has started, it may end, and the names of what ran."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.opened = threading.Event()
        self.order: list[str] = []


gate = Gate()
"""Of the present test. Work is pickled, even to this process, so it can't have one of its own."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    global gate  # noqa: PLW0603 - see `gate`
    gate = Gate()
    create_log(tmp_path, origin=ORIGIN)
    store = LogStore.open(tmp_path)
    yield store
    store.close()


@asynccontextmanager
async def open_pool(
    store: LogStore, *, threads: int = 2, waiting_max: int = 64
) -> AsyncIterator[QueryPool]:
    engine = QueryEngine(store, None)
    parts = QueryParts(store=store, engine=engine, open_values=lambda _: ())
    options = QueryOptions(
        threads=threads,
        waiting_max=waiting_max,
        streams_max=8,
        rows_max=1000,
        time_s=5.0,
        private_map_bytes=1 << 20,
    )
    server = QueryServer(parts, options)
    pool = QueryPool(connect_within(server), tree_size=lambda: 0, read_status=engine.status)
    await pool.connected()  # So that requests are in the order in which a test makes them.
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.to_thread(server.close)


def request() -> web.Request:
    return make_mocked_request("GET", "/")


def hold(job: QueryJob) -> None:
    """Work without an end, which asks between its pieces whether anybody waits for it."""
    gate.started.set()
    while True:
        job.check()
        time.sleep(0.001)


def seven(_job: QueryJob) -> int:
    """Work that ends at once."""
    return 7


def wait_for_gate(_job: QueryJob) -> None:
    gate.started.set()
    gate.opened.wait(WAIT_S)


def note_name(_job: QueryJob, name: str) -> None:
    gate.order.append(name)


def count_up(job: QueryJob, names: str) -> Generator[str, None, None]:
    """Pieces of work, one for each name."""
    try:
        for name in names:
            job.check()
            gate.order.append(name)
            yield name
    finally:
        gate.order.append("closed")


async def in_time(work: Awaitable[Any]) -> Any:
    """The result of a piece of work that must not take long."""
    async with asyncio.timeout(WAIT_S):
        return await work


async def refused(task: "asyncio.Task[Any]") -> str:
    with pytest.raises(ProblemError) as problem:
        await in_time(task)
    return problem.value.problem.type.rpartition("#")[2]


@pytest.mark.anyio
async def test_a_token_that_asks_a_lot_keeps_no_other_from_its_answer(store: LogStore) -> None:
    async with open_pool(store, threads=3) as pool:
        tasks = [asyncio.create_task(pool.client("heavy", request()).run(hold)) for _ in range(12)]
        await until_async(gate.started.is_set)
        light = pool.client("light", request())
        for _ in range(5):
            assert await in_time(light.run(seven)) == 7
        assert not any(task.done() for task in tasks)
        pool.cancel()
        assert {await refused(task) for task in tasks} == {"too-busy"}


@pytest.mark.anyio
async def test_searches_are_refused_while_the_query_process_hangs(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the connection and reads nothing, and goes on later where it was."""
    monkeypatch.setattr(query_pool, "PING_S", 0.01)
    frames: list[Callable[[], None]] = []
    on_frame = _ServedConnection.on_frame

    def keep(connection: Any, *frame: Any) -> None:
        frames.append(lambda: on_frame(connection, *frame))

    async with open_pool(store) as pool:
        assert await in_time(pool.client("a", request()).run(seven)) == 7
        with monkeypatch.context() as patched:
            patched.setattr(_ServedConnection, "on_frame", keep)
            waiting = asyncio.create_task(pool.client("a", request()).run(seven))
            assert await refused(waiting) == "unavailable"
            assert pool.is_missing
            answered = len(frames)
            late = asyncio.create_task(pool.client("b", request()).run(seven))
            assert await refused(late) == "unavailable"
            # Nothing more is sent to it, however long it hangs and however many ask.
            await asyncio.sleep(0.1)
            assert len(frames) <= answered + 1
        for frame in frames:
            frame()
        await until_async(lambda: not pool.is_missing)
        assert await in_time(pool.client("b", request()).run(seven)) == 7


@pytest.mark.anyio
async def test_a_query_process_that_only_works_long_does_not_hang(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_pool, "PING_S", 0.01)
    pings: list[Frame] = []
    on_frame = _ServedConnection.on_frame

    def count(connection: Any, kind: Frame, number: int, payload: bytes) -> None:
        if kind is Frame.PING:
            pings.append(kind)
        on_frame(connection, kind, number, payload)

    monkeypatch.setattr(_ServedConnection, "on_frame", count)
    async with open_pool(store) as pool:
        work = asyncio.create_task(pool.client("a", request()).run(wait_for_gate))
        await until_async(gate.started.is_set)
        await until_async(lambda: len(pings) > 5 * query_pool.SILENT_TURNS)
        assert not work.done()
        assert not pool.is_missing
        gate.opened.set()
        assert await in_time(work) is None


@pytest.mark.anyio
async def test_free_threads_go_round_the_tokens(store: LogStore) -> None:
    async with open_pool(store, threads=1) as pool:
        first = asyncio.create_task(pool.client("z", request()).run(wait_for_gate))
        await until_async(gate.started.is_set)
        rest = [
            asyncio.create_task(pool.client(name, request()).run(note_name, name))
            for name in "aaaabbc"
        ]
        # An answer to another front end comes after all that was asked before it.
        assert await refused(asyncio.create_task(fill_up(pool))) == "too-busy"
        gate.opened.set()
        await asyncio.gather(first, *rest)
        assert "".join(gate.order) == "abcabaa"


async def fill_up(pool: QueryPool) -> None:
    """Ask until no more may wait, each by a token of its own."""
    tasks = [
        asyncio.create_task(pool.client(f"token {number}", request()).run(seven))
        for number in range(64)
    ]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    done.pop().result()


@pytest.mark.anyio
async def test_no_token_has_all_the_places_to_wait(store: LogStore) -> None:
    async with open_pool(store, threads=1, waiting_max=4) as pool:
        tasks = [asyncio.create_task(pool.client("heavy", request()).run(hold)) for _ in range(4)]
        assert await refused(tasks.pop()) == "too-busy"
        light = asyncio.create_task(pool.client("light", request()).run(seven))
        await asyncio.sleep(0)
        tasks[1].cancel()  # It waited, and its place is free again.
        await asyncio.wait({tasks[1]})
        tasks.append(asyncio.create_task(pool.client("heavy", request()).run(hold)))
        more = asyncio.create_task(pool.client("heavy", request()).run(hold))
        assert await refused(more) == "too-busy"
        assert [task.done() for task in tasks] == [False, True, False, False]
        tasks[0].cancel()
        tasks[2].cancel()
        assert await in_time(light) == 7
        pool.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.anyio
async def test_callers_without_a_token_keep_no_token_from_its_answer(store: LogStore) -> None:
    async with open_pool(store, threads=2, waiting_max=8) as pool:
        strangers = [
            asyncio.create_task(pool.stranger_client(f"address {each}", request()).run(hold))
            for each in range(100)
        ]
        await until_async(gate.started.is_set)
        # One has a thread, two wait, and the others are told at once.
        await until_async(lambda: sum(task.done() for task in strangers) == 97)
        light = pool.client("light", request())
        for _ in range(5):
            assert await in_time(light.run(seven)) == 7
        waiting = [asyncio.create_task(light.run(wait_for_gate)) for _ in range(4)]
        assert not any(task.done() for task in waiting)
        gate.opened.set()
        await in_time(asyncio.gather(*waiting))
        pool.cancel()
        assert {await refused(task) for task in strangers} == {"too-busy"}


@pytest.mark.anyio
async def test_a_client_that_hangs_up_cancels_its_search(store: LogStore) -> None:
    async with open_pool(store, threads=1) as pool:
        gone = mock.Mock(transport=mock.Mock())
        task = asyncio.create_task(pool.client("heavy", gone).run(hold))
        after = asyncio.create_task(pool.client("heavy", request()).run(seven))
        await until_async(gate.started.is_set)
        gone.transport = None
        assert await refused(task) == "too-busy"
        assert await in_time(after) == 7
        # Nothing is kept for an answer that never comes.
        assert not (await pool.connected())._waiting


@pytest.mark.anyio
async def test_the_pool_closes_while_searches_without_an_end_run(store: LogStore) -> None:
    async with open_pool(store) as pool:
        task = asyncio.create_task(pool.client("heavy", request()).run(hold))
        await until_async(gate.started.is_set)
    assert await refused(task) in ("too-busy", "unavailable")


@pytest.mark.anyio
async def test_pieces_use_the_thread_by_turns_and_end_when_nobody_waits(store: LogStore) -> None:
    async with open_pool(store, threads=1) as pool:
        long = pool.client("a", request()).pieces(count_up, "12345")
        other = pool.client("b", request()).pieces(count_up, "xy")
        assert [await anext(long), await anext(other), await anext(long)] == ["1", "x", "2"]
        await long.aclose()
        await until_async(lambda: "closed" in gate.order)
        assert [each async for each in other] == ["y"]
        await until_async(lambda: gate.order.count("closed") == 2)
        assert gate.order == ["1", "x", "2", "closed", "y", "closed"]


@pytest.mark.anyio
async def test_the_jobs_of_a_front_end_end_with_its_connection(store: LogStore) -> None:
    async with open_pool(store, threads=1) as pool:
        pieces = pool.client("a", request()).pieces(count_up, "123")
        assert await anext(pieces) == "1"
        task = asyncio.create_task(pool.client("a", request()).run(hold))
        await until_async(gate.started.is_set)
        (await pool.connected()).close()
        assert await refused(task) == "unavailable"
        await until_async(lambda: "closed" in gate.order)
        with pytest.raises(ProblemError, match="started again"):
            await anext(pieces)
        # A new connection is made when it is needed, and the thread is free.
        assert await in_time(pool.client("a", request()).run(seven)) == 7


@pytest.mark.anyio
async def test_a_token_has_a_quarter_of_the_streams_and_a_tenant_half_of_them(
    store: LogStore,
) -> None:
    async with open_pool(store) as pool:
        streams = []

        async def open_stream(token: str, tenant: str | None) -> None:
            pieces = pool.stream_client(token, tenant, request()).pieces(count_up, "1" * 9)
            await anext(pieces)
            streams.append(pieces)

        for token in ("a", "a", "b", "b"):
            await open_stream(token, "acme")
        for token in ("a", "c"):
            assert await refused(asyncio.create_task(open_stream(token, "acme"))) == "too-busy"
        await streams[0].aclose()
        await open_stream("a", "acme")
        for token in ("d", "d", "e", "e"):
            await open_stream(token, None)
        assert await refused(asyncio.create_task(open_stream("f", None))) == "too-busy"
        for pieces in streams:
            await pieces.aclose()


@pytest.mark.anyio
async def test_an_error_of_the_work_is_a_problem_and_a_large_value_comes_whole(
    store: LogStore,
) -> None:
    async with open_pool(store) as pool:
        client = pool.client("a", request())
        assert await refused(asyncio.create_task(client.run(fail))) == "internal"
        assert await client.run(large, 3 << 20) == bytes(3 << 20)
        pool.tree_size = lambda: 1  # type: ignore[misc]
        assert await refused(asyncio.create_task(client.run(seven))) == "unavailable"


def fail(_job: QueryJob) -> None:
    raise RuntimeError("the disk is gone")


def large(_job: QueryJob, size: int) -> bytes:
    return bytes(size)


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
