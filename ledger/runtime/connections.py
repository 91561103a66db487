"""Connections within limits, for every HTTP server of ours that strangers reach.

They are counted, in all and by address; one too many is closed before anything is read from it. A
client that sends half a head, or accepts no bytes of its answer, is disconnected too, so neither
takes the server down. What still comes of a body that nobody waits for is read at the turns of its
address. An address behind which many clients stand, a reverse proxy, needs the larger
limit. A connection is counted before its TLS handshake, which has the time of a head.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Final, NamedTuple

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from ledger.runtime.chunk_limits import ChunkCounter, ChunksTooSmallError
from ledger.runtime.loop_turns import LoopTurns
from ledger.runtime.request_head import HEAD_BYTES_MAX
from ledger.runtime.shared_counts import ALONE, Shared
from ledger.runtime.whole_answer import WholeAnswer
from ledger_client.runtime.sender_network import sender_network

KEEPALIVE_S: Final = 75.0
"""How long a connection may be idle, before its first request too."""

TARGET_BYTES_MAX: Final = 8190
HEADER_BYTES_MAX: Final = 8192
"""Bytes of a path with its query, and of a header with its name.

They differ because aiohttp's error says which of the two was too long by its limit alone.
"""

HEADERS_MAX: Final = 128

READ_AT_ONCE_BYTES: Final = HEAD_BYTES_MAX
"""Bytes of heads that are parsed before the rest of what has come is looked at."""

_ALL: Final = "connections"


class HeadTooLargeError(BadHttpMessage):
    """A head has more than `HEAD_BYTES_MAX` bytes, so it is read no further."""

    def __init__(self) -> None:
        super().__init__(f"a head has at most {HEAD_BYTES_MAX} bytes")


class _NoParser:
    """Takes the place of a parser for a moment, so that its caller answers a head's fault."""

    def __init__(self, error: BadHttpMessage) -> None:
        self._error = error

    def feed_data(self, _data: bytes) -> object:
        raise self._error


class ConnectionWaits(NamedTuple):
    """Seconds that a client has to send a head, and to accept more bytes of its answer.

    `linger_s`: what still comes of a body is dropped for so long after an answer that did not wait
    for it, since a client that is cut off while it sends may not read that answer.
    """

    head_s: float
    reader_s: float
    linger_s: float = 10.0


class ConnectionCounts:
    """The open connections, in all and by address, and their turns. Used on the event loop alone.

    An IPv6 address counts with all others of its /64. The processes of one service count together.
    """

    def __init__(self, *, most: int, most_per_address: int, shared: Shared = ALONE) -> None:
        self._shared: Final = shared
        self.most = most
        self.most_per_address = most_per_address
        self.turns: Final = LoopTurns()
        """Of addresses, at what is done for their connections beside requests."""
        self._by_address: Counter[str] = Counter()
        self._open = 0

    @property
    def are_none(self) -> bool:
        """Whether no connection is open, nor in its handshake."""
        return self._open == 0

    def try_add(self, address: str) -> bool:
        """Count a new connection, unless it is one too many."""
        of_others = self._shared.of_others
        address = sender_network(address)
        if (
            self._open + of_others("in_use", _ALL) >= self.most
            or self._by_address[address] + of_others("in_use", _name(address))
            >= self.most_per_address
        ):
            return False
        self._count(address, 1)
        return True

    def remove(self, address: str) -> None:
        """Count a connection that was added as closed."""
        address = sender_network(address)
        self._count(address, -1)
        if not self._by_address[address]:
            del self._by_address[address]

    def _count(self, address: str, change: int) -> None:
        self._open += change
        self._by_address[address] += change
        self._shared.add("in_use", _ALL, change)
        self._shared.add("in_use", _name(address), change)


def _name(address: str) -> str:
    return f"{_ALL} from {address}"


class LimitedConnection(web.RequestHandler):
    """A connection within limits. A server's own class says by `report` what was cut."""

    __slots__ = (
        *(
            "_body",
            "_chunks",
            "_counts",
            "_head_bytes",
            "_head_timer",
            "_is_chunked",
            "_is_counted",
            "_is_malformed",
            "_is_served",
        ),
        "_waits",
        "address",
    )

    def __init__(
        self,
        server: web.Server,
        *,
        counts: ConnectionCounts,
        waits: ConnectionWaits,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=0.0,  # `_drop_rest` takes its place.
            max_line_size=TARGET_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None, its type does not
            # A compressed body is not inflated.
            auto_decompress=False,
        )
        self._counts = counts
        self._waits = waits
        self.address = ""
        self._is_counted = False
        self._is_served = False
        self._is_malformed = False
        self._body: StreamReader | None = None  # Of the request whose head came last.
        self._is_chunked = False  # That body.
        self._chunks = ChunkCounter()
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # Of a head that is not whole yet.

    def report(self, event: str, request: web.BaseRequest | None = None) -> None:
        """Log `connection_refused`, `handshake_failed`, `head_too_slow`, or `reader_gone`.

        `reader_gone` comes with its request.
        """
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or close it when there are too many."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        if not (self._is_counted or self.take_place(address)):
            transport.close()
            return
        self._is_served = True
        super().connection_made(transport)

    @property
    def peername(self) -> str | tuple[str, int]:
        """What a request's `remote` is: the address, empty for a Unix socket."""
        return self.address

    def take_place(self, address: str) -> bool:
        """Count a connection whose handshake begins; False when it is one too many.

        Otherwise it is either served, or told by `give_up`.
        """
        # So an IPv6 socket that takes both shows a client that came by IPv4.
        self.address = address.removeprefix("::ffff:") if "." in address else address
        self._is_counted = self._counts.try_add(self.address)
        if not self._is_counted:
            self.report("connection_refused")
        return self._is_counted

    def give_up(self) -> None:
        """End a connection whose handshake failed."""
        self.free_place()
        self.report("handshake_failed")

    @property
    def waits(self) -> ConnectionWaits:
        """The part of the request that the client has time for."""
        return self._waits

    def free_place(self) -> None:
        """Count the connection no longer."""
        if self._is_counted:
            self._counts.remove(self.address)
            self._is_counted = False

    async def wait_for_turn(self) -> None:
        """Wait until nothing else is begun for connections of this address in this loop turn."""
        await self._counts.turns.begin(sender_network(self.address))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up the place of a connection."""
        self._stop_head_timer()
        self.free_place()
        if self._is_served:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read bytes; the head of a request must be whole in time after its first byte.

        Nothing is read behind a head that is malformed.
        """
        if self._is_malformed:
            return
        is_body = self._body is not None and not self._body.is_eof()
        may_have_chunks = not is_body or self._is_chunked
        if may_have_chunks and len(data) > READ_AT_ONCE_BYTES:
            for start in range(0, len(data), READ_AT_ONCE_BYTES):
                self.data_received(data[start : start + READ_AT_ONCE_BYTES])
            return
        if may_have_chunks and self._chunks.are_small(data):
            self._refuse_chunks()
            return
        count = self._request_count
        if is_body and self.transport is not None:
            self._receive_body(data)
        else:
            super().data_received(data)
        if self._request_count > count:
            message, self._body = self._messages[-1]
            self._is_chunked = getattr(message, "chunked", False)
            self._chunks.begin_body()
            self._head_bytes = 0
            self._stop_head_timer()
            self._forget_malformed()
        elif data and not (is_body or self._close):
            self._count_head(len(data))

    def _count_head(self, count: int) -> None:
        """Count bytes of a head that is not whole yet; one that has too many is answered."""
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._waits.head_s, self._cut_head)
        if self._buffer_paused or self._upgraded:
            return  # It is behind whole requests, which wait for their turn.
        self._head_bytes += count
        if self._head_bytes <= HEAD_BYTES_MAX:
            return
        self._refuse_head(HeadTooLargeError())

    def _refuse_head(self, error: BadHttpMessage) -> None:
        """Answer with an error in the place of the next head, and read nothing more."""
        parser, self._parser = self._parser, _NoParser(error)  # type: ignore[assignment]
        super().data_received(b"")
        self._parser = parser
        self._stop_head_timer()
        self._forget_malformed()

    def _refuse_chunks(self) -> None:
        """Read nothing more; whoever reads the body that is under way gets the error."""
        if self._body is None or self._body.is_eof():
            self._refuse_head(ChunksTooSmallError())
            return
        self._is_malformed = True
        self._body.set_exception(ChunksTooSmallError())
        self._body.feed_eof()
        self.close_answered()

    def _receive_body(self, data: bytes) -> None:
        """Read bytes of a body, at a stop too: aiohttp would drop them, and leave their request."""
        closing = self._close, self._force_close
        self._close = self._force_close = False
        try:
            super().data_received(data)
        finally:
            self._close |= closing[0]
            self._force_close |= closing[1]
        body = self._body
        is_open = body is not None and self._is_chunked and not body.is_eof()
        if body is not None and is_open and self._chunks.are_hollow(data, body.total_bytes):
            self._refuse_chunks()

    def _forget_malformed(self) -> None:
        """Free what was read of a head that is malformed.

        The traceback of its error holds the bytes, in a cycle that only a collection would end.
        """
        error = getattr(self._messages[-1][0], "exc", None) if self._messages else None
        if error is not None:
            error.__traceback__ = error.__context__ = None
            self._is_malformed = True

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut_head(self) -> None:
        """Close a connection that has sent half a head, once its request before is answered."""
        self._head_timer = None
        self.report("head_too_slow")
        self.close_answered()

    def close_answered(self) -> None:
        """Close a connection, after the answer that is under way; no more requests are taken."""
        if self._waiter is None:
            self.close()
        else:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer; a client that accepts no more of it is disconnected.

        A request that offers another protocol is the last one of its connection: aiohttp drops the
        bytes that came with its end, so the next request might be read from its middle.
        """
        if hdrs.UPGRADE in request.headers:
            resp.force_close()
        written = await self._write(request, resp, start_time)
        if not request.content.is_eof():
            await self._drop_rest(request.content)
        return written

    async def _write(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, WholeAnswer) and not self._upgraded:
            whole = resp.take_bytes(request)
            if whole is not None:
                return resp, not await self._write_whole(request, whole)
        # Costs a third of `asyncio.timeout`: the end of the connection ends the wait.
        timer = self._loop.call_later(self._waits.reader_s, self._cut_reader, request)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            timer.cancel()
            # Bytes behind a request for another protocol are read as requests only now.
            self._forget_malformed()

    async def _drop_rest(self, body: StreamReader) -> None:
        """Read what still comes of a body, for `linger_s` at most, and drop it.

        A quarter of a megabyte is read at once, in a tenth of a millisecond. Of 100 connections of
        one address all of it would come between two turns of others, again and again.
        """
        # Those who do not send the rest, or send what is no body, are cut off after this.
        with suppress(TimeoutError, ConnectionError, BadHttpMessage, web.RequestPayloadError):
            async with asyncio.timeout(self._waits.linger_s):
                while not (body.is_eof() or self._force_close):
                    await self.wait_for_turn()
                    await body.readany()

    async def _write_whole(self, request: web.BaseRequest, whole: bytes) -> bool:
        """Write head and body; whether the client is still there."""
        if self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(whole)
        if self._paused:
            timer = self._loop.call_later(self._waits.reader_s, self._cut_reader, request)
            try:
                await self._drain_helper()
            except ConnectionError:
                return False
            finally:
                timer.cancel()
        return True

    def _cut_reader(self, request: web.BaseRequest) -> None:
        self.report("reader_gone", request)
        if self.transport is not None:
            self.transport.abort()
