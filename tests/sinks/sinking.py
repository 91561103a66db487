"""A ledger's folder with entries, sinks that run in this process, and a receiver over HTTP."""

import asyncio
import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ledger.follow.position import FollowerPaths, FollowerReport, read_report
from ledger.service.data_dir import create_directory
from ledger.sinks.config import KIND, SinkConfig, add_sink
from ledger.sinks.worker import run
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter, entry_of
from ledger_core.event.canonical import decode_event_object, encode_event, format_leaf
from ledger_core.event.ids import format_uuid7
from ledger_core.event.times import format_time
from ledger_core.tlog.hashing import leaf_hash
from tests.http_thread import HttpThread, QuietHandler, read_body
from tests.waiting import until

ORIGIN = "example.com/audit"
START_US = 1_795_841_016_000_000


class Folder:
    """The folder of a ledger that no service serves."""

    def __init__(self, directory: Path, *, seed: bytes = bytes(range(32))) -> None:
        create_directory(directory, origin=ORIGIN, seed=seed)
        self.directory = directory
        self._count = 0

    def append(
        self, *events: dict[str, Any], count: int = 0, step_s: float = 1.0, by: str = "app"
    ) -> None:
        """Append events, each a second after the one before; or `count` plain ones."""
        made = events or tuple({} for _ in range(count))
        leaves = [self._leaf(event, step_s, by) for event in made]
        writer = LogWriter.open(self.directory / "log")
        writer.commit([entry_of(leaf) for leaf in leaves])
        writer.close()

    def leaf_hashes(self) -> list[str]:
        """The leaf hash of each entry, in hex."""
        store = LogStore.open(self.directory / "log")
        size = store.head().tree_size
        hashes = [leaf_hash(store.leaf(index) or b"").hex() for index in range(size)]
        store.close()
        return hashes

    def add(self, name: str, **values: Any) -> FollowerPaths:
        """Add a sink."""
        add_sink(self.directory, name, msgspec.convert(values, SinkConfig))
        paths = FollowerPaths(self.directory, KIND, name)
        paths.make()
        return paths

    def report(self, name: str) -> FollowerReport:
        """How far a sink is."""
        return read_report(self.directory, KIND, name)

    def size(self) -> int:
        """The number of entries."""
        return self._count

    def _leaf(self, event: dict[str, Any], step_s: float, by: str) -> bytes:
        at_us = event.pop("at_us", START_US + int(self._count * step_s * 1_000_000))
        self._count += 1
        made = {
            "id": format_uuid7(unix_ms=at_us // 1000, random=self._count.to_bytes(10, "big")),
            "time": format_time(at_us),
            "actor": {"type": "user", "id": "u_1"},
            "action": "record.viewed",
            "outcome": "success",
            **event,
        }
        read, _ = decode_event_object(made)
        return format_leaf(event_json=encode_event(read), by=by, received_time=format_time(at_us))


@contextmanager
def running(folder: Folder, name: str) -> Iterator[None]:
    """Run a sink on a thread, as its process would."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    work = run(folder.directory, name, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(work,))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextmanager
def processes(folder: Folder, *names: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run sinks in processes of their own: only then the log can be appended to meanwhile."""
    command = [sys.executable, "-m", "ledger.sinks.worker", str(folder.directory)]
    with ExitStack() as stack:
        running = []
        for name in names:
            process = stack.enter_context(
                subprocess.Popen([*command, name], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
            running.append(process)
        yield running


def deliver(folder: Folder, name: str) -> None:
    """Run a sink until it has sent everything."""
    with running(folder, name):
        until(lambda: folder.report(name).next_index == folder.size())


@dataclass
class Request:
    """A request as it was received, with its body decompressed."""

    path: str
    headers: dict[str, str]
    body: bytes

    def lines(self) -> list[Any]:
        """The body as JSON lines."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


class HttpPeer(HttpThread):
    """A receiver on a real socket. `answer` makes the answer to each request."""

    def __init__(
        self,
        answer: Callable[[Request], Reply] | Sequence[Reply] = (),
        *,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """With a sequence, the answers to the first requests; all others are confirmed."""
        self.requests: list[Request] = []
        scripted = [] if callable(answer) else list(answer)
        peer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802 - the base class asks for it
                body = read_body(self)
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = Request(self.path, dict(self.headers.items()), body)
                peer.requests.append(request)
                if callable(answer):
                    reply = answer(request)
                else:
                    reply = scripted.pop(0) if scripted else Reply()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

        super().__init__(Handler, address=address, port=port)

    def indices(self) -> list[int]:
        """The indices of the records that came as JSON lines, in order."""
        return [line["index"] for request in self.requests for line in request.lines()]
