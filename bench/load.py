"""A load generator: kept HTTP/1.1 connections that send the next request when one is answered.

It runs in a process of its own and parses no more of an answer than it must, so that on two cores
the service has nearly one to itself:

    python -m bench.load URL TOKEN --connections 32 --seconds 5 --batch 1 [--rate 1000] [--get PATH]

prints one JSON object. With --rate requests leave at fixed times, whether or not the answers to
earlier ones have come, and latency counts from the time at which a request was due.
"""

import argparse
import asyncio
import json
import random
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.events import event_stream
from ledger_core.tlog.tile import TILE_WIDTH, TileRef

MakeRequest = Callable[[], bytes]


class Connection(asyncio.Protocol):
    """One kept connection with at most one request in flight."""

    def __init__(self, on_answer: Callable[["Connection", int], None]) -> None:
        self._on_answer = on_answer
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports have the methods of asyncio's, but are not instances of them.
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, *, due_s: float) -> None:
        """Send a request whose latency counts from `due_s`."""
        assert self.transport is not None
        self.due_s = due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Report an answer when it is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer.clear()
        self._on_answer(self, int(head[9:12]))


class Load:
    """Counts answers and times for one run."""

    def __init__(self, make_request: MakeRequest, *, seconds: float, rate: float) -> None:
        self._make_request = make_request
        self._seconds = seconds
        self._rate = rate
        self._latencies_s: list[float] = []
        self._failures = 0
        self._idle: list[Connection] = []
        self._due: list[float] = []
        self._end = 0.0

    async def run(
        self, host: str, port: int, connections: int, tls: ssl.SSLContext | None = None
    ) -> dict[str, float]:
        """Load for the time given; the figures."""
        loop = asyncio.get_running_loop()
        peers = [
            (await loop.create_connection(lambda: Connection(self._answered), host, port, ssl=tls))[
                1
            ]
            for _ in range(connections)
        ]
        start = time.perf_counter()
        self._end = start + self._seconds
        if self._rate:
            self._idle = peers
            await self._send_at_rate(start)
        else:
            for peer in peers:
                peer.send(self._make_request(), due_s=time.perf_counter())
            await asyncio.sleep(self._seconds)
        elapsed = time.perf_counter() - start
        latencies = sorted(self._latencies_s)
        if not latencies:
            raise SystemExit("no request was answered")
        return {
            "requests_per_s": len(latencies) / elapsed,
            "p50_ms": latencies[len(latencies) // 2] * 1e3,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
            "max_ms": latencies[-1] * 1e3,
            "answers": len(latencies),
            "failures": self._failures,
        }

    async def _send_at_rate(self, start: float) -> None:
        count = int(self._seconds * self._rate)
        for number in range(count):
            due = start + number / self._rate
            delay = due - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            if self._idle:
                self._idle.pop().send(self._make_request(), due_s=due)
            else:
                self._due.append(due)

    def _answered(self, peer: Connection, status: int) -> None:
        now = time.perf_counter()
        self._latencies_s.append(now - peer.due_s)
        self._failures += status != 200
        if self._rate:
            if self._due:
                peer.send(self._make_request(), due_s=self._due.pop(0))
            else:
                self._idle.append(peer)
        elif now < self._end:
            peer.send(self._make_request(), due_s=now)


def posts(url: str, token: str, *, path: str, batch: int, seed: int) -> MakeRequest:
    """Requests that append: one event each, or a batch."""
    events = event_stream(seed)
    head = _head("POST", path, url, token)

    def make() -> bytes:
        if batch == 1:
            body = next(events)
        else:
            body = b'{"events":[' + b",".join(islice(events, batch)) + b"]}"
        return (
            head + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        ) + body

    if batch == 1:
        return make
    # Batches are made beforehand: what is measured is the service, and the generator is Python.
    ready = [make() for _ in range(PREPARED_BATCHES_MAX)]
    supply: Iterator[bytes] = iter(ready)
    again = _renamed(ready, seed)
    return lambda: next(supply, None) or next(again)


PREPARED_BATCHES_MAX = 100
_split_at_ids = re.compile(rb'(?<="id":")[0-9a-f]{8}-[0-9a-f-]{27}(?=")').split


def _renamed(requests: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The same requests again without end, with new ids in the place of the old ones."""
    rng = random.Random(seed)
    parts = [_split_at_ids(request) for request in requests]
    while True:
        for pieces in parts:
            head = f"01920000-0000-7{rng.getrandbits(12):03x}-8{rng.getrandbits(12):03x}-"
            first = rng.getrandbits(46)
            ids = (f"{head}{first + number:012x}".encode() for number in range(len(pieces) - 1))
            yield b"".join(chain.from_iterable(zip_longest(pieces, ids, fillvalue=b"")))


def gets(url: str, token: str, *, template: str, below: int, seed: int) -> MakeRequest:
    """Requests for `template`, with `{index}` or `{tile}` for a random one below a bound."""
    rng = random.Random(seed)

    def make() -> bytes:
        number = rng.randrange(below)
        path = template.format(index=number, tile=TileRef(0, number, TILE_WIDTH).path)
        return _head("GET", path, url, token) + b"\r\n"

    return make


def _head(method: str, path: str, url: str, token: str) -> bytes:
    host = urlsplit(url).netloc
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n".encode()


def main() -> None:
    """Parse the command line, load, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--path", default="/v1/events", help="of the requests that append")
    parser.add_argument("--get", default="")
    parser.add_argument("--below", type=int, default=1)
    parser.add_argument("--cafile", help="of an https:// address")
    options = parser.parse_args()
    if options.get:
        request = gets(
            options.url,
            options.token,
            template=options.get,
            below=options.below,
            seed=options.seed,
        )
    else:
        request = posts(
            options.url,
            options.token,
            path=options.path,
            batch=options.batch,
            seed=options.seed,
        )
    parts = urlsplit(options.url)
    load = Load(request, seconds=options.seconds, rate=options.rate)
    tls = ssl.create_default_context(cafile=options.cafile) if parts.scheme == "https" else None
    figures = uvloop.run(
        load.run(str(parts.hostname), int(parts.port or 80), options.connections, tls)
    )
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
