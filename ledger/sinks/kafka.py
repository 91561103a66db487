"""Kafka: a message for each record, confirmed by all replicas of its partition that are in sync.

    key      the origin, so the records of a log are in one partition, in their order
    value    the record
    headers  index, leaf_hash, origin

The next batch is sent after the confirmation of the one before, so none overtakes another. The
producer is idempotent: what it sends again after a lost answer is stored once. A batch without a
confirmation in `timeout_s` is given up with its producer, and may be stored twice.

Needs `aiokafka`, the extra `kafka` of the service.
"""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from ledger.runtime.network_errors import explain_network_error
from ledger.sinks.config import SinkConfig, broker_addresses
from ledger.sinks.receiver import RetryError, Sent
from ledger.sinks.record import Record
from ledger.sinks.tls import client_context
from ledger_client.messages import check_loopback
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.text import printable

try:
    from aiokafka import AIOKafkaProducer, conn
    from aiokafka.errors import (
        KafkaConnectionError,
        KafkaError,
        KafkaTimeoutError,
        MessageSizeTooLargeError,
        ProducerClosed,
        RecordListTooLargeError,
        UnknownTopicOrPartitionError,
    )
    from aiokafka.partitioner import DefaultPartitioner
except ImportError:
    raise UnavailableError(
        "a sink of type kafka needs aiokafka: pip install 'witnessed-ledger[kafka]'"
    ) from None

ANSWER_BYTES_MAX: Final = 64 << 20
"""Bytes of one answer of a broker. The list of the topics of a large cluster has some MiB."""

BATCH_BYTES_MAX: Final = 1_000_000
"""Bytes of a batch of several records; brokers take 1,048,588 unless they are told otherwise."""

TOPIC_WAIT_S: Final = 5.0
"""Seconds for a topic to appear: a broker that makes topics by itself needs some."""

CLOSE_WAIT_S: Final = 1.0
ABORT_POLL_S: Final = 0.05

_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
_SAYS_LITTLE: Final = (TimeoutError, KafkaConnectionError, KafkaTimeoutError)
"""Errors of the library whose cause stands in its log alone."""

_NO_KAFKA: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError, struct.error),
)
"""What the library raises for answers that no broker sends."""


class _Causes(logging.Handler):
    """Keeps the cause that the library logged last, in place of a line for each attempt."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._cause = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error that a line ends with."""
        cause = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        if isinstance(cause, type) and issubclass(cause, Exception):
            self._cause = cause.__name__
        elif isinstance(cause, Exception):
            is_late = isinstance(cause, TimeoutError)
            self._cause = "no answer in time" if is_late else explain_network_error(cause)

    def take(self) -> str:
        """The cause since the last call, empty for none."""
        cause, self._cause = self._cause, ""
        return cause


_causes: Final = _Causes()
_library_log: Final = logging.getLogger("aiokafka")
_library_log.propagate = False
_library_log.addHandler(_causes)


class _Connection(conn.AIOKafkaConnection):  # type: ignore[misc] # the library has no types
    """A connection with a limit for answers. The library reads 2 GiB if a broker announces it."""

    def _create_reader_task(self) -> Any:
        self._reader.readexactly = _bounded(self._reader.readexactly)
        return super()._create_reader_task()


def _bounded(
    read: Callable[[int], Coroutine[Any, Any, bytes]],
) -> Callable[[int], Coroutine[Any, Any, bytes]]:
    async def read_exactly(length: int) -> bytes:
        if length > ANSWER_BYTES_MAX:
            raise ConnectionError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        return await read(length)

    return read_exactly


# The library makes its connections by this name.
conn.AIOKafkaConnection = _Connection


class KafkaReceiver:
    """Sends by one producer, which is made when it is needed, and anew after a failure."""

    def __init__(self, config: SinkConfig) -> None:
        self._config: Final = config
        self._producer: Any = None
        self._partition = 0

    async def send(self, records: Sequence[Record]) -> Sent:
        """Send records batch by batch, in order. Raises: RetryError when none was confirmed."""
        refused: dict[int, str] = {}
        parts = deque([range(len(records))])
        while parts:
            part = parts.popleft()
            try:
                producer = await self._connected(records[part.start].origin)
                batch, count = _fill(producer.create_batch(), records, part)
                if count < len(part):
                    parts.appendleft(part[count:])
                    part = part[:count]
                async with asyncio.timeout(self._config.timeout_s):
                    await (
                        await producer.send_batch(
                            batch, self._config.topic, partition=self._partition
                        )
                    )
            except _TOO_LARGE as error:
                # The library counts the refused batch, and the broker does not: begin anew.
                await self.close()
                if len(part) == 1:
                    refused[part.start] = _explain_refusal(error)
                else:
                    middle = len(part) // 2
                    parts.extendleft((part[middle:], part[:middle]))
            except (KafkaError, OSError, TimeoutError, UnavailableError, *_NO_KAFKA) as error:
                reason = self._explain(error)
                await self.close()
                if not part.start:
                    raise RetryError(reason, is_unanswered=True) from None
                # What follows waits too, or it would be stored before this part.
                return Sent(refused=refused, again=range(part.start, len(records)), reason=reason)
        return Sent(refused=refused)

    async def close(self) -> None:
        """Close the connections, and give up what has no confirmation."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await _abort(producer)

    async def _connected(self, key: str) -> Any:
        if self._producer is not None:
            self._check_brokers(self._producer)
            return self._producer
        _causes.take()
        self._producer = producer = self._make_producer()
        # Each request of it has a limit of its own, whose end closes what it opened.
        await producer.client.bootstrap()
        self._check_brokers(producer)
        async with asyncio.timeout(self._config.timeout_s):
            # The rest of the library's `start`.
            await producer._sender.start()  # noqa: SLF001
        try:
            async with asyncio.timeout(min(TOPIC_WAIT_S, self._config.timeout_s)):
                partitions = sorted(await producer.partitions_for(self._config.topic))
        except TimeoutError:
            raise UnknownTopicOrPartitionError from None
        self._partition = DefaultPartitioner()(key.encode(), partitions, partitions)
        return producer

    def _make_producer(self) -> Any:
        """A producer that is not connected. Raises: UnavailableError for unfit files."""
        config = self._config
        addresses = broker_addresses(config.url)
        is_encrypted = addresses[0].scheme == "tls"
        protocol = "SSL" if is_encrypted else "PLAINTEXT"
        options: dict[str, Any] = {}
        if config.username:
            protocol = f"SASL_{protocol}"
            options = {
                "sasl_mechanism": config.mechanism,
                "sasl_plain_username": config.username,
                "sasl_plain_password": config.secret(),
            }
        return AIOKafkaProducer(
            bootstrap_servers=[address.netloc for address in addresses],
            client_id="witnessed-ledger",
            enable_idempotence=True,
            acks="all",
            compression_type="gzip" if config.gzip else None,
            max_batch_size=min(config.batch_bytes, BATCH_BYTES_MAX),
            request_timeout_ms=max(1, int(config.timeout_s * 1000)),
            security_protocol=protocol,
            ssl_context=client_context(config) if is_encrypted else None,
            **options,
        )

    def _check_brokers(self, producer: Any) -> None:
        """Send to no other host unencrypted because a broker names one. Raises: RetryError."""
        if self._config.insecure or not self._config.url.startswith("kafka:"):
            return
        for broker in producer.client.cluster.brokers():
            try:
                check_loopback(broker.host, option="insecure = true")
            except ValueError:
                raise RetryError(
                    f"the broker says that it is {printable(broker.host)[:200]}, and everybody on "
                    "the way there can read what is sent: use tls://, or insecure = true "
                    "(--insecure)"
                ) from None

    def _explain(self, error: Exception) -> str:
        cause = _causes.take()
        if isinstance(error, UnavailableError):
            return str(error)
        if isinstance(error, UnknownTopicOrPartitionError):
            said = f"no topic {self._config.topic}, or no right to see it: make one"
        elif isinstance(error, _SAYS_LITTLE) and cause:
            said = cause
        elif isinstance(error, TimeoutError):
            said = "no confirmation in time"
        else:
            said = explain_network_error(error)
        hosts = ", ".join(each.hostname or "" for each in broker_addresses(self._config.url))
        return f"{hosts}: {printable(said)[:200]}"


def _fill(batch: Any, records: Sequence[Record], part: range) -> tuple[Any, int]:
    """A batch with the first records of a part, one at least, and their number."""
    count = 0
    for position in part:
        record = records[position]
        origin = record.origin.encode()
        headers = [
            ("index", b"%d" % record.index),
            ("leaf_hash", record.leaf_hash.encode()),
            ("origin", origin),
        ]
        # The time is that of the broker's retention: now, or it deletes what is sent late.
        if batch.append(timestamp=None, key=origin, value=record.json, headers=headers) is None:
            break
        count += 1
    batch.close()
    return batch, count


def _explain_refusal(error: Exception) -> str:
    limit = "max.message.bytes" if isinstance(error, MessageSizeTooLargeError) else "segment.bytes"
    return f"the topic takes no message of this size ({limit})"


async def _abort(producer: Any) -> None:
    """Close a producer at once. Its own `stop` first sends the rest, without a limit of time.

    A batch that it stored later would come behind those of the next producer.
    """
    sender = producer._sender.sender_task  # noqa: SLF001
    if sender is not None:
        sender.cancel()
    for connection in producer.client._conns.values():  # noqa: SLF001
        # A connection whose other end has stopped in the middle never closes.
        if connection._writer is not None:  # noqa: SLF001
            connection._writer.transport.abort()  # noqa: SLF001
    await producer.client.close()
    while sender is not None and not sender.done():
        # It waits for the requests that it has begun, and ends them when it is told again.
        await asyncio.wait((sender,), timeout=ABORT_POLL_S)
        sender.cancel()
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001
    await producer.stop()
