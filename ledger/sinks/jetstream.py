"""NATS JetStream: a message for each record, which a stream has stored when it acknowledges it.

`Nats-Msg-Id` is the origin, the index and the leaf hash, so a stream drops what comes twice within
its window for duplicates. Without the hash others could foresee it, and send something under it
first. The messages of a batch are sent at once and stored in their order; one that fails is sent
again behind the others.

Needs `nats-py`, the extra `nats` of the service.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from ledger.runtime.network_errors import explain_network_error
from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import RetryError, Sent
from ledger.sinks.record import Record
from ledger.sinks.tls import client_context
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.text import printable

try:
    import nats.errors
    import nats.js.errors
    from nats.aio.client import Client
    from nats.js.api import PubAck
    from nats.protocol.parser import Parser
except ImportError:
    raise UnavailableError(
        "a sink of type nats needs nats-py: pip install 'witnessed-ledger[nats]'"
    ) from None

ANSWERS_BYTES_MAX: Final = 1 << 20
ANSWER_BYTES_MAX: Final = 1 << 10
"""What a server may send until the next batch, and for each record of it: an acknowledgement."""

CLOSE_WAIT_S: Final = 1.0
MESSAGE_TOO_LARGE: Final = 10054
"""The code of JetStream for a message that its stream never takes."""

_NO_NATS: Final = (ValueError, TypeError, LookupError, AttributeError)
"""What the library raises for a greeting that no server of NATS sends."""


class _BoundedParser(Parser):
    """A parser with a limit of bytes. The library itself keeps all that a server sends."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.bytes_left = ANSWERS_BYTES_MAX

    async def parse(self, data: bytes = b"") -> None:
        """Read the next bytes. Raises: ProtocolError, by which the library ends the connection."""
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            self.reset()
            raise nats.errors.ProtocolError(f"more than {ANSWERS_BYTES_MAX} bytes")
        await super().parse(data)


class _Client(Client):
    """A client that stays with TLS, whatever the unencrypted greeting of a server says.

    The library uses TLS when the server asks for it, not when the URL does. It also keeps the
    addresses of further servers that a greeting names.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bounded: Final = _BoundedParser(self)
        self._ps = self._bounded

    def expect(self, records: int) -> None:
        """Allow the server the bytes of the answers to a batch."""
        self._bounded.bytes_left = ANSWERS_BYTES_MAX + records * ANSWER_BYTES_MAX

    async def _process_info(self, info: dict[str, Any], *args: Any, **options: Any) -> None:
        info.pop("connect_urls", None)
        if self._current_server is not None and self._current_server.uri.scheme == "tls":
            info["tls_required"] = True
        await super()._process_info(info, *args, **options)

    def abort(self) -> None:
        """Drop the connection; one whose other end has stopped in the middle never closes."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_bare_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class JetStreamReceiver:
    """Publishes over one connection, which is made when it is needed."""

    def __init__(self, config: SinkConfig) -> None:
        self._config: Final = config
        self._client: _Client | None = None

    async def send(self, records: Sequence[Record]) -> Sent:
        """Publish a batch, and wait for the stream's acknowledgements. Raises: RetryError."""
        client = await self._connected()
        client.expect(len(records))
        stream = client.jetstream(timeout=self._config.timeout_s)
        outcomes = await asyncio.gather(
            *(
                stream.publish(
                    self._config.subject,
                    record.json,
                    headers={"Nats-Msg-Id": f"{record.origin}#{record.index}#{record.leaf_hash}"},
                )
                for record in records
            ),
            return_exceptions=True,
        )
        refused: dict[int, str] = {}
        again: list[int] = []
        reason = ""
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome, PubAck):
                continue
            if not isinstance(outcome, Exception):
                raise outcome
            if _is_final(outcome):
                refused[position] = _explain(outcome)
            else:
                again.append(position)
                reason = reason or _explain(outcome)
        if len(again) == len(records):
            # The connection may be the fault.
            await self.close()
            raise RetryError(f"{self._host()}: {reason}", is_unanswered=True)
        return Sent(refused=refused, again=again, reason=reason)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await client.close()
        client.abort()

    def _host(self) -> str:
        return urlsplit(self._config.url).hostname or ""

    async def _connected(self) -> _Client:
        if self._client is not None and self._client.is_connected:
            return self._client
        await self.close()
        config = self._config
        secret = config.secret()
        client = self._client = _Client()
        try:
            async with asyncio.timeout(config.timeout_s):
                await client.connect(
                    config.url,
                    name="witnessed-ledger",
                    allow_reconnect=False,
                    connect_timeout=max(1, round(config.timeout_s)),
                    error_cb=_ignore,
                    tls=client_context(config) if config.url.startswith("tls:") else None,
                    user=config.username or None,
                    password=(secret or None) if config.username else None,
                    token=None if config.username else secret or None,
                    user_credentials=config.credentials_file or None,
                )
        except (OSError, TimeoutError, nats.errors.Error, *_NO_NATS) as error:
            await self.close()
            raise RetryError(f"{self._host()}: {_explain(error)}", is_unanswered=True) from None
        return client


def _is_final(error: Exception) -> bool:
    """Whether a message is refused for good."""
    return isinstance(error, nats.errors.MaxPayloadError) or (
        isinstance(error, nats.js.errors.APIError) and error.err_code == MESSAGE_TOO_LARGE
    )


def _explain(error: Exception) -> str:
    match error:
        case nats.js.errors.NoStreamResponseError():
            return "no stream of JetStream takes this subject: make one"
        case nats.js.errors.APIError():
            return printable(f"JetStream {error.err_code}: {error.description}")[:200]
        case nats.errors.Error():
            return printable(str(error) or type(error).__name__)[:200]
        case _:
            return explain_network_error(error)


async def _ignore(_error: Exception) -> None:
    """Drops the library's own messages; each failure is reported by the publish that it breaks."""
