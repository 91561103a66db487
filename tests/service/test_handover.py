"""Large answers that the query process writes to the client itself, and front ends never hold."""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from ledger.query.engine import QueryEngine
from ledger.service import query_pool
from ledger.service.http.streaming_response import answer_of, write_large
from ledger.service.queries.frames import Frame
from ledger.service.queries.handover import HELD_BYTES_MIN, HeldAnswer, HeldAnswers
from ledger.service.queries.job import QueryJob, QueryOptions, QueryParts
from ledger.service.queries.server import QueryServer
from ledger.service.queries.supervisor import connect_within
from ledger.service.query_pool import QueryClient, QueryPool
from ledger.store.log import LogStore, create_log
from tests.service.serving import ORIGIN

WAIT_S = 60.0
SIZE = 5 * HELD_BYTES_MIN + 7


def large(_job: QueryJob, size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


def pieces(job: QueryJob, sizes: tuple[int, ...]) -> Generator[bytes, None, None]:
    for size in sizes:
        yield large(job, size)


@asynccontextmanager
async def open_pool(tmp_path: Path) -> AsyncIterator[tuple[QueryPool, HeldAnswers]]:
    create_log(tmp_path, origin=ORIGIN)
    store = LogStore.open(tmp_path)
    engine = QueryEngine(store, None)
    parts = QueryParts(store=store, engine=engine, open_values=lambda _: ())
    options = QueryOptions(
        threads=2, waiting_max=8, streams_max=8, rows_max=9, time_s=5.0, private_map_bytes=1 << 20
    )
    held = HeldAnswers(tmp_path / "clients")
    server = QueryServer(parts, options, held)
    pool = QueryPool(connect_within(server), tree_size=lambda: 0, read_status=engine.status)
    try:
        async with asyncio.timeout(WAIT_S):
            yield pool, held
    finally:
        pool.close()
        held.close()
        await asyncio.to_thread(server.close)
        store.close()


def client_of(pool: QueryPool, tls: ssl.SSLContext | None = None) -> QueryClient:
    return pool.client("reader", make_mocked_request("GET", "/", sslcontext=tls)).holding()


async def ask(pool: QueryPool) -> HeldAnswer:
    answer: object = await client_of(pool).run(large, SIZE)
    assert isinstance(answer, HeldAnswer)
    assert len(answer) == SIZE
    return answer


async def until_empty(held: HeldAnswers) -> None:
    while held.waiting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("is_chunk", [False, True])
def test_the_query_process_writes_an_answer_to_the_clients_socket(
    tmp_path: Path, is_chunk: bool
) -> None:
    async def main() -> None:
        async with open_pool(tmp_path) as (pool, held):
            answer = await ask(pool)
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=theirs)
            with ours:
                ours.setblocking(False)
                reading = asyncio.create_task(reader.read())
                await answer.write_to(ours.fileno(), wait_s=WAIT_S, is_chunk=is_chunk)
            body = large(None, SIZE)  # type: ignore[arg-type]  # it asks nothing of its job
            whole = b"%x\r\n%b\r\n" % (SIZE, body) if is_chunk else body
            # The end comes too: nobody has kept the client's socket.
            assert await reading == whole
            assert held.waiting == 0
            writer.close()

    asyncio.run(main())


def test_a_handover_waits_for_a_free_descriptor(tmp_path: Path) -> None:
    async def main() -> None:
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with open_pool(tmp_path) as (pool, _held):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket(socket.AF_UNIX) as first, capture_logs() as lines:
                free = os.dup(first.fileno())
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                try:
                    first.connect(str(tmp_path / "clients"))
                    while not lines:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.001)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert {line["event"] for line in lines} == {"handover_waits"}
            answer = await ask(pool)
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=theirs)
            with ours:
                ours.setblocking(False)
                reading = asyncio.create_task(reader.read())
                await answer.write_to(ours.fileno(), wait_s=WAIT_S, is_chunk=False)
            assert len(await reading) == SIZE
            writer.close()
        assert not faults

    asyncio.run(main())


def test_a_front_end_gets_no_large_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []

    def note(self: query_pool._Link, kind: Frame, number: int, payload: bytes) -> None:
        received.append(len(payload))
        on_frame(self, kind, number, payload)

    on_frame = query_pool._Link.on_frame
    monkeypatch.setattr(query_pool._Link, "on_frame", note)

    async def main() -> None:
        async with open_pool(tmp_path) as (pool, held):
            await ask(pool)
            sizes = (10, SIZE, HELD_BYTES_MIN - 1, HELD_BYTES_MIN)
            async with aclosing(client_of(pool).pieces(pieces, sizes)) as answers:
                found = [len(answer) async for answer in answers]
            assert found == list(sizes)
            assert max(received) < HELD_BYTES_MIN
            await until_empty(held)

    asyncio.run(main())


def test_answers_over_tls_are_passed_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pool(tmp_path) as (pool, held):
            whole = large(None, SIZE)  # type: ignore[arg-type]  # as above
            tls = ssl.create_default_context()
            assert await client_of(pool, tls=tls).run(large, SIZE) == whole
            assert held.waiting == 0

    asyncio.run(main())


def test_what_nobody_wants_any_more_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pool(tmp_path) as (pool, held):
            answer = await ask(pool)
            assert held.waiting == 1
            del answer
            await until_empty(held)
            kept = await ask(pool)
            pool.close()  # As when the front end ends.
            await until_empty(held)
            with pytest.raises(ConnectionError):
                await kept.write_to(0, wait_s=WAIT_S, is_chunk=False)

    asyncio.run(main())


def test_a_client_that_reads_nothing_or_is_gone_ends_the_writing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pool(tmp_path) as (pool, held):
            for is_gone in (False, True):
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    ours.setblocking(False)
                    if is_gone:
                        theirs.close()
                    answer = await ask(pool)
                    with pytest.raises(ConnectionError):
                        await answer.write_to(ours.fileno(), wait_s=0.05, is_chunk=False)
            assert held.waiting == 0

    asyncio.run(main())


def test_a_front_end_that_waits_no_longer_ends_the_writing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pool(tmp_path) as (pool, held):
            answer = await ask(pool)
            ours, theirs = socket.socketpair()
            with theirs:
                with ours:
                    ours.setblocking(False)
                    writing = asyncio.create_task(
                        answer.write_to(ours.fileno(), wait_s=WAIT_S, is_chunk=False)
                    )
                    theirs.setblocking(False)
                    loop = asyncio.get_running_loop()
                    received = len(await loop.sock_recv(theirs, 1))
                    writing.cancel()
                    while held.writing:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.001)
                # The socket is closed on both sides, long before all is written.
                while data := await loop.sock_recv(theirs, 1 << 20):
                    received += len(data)
                assert received < SIZE

    asyncio.run(main())


def test_a_client_that_goes_away_in_the_middle_is_charged_for_the_whole_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(_held: HeldAnswer, *_: object, **_named: object) -> None:
        raise ConnectionResetError

    async def main() -> None:
        async with open_pool(tmp_path) as (pool, _):
            answer = await ask(pool)
            monkeypatch.setattr(HeldAnswer, "write_to", cut)
            writer = Mock(output_size=0, drain=AsyncMock(), write_headers=AsyncMock())
            request = make_mocked_request("GET", "/", writer=writer, transport=Mock())
            whole = answer_of(answer, media="application/json", cache="no-store")
            await write_large(request, whole, answer, WAIT_S)
            assert writer.output_size >= SIZE

    asyncio.run(main())


def test_an_answer_of_a_query_process_that_ended_is_no_answer_of_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "clients"
        before = HeldAnswers(path)
        answer = HeldAnswer(before.keep(b"one client's"), lambda _: None)
        before.close()
        after = HeldAnswers(path)
        after.keep(b"another client's")
        await answer.connect()
        ours, theirs = socket.socketpair()
        with theirs:
            with ours:
                ours.setblocking(False)
                with pytest.raises(ConnectionError):
                    await answer.write_to(ours.fileno(), wait_s=WAIT_S, is_chunk=False)
            assert theirs.recv(1) == b""
        assert after.waiting == 1
        after.close()

    asyncio.run(main())


def test_a_client_whose_socket_is_closed_already_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pool(tmp_path) as (pool, _held):
            ours, theirs = socket.socketpair()
            ours.close()
            theirs.close()
            answer = await ask(pool)
            with pytest.raises(ConnectionError):
                await answer.write_to(ours.fileno(), wait_s=WAIT_S, is_chunk=False)

    asyncio.run(main())
