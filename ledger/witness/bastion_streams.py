"""The requests that come over one connection to a bastion: the server's side of HTTP/2.

`h2` reads and writes the frames. A stream is one request; so many may be open at once, each has a
body of limited size, which must arrive in time, and its answer waits until the bastion has room
for it. What breaks these rules ends its stream, and what breaks HTTP/2 ends the connection.
"""

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import structlog

from ledger.runtime.text_answer import Answer, text_answer
from ledger.witness.answers import answer_to
from ledger.witness.service import Witness
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.witness import BODY_BYTES_MAX

try:
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.errors import ErrorCodes
    from h2.events import (
        ConnectionTerminated,
        DataReceived,
        Event,
        RequestReceived,
        StreamEnded,
        StreamReset,
        WindowUpdated,
    )
    from h2.exceptions import ProtocolError
    from h2.settings import SettingCodes, Settings
except ImportError:
    raise UnavailableError(
        "a witness behind a bastion needs h2: pip install 'witnessed-ledger[bastion]'"
    ) from None

STREAMS_MAX: Final = 32
"""Requests at once, with a body of `BODY_BYTES_MAX` each at most."""

PING: Final = b"witness?"

_log = structlog.get_logger("ledger.witness")


@dataclass(slots=True)
class _Stream:
    """A request that is arriving, is being answered, or waits for room for its answer."""

    method: str
    path: str
    late: asyncio.TimerHandle
    body: bytearray = field(default_factory=bytearray)
    rest: bytes = b""


class BastionStreams:
    """Answers the requests of one connection. Used from one event loop."""

    def __init__(
        self, witness: Witness, writer: asyncio.StreamWriter, *, body_wait_s: float
    ) -> None:
        self._witness: Final = witness
        self._writer: Final = writer
        self._body_wait_s: Final = body_wait_s
        self._streams: Final[dict[int, _Stream]] = {}
        self._answering: Final[set[asyncio.Task[None]]] = set()
        self._http2: Final = H2Connection(
            H2Configuration(client_side=False, header_encoding="utf-8")
        )
        # Not by `update`: the first frame would have the values before it.
        self._http2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX}
        )
        self._http2.initiate_connection()
        self._send()

    async def receive(self, data: bytes) -> bool:
        """Take bytes of the bastion; False when it ends the connection. Raises: MalformedError."""
        is_open = True
        try:
            for event in self._http2.receive_data(data):
                is_open = self._take(event) and is_open
        except (ProtocolError, UnicodeDecodeError) as error:
            self._send()  # h2 has put the reason there.
            raise MalformedError(f"the bastion's bytes are not HTTP/2: {error}") from None
        self._send()
        await self._writer.drain()
        return is_open

    def ping(self) -> None:
        """Ask the bastion whether it is there; its answer is bytes like any other."""
        self._http2.ping(PING)
        self._send()

    def close(self) -> None:
        """Forget the requests; what is being cosigned is cosigned all the same."""
        for stream in self._streams.values():
            stream.late.cancel()
        self._streams.clear()

    def _take(self, event: Event) -> bool:
        match event:
            case RequestReceived(stream_id=int() as number, headers=list() as headers):
                self._begin(number, dict(headers))
            case DataReceived(stream_id=int() as number, data=bytes() as data):
                self._http2.acknowledge_received_data(event.flow_controlled_length, number)
                self._add(number, data)
            case StreamEnded(stream_id=int() as number):
                self._answer_later(number)
            case StreamReset(stream_id=int() as number):
                self._forget(number)
            case WindowUpdated():
                for number in [each for each, stream in self._streams.items() if stream.rest]:
                    self._send_rest(number)
            case ConnectionTerminated():
                return False
        return True

    def _begin(self, number: int, headers: dict[str, str]) -> None:
        if len(self._streams) + len(self._answering) >= 2 * STREAMS_MAX:
            # Streams that were opened and reset at once, whose answers are still being made.
            self._reset(number, ErrorCodes.REFUSED_STREAM)
            return
        late = asyncio.get_running_loop().call_later(self._body_wait_s, self._cut, number)
        self._streams[number] = _Stream(headers.get(":method", ""), headers.get(":path", ""), late)

    def _add(self, number: int, data: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.body += data
        if len(stream.body) > BODY_BYTES_MAX:
            text = f"a request has at most {BODY_BYTES_MAX} bytes\n"
            self._respond(number, Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text))
            self._reset(number, ErrorCodes.NO_ERROR)

    def _cut(self, number: int) -> None:
        """End a request whose body does not arrive."""
        _log.warning("body_too_slow", address="bastion")
        self._reset(number, ErrorCodes.CANCEL)
        self._send()

    def _answer_later(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.late.cancel()
        task = asyncio.create_task(self._answer(number, stream))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, number: int, stream: _Stream) -> None:
        try:
            body = bytes(stream.body)
            answer = await answer_to(self._witness, stream.method, stream.path, body)
        except Exception as error:  # noqa: BLE001 - a task's top: the connection goes on
            _log.error("request_failed", error=type(error).__name__)
            answer = text_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this witness")
        if stream.method == "HEAD":
            answer = answer._replace(body="")
        if self._streams.get(number) is stream:
            self._respond(number, answer)
            self._send()

    def _respond(self, number: int, answer: Answer) -> None:
        headers = [(name.lower(), value) for name, value in answer.headers().items()]
        body = answer.body.encode()
        status = [(":status", str(int(answer.status))), ("content-length", str(len(body)))]
        try:
            self._http2.send_headers(number, [*status, *headers], end_stream=not body)
        except ProtocolError:  # The bastion has ended the stream, or the connection.
            self._forget(number)
            return
        if not body:
            self._forget(number)
            return
        self._streams[number].rest = body
        self._send_rest(number)

    def _send_rest(self, number: int) -> None:
        """Send as much of an answer as the bastion has room for."""
        stream = self._streams[number]
        try:
            while stream.rest:
                room = min(
                    self._http2.local_flow_control_window(number),
                    self._http2.max_outbound_frame_size,
                )
                if room <= 0:
                    return
                piece, stream.rest = stream.rest[:room], stream.rest[room:]
                self._http2.send_data(number, piece, end_stream=not stream.rest)
        except ProtocolError:
            pass
        self._forget(number)

    def _reset(self, number: int, code: ErrorCodes) -> None:
        self._forget(number)
        try:
            self._http2.reset_stream(number, code)
        except ProtocolError:
            return  # It has ended meanwhile.

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.late.cancel()

    def _send(self) -> None:
        data = self._http2.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)
