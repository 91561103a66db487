"""Kafka: a real broker, which is away, killed, stopped, or refuses some records."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner

from ledger.sinks.config import SinkConfig
from ledger.sinks.dead_letters import read_letters
from ledger.sinks.kinds import open_receiver
from ledger.sinks.receiver import RetryError
from ledger.sinks.worker import LogSource
from ledger.store.log import LogStore
from ledger_core.tlog.errors import MalformedError, UnavailableError
from tests.client.syslog.certificates import Authority
from tests.peers.kafka import PASSWORD, USER, Broker, running_broker
from tests.sinks.sinking import ORIGIN, Folder, deliver, running
from tests.waiting import until

TOPIC = "audit"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def shared_broker(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("kafka")
    certificate, key, _ = authority.issue("broker")
    keystore = folder / "keystore.pem"
    keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
    with running_broker(folder / "broker", keystore=keystore) as broker:
        yield broker


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic for one test."""
    name = "".join(each if each.isalnum() else "_" for each in request.node.name)
    return f"{TOPIC}.{name}"[:249]


def add(folder: Folder, port: int, **values: Any) -> Any:
    return folder.add(
        "bus",
        **{
            "type": "kafka",
            "url": f"kafka://127.0.0.1:{port}",
            "topic": TOPIC,
            "retry_max_s": 0.05,
            "timeout_s": 10.0,
            **values,
        },
    )


def indices(messages: list[Any]) -> list[int]:
    return [int(dict(message.headers)["index"]) for message in messages]


def check_no_gap(found: list[int], count: int) -> None:
    """Each index came, for the first time in order."""
    assert list(dict.fromkeys(found)) == list(range(count))


@pytest.mark.kafka
@pytest.mark.parametrize("values", [{}, {"gzip": True}, {"batch_bytes": 2048}])
def test_each_record_is_stored_in_order_in_the_partition_of_its_log(
    folder: Folder, shared_broker: Broker, topic: str, values: dict[str, Any]
) -> None:
    folder.append(count=40)
    shared_broker.make_topic(topic, partitions=3)
    add(folder, shared_broker.plain_port, topic=topic, batch_events=17, **values)
    deliver(folder, "bus")
    messages = shared_broker.messages(topic, partitions=3)
    assert indices(messages) == list(range(40))
    assert [dict(message.headers)["leaf_hash"].decode() for message in messages] == (
        folder.leaf_hashes()
    )
    # The partition is that of the key, by the rule of Kafka's own producers.
    partition = DefaultPartitioner()(ORIGIN.encode(), [0, 1, 2], [0, 1, 2])
    assert {(message.key, message.partition) for message in messages} == {
        (ORIGIN.encode(), partition)
    }
    assert {dict(message.headers)["origin"] for message in messages} == {ORIGIN.encode()}
    with closing(LogStore.open(folder.directory / "log")) as store:
        source = LogSource(store, SinkConfig(type="http"))
        assert [message.value for message in messages] == [
            source.record(index).json for index in range(40)
        ]


@pytest.mark.kafka
def test_a_record_that_the_topic_never_takes_is_a_dead_letter(
    folder: Folder, shared_broker: Broker, topic: str
) -> None:
    folder.append({}, {"context": {"text": "x" * 4_000}}, {}, {"context": {"text": "y" * 4_000}})
    folder.append(count=20)
    shared_broker.make_topic(topic, max_message_bytes="3000")
    paths = add(folder, shared_broker.plain_port, topic=topic)
    deliver(folder, "bus")
    # Those that fit came once, although their batch was refused.
    assert indices(shared_broker.messages(topic)) == [0, 2, *range(4, 24)]
    letters = read_letters(paths.dead)
    assert [letter.index for letter in letters] == [1, 3]
    assert "max.message.bytes" in letters[0].reason


@pytest.mark.kafka
def test_without_a_topic_nothing_is_lost_and_it_is_said(
    folder: Folder, shared_broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sinks.kafka.TOPIC_WAIT_S", 0.5)
    folder.append(count=5)
    add(folder, shared_broker.plain_port, topic=topic)
    with running(folder, "bus"):
        until(lambda: f"no topic {topic}" in folder.report("bus").state.error)
        shared_broker.make_topic(topic)
        until(lambda: folder.report("bus").next_index == 5)
    assert indices(shared_broker.messages(topic)) == list(range(5))


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_over_tls_a_wrong_password_is_waited_out(
    folder: Folder,
    shared_broker: Broker,
    topic: str,
    authority: Authority,
    tmp_path: Path,
    mechanism: str,
) -> None:
    folder.append(count=3)
    shared_broker.make_topic(topic)
    secret = tmp_path / "password"
    secret.write_text("wrong word")
    add(
        folder,
        shared_broker.safe_port,
        url=f"tls://127.0.0.1:1,127.0.0.1:{shared_broker.safe_port}",
        topic=topic,
        ca_file=str(authority.certificate),
        username=USER,
        mechanism=mechanism,
        token_file=str(secret),
    )
    with running(folder, "bus"):
        until(lambda: "uthentication" in folder.report("bus").state.error)
        assert "wrong word" not in folder.report("bus").state.error
        secret.write_text(f"{PASSWORD}\n")
        until(lambda: folder.report("bus").next_index == 3)
    assert indices(shared_broker.messages(topic)) == [0, 1, 2]


@pytest.mark.kafka
def test_a_broker_with_a_certificate_of_others_gets_nothing(
    folder: Folder, shared_broker: Broker, tmp_path: Path
) -> None:
    folder.append(count=1)
    other = Authority(tmp_path)
    add(
        folder,
        shared_broker.safe_port,
        url=f"tls://127.0.0.1:{shared_broker.safe_port}",
        ca_file=str(other.certificate),
    )
    with running(folder, "bus"):
        until(lambda: "certificate" in folder.report("bus").state.error)


@pytest.mark.kafka
def test_a_broker_that_names_another_host_gets_nothing_in_the_clear(
    folder: Folder, shared_broker: Broker
) -> None:
    folder.append(count=1)
    add(folder, shared_broker.away_port)
    with running(folder, "bus"):
        until(lambda: "says that it is 192.0.2.1" in folder.report("bus").state.error)


@pytest.mark.kafka
def test_a_broker_that_is_killed_or_stops_gets_all_without_a_gap(
    folder: Folder, tmp_path: Path
) -> None:
    folder.append(count=1000)
    broker = Broker(tmp_path / "kafka")
    add(folder, broker.plain_port, batch_events=2, timeout_s=2.0)
    try:
        with running(folder, "bus"):
            until(lambda: folder.report("bus").state.error != "")
            broker.start()
            broker.make_topic(TOPIC)
            until(lambda: folder.report("bus").next_index > 20)
            broker.kill()
            assert folder.report("bus").next_index < 1000
            until(lambda: folder.report("bus").state.error != "")
            broker.start()
            until(lambda: folder.report("bus").state.error == "")
            broker.pause()
            assert folder.report("bus").next_index < 1000
            until(lambda: "in time" in folder.report("bus").state.error)
            broker.resume()
            until(lambda: folder.report("bus").next_index == 1000)
        found = indices(broker.messages(TOPIC))
    finally:
        broker.kill()
    check_no_gap(found, 1000)


def test_a_broker_that_talks_nonsense_is_waited_out(folder: Folder) -> None:
    folder.append(count=1)

    served = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        request = await reader.readexactly(size)
        # The number of the request, and an answer that ends too early.
        writer.write((6).to_bytes(4, "big") + request[4:8] + b"\x00\x00")
        writer.close()
        await writer.wait_closed()
        served.release()

    async def run(record: Any) -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"kafka://127.0.0.1:{port}"
            receiver = open_receiver(SinkConfig(type="kafka", url=url, topic=TOPIC, timeout_s=5.0))
            for _ in range(2):
                with pytest.raises(RetryError, match=r"127\.0\.0\.1: "):
                    await receiver.send([record])
                await served.acquire()
            await receiver.close()

    with closing(LogStore.open(folder.directory / "log")) as store:
        record = LogSource(store, SinkConfig(type="http")).record(0)
    asyncio.run(run(record))
    gc.collect()  # A connection that was left open warns now.


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"topic": ""}, "topic"),
        ({"topic": "audit log"}, "topic"),
        ({"topic": ".."}, "topic"),
        ({"topic": "x" * 250}, "249"),
        ({"url": "kafka://kafka.example.com:9092"}, "can read what is sent"),
        ({"url": "kafka://127.0.0.1:9092,kafka.example.com:9092"}, "way to kafka.example.com"),
        ({"url": "tls://a.example.com:9093,"}, "want tls://"),
        ({"url": "tls://a.example.com:9093,b.example.com:nine"}, "url"),
        ({"url": "https://127.0.0.1:4222"}, "want tls://"),
        ({"username": "ledger"}, "username"),
        ({"token_env": "SECRET"}, "username"),
    ],
)
def test_what_can_not_work_is_refused(folder: Folder, values: dict[str, str], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        add(folder, 9092, **values)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ledger.sinks.kafka", raising=False)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(UnavailableError, match=r"witnessed-ledger\[kafka\]"):
        open_receiver(SinkConfig(type="kafka", url="kafka://127.0.0.1", topic=TOPIC))
