"""A witness stays reachable: half heads and half bodies are cut, and no address has all places."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from click.testing import CliRunner

from ledger.cli.witness import command
from ledger.witness import app
from ledger.witness.answers import checkpoint_answer, page_answer
from ledger.witness.settings import WITNESS_SETTINGS, WitnessSettings
from ledger_core.tlog import witness as protocol
from tests.witness.witnesses import make_witness

WAIT_S = 120.0
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n"
HALF_HEAD = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\n"
HALF_BODY = HALF_HEAD + b"Content-Length: 60000\r\n\r\nold 0\n"

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """A witness served on this event loop."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 0)
        self._peers: list[Peer] = []

    async def send(self, data: bytes, *, own: str = "127.0.0.1") -> asyncio.StreamReader:
        """Send bytes on a new connection from an address of this host; it stays open."""
        peer = await asyncio.open_connection(self._host, self._port, local_addr=(own, 0))
        self._peers.append(peer)
        peer[1].write(data)
        return peer[0]

    def send_all(self, data: bytes) -> None:
        """Send more on all connections, at once."""
        for _, writer in self._peers:
            writer.write(data)

    async def health(self, *, own: str = "127.0.0.1") -> bytes:
        """The status line of its health, or nothing from a connection that was closed."""
        return (await ended(await self.send(HEALTH, own=own))).partition(b"\r\n")[0]

    async def close(self) -> None:
        """Close all connections."""
        for _, writer in self._peers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        self._peers.clear()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What was answered until the witness hung up."""
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def serving(directory: Path, **settings: float) -> AsyncIterator[Served]:
    make_witness(directory, [])
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    chosen = msgspec.convert({"listen": "127.0.0.1:0", **settings}, WitnessSettings)
    task = asyncio.create_task(app.serve(directory, chosen, stop=stop, on_ready=url.set_result))
    async with asyncio.timeout(WAIT_S):
        served = Served(await url)
    try:
        yield served
    finally:
        await served.close()
        stop.set()
        await task


@pytest.mark.anyio
async def test_half_heads_and_half_bodies_are_cut(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path / "w", head_wait_s=0.1, body_wait_s=0.1) as served:
        heads = [await served.send(HALF_HEAD) for _ in range(5)]
        bodies = [await served.send(HALF_BODY) for _ in range(5)]
        for reader in heads:
            assert await ended(reader) == b""
        for reader in bodies:
            assert (await ended(reader)).startswith(b"HTTP/1.1 408 ")
        assert await served.health() == b"HTTP/1.1 200 OK"
    said = capfd.readouterr().out
    assert said.count("head_too_slow") == 5
    assert said.count("body_too_slow") == 5


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
        b"GET /%b/checkpoint HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n" % (b"0" * 64),
        HALF_HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nold 0",
    ],
)
@pytest.mark.anyio
async def test_an_address_has_one_piece_of_work_in_a_turn_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    turns, begun = 0, []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            begun.append(turns)
            return work(*arguments)

        return note

    monkeypatch.setattr("ledger.witness.app.page_answer", noted(page_answer))
    monkeypatch.setattr("ledger.witness.app.checkpoint_answer", noted(checkpoint_answer))
    monkeypatch.setattr(protocol, "parse_add_checkpoint", noted(protocol.parse_add_checkpoint))
    async with serving(tmp_path / "w") as served:
        readers = [await served.send(request_[:5]) for _ in range(20)]
        counting = asyncio.create_task(count_turns())
        served.send_all(request_[5:])
        for reader in readers:
            assert (await ended(reader)).startswith(b"HTTP/1.1 ")
        counting.cancel()
    assert len(begun) == len(set(begun)) == len(readers)


@pytest.mark.anyio
async def test_one_address_leaves_places_to_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = {"connections_max": 5, "connections_per_address_max": 3}
    async with serving(tmp_path / "w", **limits) as served:
        for _ in range(3):
            await served.send(HALF_HEAD)
        assert await served.health() == b""
        assert "connection_refused" in capfd.readouterr().out
        assert await served.health(own="127.0.0.2") == b"HTTP/1.1 200 OK"
        for own in ("127.0.0.2", "127.0.0.3"):
            await served.send(HALF_HEAD, own=own)
        assert await served.health(own="127.0.0.4") == b""
        await served.close()
        async with asyncio.timeout(WAIT_S):
            # Their places are free when the witness has seen that they are closed.
            while await served.health() != b"HTTP/1.1 200 OK":  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_what_is_not_http_is_repeated_neither_in_the_answer_nor_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path / "w") as served:
        for data in (b"forged line\r\n\r\n", b"GET /forged\x1b[31m HTTP/1.1\r\nHost: w\r\n\r\n"):
            answer = await ended(await served.send(data))
            assert b" 400 " in answer.partition(b"\r\n")[0]
            assert b"forged" not in answer
        await served.send(HALF_BODY)
        await served.close()
        foreign = HEALTH.replace(b"/healthz", b"http://evil.example/healthz")
        assert b" 400 " in (await ended(await served.send(foreign))).partition(b"\r\n")[0]
        assert await served.health() == b"HTTP/1.1 200 OK"
    said = "".join(capfd.readouterr())
    assert "forged" not in said
    assert "Traceback" not in said


def test_one_address_has_fewer_connections_than_there_are() -> None:
    settings = WitnessSettings()
    assert settings.connections_per_address_max * 4 <= settings.connections_max


def test_each_setting_is_a_flag_and_a_bad_value_is_refused_by_its_name(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command, ["serve", "--help"], env={"COLUMNS": "500"}).output
    for setting in WITNESS_SETTINGS:
        assert setting.flag in shown
        assert setting.variable.startswith("LEDGER_WITNESS_")
    make_witness(tmp_path / "witness", [])
    refused = CliRunner().invoke(
        command, ["serve", str(tmp_path / "witness")], env={"LEDGER_WITNESS_CONNECTIONS_MAX": "0"}
    )
    assert refused.exit_code == 2
    assert "connections_max" in refused.output
