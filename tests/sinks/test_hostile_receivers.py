"""Hostile receivers get no secret in the clear, and take no memory or time without a limit."""

import asyncio
import contextlib
import socketserver
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from ledger.sinks import mail, otlp
from ledger.sinks.config import SinkConfig
from ledger.sinks.kinds import open_receiver
from ledger.sinks.receiver import RetryError
from ledger.sinks.record import Record
from ledger.sinks.worker import LogSource
from ledger.store.log import LogStore
from tests.sinks.sinking import Folder, HttpPeer, Reply, Request, running
from tests.waiting import until

CLIENT_HELLO = b"\x16\x03\x01"


@pytest.fixture
def record(folder: Folder) -> Record:
    folder.append(count=1)
    with closing(LogStore.open(folder.directory / "log")) as store:
        return LogSource(store, SinkConfig(type="http", url="http://127.0.0.1")).record(0)


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("sesame")
    return str(path)


def send(config: SinkConfig, record: Record) -> None:
    async def run() -> None:
        receiver = open_receiver(config)
        try:
            await receiver.send([record])
        finally:
            await receiver.close()

    asyncio.run(run())


def send_to_nats(
    info: bytes, record: Record, token_file: str, *, scheme: str = "nats", timeout_s: float = 0.3
) -> bytes:
    """Send to a server with this greeting, which must fail; what the server got.

    The server leaves a handshake of TLS without an answer, until the client has no more time or, if
    that is long, at once.
    """
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + info + b"\r\n")
        while piece := await reader.read(1 << 16):
            received.extend(piece)
            if piece.endswith(b"PING\r\n"):
                writer.write(b"PONG\r\n")
            elif timeout_s > 1:
                break
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            config = SinkConfig(
                type="nats",
                url=f"{scheme}://127.0.0.1:{port}",
                subject="audit",
                token_file=token_file,
                timeout_s=timeout_s,
            )
            receiver = open_receiver(config)
            with pytest.raises(RetryError):
                await receiver.send([record])
            await receiver.close()

    asyncio.run(run())
    return bytes(received)


def test_a_server_of_nats_can_not_talk_the_sink_out_of_tls(record: Record, token_file: str) -> None:
    info = b'{"tls_required":false}'
    received = send_to_nats(info, record, token_file, scheme="tls", timeout_s=60)
    assert received.startswith(CLIENT_HELLO)
    assert b"CONNECT" not in received
    assert b"sesame" not in received


def test_a_handshake_without_an_answer_is_given_up(record: Record, token_file: str) -> None:
    send_to_nats(b'{"tls_required":true}', record, token_file)


@pytest.mark.parametrize("info", [b"[]", b"5", b'{"connect_urls":5}', b'{"connect_urls":["[::"]}'])
def test_a_greeting_that_nats_does_not_send_is_waited_out(
    info: bytes, record: Record, token_file: str
) -> None:
    send_to_nats(info, record, token_file)


@pytest.mark.parametrize(
    "begin", [b"MSG a 1 99999999999\r\n", b"-ERR '"], ids=["a message", "a line"]
)
def test_what_a_server_of_nats_sends_without_an_end_is_not_kept(
    begin: bytes, record: Record
) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n")
        while not (await reader.read(1 << 16)).endswith(b"PING\r\n"):
            pass
        writer.write(b"PONG\r\n" + begin)

    config = SinkConfig(type="nats", subject="audit", timeout_s=2)
    # What the two systems hold for the connection was written too.
    assert taken_by(config, record, greet) < 1 << 25


def test_what_a_broker_of_kafka_sends_without_an_end_is_not_kept(record: Record) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(1 << 16):
            raise ConnectionError("the client has left")
        writer.write((2**31 - 1).to_bytes(4, "big"))

    config = SinkConfig(type="kafka", topic="audit", timeout_s=5)
    assert taken_by(config, record, greet) < 1 << 25


Greet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def taken_by(config: SinkConfig, record: Record, greet: Greet) -> int:
    """The bytes that a receiver takes from a server which sends 64 MiB behind its greeting."""
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        with contextlib.suppress(OSError):
            await greet(reader, writer)
            while taken < 1 << 26:
                writer.write(bytes(1 << 16))
                await writer.drain()
                taken += 1 << 16
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"{config.type}://127.0.0.1:{port}"
            receiver = open_receiver(msgspec.structs.replace(config, url=url))
            with pytest.raises(RetryError):
                await receiver.send([record])
            await receiver.close()

    asyncio.run(run())
    return taken


@contextmanager
def endless_answer() -> Iterator[int]:
    """A mail server whose answer to EHLO goes on until the client leaves; its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test\r\n")
            self.rfile.readline()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"250-test\r\n" * 1000)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("limit", ["bytes", "time"])
def test_an_answer_of_a_mail_server_has_an_end(
    limit: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "time":
        monkeypatch.setattr(mail, "ANSWERS_BYTES_MAX", 1 << 40)
    with endless_answer() as port:
        config = SinkConfig(
            type="smtp",
            url=f"smtp://127.0.0.1:{port}",
            sender="a@example.com",
            to=("b@example.com",),
            timeout_s=30.0 if limit == "bytes" else 0.2,
        )
        reason = "bytes" if limit == "bytes" else "in time"
        with pytest.raises(RetryError, match=reason):
            send(config, record)


def test_a_number_in_an_answer_to_otlp_has_ten_bytes_at_most() -> None:
    assert otlp.read_answer(b"\x0a\x04\x08\x80\x80\x01") == (1 << 14, "")
    # Read to its end this takes minutes.
    assert otlp.read_answer(b"\xff" * (8 << 20)) == (0, "")
    assert otlp.read_answer(b"\x0a\x8b\x80\x80\x00\x08" + b"\xff" * 10) == (0, "")


@pytest.mark.parametrize("username", ["", "ledger"])
def test_what_a_receiver_repeats_stays_in_the_files_of_the_sink(
    folder: Folder, token_file: str, username: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gateway may put the request into its error page, and Elasticsearch a record's value."""
    Path(token_file).write_text("open-sesame")
    folder.append({"action": "login.failed"})

    def echo(request: Request) -> Reply:
        told = f"bad gateway: {request.headers['Authorization']} {request.body.decode()}"
        return Reply(502, told.encode())

    more = {"username": username, "token_file": token_file, "retry_max_s": 0.02}
    with HttpPeer(echo) as peer:
        paths = folder.add("siem", type="http", url=peer.url, **more)
        with running(folder, "siem"):
            until(lambda: folder.report("siem").state.error != "")
    error = folder.report("siem").state.error
    assert error.startswith("HTTP 502; the answer: bad gateway: ")
    assert "login.failed" in error
    sent = peer.requests[0].headers["Authorization"].split()[1]
    for file in paths.root.iterdir():
        assert not any(secret in file.read_text() for secret in ("open-sesame", sent))
    logged = capsys.readouterr()
    lines = logged.out + logged.err
    assert "sink_fails" in lines
    assert not any(text in lines for text in ("open-sesame", sent, "login.failed"))


def test_an_answer_that_is_no_http_shows_no_address(folder: Folder) -> None:
    """The address of a webhook is its secret with many receivers, and the library quotes it."""

    class Garbage(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"garbage of the receiver\r\n\r\n")

    folder.append(count=1)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/hook/T0-secret"
        folder.add("hook", type="webhook", url=url, retry_max_s=0.02)
        with running(folder, "hook"):
            until(lambda: folder.report("hook").state.error != "")
        server.shutdown()
    error = folder.report("hook").state.error
    assert error.endswith(": the answer is not valid HTTP")
    assert "secret" not in error
    assert "garbage" not in error
