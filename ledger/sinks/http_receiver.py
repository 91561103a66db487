"""A request for each batch: NDJSON, and the shapes of Splunk HEC, Elastic, Datadog and webhooks.

What an answer means for the batch:

    2xx                    confirmed; Elastic and OTLP say so for each record
    400, 413, 415, 422     refused for good: halved until the record is found
    401, 403, 404, 3xx …   the address or the token is wrong: sent again, nothing is given up
    408, 429, 5xx          sent again, after `Retry-After` if there is one
"""

import gzip
import hashlib
import hmac
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ledger.follow.position import with_answer
from ledger.runtime.network_errors import explain_network_error
from ledger.sinks import otlp
from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import BatchRefusedError, RetryError, Sent
from ledger.sinks.record import Record
from ledger.sinks.tls import client_context
from ledger_client.runtime.backoff import parse_retry_after
from ledger_client.runtime.name_lookup import make_connector
from ledger_core.event.times import parse_time
from ledger_core.tlog.text import printable

ANSWER_BYTES_MAX: Final = 16 << 20
REASON_CHARS_MAX: Final = 200
SECRET_BYTES_MIN: Final = 8
"""A shorter secret would be found in much that is none."""

REFUSED_STATUSES: Final = frozenset({400, 413, 415, 422})
TIMEOUT_STATUSES: Final = frozenset({408, 504})
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
GZIP_LEVEL: Final = 3
DATADOG_EVENTS_MAX: Final = 1000
SPLUNK_WRONG_INDEX: Final = 7
"""Splunk's code for an index that the token may not write: a matter of the configuration."""

SIGNATURE_HEADER: Final = "X-Ledger-Signature"

Read = Callable[[bytes, Sequence[Record]], Sent]


class Shape(NamedTuple):
    """The path, media type and formats of one kind of receiver.

    `path`: the usual one, for a URL without any. `scheme`: of the Authorization header, or the
    header that has the secret alone if it ends with a colon.
    """

    path: str
    media: str
    scheme: str
    encode: Callable[[Sequence[Record], SinkConfig], bytes]
    read: Read
    events_max: int = 10_000


class HttpReceiver:
    """One receiver over HTTP; connections are kept open between batches."""

    def __init__(self, config: SinkConfig) -> None:
        self._config: Final = config
        self._shape: Final = SHAPES[config.type]
        parts = urlsplit(config.url)
        path = parts.path if parts.path.strip("/") else self._shape.path
        self._url: Final = parts._replace(path=path, fragment="").geturl()
        self._session: aiohttp.ClientSession | None = None
        self._sent_secrets: tuple[bytes, ...] = ()
        """The secret of the latest request, in each form in which it stood in a header."""

    async def send(self, records: Sequence[Record]) -> Sent:
        """Post a batch and read the answer. Raises: RetryError, BatchRefusedError."""
        if len(records) > self._shape.events_max:
            raise BatchRefusedError(f"at most {self._shape.events_max} records fit in a request")
        body = self._shape.encode(records, self._config)
        if self._config.gzip:
            body = gzip.compress(body, compresslevel=GZIP_LEVEL)
        try:
            async with self._open().post(
                self._url, data=body, headers=self._headers(body), allow_redirects=False
            ) as response:
                answer = await response.content.read(ANSWER_BYTES_MAX)
                while chunk := await response.content.read(ANSWER_BYTES_MAX):
                    if len(answer) + len(chunk) > ANSWER_BYTES_MAX:
                        raise RetryError("the answer is longer than 16 MiB")
                    answer += chunk
                shown = self._without_secrets(answer)
                _check_status(response.status, response.headers.get("Retry-After"), shown)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await self.close()
            reason = f"{_host(self._url)}: {_reason_of(error)}"
            raise RetryError(reason, is_unanswered=True) from None
        # The lengths in protobuf are those of the bytes as they came.
        return self._shape.read(answer if self._shape.media == otlp.MEDIA else shown, records)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            config = self._config
            is_tls = urlsplit(config.url).scheme == "https"
            context = client_context(config) if is_tls else True
            self._session = aiohttp.ClientSession(
                connector=make_connector(connections_max=1, tls=context),
                timeout=aiohttp.ClientTimeout(total=config.timeout_s),
                auto_decompress=True,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _headers(self, body: bytes) -> dict[str, str]:
        self._sent_secrets = ()
        headers = {"Content-Type": self._shape.media, "User-Agent": "witnessed-ledger"}
        if self._config.gzip:
            headers["Content-Encoding"] = "gzip"
        # Read for each request: a secret can be changed without a restart.
        secret = self._config.secret()
        if not secret:
            return headers
        if self._config.type == "webhook":
            headers[SIGNATURE_HEADER] = sign_webhook(secret, body, unix_s=int(time.time()))
        elif self._config.username:
            basic = b64encode(f"{self._config.username}:{secret}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        elif self._shape.scheme.endswith(":"):
            headers[self._shape.scheme[:-1]] = secret
        else:
            headers["Authorization"] = f"{self._shape.scheme} {secret}"
        # "Basic " and its like, in front of what is secret.
        form = headers.get("Authorization", "").rpartition(" ")[2]
        self._sent_secrets = (secret.encode(), form.encode())
        return headers

    def _without_secrets(self, answer: bytes) -> bytes:
        """The answer without the secret of its request, which a faulty receiver may repeat."""
        for secret in self._sent_secrets:
            if len(secret) >= SECRET_BYTES_MIN:
                answer = answer.replace(secret, b"[secret]")
        return answer


def sign_webhook(secret: str, body: bytes, *, unix_s: int) -> str:
    """`t=1795841016,v1=9f…`: HMAC-SHA256 of the time, a dot and the body, in hex."""
    digest = hmac.new(secret.encode(), f"{unix_s}.".encode() + body, hashlib.sha256)
    return f"t={unix_s},v1={digest.hexdigest()}"


def _check_status(status: int, retry_after: str | None, answer: bytes) -> None:
    if 200 <= status < 300:  # noqa: PLR2004 - the statuses of success
        return
    reason = with_answer(f"HTTP {status}", _excerpt(answer))
    if status in REFUSED_STATUSES and not _is_wrong_index(answer):
        raise BatchRefusedError(reason)
    raise RetryError(
        reason,
        wait_s=parse_retry_after(retry_after, unix_s=time.time()),
        is_unanswered=status in TIMEOUT_STATUSES,
    )


class _SplunkAnswer(msgspec.Struct, frozen=True):
    code: int = 0


def _is_wrong_index(answer: bytes) -> bool:
    try:
        return msgspec.json.decode(answer, type=_SplunkAnswer).code == SPLUNK_WRONG_INDEX
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _excerpt(answer: bytes) -> str:
    return printable(answer[:REASON_CHARS_MAX].decode(errors="replace"))


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _reason_of(error: Exception) -> str:
    return explain_network_error(error)[:REASON_CHARS_MAX]


def _event_time_s(record: Record) -> str:
    """When the event happened, in seconds with microseconds."""
    unix_us = parse_time(str(record.content().event.time))
    return f"{unix_us // 1_000_000}.{unix_us % 1_000_000:06d}"


def _lines(records: Sequence[Record], _config: SinkConfig) -> bytes:
    return b"".join([record.json + b"\n" for record in records])


def _splunk(records: Sequence[Record], config: SinkConfig) -> bytes:
    """Objects one after the other. Source: Splunk, "Format events for HTTP Event Collector"."""
    lines = []
    for record in records:
        head = {"source": record.origin, "sourcetype": "witnessed-ledger"}
        if config.index:
            head["index"] = config.index
        opening = msgspec.json.encode(head)[:-1]
        time_s = _event_time_s(record).encode()
        lines.append(opening + b',"time":' + time_s + b',"event":' + record.json + b"}\n")
    return b"".join(lines)


def _elastic(records: Sequence[Record], config: SinkConfig) -> bytes:
    """An action and a document a record; `create` fits indices and data streams.

    The id is that of the entry, so that one that comes twice is one document. The leaf hash is a
    part of it: who could foresee an id might store a document under it first.
    """
    lines = []
    for record in records:
        entry = f"{record.origin}\n{record.index}\n{record.leaf_hash}"
        key = hashlib.sha256(entry.encode()).hexdigest()[:40]
        action = msgspec.json.encode({"create": {"_index": config.index, "_id": key}})
        at = msgspec.json.encode({"@timestamp": record.content().event.time})
        lines.append(action + b"\n" + at[:-1] + b"," + record.json[1:] + b"\n")
    return b"".join(lines)


class _ElasticItem(msgspec.Struct, frozen=True):
    status: int
    error: msgspec.Raw = msgspec.Raw(b"")


class _ElasticAnswer(msgspec.Struct, frozen=True):
    errors: bool
    items: list[dict[str, _ElasticItem]]


ELASTIC_EXISTS: Final = 409


def _read_elastic(answer: bytes, records: Sequence[Record]) -> Sent:
    """The status of each item. Raises: RetryError for an answer of another form."""
    try:
        read = msgspec.json.decode(answer, type=_ElasticAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RetryError(with_answer("not an answer to _bulk", _excerpt(answer))) from None
    if len(read.items) != len(records):
        raise RetryError(f"{len(read.items)} items in the answer to {len(records)} records")
    refused, again, reason = {}, [], ""
    for position, item in enumerate(read.items):
        (result,) = item.values() if len(item) == 1 else (_ElasticItem(500),)
        if result.status == ELASTIC_EXISTS or 200 <= result.status < 300:  # noqa: PLR2004
            continue
        told = with_answer(f"item status {result.status}", _excerpt(bytes(result.error)))
        if result.status in REFUSED_STATUSES:
            refused[position] = told
        else:
            again.append(position)
            reason = told
    return Sent(refused=refused, again=again, reason=reason)


def _datadog(records: Sequence[Record], _config: SinkConfig) -> bytes:
    """An array of logs. Source: Datadog, "Send logs"."""
    return b"[" + b",".join([_datadog_log(record) for record in records]) + b"]"


def _datadog_log(record: Record) -> bytes:
    source = record.content().event.source
    head = {
        "ddsource": "witnessed-ledger",
        "ddtags": f"origin:{record.origin}",
        "service": str((source and source.service) or "witnessed-ledger"),
        "message": record.json.decode(),
    }
    return msgspec.json.encode(head)


def _webhook(records: Sequence[Record], _config: SinkConfig) -> bytes:
    return b'{"records":[' + b",".join([record.json for record in records]) + b"]}"


def _confirmed(_answer: bytes, _records: Sequence[Record]) -> Sent:
    return Sent()


def _read_otlp(answer: bytes, records: Sequence[Record]) -> Sent:
    """Raises: BatchRefusedError when some records were rejected, which are not named."""
    rejected, message = otlp.read_answer(answer)
    if not rejected:
        return Sent()
    if len(records) == 1:
        return Sent(refused={0: with_answer("rejected", printable(message))})
    raise BatchRefusedError(with_answer("rejected", printable(message)))


SHAPES: Final = {
    "http": Shape("/", NDJSON, "Bearer", _lines, _confirmed),
    "splunk": Shape("/services/collector/event", JSON, "Splunk", _splunk, _confirmed),
    "elastic": Shape("/_bulk", NDJSON, "ApiKey", _elastic, _read_elastic),
    "datadog": Shape("/api/v2/logs", JSON, "DD-API-KEY:", _datadog, _confirmed, DATADOG_EVENTS_MAX),
    "otlp": Shape(
        "/v1/logs", otlp.MEDIA, "Bearer", lambda records, _: otlp.encode(records), _read_otlp
    ),
    "webhook": Shape("/", JSON, "", _webhook, _confirmed),
}
