"""The listener over real sockets: nothing read is lost, nothing is read while there is no room."""

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from ledger_client.collect.syslog.datagrams import DATAGRAMS_WAITING_MAX
from ledger_client.collect.syslog.listener import SyslogListener
from ledger_client.collect.syslog.turns import TURN_MESSAGES
from ledger_client.recording.options import SpoolFullError
from ledger_client.runtime.line_limit import LINES_MAX
from ledger_core.tlog.errors import UnavailableError
from tests.client.syslog.certificates import Authority

HOST = "127.0.0.1"
WAIT_S = 120.0
HEADER = "<13>1 2026-11-25T02:03:36Z web-1 app - - - "


class Spool:
    """Keeps events in memory, and can be full."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.is_full = False

    def record(self, event: Mapping[str, Any]) -> None:
        if self.is_full:
            raise SpoolFullError("full")
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event["reason"] for event in self.events]

    async def until(self, is_met: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not is_met():  # noqa: ASYNC110 - it waits for what others do
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def listening(
    spool: Spool, *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[SyslogListener, int]]:
    listener = SyslogListener(spool.record, **options)
    _, port = await listener.listen_tcp(HOST, 0, tls)
    try:
        yield listener, port
    finally:
        await listener.close()


async def send(port: int, data: bytes, tls: ssl.SSLContext | None = None) -> None:
    _, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    writer.write(data)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def datagrams_of(listener: SyslogListener) -> Any:
    """What receives the datagrams of a listener with one socket for them."""
    (datagrams,) = listener._datagrams.values()
    return datagrams


def counted(*texts: str) -> bytes:
    frames = [f"{HEADER}{text}".encode() for text in texts]
    return b"".join(b"%d %b" % (len(frame), frame) for frame in frames)


@pytest.mark.anyio
async def test_messages_in_both_framings_are_recorded_in_order() -> None:
    spool = Spool()
    async with listening(spool) as (_, port):
        await send(port, counted("one", "two"))
        await spool.until(lambda: len(spool.events) == 2)
        await send(port, f"{HEADER}three\n{HEADER}four".encode())
        await spool.until(lambda: len(spool.events) == 4)
    assert spool.texts == ["one", "two", "three", "four"]
    assert {event["source"]["ip"] for event in spool.events} == {HOST}


@pytest.mark.anyio
async def test_nothing_more_is_read_while_the_spool_is_full_and_nothing_is_lost() -> None:
    texts = [f"{number} {'x' * 1000}" for number in range(20_000)]
    spool = Spool()
    spool.is_full = True
    async with listening(spool) as (_, port):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.transport.set_write_buffer_limits(high=0)
        for at in range(0, len(texts), 100):
            writer.write(counted(*texts[at : at + 100]))
        sent = asyncio.create_task(writer.drain())
        # What the kernel's buffers and one read hold goes out, and then no byte more.
        before, unsent = -1, 0
        while before != unsent:
            before = unsent
            await asyncio.sleep(0.5)
            unsent = writer.transport.get_write_buffer_size()
        assert not sent.done()
        assert unsent > 8 * 1024 * 1024
        assert spool.events == []
        spool.is_full = False
        await sent
        writer.close()
        await spool.until(lambda: len(spool.events) == len(texts))
    assert spool.texts == texts


@pytest.mark.anyio
async def test_what_was_read_is_recorded_when_the_listener_ends() -> None:
    spool = Spool()
    spool.is_full = True
    async with listening(spool) as (listener, port):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(counted("one", "two") + b"9999 <13>1 - - - - - - half")
        await writer.drain()
        await spool.until(lambda: listener._turns.is_full)
        closing = asyncio.create_task(listener.close())
        await asyncio.sleep(0)
        spool.is_full = False
        await closing
        writer.close()
    assert spool.texts == ["one", "two", "half"]
    assert "the connection ended inside it" in spool.events[2]["context"]["import_notes"][0]


@pytest.mark.anyio
async def test_a_spool_that_stays_full_does_not_hold_up_the_end_and_what_is_lost_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = Spool()
    spool.is_full = True
    async with listening(spool) as (listener, port):
        _, datagrams_port = await listener.listen_udp(HOST, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"datagram", (HOST, datagrams_port))
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(counted("one", "two") + b"9999 <13>1 - - - - - - half")
        await writer.drain()
        await spool.until(lambda: listener._turns.is_full)
        await spool.until(lambda: datagrams_of(listener)._waiting._unfinished_tasks == 1)
        async with asyncio.timeout(WAIT_S):
            await listener.close()
        writer.close()
    assert spool.events == []
    assert f"messages_lost ip={HOST}:" in caplog.text
    assert "datagrams_lost count=1" in caplog.text


@pytest.mark.anyio
async def test_a_flood_of_one_sender_has_the_messages_of_others_wait_for_one_turn() -> None:
    spool = Spool()
    is_open = threading.Event()

    def record(event: Mapping[str, Any]) -> None:
        is_open.wait(WAIT_S)
        spool.events.append(event)

    listener = SyslogListener(record)
    _, port = await listener.listen_tcp(HOST, 0)
    _, datagrams_port = await listener.listen_udp(HOST, 0)
    writers = []
    for _ in range(8):
        _, flood = await asyncio.open_connection(HOST, port)
        flood.write(b"1 x" * 2_000)
        writers.append(flood)
    # All of them are read before the others send anything.
    await spool.until(lambda: len(listener._connections) == len(writers))
    for _ in range(100):
        await asyncio.sleep(0.001)
    _, other = await asyncio.open_connection(HOST, port, local_addr=("127.0.0.2", 0))
    other.write(counted("other"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"datagram", (HOST, datagrams_port))
    await spool.until(lambda: datagrams_of(listener)._waiting._unfinished_tasks == 1)
    await spool.until(lambda: len(listener._connections) == len(writers) + 1)
    for _ in range(100):
        await asyncio.sleep(0.001)
    is_open.set()
    await spool.until(lambda: {"other", "datagram"} <= set(spool.texts))
    places = [spool.texts.index(text) for text in ("other", "datagram")]
    for writer in (*writers, other):
        writer.close()
    await listener.close()
    # The flood has one turn at a time, and some go on while the two are read.
    assert max(places) < 10 * TURN_MESSAGES
    assert spool.texts.count("x") == 8 * 2_000


@pytest.mark.anyio
async def test_one_read_of_many_messages_takes_the_memory_of_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: list[int] = []
    spool = Spool()

    async def record(waiting: list[Any], _sender: str) -> None:
        counts.append(len(waiting))

    async with listening(spool) as (listener, port):
        monkeypatch.setattr(listener._turns, "record", record)
        await send(port, b"1 x" * 10_000)
        await spool.until(lambda: sum(counts) == 10_000)
    assert max(counts) <= TURN_MESSAGES


@pytest.mark.anyio
async def test_a_stream_that_lost_its_framing_is_closed_and_its_rest_is_kept() -> None:
    spool = Spool()
    async with listening(spool) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(counted("one") + b"no count")
        assert await reader.read() == b""
        writer.close()
    assert spool.texts == ["one", "no count"]
    notes = spool.events[1]["context"]["import_notes"]
    assert "message: no count of octets before it, so the connection was closed" in notes


@pytest.mark.anyio
async def test_connections_beyond_the_limit_are_refused_and_the_others_served() -> None:
    spool = Spool()
    async with listening(spool, connections_max=2) as (listener, port):
        writers = [(await asyncio.open_connection(HOST, port))[1] for _ in range(2)]
        await spool.until(lambda: len(listener._connections) == 2)
        reader, writer = await asyncio.open_connection(HOST, port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        for writer in writers:
            writer.write(counted("served"))
            writer.close()
        await spool.until(lambda: len(spool.events) == 2)
        await spool.until(lambda: not listener._connections)
        await send(port, counted("later"))
        await spool.until(lambda: len(spool.events) == 3)


@pytest.mark.anyio
async def test_one_address_can_not_keep_the_others_out() -> None:
    spool = Spool()
    async with listening(spool, connections_per_address_max=2) as (listener, port):
        greedy = [await asyncio.open_connection(HOST, port) for _ in range(6)]
        for reader, _ in greedy[2:]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        _, other = await asyncio.open_connection(HOST, port, local_addr=("127.0.0.2", 0))
        other.write(counted("from elsewhere"))
        await spool.until(lambda: spool.texts == ["from elsewhere"])
        for _, writer in (*greedy, (None, other)):
            writer.close()
        await spool.until(lambda: not listener._connections)
        assert not listener._by_address
        await send(port, counted("later"))
        await spool.until(lambda: len(spool.events) == 2)


@pytest.mark.anyio
async def test_few_addresses_with_all_connections_make_room_for_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = Spool()
    writers = []
    async with listening(spool, connections_max=4) as (listener, port):

        async def connect(host: str, text: str, *, is_read: bool = True) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(HOST, port, local_addr=(host, 0))
            writers.append(writer)
            writer.write(counted(text))
            if is_read:
                await spool.until(lambda: text in spool.texts)
            return reader

        readers = [await connect(HOST, text) for text in ("1", "2", "3", "4")]
        await spool.until(lambda: len(listener._idle.get(HOST, ())) == 4)
        for place, host in enumerate(("127.0.0.2", "127.0.0.3", "127.0.0.4")):
            await connect(host, host)
            # The one that has waited longest ends.
            assert await readers[place].read() == b""
            await spool.until(lambda: len(listener._connections) == 4)
            await spool.until(lambda: sum(map(len, listener._idle.values())) == 4)
        # Nobody has more than another one by now.
        with contextlib.suppress(ConnectionResetError):
            assert await (await connect("127.0.0.5", "5", is_read=False)).read() == b""
        assert sorted(listener._by_address) == [HOST, "127.0.0.2", "127.0.0.3", "127.0.0.4"]
        for writer in writers:
            writer.close()
        await spool.until(lambda: not listener._connections)
        assert not listener._idle
    assert "5" not in spool.texts
    assert caplog.text.count(f"connection_given_up ip={HOST}") == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("family", "ips"),
    [
        ("TCP4", ("192.0.2.1", "192.0.2.2", "192.0.2.1")),
        # All of a network of IPv6 is one host.
        ("TCP6", ("2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:1:1:9::7")),
    ],
)
async def test_behind_a_balancer_each_client_has_its_part(
    family: str, ips: tuple[str, str, str]
) -> None:
    spool = Spool()
    options: dict[str, Any] = {
        "connections_per_address_max": 1,
        "balancers": [ip_network(HOST)],
    }
    async with listening(spool, **options) as (_, port):
        writers = []
        texts: list[str] = []
        for ip, text in zip(ips, ("one", "two", "three"), strict=True):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(f"PROXY {family} {ip} {ips[0]} 5 6\r\n".encode() + counted(text))
            if text == "three":
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            else:
                texts.append(text)
                await spool.until(lambda: spool.texts == texts)
            writers.append(writer)
        for writer in writers:
            writer.close()
    assert spool.texts == ["one", "two"]


@pytest.mark.anyio
async def test_each_datagram_is_a_message_and_those_that_found_no_room_are_counted() -> None:
    spool = Spool()
    listener = SyslogListener(spool.record, frame_bytes_max=2_048)
    _, port = await listener.listen_udp(HOST, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((HOST, port))
        sender.send(f"{HEADER}one\n".encode())
        sender.send(f"{HEADER}{'x' * 3_000}".encode())
        await spool.until(lambda: len(spool.events) == 2)
        assert spool.texts[0] == "one"
        assert "message: cut," in spool.events[1]["context"]["import_notes"][0]
        spool.is_full = True
        count = 0
        while not datagrams_of(listener).lost:
            sender.send(f"{HEADER}{count}".encode())
            count += 1
            await asyncio.sleep(0)
        assert count > DATAGRAMS_WAITING_MAX
        spool.is_full = False
        await spool.until(lambda: any("lost" in event["action"] for event in spool.events))
        lost = sum(event["context"]["count"] for event in spool.events if "lost" in event["action"])
        await listener.close()
    kept = [event for event in spool.events if "lost" not in event["action"]]
    assert len(kept) + lost == 2 + count


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what it drops")
@pytest.mark.anyio
async def test_datagrams_that_the_system_dropped_are_counted_too() -> None:
    spool = Spool()
    listener = SyslogListener(spool.record)
    _, port = await listener.listen_udp(HOST, 0)
    sent = 3_000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((HOST, port))
        for _ in range(sent):  # Nothing is read meanwhile, and no buffer has room for all.
            sender.send(f"{HEADER}{'x' * 8_000}".encode())

    def lost() -> int:
        return sum(each["context"]["count"] for each in spool.events if "count" in each["context"])

    await spool.until(
        lambda: (
            lost() > 0
            and len([e for e in spool.events if "lost" not in e["action"]]) + lost() == sent
        )
    )
    await listener.close()


def requiring_certificates(authority: Authority) -> ssl.SSLContext:
    """The listener's side of TLS, which refuses a sender without a certificate."""
    certificate, key, _ = authority.issue("listener")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    server.load_verify_locations(authority.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    return server


@pytest.mark.anyio
async def test_over_tls_a_sender_is_known_by_its_certificate_and_one_without_is_refused(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    sender_certificate, sender_key, fingerprint = authority.issue("sender")
    server = requiring_certificates(authority)
    known, unknown = (ssl.create_default_context(cafile=authority.certificate) for _ in range(2))
    known.load_cert_chain(sender_certificate, sender_key)
    spool = Spool()
    async with listening(spool, tls=server) as (_, port):
        await send(port, counted("one", "two"), known)
        await spool.until(lambda: len(spool.events) == 2)
        with contextlib.suppress(ssl.SSLError, OSError):
            await send(port, counted("three"), unknown)
        await send(port, counted("four"), known)
        await spool.until(lambda: len(spool.events) == 3)
    assert spool.texts == ["one", "two", "four"]
    credentials = {event["actor"]["credential"] for event in spool.events}
    assert credentials == {f"sha256:{fingerprint}"}


LOOPBACK = [ip_network("127.0.0.0/8")]
PROXY = b"PROXY TCP4 192.0.2.9 203.0.113.1 50123 6514\r\n"


@pytest.mark.anyio
async def test_behind_a_balancer_that_is_named_the_source_is_the_one_in_its_header() -> None:
    spool = Spool()
    async with listening(spool, balancers=LOOPBACK) as (_, port):
        # In one piece with the first message, and in many.
        await send(port, PROXY + counted("one"))
        _, writer = await asyncio.open_connection(HOST, port)
        for octet in PROXY + counted("two"):
            writer.write(bytes([octet]))
            await writer.drain()
        writer.close()
        # The balancer's own connection, such as a health check.
        await send(port, b"PROXY UNKNOWN\r\n" + counted("three"))
        await spool.until(lambda: len(spool.events) == 3)
    sources = {event["reason"]: event["source"] for event in spool.events}
    assert {sources["one"]["ip"], sources["two"]["ip"]} == {"192.0.2.9"}
    assert {sources["one"]["port"], sources["two"]["port"]} == {50123}
    assert sources["three"]["ip"] == HOST
    balancers = {event["reason"]: event["context"].get("balancer") for event in spool.events}
    assert balancers == {"one": HOST, "two": HOST, "three": None}


@pytest.mark.anyio
async def test_a_balancer_that_sends_no_header_is_refused_and_others_need_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = Spool()
    async with listening(spool, balancers=LOOPBACK) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(counted("one"))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    assert spool.events == []
    assert "proxy_header_refused ip=127.0.0.1" in caplog.text
    async with listening(spool, balancers=[ip_network("192.0.2.0/24")]) as (_, port):
        await send(port, PROXY.replace(b"\r", b"") + f"{HEADER}two\n".encode())
        await spool.until(lambda: len(spool.events) == 2)
    # Anybody may write such a line, so from anybody else it is a message.
    assert [event["source"]["ip"] for event in spool.events] == [HOST, HOST]
    assert spool.texts == [PROXY.decode().strip(), "two"]


@pytest.mark.anyio
async def test_the_header_comes_before_tls_and_the_certificate_is_the_senders(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    sender_certificate, sender_key, fingerprint = authority.issue("sender")
    server = requiring_certificates(authority)
    client = ssl.create_default_context(cafile=authority.certificate)
    client.load_cert_chain(sender_certificate, sender_key)
    spool = Spool()
    # The client's first TLS record goes out together with the header.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client.wrap_bio(incoming, outgoing, server_hostname=HOST)
    async with listening(spool, tls=server, balancers=LOOPBACK) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(PROXY)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
        tls.write(counted("one"))
        writer.write(outgoing.read())
        await spool.until(lambda: len(spool.events) == 1)
        writer.close()
    (event,) = spool.events
    assert event["source"]["ip"] == "192.0.2.9"
    assert event["actor"]["credential"] == f"sha256:{fingerprint}"


@pytest.mark.anyio
async def test_a_connection_that_has_sent_no_header_yet_does_not_hold_up_the_end() -> None:
    spool = Spool()
    async with listening(spool, balancers=LOOPBACK) as (listener, port):
        _, writer = await asyncio.open_connection(HOST, port)
        await spool.until(lambda: len(listener._connections) == 1)
        await listener.listen_udp(HOST, 0)
        async with asyncio.timeout(WAIT_S):
            await listener.close()
        assert not listener._connections
        writer.close()


@pytest.mark.anyio
async def test_an_address_that_is_taken_is_said() -> None:
    spool = Spool()
    async with listening(spool) as (listener, port):
        with pytest.raises(UnavailableError, match=f"cannot listen on {HOST} port {port}"):
            await listener.listen_tcp(HOST, port)


def test_an_address_can_not_fill_the_disk_with_lines(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("ledger_client.collect.syslog")
    for _ in range(1_000):
        log.warning("connection_refused ip=%s limit=%d", "203.0.113.99", 512)
        log.warning("datagrams_lost count=%d", 1)
    assert caplog.text.count("203.0.113.99") == LINES_MAX
    assert caplog.text.count("datagrams_lost") == 1_000
