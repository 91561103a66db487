"""A witness that serves a bastion: one that keeps to HTTP/2, and some that don't."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

from ledger.witness import bastion as bastion_module
from ledger.witness.app import open_witness
from ledger.witness.bastion import PROTOCOL, Bastion, client_tls, key_hash, open_key, parse_bastions
from ledger.witness.bastion_streams import STREAMS_MAX
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.witness import BODY_BYTES_MAX
from tests.client.syslog.certificates import Authority
from tests.witness.asking import check_cosignatures
from tests.witness.logs import Log
from tests.witness.witnesses import SIGNERS, make_witness

LOG = Log("bastion.example.com/log")
VKEYS = [str(signer.verifier) for signer in SIGNERS]
WAIT_S = 60.0


class Client:
    """The side of the bastion: one connection that a witness has opened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http2.initiate_connection()
        self.statuses: dict[int, str] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.pings = 0

    def begin(self, method: str, path: str, *, ends: bool = True) -> int:
        """Send the head of a request."""
        number = self.http2.get_next_available_stream_id()
        head = {":method": method, ":path": path, ":scheme": "https", ":authority": "w"}
        self.http2.send_headers(number, list(head.items()), end_stream=ends)
        return number

    async def until(self, is_so: Callable[[], bool]) -> bool:
        """Send what waits and read, until it is so; False at the end of the connection."""
        async with asyncio.timeout(WAIT_S):
            while True:
                self.writer.write(self.http2.data_to_send())
                if is_so():
                    return True
                data = await self.reader.read(1 << 16)
                if not data:
                    return False
                for event in self.http2.receive_data(data):
                    self._take(event)

    async def post(self, body: bytes) -> int:
        """Send a whole request, as the witness has room for it."""
        number = self.begin("POST", "/add-checkpoint", ends=False)
        while body:
            room = 0

            def has_room() -> bool:
                nonlocal room
                room = min(self.http2.local_flow_control_window(number), 1 << 14)
                return room > 0 or number in self.reset

            await self.until(has_room)
            if number in self.reset:
                return number
            self.http2.send_data(number, body[:room], end_stream=not body[room:])
            body = body[room:]
        return number

    def _take(self, event: Any) -> None:
        match event:
            case ResponseReceived():
                headers: dict[Any, Any] = dict(event.headers)
                self.statuses[event.stream_id] = headers[":status"]
            case DataReceived():
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                self.ended.add(event.stream_id)
            case StreamReset():
                self.reset.add(event.stream_id)
            case PingReceived():
                self.pings += 1


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def served(
    folder: Path,
    authority: Authority,
    script: Callable[[Client], Awaitable[None]],
    *,
    connections: int = 1,
    body_wait_s: float = WAIT_S,
    tls: Callable[[ssl.SSLContext], None] = lambda _context: None,
) -> list[MutableMapping[str, Any]]:
    """Run a script with each connection of a witness to a bastion; the witness's log lines."""
    make_witness(folder, [LOG])
    certificate, key, _ = authority.issue("bastion")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols([PROTOCOL])
    tls(context)

    async def run() -> None:
        done = asyncio.Semaphore(0)
        failures: list[BaseException] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await script(Client(reader, writer))
            except BaseException as error:  # noqa: BLE001 - raised below, in the test
                failures.append(error)
            writer.transport.abort()
            done.release()

        async with (
            open_witness(folder, now=unix_s) as witness,
            await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server,
        ):
            address = server.sockets[0].getsockname()
            client = client_tls(folder, ca_file=str(authority.certificate))
            bastion = Bastion(
                address[:2], client, witness, body_wait_s=body_wait_s, draw=lambda: 0.0
            )
            running = asyncio.create_task(bastion.run())
            try:
                async with asyncio.timeout(WAIT_S):
                    for _ in range(connections):
                        await done.acquire()
                    while not connections and not lines:  # noqa: ASYNC110 - a list of log lines
                        await asyncio.sleep(0.01)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        for failure in failures:
            raise failure

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    return [line for line in lines if str(line["event"]).startswith("bastion_")]


def test_requests_are_answered_side_by_side(tmp_path: Path, authority: Authority) -> None:
    async def ask(client: Client) -> None:
        page = client.begin("GET", "/")
        missing = client.begin("GET", "/nothing")
        head = client.begin("HEAD", "/healthz")
        posted = await client.post(LOG.grow(0, 7))
        assert await client.until(lambda: client.ended >= {page, missing, head, posted})
        statuses = [client.statuses[each] for each in (page, missing, head, posted)]
        assert statuses == ["200", "404", "200", "200"]
        assert LOG.origin.encode() in client.bodies[page]
        check_cosignatures(client.bodies[posted], LOG.note(7), VKEYS)

    lines = served(tmp_path / "w", authority, ask)
    assert lines[0]["event"] == "bastion_connected"


def test_a_body_that_is_too_large_is_refused_and_the_connection_goes_on(
    tmp_path: Path, authority: Authority
) -> None:
    async def ask(client: Client) -> None:
        large = await client.post(bytes(BODY_BYTES_MAX + 100_000))
        posted = await client.post(LOG.grow(0, 7))
        assert await client.until(lambda: posted in client.ended)
        assert client.statuses == {large: "413", posted: "200"}

    served(tmp_path / "w", authority, ask)


def test_a_body_that_does_not_arrive_is_cut_and_the_connection_goes_on(
    tmp_path: Path, authority: Authority
) -> None:
    async def ask(client: Client) -> None:
        slow = client.begin("POST", "/add-checkpoint", ends=False)
        assert await client.until(lambda: slow in client.reset)
        healthy = client.begin("GET", "/healthz")
        assert await client.until(lambda: healthy in client.ended)

    served(tmp_path / "w", authority, ask, body_wait_s=0.05)


def test_streams_that_are_reset_at_once_take_no_room(tmp_path: Path, authority: Authority) -> None:
    async def ask(client: Client) -> None:
        for _ in range(20 * STREAMS_MAX):
            client.http2.reset_stream(client.begin("GET", "/"))
        healthy = client.begin("GET", "/healthz")
        assert await client.until(lambda: healthy in client.ended | client.reset)
        again = client.begin("GET", "/healthz")
        assert await client.until(lambda: again in client.ended)

    served(tmp_path / "w", authority, ask)


def test_more_requests_at_once_than_allowed_end_the_connection_and_it_is_made_anew(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bastion_module, "RETRY_BASE_S", 0.01)
    seen = 0

    async def ask(client: Client) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            theirs = client.http2.remote_settings
            # It says how many it takes.
            assert await client.until(lambda: theirs.max_concurrent_streams == STREAMS_MAX)
            theirs.update({SettingCodes.MAX_CONCURRENT_STREAMS: 1000})
            theirs.acknowledge()
            for _ in range(STREAMS_MAX + 1):
                client.begin("POST", "/add-checkpoint", ends=False)
            assert not await client.until(lambda: False)
        else:
            healthy = client.begin("GET", "/healthz")
            assert await client.until(lambda: healthy in client.ended)

    lines = served(tmp_path / "w", authority, ask, connections=2)
    assert [line["event"] for line in lines][-2:] == ["bastion_lost", "bastion_connected"]


def test_a_bastion_that_is_silent_is_asked_and_then_given_up(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bastion_module, "PING_S", 0.02)
    monkeypatch.setattr(bastion_module, "SILENCE_MAX_S", 0.1)
    monkeypatch.setattr(bastion_module, "RETRY_BASE_S", 0.01)

    async def say_nothing(client: Client) -> None:
        while await client.reader.read(1 << 16):
            pass

    lines = served(tmp_path / "w", authority, say_nothing, connections=2)
    assert lines[0] == {
        "event": "bastion_lost",
        "log_level": "warning",
        "bastion": lines[0]["bastion"],
        "reason": "no answer in time",
    }


def test_a_bastion_that_does_not_read_is_given_up(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bastion_module, "SILENCE_MAX_S", 0.5)
    monkeypatch.setattr(bastion_module, "RETRY_BASE_S", 0.01)

    async def only_send(client: Client) -> None:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        # What the two systems hold for it is little then.
        connection = client.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.writer.write(client.http2.data_to_send())
        client.http2.ping(b"bastion?")
        pings = client.http2.data_to_send() * 1000
        with suppress(OSError):
            while True:  # Each ping wants an answer.
                client.writer.write(pings)
                await client.writer.drain()

    lines = served(tmp_path / "w", authority, only_send, connections=2)
    assert "no answer in time" in [line.get("reason") for line in lines]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("other protocol", "no bastion is there"),
        ("old tls", ""),
        ("other authority", "certificate verify failed"),
    ],
)
def test_who_is_no_bastion_is_served_nothing(
    tmp_path: Path, authority: Authority, fault: str, reason: str
) -> None:
    other = Authority(tmp_path)

    def change(context: ssl.SSLContext) -> None:
        if fault == "other protocol":
            context.set_alpn_protocols(["h2"])
        elif fault == "old tls":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        else:
            context.load_cert_chain(*other.issue("bastion")[:2])

    async def hear_nothing(client: Client) -> None:
        with suppress(ConnectionError):
            assert await client.reader.read(1) == b""

    is_reached = fault == "other protocol"
    lines = served(tmp_path / "w", authority, hear_nothing, connections=int(is_reached), tls=change)
    assert {line["event"] for line in lines} == {"bastion_lost"}
    assert reason in lines[0]["reason"]


def test_the_key_is_made_once_and_shown_by_its_hash(tmp_path: Path) -> None:
    assert key_hash(tmp_path) is None
    path = open_key(tmp_path)
    first = key_hash(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_key(tmp_path).read_bytes() == path.read_bytes()
    assert key_hash(tmp_path) == first
    path.write_text("something else")
    with pytest.raises(MalformedError, match=r"bastion\.pem"):
        key_hash(tmp_path)


def test_bastions_are_hosts_with_ports() -> None:
    assert parse_bastions("a.example.com,b.example.com:8443, [::1]:1") == [
        ("a.example.com", 443),
        ("b.example.com", 8443),
        ("::1", 1),
    ]
    for text in ("https://a.example.com", "a:b", "u@a", "a/b", ",".join(["a"] * 17), ":443"):
        with pytest.raises(MalformedError, match="bastion"):
            parse_bastions(text)
