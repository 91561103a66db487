"""Starts a Kafka broker on loopback, which is its own controller (KRaft).

`tests/peers/install-kafka` puts its jars into tests/peers/kafka-broker. The folder of a broker
outlives it, so that one that was killed starts again with what it has.
"""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

JARS: Final = Path(__file__).parent / "kafka-broker"
START_WAIT_S: Final = 120.0
USER, PASSWORD = "ledger", "sesame opens"
T = TypeVar("T")

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CONTROLLER://127.0.0.1:{controller},PLAIN://127.0.0.1:{plain},AWAY://127.0.0.1:{away},\
SAFE://127.0.0.1:{safe}
advertised.listeners=PLAIN://127.0.0.1:{plain},AWAY://192.0.2.1:{away},SAFE://127.0.0.1:{safe}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,AWAY:PLAINTEXT,SAFE:{safety}
inter.broker.listener.name=PLAIN
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""
_SAFETY = """
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.safe.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.safe.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
"""


class Broker:
    """A broker: `plain_port` is open to all, `away_port` names another host as the broker's.

    `safe_port`: with TLS and the password of `USER`, if there is a `keystore`.
    """

    def __init__(self, folder: Path, *, keystore: Path | None = None) -> None:
        """`keystore`: a PEM file with the private key and the certificate."""
        folder.mkdir(parents=True)
        ports = _free_ports(4)
        self.controller_port, self.plain_port, self.away_port, self.safe_port = ports
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._properties = folder / "server.properties"
        self._properties.write_text(
            _PROPERTIES.format(
                folder=folder,
                controller=self.controller_port,
                plain=self.plain_port,
                away=self.away_port,
                safe=self.safe_port,
                safety="SASL_SSL" if keystore else "PLAINTEXT",
            )
            + (_SAFETY.format(keystore=keystore, user=USER, password=PASSWORD) if keystore else "")
        )
        user = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        cluster = "MkU3OEVBNTcwNTJENDM2Qg"
        done = subprocess.run(
            [
                *_java("kafka.tools.StorageTool"),
                *("format", "-t", cluster, "-c", str(self._properties), "--add-scram", user),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_java("kafka.Kafka"), str(self._properties)], stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + START_WAIT_S
        while not self._is_listening():
            assert self.process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline_s, "the broker does not start"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Stop it with its connections open, until `resume`."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def make_topic(self, name: str, *, partitions: int = 1, **settings: str) -> None:
        """Make a topic; underscores in names of settings are dots."""
        topic = NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=1,
            topic_configs={key.replace("_", "."): value for key, value in settings.items()},
        )
        self._ask(lambda admin: admin.create_topics([topic]))

    def messages(self, topic: str, *, partitions: int = 1) -> list[Any]:
        """What a topic has, in the order of each partition."""

        async def read() -> list[Any]:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=f"127.0.0.1:{self.plain_port}", auto_offset_reset="earliest"
            )
            await consumer.start()
            try:
                all_ = [TopicPartition(topic, number) for number in range(partitions)]
                consumer.assign(all_)
                ends = await consumer.end_offsets(all_)
                found: dict[Any, list[Any]] = {each: [] for each in all_}
                for each in all_:
                    while await consumer.position(each) < ends[each]:
                        for owner, batch in (await consumer.getmany(timeout_ms=100)).items():
                            found[owner] += batch
                return [message for each in all_ for message in found[each]]
            finally:
                await consumer.stop()

        return asyncio.run(read())

    def _ask(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def run() -> T:
            admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.plain_port}")
            await admin.start()
            try:
                return await work(admin)
            finally:
                await admin.close()

        return asyncio.run(run())

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.plain_port)) == 0


@contextmanager
def running_broker(folder: Path, *, keystore: Path | None = None) -> Iterator[Broker]:
    """A broker that is killed at the end."""
    broker = Broker(folder, keystore=keystore)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def _java(program: str) -> list[str]:
    # The serial collector and the first compiler start fastest, and take one core.
    flags = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    return ["java", *flags, "-cp", f"{JARS}/*", program]


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
