"""Names whose lookup hangs keep no other name from being found, and no process from ending."""

import ast
import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

from ledger.log.witness_client import make_session
from ledger_client.async_transport import AsyncTransport
from ledger_client.messages import Endpoint, Request
from ledger_client.runtime.name_lookup import NameLookup
from ledger_core.tlog.errors import UnavailableError

NAMES: Final = 40
"""More than an event loop has threads for names."""

LIMIT_S: Final = 60.0
PRODUCT: Final = Path(__file__).resolve().parents[2]


class HangingNames:
    """A name server that doesn't answer for names that end with `.hang`, until `release`."""

    def __init__(self) -> None:
        self._look_up: Final = socket.getaddrinfo
        self._released: Final = threading.Event()
        self.asked: Final[list[str]] = []

    def getaddrinfo(self, host: str, *arguments: Any, **named: Any) -> Any:
        self.asked.append(host)
        if host.endswith(".hang"):
            self._released.wait(LIMIT_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._look_up(host, *arguments, **named)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingNames]:
    hanging = HangingNames()
    monkeypatch.setattr(socket, "getaddrinfo", hanging.getaddrinfo)
    yield hanging
    hanging.release()


async def serve_ok() -> tuple[web.ServerRunner, int]:
    """A server on 127.0.0.1, and its port."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="ok")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


def endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(scheme="http", host=host, port=port, path="", timeout_s=LIMIT_S, token=None)


async def get(session: aiohttp.ClientSession, address: str) -> str:
    async with session.get(address) as answer:
        return await answer.text()


async def hang(session: aiohttp.ClientSession) -> list[asyncio.Task[str]]:
    """Ask for many names whose lookup hangs, until all have begun or wait for a thread."""
    asked = [asyncio.create_task(get(session, f"http://n{n}.hang/")) for n in range(NAMES)]
    await asyncio.sleep(0.1)
    return asked


def test_another_name_is_found_at_once(names: HangingNames) -> None:
    async def run() -> None:
        runner, port = await serve_ok()
        async with make_session(LIMIT_S) as session:
            asked = await hang(session)
            assert await get(session, f"http://localhost:{port}/") == "ok"
            assert not any(each.done() for each in asked)
            names.release()
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(each) for each in results} == {aiohttp.ClientConnectorDNSError}
        await runner.cleanup()

    asyncio.run(run())


def test_another_name_is_found_by_the_client(names: HangingNames) -> None:
    async def run() -> None:
        runner, port = await serve_ok()
        loop = asyncio.get_running_loop()
        hanging = [AsyncTransport(endpoint(f"n{n}.hang", 1)) for n in range(NAMES)]
        asked = [loop.create_task(each.send(Request(target="/"))) for each in hanging]
        await asyncio.sleep(0.1)
        transport = AsyncTransport(endpoint("localhost", port))
        assert (await transport.send(Request(target="/"))).body == b"ok"
        names.release()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(each) for each in results} == {UnavailableError}
        for each in (*hanging, transport):
            await each.close()
        await runner.cleanup()

    asyncio.run(run())


def test_a_process_ends_while_lookups_hang(names: HangingNames) -> None:
    async def use() -> None:
        async with make_session(LIMIT_S) as session:
            for each in await hang(session):
                each.cancel()

    ending = threading.Thread(target=asyncio.run, args=(use(),), daemon=True)
    ending.start()
    ending.join(LIMIT_S)
    assert not ending.is_alive()
    assert names.asked


def test_a_name_is_looked_up_once_at_a_time(names: HangingNames) -> None:
    """One that waits may be cancelled: the others still get the answer."""

    async def run() -> None:
        first, second, third = (
            asyncio.create_task(NameLookup().resolve("once.hang", 80)) for _ in range(3)
        )
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        names.release()
        for each in (second, third):
            with pytest.raises(socket.gaierror):
                await each
        assert names.asked == ["once.hang"]
        with pytest.raises(socket.gaierror):
            await NameLookup().resolve("once.hang", 80)
        assert names.asked == ["once.hang"] * 2

    asyncio.run(run())


def test_an_unfit_name_is_an_error_of_the_network() -> None:
    async def run() -> None:
        with pytest.raises(OSError, match="label"):
            await NameLookup().resolve("a" * 70 + ".example.com", 80)

    asyncio.run(run())


def test_each_session_looks_names_up_so() -> None:
    """No product file makes a session whose connector is aiohttp's own."""
    wrong = []
    for path in (*PRODUCT.glob("ledger/**/*.py"), *PRODUCT.glob("client/ledger_c*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ClientSession"):
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                if not given.get("connector", "").startswith("make_connector("):
                    wrong.append(f"{path}:{node.lineno}")
    assert not wrong
