"""A real service in this process, on a real socket, and a plain way to ask it things."""

import asyncio
import http.client
import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from ledger.service.app import serve
from ledger.service.data_dir import DirectoryPaths, create_directory
from ledger.service.settings import Settings
from ledger.service.token_admin import make_token
from ledger_core.event.ids import format_uuid7
from ledger_core.tlog.policy import Policy, parse_policy

ORIGIN = "example.com/audit"
START_WAIT_S = 120.0
ANSWER_WAIT_S = 120.0
QUICK = Settings(
    listen="127.0.0.1:0",
    publish_interval_s=0.05,
    outbox_interval_s=0.05,
    clock_ahead_max_s=1 << 40,  # Stored ledgers of tests grow old.
    query_time_s=600.0,  # However busy the machine is, answers are complete.
    query_process=False,  # Where searches run in a process of their own, a test says so.
)

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"


@dataclass(frozen=True)
class Answer:
    """An answer of the service."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def slug(self) -> str:
        """The kind of the problem document, after holding it against its form."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        problem = self.json()
        assert problem["status"] == self.status
        assert problem["title"]
        assert problem["detail"]
        prefix, _, slug = problem["type"].partition("#")
        assert prefix == "/v1/problems"
        return str(slug)


@dataclass(frozen=True)
class Ledger:
    """A served ledger, and tokens for it."""

    url: str
    directory: Path
    tokens: Mapping[str, str]
    policy: Policy = field(repr=False)

    def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        token: str | None = "admin",
        **headers: str,
    ) -> Answer:
        """One request. `token` is the name of one; headers are written content_type=…"""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {self.tokens.get(token, token)}"
        return send(self.url, target, method=method, body=body, headers=named)

    def append(
        self, *events: Any, query: str = "", token: str | None = "admin", batch: bool | None = None
    ) -> Answer:
        """POST events: one as an object, several as a batch."""
        is_batch = len(events) != 1 if batch is None else batch
        value = {"events": list(events)} if is_batch else events[0]
        return self.ask(
            f"/v1/events{query}",
            method="POST",
            body=json.dumps(value).encode(),
            token=token,
            content_type=JSON,
        )


def send(
    url: str, target: str, *, method: str, body: bytes | None, headers: Mapping[str, str]
) -> Answer:
    """One request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_WAIT_S)
    try:
        connection.request(method, target, body=body, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def event(**fields: Any) -> dict[str, Any]:
    """A valid event with an id and a time of its own; None leaves a field out."""
    made: dict[str, Any] = {
        "id": new_id(),
        "time": "2026-11-25T02:03:36.123456Z",
        "actor": {"type": "user", "id": "u_1"},
        "action": "record.viewed",
        "outcome": "success",
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None}


def new_id() -> str:
    """A UUID that was never used."""
    return format_uuid7(unix_ms=1_790_000_000_000, random=secrets.token_bytes(10))


def ledger_command(*arguments: str) -> str:
    """Run the command line as an operator would, beside the running service."""
    command = [sys.executable, "-m", "ledger", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


TOKENS: Mapping[str, tuple[tuple[Any, ...], str | None]] = {
    "admin": (("admin",), None),
    "append": (("append",), None),
    "read": (("read",), None),
    "append acme": (("append",), "acme"),
    "read acme": (("read",), "acme"),
    "admin acme": (("admin",), "acme"),
}


def make_ledger(directory: Path) -> dict[str, str]:
    """A new ledger in a folder; its tokens by name."""
    create_directory(directory, origin=ORIGIN, seed=secrets.token_bytes(32))
    return {
        name: make_token(directory, name=name, scopes=scopes, tenant=tenant)
        for name, (scopes, tenant) in TOKENS.items()
    }


@contextmanager
def serving_new(folder: Path, settings: Settings = QUICK) -> Iterator[Ledger]:
    """Serve a new ledger, made inside a folder, until the block ends."""
    directory = folder / "ledger"
    with serving(directory, make_ledger(directory), settings) as ledger:
        yield ledger


@contextmanager
def serving(
    directory: Path,
    tokens: Mapping[str, str],
    settings: Settings = QUICK,
    serve: Callable[..., Coroutine[Any, Any, None]] = serve,
) -> Iterator[Ledger]:
    """Serve a ledger, or what `serve` serves, from a thread until the block ends."""
    address: Future[str] = Future()
    loops: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        loops.set_result((asyncio.get_running_loop(), stop))
        await serve(directory, settings, stop=stop, on_ready=address.set_result)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:
            if address.done():
                raise
            address.set_exception(error)

    thread = threading.Thread(target=run, name="served-ledger")
    thread.start()
    try:
        url = address.result(START_WAIT_S)
        policy = parse_policy(DirectoryPaths(directory).policy.read_bytes())
        yield Ledger(url, directory, tokens, policy)
    finally:
        loop, stop = loops.result(START_WAIT_S)
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
