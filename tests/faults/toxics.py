"""Connections between hosts that are slow, cut up, broken off or half-open: by toxiproxy.

All connections of a ledger and its copies lead over one more host, on which toxiproxy runs
(`tests/peers/install`). A toxic is added to its connections while they are in use. It acts on the
bytes of connections, not on packets: netem, which would, is not in every kernel.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from tests.faults.hosts import Host, free_port
from tests.waiting import until

PROGRAM: Final = Path(__file__).parents[1] / "peers" / "bin" / "toxiproxy"
HOST: Final = "between"
"""The name of the host that all connections lead over."""

START_WAIT_S: Final = 60.0
API_WAIT_S: Final = 30.0
BOTH: Final = ("upstream", "downstream")
BACKLOG_EVENTS: Final = 1_000
"""More than a sink gets through a slow link in one request in time."""

RATE_KB_S: Final = 20


@dataclass(frozen=True)
class Toxic:
    """One fault of toxiproxy, with the words of its API.

    `toxicity`: the share of the connections that get it. `streams`: upstream is what the program
    sends that has opened the connection.
    """

    type: str
    attributes: Mapping[str, int] = field(default_factory=dict)
    streams: Sequence[str] = BOTH
    toxicity: float = 1.0


class Toxiproxy:
    """A running toxiproxy: its proxies by name, and their toxics."""

    def __init__(self, host: Host, api_port: int) -> None:
        self._host: Final = host
        self._api: Final = f"http://{host.address}:{api_port}"
        self._names: Final[list[str]] = []

    def lead(self, name: str, url: str) -> str:
        """Make a proxy to the host and port of an http:// URL; the URL that leads over it."""
        target = url.removeprefix("http://")
        port = free_port(self._host)
        listen = f"{self._host.address}:{port}"
        self._call("POST", "/proxies", {"name": name, "listen": listen, "upstream": target})
        self._names.append(name)
        return f"http://{listen}"

    def add(self, name: str, toxic: Toxic) -> None:
        """Give a toxic to the connections of a proxy, to those that are open too."""
        for stream in toxic.streams:
            body = {
                "name": f"{toxic.type}-{stream}",
                "type": toxic.type,
                "stream": stream,
                "toxicity": toxic.toxicity,
                "attributes": dict(toxic.attributes),
            }
            self._call("POST", f"/proxies/{name}/toxics", body)

    def close(self, name: str) -> None:
        """End the connections of a proxy, and refuse new ones, until `open` or `heal`."""
        self._call("POST", f"/proxies/{name}", {"enabled": False})

    def open(self, names: Sequence[str]) -> None:
        """Let closed proxies take connections again."""
        for name in names:
            self._call("POST", f"/proxies/{name}", {"enabled": True})

    def heal(self) -> None:
        """Take all toxics away, and let closed proxies take connections again."""
        self._call("POST", "/reset", {})

    def is_answering(self) -> bool:
        """Whether its API does."""
        try:
            self._call("GET", "/version")
        except OSError:
            return False
        return True

    def _call(self, method: str, path: str, body: Any = None) -> None:
        # toxiproxy refuses what calls itself a browser.
        headers = {"User-Agent": "tests", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._api + path, data=data, headers=headers, method=method)

        def send() -> None:
            with urlopen(request, timeout=API_WAIT_S) as answer:
                answer.read()

        self._host.run(send)


def missing_toxiproxy() -> str:
    """Why there is no toxiproxy here; empty when there is one."""
    return "" if shutil.which(PROGRAM) else "tests/peers/install was not run, which needs Go"


@contextmanager
def toxiproxy(host: Host) -> Iterator[Toxiproxy]:
    """Run toxiproxy on a host until the block ends."""
    port = free_port(host)
    command = [str(PROGRAM), "-host", host.address, "-port", str(port)]
    process = host.run(
        lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    try:
        running = Toxiproxy(host, port)
        until(running.is_answering, START_WAIT_S)
        yield running
    finally:
        process.kill()
        process.wait()


TO_LEDGER: Final = ("mirror", "tlog_mirror")
TO_BUCKET: Final = ("bucket", "siem", "reader")
ROUTES: Final = (*TO_LEDGER, *TO_BUCKET)
"""The connections, each with the name of the copy that it fills."""


@dataclass(frozen=True)
class Kind:
    """What is done to connections. `is_whole`: nothing comes through while it lasts.

    `is_slow`: all comes through while it lasts, so it ends when the copies have all.
    """

    name: str
    toxics: Sequence[Toxic] = ()
    is_whole: bool = False
    is_slow: bool = False


def _one_each(kind: str, **attributes: int) -> tuple[Toxic, ...]:
    return (Toxic(kind, attributes),)


KINDS: Final = (
    Kind("500 ms ± 250 ms later", _one_each("latency", latency=500, jitter=250), is_slow=True),
    Kind(f"{RATE_KB_S} KB/s", _one_each("bandwidth", rate=RATE_KB_S), is_slow=True),
    Kind(
        "in pieces of 32 to 96 bytes, 1 ms between two",
        _one_each("slicer", average_size=64, size_variation=32, delay=1000),
        is_slow=True,
    ),
    Kind(
        "every second connection is reset after 200 ms",
        (Toxic("reset_peer", {"timeout": 200}, ("downstream",), toxicity=0.5),),
    ),
    Kind(
        "each connection ends after 6 kB of an answer or a request",
        _one_each("limit_data", bytes=6000),
    ),
    Kind("half-open: nothing comes, and no end", _one_each("timeout", timeout=0), is_whole=True),
    Kind("half-open for 2 s, then closed", _one_each("timeout", timeout=2000), is_whole=True),
    Kind("connections are refused", is_whole=True),
)


def begin(proxies: Toxiproxy, kind: Kind, routes: Sequence[str]) -> None:
    """Do what a kind does to the connections of these routes."""
    for name in routes:
        if not kind.toxics:
            proxies.close(name)
        for toxic in kind.toxics:
            proxies.add(name, toxic)
