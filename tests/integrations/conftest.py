"""The shop in each framework, run by its real server, recording to a real ledger."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.recording.conftest import Running, name, open_recorder, running
from tests.waiting import until

__all__ = ["name", "open_recorder", "running"]

ROOT_DIR = Path(__file__).resolve().parents[2]
DIRECT = "127.0.0.1"
PROXY = "127.0.0.2"
START_WAIT_S = 120.0


@dataclass(frozen=True)
class Framework:
    """An application to run, and what it has."""

    module: str
    arguments: tuple[str, ...] = ()
    roots: tuple[str, ...] = ("", "/async")
    streams: tuple[str, ...] = ("", "/async")
    tells_port: bool = True
    has_logins: bool = False


FRAMEWORKS = {
    "flask": Framework("flask_app", streams=("",)),
    "starlette": Framework("starlette_app"),
    "fastapi": Framework("fastapi_app"),
    "aiohttp": Framework("aiohttp_app", roots=("/async",), streams=("/async",)),
    "django wsgi": Framework("django_app", streams=("",), tells_port=False, has_logins=True),
    "django asgi": Framework("django_app", arguments=("asgi",), has_logins=True),
}


@dataclass(frozen=True)
class Shop:
    """An application that is being served."""

    framework: Framework
    port: int
    running: Running
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self,
        method: str,
        path: str,
        *,
        agent: str,
        headers: Mapping[str, str] | None = None,
        user: str | None = None,
        come_from: str = DIRECT,
        bytes_max: int | None = None,
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """Send one request, over a connection of its own; `body` is its body, or so much of it."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, source_address=(come_from, 0), timeout=30
        )
        said = {"User-Agent": agent, **self._credentials(user), **(headers or {})}
        try:
            connection.request(method, path, body, headers=said)
            answer = connection.getresponse()
            # To look at later.
            answer.body = answer.read(bytes_max)  # type: ignore[attr-defined]
        finally:
            connection.close()
        return answer

    def events(self, agent: str, count: int) -> list[dict[str, Any]]:
        """The events of requests by this user agent, once there are so many."""
        found: list[dict[str, Any]] = []

        def are_there() -> bool:
            found[:] = [
                event
                for event in self.running.events()
                if event.get("source", {}).get("user_agent") == agent
            ]
            return len(found) >= count

        until(are_there)
        assert len(found) == count
        return found

    def log_in(self, user: str, *, agent: str = "log in", root: str = "") -> str:
        """The session's cookie."""
        answer = self.ask("POST", f"{root}/login?user={user}&password=secret", agent=agent)
        assert answer.status == 200
        return str(answer.headers["Set-Cookie"]).partition(";")[0]

    def _credentials(self, user: str | None) -> dict[str, str]:
        if user is None:
            return {}
        if not self.framework.has_logins:
            return {"X-User": user}
        if user not in self.cookies:
            self.cookies[user] = self.log_in(user)
        return {"Cookie": self.cookies[user]}


@contextmanager
def serving(
    framework: Framework, running: Running, folder: Path, *, url: str | None = None
) -> Iterator[Shop]:
    """Run the application until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "LEDGER_URL": url or running.url,
        "LEDGER_TOKEN": running.token,
        "LEDGER_POLICY": str(running.policy),
        "LEDGER_SPOOL": str(folder / "spool"),
        "DATABASE": str(folder / "database"),
    }
    module = f"tests.integrations.apps.{framework.module}"
    command = [sys.executable, "-m", module, str(port), *framework.arguments]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, env=environ, cwd=ROOT_DIR, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for_port(port, process, folder / "output")
        yield Shop(framework, port, running)
    finally:
        process.terminate()
        process.wait(30)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline_s = time.monotonic() + START_WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline_s, output.read_text()
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def open_shop(
    running: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Shop]]:
    """Gives the shop in a framework; each is started once."""
    shops: dict[str, Shop] = {}
    with ExitStack() as stack:

        def open_(key: str) -> Shop:
            if key not in shops:
                folder = tmp_path_factory.mktemp("shop")
                shops[key] = stack.enter_context(serving(FRAMEWORKS[key], running, folder))
            return shops[key]

        yield open_
